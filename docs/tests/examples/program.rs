//! How each example is started, and what it printed.

use crate::folder;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use uuid::Uuid;

/// Longest wait for anything that an example does.
const PATIENCE: Duration = Duration::from_secs(60);

/// An example in one language.
pub struct Example {
    language: Language,
    /// Its home, when it has to lie beside what it imports.
    home: TempDir,
}

enum Language {
    Psql,
    Node,
    Python(PathBuf),
    Go(PathBuf),
}

impl Example {
    pub fn psql() -> Option<Self> {
        let found = std::process::Command::new("psql").arg("--version").output();
        found.map_err(|_| missing("psql", "it is not on the PATH")).ok()?;
        Some(Self { language: Language::Psql, home: tempfile::tempdir().unwrap() })
    }

    pub fn node() -> Option<Self> {
        let modules = installed("node", "TENDRIL_TEST_NODE_MODULES")?;
        let home = tempfile::tempdir().unwrap();
        // Node looks for modules from where a file really lies.
        std::fs::copy(folder().join("node/deploy.mjs"), home.path().join("deploy.mjs")).unwrap();
        std::os::unix::fs::symlink(modules, home.path().join("node_modules")).unwrap();
        Some(Self { language: Language::Node, home })
    }

    pub fn python() -> Option<Self> {
        let packages = installed("python", "TENDRIL_TEST_PYTHON_PACKAGES")?;
        Some(Self { language: Language::Python(packages), home: tempfile::tempdir().unwrap() })
    }

    /// Tested where Go is installed; CI does not need it.
    pub fn go() -> Option<Self> {
        let Some(program) = std::env::var_os("TENDRIL_TEST_GO_EXAMPLE") else {
            eprintln!("SKIPPED: the go example: TENDRIL_TEST_GO_EXAMPLE is not set");
            return None;
        };
        Some(Self { language: Language::Go(program.into()), home: tempfile::tempdir().unwrap() })
    }

    /// Starts it to submit and follow.
    pub fn submit(&self, url: &str, cluster: Uuid, snapshot: &Path, id: Option<Uuid>) -> Program {
        let mut command = self.command(url, "submit.sql");
        let id = id.map(|id| id.to_string());
        match self.language {
            Language::Psql => {
                variable(&mut command, "cluster", &cluster.to_string());
                variable(&mut command, "file", snapshot.to_str().unwrap());
                id.iter().for_each(|id| variable(&mut command, "id", id));
            }
            _ => drop(command.arg(cluster.to_string()).arg(snapshot).args(id)),
        }
        Program::start(command)
    }

    /// Starts it to cancel.
    pub fn cancel(&self, url: &str, id: Uuid) -> Program {
        let mut command = self.command(url, "cancel.sql");
        match self.language {
            Language::Psql => {
                command.args(["-v", "VERBOSITY=verbose"]);
                variable(&mut command, "id", &id.to_string());
            }
            _ => drop(command.arg("cancel").arg(id.to_string()).arg("it's not needed")),
        }
        Program::start(command)
    }

    fn command(&self, url: &str, script: &str) -> Command {
        let mut command = match &self.language {
            Language::Psql => {
                let mut command = Command::new("psql");
                command.args(["-X", url]).stdin(File::open(folder().join("psql").join(script)).unwrap());
                return command;
            }
            Language::Node => {
                let mut command = Command::new("node");
                command.arg(self.home.path().join("deploy.mjs"));
                command
            }
            Language::Python(packages) => {
                let mut command = Command::new("python3");
                command.arg(folder().join("python/deploy.py"));
                command.env("PYTHONPATH", packages).env("PYTHONDONTWRITEBYTECODE", "1");
                command
            }
            Language::Go(program) => Command::new(program),
        };
        command.stdin(Stdio::null()).env("DATABASE_URL", url);
        command
    }
}

fn variable(command: &mut Command, name: &str, value: &str) {
    command.args(["-v", &format!("{name}={value}")]);
}

/// Where `./dev` has put what an example imports.
fn installed(example: &str, variable: &str) -> Option<PathBuf> {
    let folder = std::env::var_os(variable).map(PathBuf::from);
    if folder.is_none() {
        missing(example, &format!("{variable} is not set: ./dev test sets it"));
    }
    folder
}

/// Says loudly that something is not tested; in CI it has to be.
pub fn missing(example: &str, why: &str) {
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "the {example} example cannot be tested, and CI needs it: {why}"
    );
    eprintln!("SKIPPED: the {example} example: {why}");
}

/// A running example.
pub struct Program {
    child: Child,
    lines: mpsc::Receiver<String>,
    printed: Vec<String>,
}

/// One that has ended.
pub struct Done {
    pub code: Option<i32>,
    printed: Vec<String>,
}

impl Program {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let (sender, lines) = mpsc::channel(1000);
        tokio::spawn(pass_on(child.stdout.take().unwrap(), sender.clone()));
        tokio::spawn(pass_on(child.stderr.take().unwrap(), sender));
        Self { child, lines, printed: Vec::new() }
    }

    /// Waits until a line with this text has been printed.
    pub async fn wait_for(&mut self, text: &str) {
        let waiting = async {
            while !self.printed.iter().any(|line| line.contains(text)) {
                let Some(line) = self.lines.recv().await else { return false };
                self.printed.push(line);
            }
            true
        };
        let found = tokio::time::timeout(PATIENCE, waiting).await;
        assert!(found == Ok(true), "{text:?} was not printed, but:\n{}", self.printed.join("\n"));
    }

    /// Waits for its end.
    pub async fn finish(mut self) -> Done {
        let ending = async {
            while let Some(line) = self.lines.recv().await {
                self.printed.push(line);
            }
            self.child.wait().await.unwrap().code()
        };
        let Ok(code) = tokio::time::timeout(PATIENCE, ending).await else {
            panic!("it does not end; it printed:\n{}", self.printed.join("\n"));
        };
        Done { code, printed: self.printed }
    }
}

async fn pass_on(stream: impl AsyncRead + Unpin, lines: mpsc::Sender<String>) {
    let mut stream = BufReader::new(stream).lines();
    while let Ok(Some(line)) = stream.next_line().await {
        lines.send(line).await.unwrap();
    }
}

impl Done {
    /// All that it printed.
    pub fn text(&self) -> String {
        self.printed.join("\n")
    }

    /// Which of the texts were printed at the end of a line, in that order and as often.
    pub fn lines_like<'a>(&self, texts: &[&'a str]) -> Vec<&'a str> {
        self.printed.iter().filter_map(|line| texts.iter().find(|text| line.ends_with(**text)).copied()).collect()
    }
}
