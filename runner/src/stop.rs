//! Why a job ends other than by success, and what its holder reports then.

use crate::supervise::{Exit, StopReason};
use serde_json::Value;
use std::io;
use std::path::Path;
use tendril_broker::runner::Outcome;

/// What ends a job before its kind is done.
#[derive(Clone, Debug, PartialEq)]
pub enum Stop {
    /// It failed.
    Failed {
        /// Why, in one sentence that a user reads.
        reason: String,
        /// Whether trying again cannot help: the input is wrong, or an answer was no.
        permanent: bool,
        /// What is known all the same.
        result: Value,
    },
    /// Somebody cancelled it, and it stopped.
    Cancelled(String),
    /// It ran for too long, and was stopped.
    TimedOut(String),
    /// Handed back before it changed anything: the runner shuts down, or was cut off.
    Released(String),
    /// The broker does not let it start, and will not by itself: reported as handed back, and counted as an attempt.
    Barred(String),
    /// The job went on without this attempt, or is not to be started by it: reported as handed back, since nothing was changed, which
    /// a job that goes on does not look at.
    Superseded(String),
}

impl Stop {
    /// A failure that may pass.
    pub fn failed(reason: impl Into<String>) -> Self {
        Self::Failed { reason: reason.into(), permanent: false, result: Value::Null }
    }

    /// A failure that stays.
    pub fn refused(reason: impl Into<String>) -> Self {
        Self::Failed { reason: reason.into(), permanent: true, result: Value::Null }
    }

    /// The runner's own disk refused something.
    pub fn disk(what: &str, path: &Path, error: &io::Error) -> Self {
        Self::failed(format!("cannot {what} {}: {error}; see state_dir", path.display()))
    }

    /// What a request to stop means for a job that has stopped because of it. `mutated` says that a command that
    /// changes the world had been started: then there is nothing to hand back.
    pub fn requested(reason: StopReason, mutated: bool) -> Self {
        match reason {
            StopReason::Cancelled => Self::Cancelled("cancelled".into()),
            StopReason::Timeout => Self::TimedOut("ran for longer than its timeout".into()),
            StopReason::Shutdown if mutated => Self::failed(
                "interrupted because the runner was shut down; what had been changed is in the log and the state",
            ),
            StopReason::Shutdown => Self::Released("the runner was shut down".into()),
            StopReason::LeaseLost if mutated => Self::failed("interrupted because the runner lost its lease"),
            StopReason::LeaseLost => Self::Released("the runner was cut off from the broker".into()),
            StopReason::RunnerGone => Self::failed("the runner vanished"),
        }
    }

    /// The broker's word for it.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Failed { .. } => Outcome::Failure,
            Self::Cancelled(_) => Outcome::Cancelled,
            Self::TimedOut(_) => Outcome::Timeout,
            Self::Released(_) | Self::Barred(_) | Self::Superseded(_) => Outcome::Released,
        }
    }

    /// Why, in one sentence.
    pub fn reason(&self) -> &str {
        match self {
            Self::Failed { reason, .. }
            | Self::Cancelled(reason)
            | Self::TimedOut(reason)
            | Self::Released(reason)
            | Self::Barred(reason)
            | Self::Superseded(reason) => reason,
        }
    }
}

/// In plain words how a command ended.
pub fn describe(exit: &Exit) -> String {
    match exit {
        Exit::Success => "succeeded".into(),
        Exit::Failure { code } => format!("exited with code {code}"),
        Exit::Signalled { signal } => format!("was ended by signal {signal}"),
        Exit::TimedOut => "ran for longer than its timeout".into(),
        Exit::Interrupted { .. } => "was interrupted".into(),
        Exit::OutOfMemory { .. } => "ran out of memory; give the runner more, or the job less to do".into(),
        Exit::NotStarted { reason } => format!("could not be started: {reason}"),
    }
}
