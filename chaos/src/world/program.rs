//! A program under test: started, signalled, waited for; its output goes to a file.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

/// A running program. It is killed when this value goes.
#[derive(Debug)]
pub struct Program {
    name: String,
    child: Child,
}

/// The program of that name beside this one: all are built into one folder.
///
/// # Errors
/// It is not there.
pub fn beside_this_one(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let path = own.with_file_name(name);
    if !path.is_file() {
        bail!("{} is not built; build it with: cargo build -p tendril-broker -p tendril-runner", path.display());
    }
    Ok(path)
}

impl Program {
    /// Starts it in a process group of its own, so that a Ctrl-C at the terminal reaches us alone.
    ///
    /// # Errors
    /// The system's error.
    pub fn start(name: String, command: &mut Command, log: &Path) -> anyhow::Result<Self> {
        let log = OpenOptions::new().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0).kill_on_drop(true);
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name, child })
    }

    /// What it is called in the history.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sends a signal; nothing when it has ended.
    pub fn signal(&self, signal: Signal) {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok());
        if let Some(pid) = pid {
            // It is not reaped yet, so the number is still its own.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// How it has ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits for its end; none when that takes too long.
    pub async fn wait(&mut self, patience: Duration) -> Option<ExitStatus> {
        tokio::time::timeout(patience, self.child.wait()).await.ok()?.ok()
    }
}

/// Runs a program to its end; returns what it printed.
///
/// # Errors
/// It failed, with what it said.
pub async fn output(program: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> anyhow::Result<String> {
    let environment = environment.iter().map(|(key, value)| (OsString::from(key), OsString::from(value)));
    let output = Command::new(program).args(arguments).envs(environment).stdin(Stdio::null()).output().await;
    let output = output.with_context(|| format!("cannot run {}", program.display()))?;
    if !output.status.success() {
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        bail!("{name} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8(output.stdout)?)
}
