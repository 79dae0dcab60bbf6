//! What is broken.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::line::{Around, Blocked, Purpose};

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
    /// Immediate stop of Postgres, whose synchronous standby is promoted at its own address
    FailoverElsewhere,
    /// Postgres says nothing any more, its synchronous standby is promoted, and then the old one comes back as if nothing had been
    FailoverSplit,
    /// Immediate stop of Postgres, whose standby lagged when it is promoted: what was acknowledged is forgotten
    FailoverLossy,
    /// SIGKILL to one backend, after which Postgres ends all sessions and recovers
    KillBackend,
    /// An administrator ends one session
    EndSession,
    /// SIGKILL to a `serve`; another one takes over
    SigkillServe,
    /// SIGTERM to a runner, and SIGKILL before it has drained
    EvictRunner,
    /// SIGSTOP to some runners one after the other, SIGCONT in another order
    Swizzle,
    /// The line between a runner and Postgres carries nothing, one way or both, for longer than a lease
    Partition,
    /// The line between a runner and Postgres is slow
    SlowLine,
    /// The line is cut around claims, starts, ends and heartbeats
    CutCalls,
    /// A tenant takes all connections that it may have, and its runner's sessions are ended
    UseUpConnections,
    /// A tenant holds a transaction open
    HoldTransaction,
    /// A transaction of somebody else keeps old row versions alive
    PinXmin,
    /// A tenant rings its doorbell for all it is worth
    FloodDoorbell,
    /// The credential is rotated, and runners get the new one in turn
    RotateCredential,
    /// The disk of the queue's tables is full for some seconds
    DiskFull,
    /// SIGKILL to what a job runs, as the kernel does when memory runs out
    KillChild,
}

impl OpName {
    /// What a run is made of when nothing else is asked for: it takes half a minute.
    pub fn usual() -> Vec<Self> {
        vec![
            Self::SigkillRunner,
            Self::SigstopRunner,
            Self::SigtermRunner,
            Self::RestartPostgresImmediate,
            Self::Failover,
            Self::KillBackend,
            Self::EndSession,
            Self::SigkillServe,
        ]
    }

    /// Whether a standby has to be there from the start.
    pub fn needs_standby(self) -> bool {
        self == Self::Failover || self.moves_the_server()
    }

    /// Whether clients have to find the server at another address.
    pub fn moves_the_server(self) -> bool {
        matches!(self, Self::FailoverElsewhere | Self::FailoverSplit | Self::FailoverLossy)
    }

