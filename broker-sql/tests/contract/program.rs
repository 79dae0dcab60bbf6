//! The program itself, run as people and scripts run it.

use std::process::{ExitStatus, Stdio};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

/// What a run printed, and how it ended.
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    /// The one JSON object that it printed.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {:?} {:?}", self.out, self.err))
    }
}

pub fn command(url: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tendril-broker"));
    command.args(arguments).env_remove("DATABASE_URL").env_remove("RUST_LOG").kill_on_drop(true);
    match url {
        "" => command.env_remove("TENDRIL_DATABASE_URL"),
        url => command.env("TENDRIL_DATABASE_URL", url),
    };
    command
}

/// Runs a command to its end.
pub async fn broker(url: &str, arguments: &[&str]) -> Ran {
    broker_fed(url, arguments, "").await
}

/// The same with something on its standard input.
pub async fn broker_fed(url: &str, arguments: &[&str], input: &str) -> Ran {
    let mut command = command(url, arguments);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // Who does not read it has gone already.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let output = child.wait_with_output().await.unwrap();
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A run that goes on: its lines are read as they come.
pub struct Running {
    child: Child,
    pub out: Lines<BufReader<ChildStdout>>,
    pub err: Lines<BufReader<ChildStderr>>,
}

impl Running {
    pub fn start(url: &str, arguments: &[&str]) -> Self {
        Self::run(command(url, arguments))
    }

    pub fn run(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap()).lines();
        let err = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, out, err }
    }

    /// Reads standard error up to a line that contains `text`, and returns that line.
    pub async fn says(&mut self, text: &str) -> String {
        let mut heard = Vec::new();
        while let Some(line) = self.err.next_line().await.unwrap() {
            if line.contains(text) {
                return line;
            }
            heard.push(line);
        }
        panic!("ended without saying {text:?}: {heard:?}");
    }

    /// Reads standard output up to a line that contains `text`, and returns that line.
    pub async fn prints(&mut self, text: &str) -> String {
        let mut heard = Vec::new();
        while let Some(line) = self.out.next_line().await.unwrap() {
            if line.contains(text) {
                return line;
            }
            heard.push(line);
        }
        panic!("ended without printing {text:?}: {heard:?}");
    }

    pub async fn signal(&self, name: &str) {
        let pid = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").args([format!("-{name}"), pid]).status().await.unwrap().success());
    }

    pub async fn end(mut self) -> ExitStatus {
        self.child.wait().await.unwrap()
    }
}
