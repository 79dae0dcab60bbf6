//! A running attempt, as its kind sees it: say, start, run commands, keep and fetch artifacts.

use crate::attempt_log::AttemptLog;
use crate::clock::BootTime;
use crate::config::Config;
use crate::desk::Desk;
use crate::holdings::Held;
use crate::logs::{Dialect, Progress, Stream};
use crate::seal::ArtifactKey;
use crate::stop::{Stop, describe};
use crate::supervise::{
    self, Class, Control, DEFAULT_ORPHAN_LIMIT_BYTES, DEFAULT_UMASK, Ended, Exit, ExitRecord, Step, StopReason,
    SuperviseError,
};
use crate::work::Work;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tendril_broker::runner::{BrokerError, Claimed};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const READ_BYTES: usize = 64 * 1024;
const PROGRESS_EVERY: Duration = Duration::from_secs(1);
const START_RETRY: Duration = Duration::from_millis(500);

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
    /// Its working folder.
    pub cwd: PathBuf,
    /// Whether it changes the world.
    pub class: Class,
    /// What becomes of its standard output; standard error always goes to the log.
    pub stdout: Stdout,
}

/// Where a command's standard output goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stdout {
    /// To the log, as it is.
    Log,
    /// To the log, as the text of the engine's `-json` events.
    Events,
    /// To the job, at most this many bytes; never to the log.
    Capture(usize),
}

/// A command that ran.
#[derive(Clone, Debug)]
pub struct Finished {
    /// What the supervisor recorded.
    pub record: ExitRecord,
    /// Captured standard output.
    pub stdout: Vec<u8>,
    /// Captured standard output was longer than the bound.
    pub cut: bool,
}

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
            Exit::NotStarted { .. } => Err(Stop::refused(format!("{what} {}", describe(&self.record.exit)))),
            other => Err(Stop::failed(format!("{what} {}", describe(other)))),
        }
    }

    /// Whether the main process left with code 0, whatever was asked of it meanwhile.
    pub fn left_with_zero(&self) -> bool {
        self.record.ended == Some(Ended::Code { code: 0 })
    }
}

/// A running attempt.
pub struct Run {
    /// The job.
    pub job: Claimed,
    /// The runner's settings.
    pub config: Arc<Config>,
    /// The attempt's folder.
    pub work: Work,
    log: Arc<AttemptLog>,
    desk: Arc<dyn Desk>,
    key: ArtifactKey,
    held: Held,
    deadline: BootTime,
    records: Vec<ExitRecord>,
    children_dead: bool,
}

impl Run {
    /// A run at its beginning: the job's timeout counts from now.
    pub fn new(
        job: Claimed,
        config: Arc<Config>,
        work: Work,
        log: Arc<AttemptLog>,
        desk: Arc<dyn Desk>,
        key: ArtifactKey,
        held: Held,
    ) -> Self {
        let deadline = BootTime::now().after(job.timeout);
        Self { job, config, work, log, desk, key, held, deadline, records: Vec::new(), children_dead: true }
    }

    /// Adds a line of Tendril's own to the job's log.
    pub fn say(&self, line: impl AsRef<str>) {
        self.log.say(line.as_ref());
    }

    /// The attempt's log.
    pub fn log(&self) -> &AttemptLog {
        &self.log
    }

    /// Records of the commands so far.
    pub fn records(&self) -> &[ExitRecord] {
        &self.records
    }

    /// Whether every process that was started is confirmed dead.
    pub fn children_dead(&self) -> bool {
        self.children_dead
    }

    /// Stops the job here if somebody asked for it.
    ///
    /// # Errors
    /// The [`Stop`] that was asked for.
    pub fn check(&self) -> Result<(), Stop> {
        match self.held.stop_reason() {
            Some(reason) => Err(Stop::requested(reason, false)),
            None if self.deadline.left().is_zero() => Err(Stop::requested(StopReason::Timeout, false)),
            None => Ok(()),
        }
    }

    /// Commits the start, just before the first command that changes the world. Only after `Ok` may it be run.
    ///
    /// # Errors
    /// Why it may not start.
    pub async fn start(&mut self) -> Result<(), Stop> {
        loop {
            self.check()?;
            if !self.held.lease_is_live() {
                return Err(Stop::Released("the lease ran out before the start".into()));
            }
            match self.desk.start(&self.job.lease).await {
                Ok(()) => {
                    self.held.mark_started();
                    return Ok(());
                }
                Err(BrokerError::CancelRequested) => return Err(Stop::Cancelled("cancelled before it started".into())),
                Err(BrokerError::LeaseLost(why)) => return Err(Stop::Superseded(why)),
                // An unclear reply: ask again, spawn nothing. The call is idempotent.
                Err(error) if error.is_passing() => tokio::time::sleep(START_RETRY).await,
                Err(error) => return Err(Stop::Released(format!("the broker does not let it start: {error}"))),
            }
        }
    }

    /// Seals and stores an artifact.
    ///
    /// # Errors
    /// A failed job; the broker's refusal names the limit.
    pub async fn keep(&self, name: &str, media_type: &str, content: &[u8]) -> Result<(), Stop> {
        let sealed =
            self.key.seal(self.job.lease.attempt_id, name, content).map_err(|e| Stop::failed(e.to_string()))?;
        loop {
            match self.desk.put(&self.job.lease, name, media_type, &sealed).await {
                Ok(()) => return Ok(()),
                Err(error) if error.is_passing() && !self.deadline.left().is_zero() => {
                    tokio::time::sleep(START_RETRY).await
                }
                Err(error) => return Err(Stop::failed(format!("artifact {name} could not be stored: {error}"))),
            }
        }
    }

