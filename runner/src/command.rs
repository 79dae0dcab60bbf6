//! One command of a job: what is run, and what came of it.

use crate::sandbox::Access;
use crate::secrets::Hidden;
use crate::stop::{Stop, describe};
use crate::supervise::{Class, Ended, Exit, ExitRecord};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often it is looked how much of its room a command has filled.
const ROOM_EVERY: Duration = Duration::from_millis(250);

/// One command of a job: a program and its arguments, never a shell string.
#[derive(Clone, Debug)]
pub struct Command {
    /// Short name, for process lists, records and messages: `init`, `plan`.
    pub name: &'static str,
    /// Absolute path of the program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its whole environment.
    pub env: BTreeMap<String, String>,
    /// Variables beside those, with values that nobody may see.
    pub secrets: BTreeMap<String, Hidden>,
    /// Its working folder.
    pub cwd: PathBuf,
    /// Whether it changes the world.
    pub class: Class,
    /// What becomes of its standard output; standard error always goes to the log.
    pub stdout: Stdout,
    /// A folder that it may fill up to a bound.
    pub room: Option<Room>,
    /// What it may do beside using its folder and the places of its attempt.
    pub access: Access,
    /// What the job's kind has to know at its end, for a command that may outlive this process.
    pub handover: Option<Value>,
}

/// Where a command's standard output goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stdout {
    /// To the log, as it is.
    Log,
    /// To the log, as it is, and its first bytes to the job too.
    Both(usize),
    /// To the log, as the text of the engine's `-json` events.
    Events,
    /// To the job, at most this many bytes; never to the log.
    Capture(usize),
}

/// A folder that a command fills from elsewhere, and how far it may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    /// The folder.
    pub dir: PathBuf,
    /// Bytes of all files in it; when there are more the command is killed.
    pub bytes: u64,
}

impl Command {
    /// A command that only reads and whose output goes to the log; without environment and arguments.
    pub fn new(name: &'static str, program: &Path, cwd: PathBuf) -> Self {
        Self {
            name,
            program: program.to_owned(),
            args: Vec::new(),
            env: BTreeMap::new(),
            secrets: BTreeMap::new(),
            cwd,
            class: Class::Reading,
            stdout: Stdout::Log,
            room: None,
            access: Access::default(),
            handover: None,
        }
    }

    /// With these arguments.
    pub fn args<A: Into<String>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// With this environment.
    pub fn env(mut self, env: BTreeMap<String, String>) -> Self {
        self.env = env;
        self
    }

    /// With its standard output there.
    pub fn stdout(mut self, stdout: Stdout) -> Self {
        self.stdout = stdout;
        self
    }

    /// Of this class.
    pub fn class(mut self, class: Class) -> Self {
        self.class = class;
        self
    }

    /// With these rights.
    pub fn access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    /// One that the next process of this place goes on with if this one is lost: see [`Kind::conclude`](crate::kinds::Kind).
    pub fn hand_over(mut self, notes: Value) -> Self {
        self.handover = Some(notes);
        self
    }
}

/// A command that ran.
#[derive(Clone, Debug)]
pub struct Finished {
    /// What the supervisor recorded.
    pub record: ExitRecord,
    /// Standard output, as far as the command's [`Stdout`] gives it to the job.
    pub stdout: Vec<u8>,
    /// Standard output was longer than that bound.
    pub cut: bool,
    /// The beginning of standard error, at most [`STDERR_HEAD_BYTES`]; all of it is in the log.
    pub stderr: Vec<u8>,
    /// It was killed because it filled its [`Room`].
    pub overfull: bool,
}

/// How much of a command's standard error is at hand when it has failed.
pub const STDERR_HEAD_BYTES: usize = 16 * 1024;

impl Finished {
    /// Nothing if the command succeeded; else why the job stops. `what` names the command for people.
    ///
    /// # Errors
    /// The [`Stop`] that this end means.
    pub fn require_success(&self, what: &str, class: Class) -> Result<(), Stop> {
        match &self.record.exit {
            Exit::Success => Ok(()),
            Exit::TimedOut => Err(Stop::TimedOut(format!("{what} ran for longer than its timeout"))),
            Exit::Interrupted { reason } => Err(Stop::requested(*reason, class == Class::Mutating)),
            Exit::NotStarted { reason } if reason.may_pass() => {
                Err(Stop::failed(format!("{what} {}", describe(&self.record.exit))))
            }
            Exit::NotStarted { .. } => Err(Stop::refused(format!("{what} {}", describe(&self.record.exit)))),
            other => Err(Stop::failed(format!("{what} {}", describe(other)))),
        }
    }

    /// The beginning of standard error as text. A line that is cut is left out: half a secret is none that could be found.
    pub fn words(&self) -> Cow<'_, str> {
        let cut = self.stderr.len() >= STDERR_HEAD_BYTES;
        let whole = self.stderr.iter().rposition(|byte| *byte == b'\n').filter(|_| cut);
        match whole {
            Some(end) => String::from_utf8_lossy(&self.stderr[..=end]),
            None if cut => Cow::Borrowed(""),
            None => String::from_utf8_lossy(&self.stderr),
        }
    }

    /// Whether the main process left with code 0, whatever was asked of it meanwhile.
    pub fn left_with_zero(&self) -> bool {
        self.record.ended == Some(Ended::Code { code: 0 })
    }
}

/// Waits until a command has filled its room; for ever without one.
pub async fn overfilled(room: Option<&Room>) {
    if room.is_none() {
        return std::future::pending().await;
    }
    loop {
        tokio::time::sleep(ROOM_EVERY).await;
        if is_overfull(room).await {
            return;
        }
    }
}

/// Whether a command has filled its room.
pub async fn is_overfull(room: Option<&Room>) -> bool {
    let Some(room) = room.cloned() else { return false };
    let overfull = tokio::task::spawn_blocking(move || size(&room.dir) > room.bytes).await;
    overfull.unwrap_or(true)
}

/// Bytes of all files below a folder, as far as it can be read: it changes meanwhile.
fn size(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => size(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    });
    sizes.sum()
}