    /// Whether runners go over lines of ours.
    pub fn needs_line(self) -> bool {
        matches!(self, Self::Partition | Self::SlowLine | Self::CutCalls)
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// See [`OpName::EvictRunner`].
    EvictRunner {
        /// Which.
        runner: usize,
        /// Until SIGKILL.
        grace_ms: u64,
        /// Until the next process starts.
        back_after_ms: u64,
    },
    /// See [`OpName::Swizzle`].
    Swizzle {
        /// In the order in which they are stopped.
        stopped: Vec<usize>,
        /// In the order in which they go on.
        freed: Vec<usize>,
        /// Between two of them.
        every_ms: u64,
        /// Between the last stop and the first that goes on.
        for_ms: u64,
    },
    /// See [`OpName::Partition`].
    Partition {
        /// Which.
        runner: usize,
        /// Which ways carry nothing.
        blocked: Blocked,
        /// For how long.
        for_ms: u64,
        /// Afterwards nothing on the way has remembered the sessions.
        forgotten: bool,
    },
    /// See [`OpName::SlowLine`].
    SlowLine {
        /// Which.
        runner: usize,
        /// For how long.
        for_ms: u64,
    },
    /// See [`OpName::CutCalls`].
    CutCalls {
        /// Which.
        runner: usize,
        /// Whose sessions, where, and after how many others.
        cuts: Vec<(Purpose, Around, u32)>,
    },
    /// See [`OpName::RestartPostgresImmediate`].
    RestartPostgresImmediate {
        /// For how long it is away.
        down_ms: u64,
    },
    /// See [`OpName::Failover`] and [`OpName::FailoverElsewhere`].
    Failover {
        /// For how long the standby follows before.
        after_ms: u64,
        /// Whether it keeps its own address.
        elsewhere: bool,
    },
    /// See [`OpName::FailoverSplit`].
    FailoverSplit {
        /// For how long the old one says nothing before its standby takes over.
        silent_ms: u64,
        /// Then until it comes back.
        back_after_ms: u64,
        /// Then until somebody ends it.
        astray_ms: u64,
    },
    /// See [`OpName::FailoverLossy`].
    FailoverLossy {
        /// For how long the standby has got nothing.
        lag_ms: u64,
        /// Whether the operator says `after-restore`.
        told: bool,
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
    /// See [`OpName::UseUpConnections`].
    UseUpConnections {
        /// For how long.
        for_ms: u64,
    },
    /// See [`OpName::HoldTransaction`].
    HoldTransaction {
        /// For how long, if nobody ends it.
        for_ms: u64,
    },
    /// See [`OpName::PinXmin`].
    PinXmin {
        /// For how long.
        for_ms: u64,
    },
    /// See [`OpName::FloodDoorbell`].
    FloodDoorbell {
        /// For how long.
        for_ms: u64,
    },
    /// See [`OpName::RotateCredential`].
    RotateCredential {
        /// Between two runners.
        every_ms: u64,
    },
    /// See [`OpName::DiskFull`].
    DiskFull {
        /// For how long.
        for_ms: u64,
    },
    /// See [`OpName::KillChild`].
    KillChild {
        /// Which of several.
        nth: usize,
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
            Self::EvictRunner { runner, grace_ms, back_after_ms } => {
                write!(f, "SIGTERM runner {runner}, SIGKILL {grace_ms} ms later, the next after {back_after_ms} ms")
            }
            Self::Swizzle { stopped, freed, every_ms, for_ms } => {
                write!(f, "SIGSTOP runners {stopped:?} every {every_ms} ms, {for_ms} ms later SIGCONT {freed:?}")
            }
            Self::Partition { runner, blocked, for_ms, forgotten } => {
                let then = if *forgotten { ", then its sessions are forgotten" } else { "" };
                write!(f, "the line of runner {runner} is blocked ({blocked:?}) for {for_ms} ms{then}")
            }
            Self::SlowLine { runner, for_ms } => write!(f, "the line of runner {runner} is slow for {for_ms} ms"),
            Self::CutCalls { runner, cuts } => write!(f, "the line of runner {runner} is cut at {cuts:?}"),
            Self::RestartPostgresImmediate { down_ms } => {
                write!(f, "Postgres stops at once and is away for {down_ms} ms")
            }
            Self::Failover { after_ms, elsewhere } => {
                let place = if *elsewhere { " at its own address" } else { "" };
                write!(f, "Postgres stops at once, and a standby that followed for {after_ms} ms takes over{place}")
            }
            Self::FailoverSplit { silent_ms, back_after_ms, astray_ms } => {
                let told = format!("{back_after_ms} ms later the old one is back for {astray_ms} ms");
                write!(f, "Postgres is silent for {silent_ms} ms, its standby takes over, {told}")
            }
            Self::FailoverLossy { lag_ms, told } => {
                let told = if *told { ", after-restore is said" } else { "" };
                write!(f, "Postgres stops at once, and a standby that lags {lag_ms} ms takes over{told}")
            }
            Self::KillBackend { of, nth } => write!(f, "SIGKILL backend {nth} of '{}'", of.application()),
            Self::EndSession { of, nth } => write!(f, "end session {nth} of '{}'", of.application()),
            Self::SigkillServe { serve, back_after_ms } => {
                write!(f, "SIGKILL serve {serve}, the next after {back_after_ms} ms")
            }
            Self::UseUpConnections { for_ms } => write!(f, "a tenant's connections are used up for {for_ms} ms"),
            Self::HoldTransaction { for_ms } => write!(f, "a tenant holds a transaction for {for_ms} ms"),
            Self::PinXmin { for_ms } => write!(f, "a transaction pins xmin for {for_ms} ms"),
            Self::FloodDoorbell { for_ms } => write!(f, "a tenant floods its doorbell for {for_ms} ms"),
            Self::RotateCredential { every_ms } => {
                write!(f, "the credential is rotated, runners get it every {every_ms} ms")
            }
            Self::DiskFull { for_ms } => write!(f, "the disk of the queue's tables is full for {for_ms} ms"),
            Self::KillChild { nth } => write!(f, "SIGKILL to child {nth}"),
        }
    }
}
