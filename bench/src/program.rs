//! Real binaries: found beside this one, started with their output in a file, ended as an operator would end them.

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};

/// How long a program may take to end after SIGTERM.
const PATIENCE: Duration = Duration::from_secs(30);

/// The path of a binary that lies beside this one: of the same build, so that nothing else is measured.
///
/// # Errors
/// It is not there.
pub fn beside(name: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    if !path.is_file() {
        bail!("{} is missing; ./dev bench builds it, or: cargo build --release --workspace --bins", path.display());
    }
    Ok(path)
}

/// Runs a program to its end and returns what it printed.
///
/// # Errors
/// It failed; with what it printed on standard error.
pub async fn output<A: AsRef<OsStr>>(program: &Path, args: &[A]) -> anyhow::Result<String> {
    let done = Command::new(program).args(args).stdin(Stdio::null()).output().await;
    let done = done.with_context(|| format!("cannot run {}", program.display()))?;
    if !done.status.success() {
        bail!("{} failed ({}): {}", program.display(), done.status, String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// A program that runs beside the measurement; killed if it is dropped without having been stopped.
pub struct Program {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Program {
    /// Starts it with its output in `<name>.log` of a folder.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(name: &str, command: &mut Command, folder: &Path) -> anyhow::Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let file = File::create(&log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).kill_on_drop(true);
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name: name.to_owned(), log, child })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<i32> {
        self.child.id().and_then(|pid| i32::try_from(pid).ok())
    }

    /// Says so, with the end of its log, when it has ended although nobody asked for it.
    ///
    /// # Errors
    /// It has ended.
    pub fn require_alive(&mut self) -> anyhow::Result<()> {
        let Some(status) = self.child.try_wait()? else { return Ok(()) };
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(10).collect();
        let tail = lines.into_iter().rev().collect::<Vec<_>>().join("\n");
        bail!("{} ended ({status}); the end of its log:\n{tail}", self.name)
    }

    /// SIGKILL, and its end.
    ///
    /// # Errors
    /// It had ended already.
    pub async fn kill(mut self) -> anyhow::Result<()> {
        Ok(self.child.kill().await?)
    }

    /// SIGTERM, and its end.
    ///
    /// # Errors
    /// It did not end in time; then it was killed.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        if let Some(pid) = self.pid() {
            kill(Pid::from_raw(pid), Signal::SIGTERM)?;
        }
        if tokio::time::timeout(PATIENCE, self.child.wait()).await.is_err() {
            self.child.kill().await?;
            bail!("{} did not end within {} s of SIGTERM", self.name, PATIENCE.as_secs());
        }
        Ok(())
    }
}
