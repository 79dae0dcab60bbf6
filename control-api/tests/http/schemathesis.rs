//! The document and the API before a fuzzer that knows nothing of us: <https://schemathesis.io>.
//!
//! It is taken from PATH, else from a virtual environment in the target folder, which pip fills once. Without a way to get it
//! the test says that it was skipped; where `CI` is set that is a failure.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::service::Service;

const VERSION: &str = "4.32.5";

/// Ends by itself within a minute. All checks but one: what a snapshot may hold, and which attempts a position may name, is
/// said by the database and not by the document, so that what is right by the document may well be refused.
const ARGUMENTS: [&str; 10] = [
    "--phases",
    "examples,coverage,fuzzing",
    "--max-examples",
    "25",
    "--seed",
    "7",
    "--max-failures",
    "20",
    "--exclude-checks",
    "positive_data_acceptance",
];

fn program() -> Option<PathBuf> {
    let works = |program: &Path| {
        let done = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        done.is_ok_and(|status| status.success())
    };
    let on_path = PathBuf::from("schemathesis");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("schemathesis-{VERSION}"));
    let of_ours = folder.join("bin/schemathesis");
    if !works(&on_path) && !works(&of_ours) {
        let run = |program: &Path, arguments: &[&str]| {
            Command::new(program).args(arguments).stdout(Stdio::null()).status().is_ok_and(|status| status.success())
        };
        let package = format!("schemathesis=={VERSION}");
        let _ = run(Path::new("python3"), &["-m", "venv", folder.to_str()?])
            && run(&folder.join("bin/pip"), &["install", "--quiet", "--disable-pip-version-check", &package]);
    }
    [on_path, of_ours].into_iter().find(|program| works(program))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fuzzer_that_reads_the_document_finds_nothing_that_it_does_not_say() {
    let Some(program) = tokio::task::spawn_blocking(program).await.unwrap() else {
        assert!(std::env::var_os("CI").is_none(), "schemathesis {VERSION} cannot be had by pip");
        eprintln!("SKIPPED: schemathesis {VERSION} cannot be had by pip");
        return;
    };
    let service = Service::with("[limits]\nrequests_per_s = 100000\nburst = 100000\nstrangers_per_s = 100000\n").await;
    let token = service.master().await;
    let (mut hand, claimed) = service.running(&token).await;
    hand.print(&claimed, 0, 3).await;
    hand.finish(&claimed, 2).await;
    let mut fuzzer = tokio::process::Command::new(program);
    fuzzer.arg("run").arg(format!("{}/api/openapi.json", service.base)).args(ARGUMENTS);
    fuzzer.args(["--no-color", "--header", &format!("Authorization: Bearer {token}")]);
    let done = fuzzer.current_dir(env!("CARGO_TARGET_TMPDIR")).kill_on_drop(true).output().await.unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{said}\n{}", String::from_utf8_lossy(&done.stderr));
    service.end().await;
}
