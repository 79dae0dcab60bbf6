//! A chart with a set of values, rendered by the Helm that `./dev` has set up.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Versions of Kubernetes for which charts are rendered and their objects checked: the oldest that `kubeVersion` admits,
/// the newest, and some between.
pub const KUBERNETES: [&str; 4] = ["1.27.0", "1.31.0", "1.34.0", "1.37.0"];

/// Sets of values below `tests/values`, and the chart that each is for.
pub const SETS: [(&str, &str); 7] = [
    ("runner-small", "tendril-runner"),
    ("runner-everything", "tendril-runner"),
    ("runner-gke", "tendril-runner"),
    ("runner-azure", "tendril-runner"),
    ("runner-eks", "tendril-runner"),
    ("broker-small", "tendril"),
    ("broker-everything", "tendril"),
];

pub fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub fn read(path: &str) -> String {
    let path = folder().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// A real Helm, which `./dev` builds. Where Go is installed there has to be one, and in CI too.
pub struct Helm(PathBuf);

impl Helm {
    pub fn find() -> Option<Self> {
        installed("TENDRIL_TEST_HELM").map(Self)
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        // No cluster of the developer's is asked, and nothing of it decides.
        Command::new(&self.0)
            .args(arguments)
            .env_clear()
            .env("HOME", "/nonexistent")
            .output()
            .unwrap_or_else(|error| panic!("{}: {error}", self.0.display()))
    }

    /// `helm template` for a version of Kubernetes, with further arguments.
    pub fn template(&self, set: &str, kubernetes: &str, more: &[&str]) -> Result<String, String> {
        let chart = SETS.iter().find(|(name, _)| *name == set).map(|(_, chart)| folder().join(chart)).unwrap();
        let (chart, values) = (chart.display().to_string(), values(set));
        let fixed = ["template", "acme", &chart, "--namespace", "tendril", "--values", &values];
        let output = self.run(&[&fixed, ["--kube-version", kubernetes].as_slice(), more].concat());
        if output.status.success() {
            Ok(String::from_utf8(output.stdout).unwrap())
        } else {
            Err(String::from_utf8(output.stderr).unwrap())
        }
    }

    /// The rendered objects, `helm test` pods included.
    pub fn objects(&self, set: &str, more: &[&str]) -> Vec<Value> {
        let text = self.template(set, KUBERNETES[2], more).unwrap_or_else(|error| panic!("{set}: {error}"));
        documents(&text)
    }
}

pub fn documents(text: &str) -> Vec<Value> {
    let parts = text.split("\n---\n").map(|part| part.trim_start_matches("---\n"));
    let holds_something = |part: &&str| part.lines().any(|line| !line.is_empty() && !line.starts_with('#'));
    parts.filter(holds_something).map(yaml).collect()
}

pub fn values(set: &str) -> String {
    folder().join("tests/values").join(format!("{set}.yaml")).display().to_string()
}

/// What `./dev` sets up and names in a variable.
pub fn installed(variable: &str) -> Option<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Some(path.into());
    }
    let has = |name: &str| Command::new(name).arg("version").output().is_ok_and(|output| output.status.success());
    let needed = std::env::var("CI").is_ok_and(|ci| ci == "true") || has("go");
    assert!(!needed, "{variable} is not set; run the tests by ./dev test, which sets Helm up");
    eprintln!("SKIPPED: {variable} is not set, and there is no Go to build Helm with");
    None
}
