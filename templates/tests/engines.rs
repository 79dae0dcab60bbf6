//! The shipped templates with real engines.
//!
//! `terraform` and `tofu` are taken from `TENDRIL_TEST_TERRAFORM` and `TENDRIL_TEST_TOFU`, else from PATH.

#![expect(clippy::expect_used, reason = "a test ends where its own set-up fails")]

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tendril_templates::{Engine, Scope, Template};

const ENGINES: [(Engine, &str); 2] =
    [(Engine::Terraform, "TENDRIL_TEST_TERRAFORM"), (Engine::Tofu, "TENDRIL_TEST_TOFU")];

/// The engines that are there; says so on stderr when there is none.
fn engines() -> Vec<(Engine, PathBuf)> {
    let found: Vec<_> = ENGINES
        .into_iter()
        .filter_map(|(engine, variable)| Some((engine, named(variable).or_else(|| on_path(engine.name()))?)))
        .collect();
    if found.is_empty() {
        eprintln!(
            "skipped: neither terraform nor tofu is on PATH or named by TENDRIL_TEST_TERRAFORM or TENDRIL_TEST_TOFU"
        );
    }
    found
}

fn named(variable: &str) -> Option<PathBuf> {
    let path = PathBuf::from(std::env::var_os(variable)?);
    assert!(path.is_file(), "{variable} names {}, which is no file", path.display());
    Some(path)
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}

fn load(name: &str) -> Template {
    Template::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).expect("a shipped template")
}

/// Runs an engine and returns its stdout; its home is the work folder, so that nobody's settings count.
fn run(program: &Path, dir: &Path, args: &[&str]) -> String {
    let home = dir.parent().expect("a folder in a temporary one");
    let environment: [(&str, OsString); 4] = [
        ("PATH", std::env::var_os("PATH").unwrap_or_default()),
        ("HOME", home.into()),
        ("CHECKPOINT_DISABLE", "1".into()),
        ("TF_IN_AUTOMATION", "1".into()),
    ];
    let output = Command::new(program).args(args).current_dir(dir).env_clear().envs(environment).output();
    let output = output.unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{} {args:?}: {}\n{stdout}\n{stderr}", program.display(), output.status);
    stdout
}

#[test]
fn hello_really_plans_and_applies() {
    let template = load("hello");
    for (engine, program) in engines() {
        let parent = tempfile::tempdir().expect("a folder");
        let dir = parent.path().join("work");
        let name = "Ada's \"${x}\" $(id) größe 😀";
        let inputs = json!({"name": name, "lines": 3, "seconds": 0.3, "passphrase": "open sesame"});
        let scope = Scope { inputs: &inputs, deployment_id: "d-1", cluster_id: "c-1" };
        template.render(&scope).expect("renders").write_to(&dir).expect("written");

        run(&program, &dir, &["init", "-input=false", "-no-color"]);
        let version: Value = serde_json::from_str(&run(&program, &dir, &["version", "-json"])).expect("JSON");
        let version = version["terraform_version"].as_str().expect("a version").parse().expect("a version");
        template.engines().accept(engine, &version).expect("the engine suits the template");
        run(&program, &dir, &["validate", "-no-color"]);
        run(&program, &dir, &["plan", "-input=false", "-no-color", "-out=plan.bin"]);
        let log = run(&program, &dir, &["apply", "-input=false", "-no-color", "plan.bin"]);
        for line in 1..=3 {
            assert!(log.contains(&format!("line {line} of 3: Hello, {name}!")), "{engine}: {log}");
        }
        assert!(!log.contains("open sesame"), "{engine}: {log}");
        let outputs: Value = serde_json::from_str(&run(&program, &dir, &["output", "-json"])).expect("JSON");
        assert_eq!(outputs["greeting"]["value"], format!("Hello, {name}!"));
        assert_eq!(outputs["fingerprint"]["sensitive"], true);
        let again = run(&program, &dir, &["plan", "-input=false", "-no-color", "-detailed-exitcode"]);
        assert!(again.contains("No changes"), "{engine}: {again}");
        println!("applied by {engine} {version}");
    }
}

#[test]
fn the_files_of_all_templates_parse_and_are_formatted() {
    for name in ["hello", "aws-s3-bucket"] {
        for (_, program) in engines() {
            let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
            run(&program, &dir, &["fmt", "-check", "-recursive", "-no-color"]);
        }
    }
}