    /// Fetches and opens an artifact of an earlier attempt.
    ///
    /// # Errors
    /// A failed job; says so when it was sealed with another key.
    pub async fn fetch(&self, attempt: Uuid, name: &str) -> Result<Vec<u8>, Stop> {
        loop {
            self.check()?;
            match self.desk.get(attempt, name).await {
                Ok(stored) => {
                    return self.key.open(attempt, name, &stored.data).map_err(|e| Stop::refused(e.to_string()));
                }
                Err(error) if error.is_passing() => tokio::time::sleep(START_RETRY).await,
                Err(error) => return Err(Stop::refused(format!("artifact {name} could not be fetched: {error}"))),
            }
        }
    }

    /// Runs a command under its supervisor to its end, and until nothing of it is left.
    ///
    /// A request to stop and the job's timeout reach the command as one SIGINT, later SIGKILL; the finish then says so.
    ///
    /// # Errors
    /// The job was asked to stop before the command began, or its supervisor could not be started or was lost.
    pub async fn command(&mut self, command: Command) -> Result<Finished, Stop> {
        self.check()?;
        let class = command.class;
        let step = self.step(&command);
        tracing::debug!(attempt.id = %self.job.lease.attempt_id, command = command.name, "running");
        self.log.begin_child(if command.stdout == Stdout::Events { Dialect::Events } else { Dialect::Text });
        let running = supervise::spawn(step).await.map_err(|e| Stop::failed(e.to_string()))?;
        let capture = match command.stdout {
            Stdout::Capture(limit) => Some(limit),
            Stdout::Log | Stdout::Events => None,
        };
        let over = CancellationToken::new();
        let (out, (), (), record) = tokio::join!(
            read_out(running.stdout, capture, &self.log),
            read_log(running.stderr, Stream::Stderr, &self.log),
            self.show_progress(command.stdout, &over),
            attend(running.control, &self.held, &over),
        );
        let record = record.map_err(|e| {
            self.children_dead = false;
            lost(class, &e)
        })?;
        self.records.push(record.clone());
        let (stdout, cut) = out;
        Ok(Finished { record, stdout, cut })
    }

    /// Shows the engine's progress about once a second while it changes. A courtesy: failures are only noted.
    async fn show_progress(&self, stdout: Stdout, over: &CancellationToken) {
        if stdout != Stdout::Events {
            return;
        }
        let mut shown = Progress::default();
        loop {
            let last = tokio::select! {
                () = tokio::time::sleep(PROGRESS_EVERY) => false,
                () = over.cancelled() => true,
            };
            let progress = self.log.progress();
            if progress != shown
                && let Ok(value) = serde_json::to_value(&progress)
            {
                if let Err(error) = self.desk.progress(&self.job.lease, &value).await {
                    tracing::debug!(%error, "progress was not shown");
                }
                shown = progress;
            }
            if last {
                return;
            }
        }
    }

    fn step(&self, command: &Command) -> Step {
        let mut argv = vec![command.program.display().to_string()];
        argv.extend(command.args.iter().cloned());
        Step {
            name: command.name.to_owned(),
            argv,
            env: command.env.clone(),
            cwd: command.cwd.clone(),
            class: command.class,
            timeout_ms: u64::try_from(self.deadline.left().as_millis()).unwrap_or(u64::MAX),
            kill_grace_ms: u64::try_from(self.job.kill_grace.as_millis()).unwrap_or(u64::MAX),
            record_dir: self.work.record(self.records.len(), command.name),
            umask: DEFAULT_UMASK,
            orphan_limit_bytes: DEFAULT_ORPHAN_LIMIT_BYTES,
        }
    }
}

/// Waits for the command's end, and passes a request to stop on, once.
async fn attend(mut control: Control, held: &Held, over: &CancellationToken) -> Result<ExitRecord, SuperviseError> {
    // Whatever way this ends: nobody is to wait for a command that is gone.
    let _over = over.clone().drop_guard();
    tokio::select! {
        record = control.wait() => return record,
        reason = held.stopped() => control.interrupt(reason).await?,
    }
    control.wait().await
}

async fn read_out(pipe: pipe::Receiver, capture: Option<usize>, log: &AttemptLog) -> (Vec<u8>, bool) {
    match capture {
        Some(limit) => read_captured(pipe, limit).await,
        None => {
            read_log(pipe, Stream::Stdout, log).await;
            (Vec::new(), false)
        }
    }
}

/// Reads a pipe into the log. When the log has no room the pipe is not read, and the command waits.
async fn read_log(mut pipe: pipe::Receiver, stream: Stream, log: &AttemptLog) {
    let mut buffer = vec![0; READ_BYTES];
    loop {
        log.room().await;
        match pipe.read(&mut buffer).await {
            Ok(0) => break,
            Ok(count) => log.push(stream, &buffer[..count]),
            Err(error) => {
                tracing::warn!(%error, stream = stream.as_str(), "a command's output cannot be read any more");
                break;
            }
        }
    }
    log.end(stream);
}

/// Reads a pipe to its end and keeps at most `limit` bytes; true when there was more.
async fn read_captured(mut pipe: pipe::Receiver, limit: usize) -> (Vec<u8>, bool) {
    let (mut kept, mut cut) = (Vec::new(), false);
    let mut buffer = vec![0; READ_BYTES];
    while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
        let take = count.min(limit - kept.len());
        kept.extend_from_slice(&buffer[..take]);
        cut |= take < count;
    }
    (kept, cut)
}

/// A supervisor that was killed leaves a doubt, which the report must not hide.
fn lost(class: Class, error: &SuperviseError) -> Stop {
    let doubt = match class {
        Class::Reading => "",
        Class::Mutating => "; what it has changed is not known, its state lock may be left behind",
    };
    Stop::refused(format!("{error}{doubt}"))
}
