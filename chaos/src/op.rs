//! What is broken.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// The operations by name, as `--ops` takes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum OpName {
    /// SIGKILL to a runner; another process of the same place takes over
    SigkillRunner,
    /// SIGSTOP to a runner for longer than its lease, then SIGCONT
    SigstopRunner,
    /// SIGTERM to a runner, which drains; then another process
    SigtermRunner,
    /// Immediate stop of Postgres, as in a crash, and a start
    RestartPostgresImmediate,
    /// Immediate stop of Postgres, whose synchronous standby is promoted and takes its address
    Failover,
    /// SIGKILL to one backend, after which Postgres ends all sessions and recovers
    KillBackend,
    /// An administrator ends one session
    EndSession,
    /// SIGKILL to a `serve`; another one takes over
    SigkillServe,
}

impl OpName {
    /// All of them.
    pub fn all() -> Vec<Self> {
        Self::value_variants().to_vec()
    }

    /// The name as it is typed.
    pub fn typed(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

/// A session that can be hit, by what it calls itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SessionOf {
    /// Claim, start, finish.
    Calls,
    /// The lease.
    Heartbeat,
    /// The COPY of log rows.
    Logs,
    /// LISTEN.
    Doorbell,
    /// The duties.
    Serve,
}

impl SessionOf {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Calls, Self::Heartbeat, Self::Logs, Self::Doorbell, Self::Serve];

    /// How the session's `application_name` begins.
    pub fn application(self) -> &'static str {
        match self {
            Self::Calls => "tendril-runner calls",
            Self::Heartbeat => "tendril-runner heartbeat",
            Self::Logs => "tendril-runner logs",
            Self::Doorbell => "tendril-runner doorbell",
            Self::Serve => "tendril-broker serve",
        }
    }
}

/// An operation with its particulars.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum Op {
    /// See [`OpName::SigkillRunner`].
    SigkillRunner {
        /// Which.
        runner: usize,
        /// Until the next process starts.
        back_after_ms: u64,
    },
    /// See [`OpName::SigstopRunner`].
    SigstopRunner {
        /// Which.
        runner: usize,
        /// For how long.
        for_ms: u64,
    },
    /// See [`OpName::SigtermRunner`].
    SigtermRunner {
        /// Which.
        runner: usize,
    },
    /// See [`OpName::RestartPostgresImmediate`].
    RestartPostgresImmediate {
        /// For how long it is away.
        down_ms: u64,
    },
    /// See [`OpName::Failover`].
    Failover {
        /// For how long the standby follows before.
        after_ms: u64,
    },
    /// See [`OpName::KillBackend`].
    KillBackend {
        /// Whose.
        of: SessionOf,
        /// Which of several.
        nth: usize,
    },
    /// See [`OpName::EndSession`].
    EndSession {
        /// Whose.
        of: SessionOf,
        /// Which of several.
        nth: usize,
    },
    /// See [`OpName::SigkillServe`].
    SigkillServe {
        /// Which.
        serve: usize,
        /// Until the next process starts.
        back_after_ms: u64,
    },
}

impl std::fmt::Display for Op {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::SigkillRunner { runner, back_after_ms } => {
                write!(f, "SIGKILL runner {runner}, the next after {back_after_ms} ms")
            }
            Self::SigstopRunner { runner, for_ms } => write!(f, "SIGSTOP runner {runner} for {for_ms} ms"),
            Self::SigtermRunner { runner } => write!(f, "SIGTERM runner {runner}"),
            Self::RestartPostgresImmediate { down_ms } => {
                write!(f, "Postgres stops at once and is away for {down_ms} ms")
            }
            Self::Failover { after_ms } => {
                write!(f, "Postgres stops at once, and a standby that followed for {after_ms} ms takes over")
            }
            Self::KillBackend { of, nth } => write!(f, "SIGKILL backend {nth} of '{}'", of.application()),
            Self::EndSession { of, nth } => write!(f, "end session {nth} of '{}'", of.application()),
            Self::SigkillServe { serve, back_after_ms } => {
                write!(f, "SIGKILL serve {serve}, the next after {back_after_ms} ms")
            }
        }
    }
}
