//! The program itself.

use std::process::{Command, Stdio};
use std::time::Duration;

use tendril_broker::operator::grants::Scope;
use tendril_broker::testing::TestDatabase;
use tokio::io::{AsyncBufReadExt, BufReader};

fn api(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tendril-api"));
    command.args(arguments).env_clear();
    command
}

#[test]
fn what_is_wrong_with_the_settings_is_said_by_name_on_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.toml");
    std::fs::write(&path, "database_url = \"postgres://u:hunter2@h/t\"\nlimit = 1\n").unwrap();
    let done = api(&["check", "--config", path.to_str().unwrap()]).output().unwrap();
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(!done.status.success() && said.contains("limit") && said.lines().count() == 1, "{said}");
    assert!(!said.contains("hunter2"));
    let done = api(&["check"]).env("TENDRIL_DATABASE_URL", "postgres://h/t").output().unwrap();
    assert_eq!(
        (done.status.code(), String::from_utf8(done.stdout).unwrap().as_str()),
        (Some(0), "the settings are in order\n")
    );
}

#[test]
fn help_completions_and_the_document_need_no_settings() {
    for (arguments, word) in [
        (&["--help"][..], "TENDRIL_API_CONFIG"),
        (&["completions", "bash"], "_tendril__api"),
        (&["openapi"], "\"openapi\": \"3.1.0\""),
    ] {
        let done = api(arguments).output().unwrap();
        assert!(done.status.success(), "{arguments:?}");
        assert!(String::from_utf8(done.stdout).unwrap().contains(word), "{arguments:?}");
    }
}

#[tokio::test]
async fn the_program_listens_answers_and_ends_after_sigterm() {
    let database = TestDatabase::create().await;
    let portal = database.portal(Scope::Tokens).await;
    let mut child = tokio::process::Command::from(api(&["serve", "--log-json"]))
        .env("TENDRIL_DATABASE_URL", &portal.url)
        .env("TENDRIL_API_LISTEN", "127.0.0.1:0")
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let address = loop {
        let line = tokio::time::timeout(Duration::from_secs(30), lines.next_line()).await.unwrap().unwrap().unwrap();
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        if line["fields"]["message"] == "listening" {
            break line["fields"]["address"].as_str().unwrap().to_owned();
        }
    };
    let ready = reqwest::get(format!("http://{address}/readyz")).await.unwrap();
    assert_eq!(ready.text().await.unwrap(), "ready\n");
    let killed = Command::new("/bin/kill").args(["-TERM", &child.id().unwrap().to_string()]).status();
    assert!(killed.unwrap().success());
    let ended = tokio::time::timeout(Duration::from_secs(15), child.wait()).await.unwrap().unwrap();
    assert_eq!(ended.code(), Some(0));
}
