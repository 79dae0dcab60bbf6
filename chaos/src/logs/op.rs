//! What is broken under a log's feet, and its particulars from a seed.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::settings::Settings;
use crate::chance::Chance;

/// The operations by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum LogOp {
    /// Nothing
    None,
    /// Immediate stop of Postgres, as in a crash, and a start
    CrashPostgres,
    /// An administrator ends the log session, several times
    EndLogSession,
    /// SIGKILL to the backend of the log session: Postgres ends all sessions and recovers
    KillLogBackend,
    /// The log session is ended while logs reach their cap
    EndLogSessionAtTheCap,
    /// The line is cut around a COMMIT: before it, after it, or before its reply
    CutAtCommit,
    /// The line is cut in the middle of a COPY
    CutInCopy,
    /// 2 s round trip and 50 KB/s
    SlowLine,
    /// SIGKILL to the runner under load; another process takes over
    KillRunner,
    /// SIGKILL to the runner while nothing can be stored and all waits in the spool
    KillRunnerFullSpool,
    /// The same, and the spool is damaged before the next process starts
    CorruptSpool,
    /// The spool reaches its bound: dropped, or paused
    SpoolFull,
    /// The runner's disk is full
    RunnerDiskFull,
    /// The database's disk is full
    PostgresDiskFull,
    /// The disk of the database's journal is full: Postgres gives up, and is back once there is room
    PostgresWalFull,
    /// The archive refuses, hangs, answers 503, or what is sent there is cut
    S3Down,
}

/// What a log connection carries when its line becomes slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnderWay {
    /// A few lines.
    SmallBatches,
    /// As much as a quick line bears.
    WholeBatches,
    /// There is none: it is made on the slow line, and there is much to send.
    Nothing,
}

impl LogOp {
    /// All of them.
    pub fn all() -> Vec<Self> {
        Self::value_variants().to_vec()
    }

    /// As it is typed.
    pub fn typed(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// How the runner is set for it.
    pub fn settings(self, seed: u64) -> Settings {
        let mut chance = Chance::new(seed, "settings");
        let usual = Settings::default();
        match self {
            _ if self.fills_spool(seed) => {
                Settings { spool_bytes: 64 << 20, stall_s: [0, 1, 3600][chance.index(3)], ..usual }
            }
            // With little memory output is dropped; with much of it nothing is.
            Self::RunnerDiskFull if chance.percent(40) => {
                Settings { disk_bytes: Some(4 << 20), memory_bytes: 4 << 20, stall_s: 0, ..usual }
            }
            Self::RunnerDiskFull => Settings { disk_bytes: Some(4 << 20), ..usual },
            Self::EndLogSessionAtTheCap => Settings { cap_bytes: 400_000, ..usual },
            _ => usual,
        }
    }

    /// Whether children print until the spool has no room: of the seeds that kill the runner every other one.
    pub fn fills_spool(self, seed: u64) -> bool {
        self == Self::SpoolFull || self == Self::KillRunnerFullSpool && seed % 2 == 1
    }

    /// What is under way when the line becomes slow, and how long it stays so, in milliseconds: now and then for longer than
    /// a batch may take.
    pub fn slow_line(seed: u64) -> (UnderWay, (u64, u64)) {
        match seed % 10 {
            2 => (UnderWay::Nothing, (30_000, 34_000)),
            7 => (UnderWay::WholeBatches, (22_000, 26_000)),
            digit if digit % 2 == 1 => (UnderWay::WholeBatches, (4000, 9000)),
            _ => (UnderWay::SmallBatches, (4000, 9000)),
        }
    }

    /// Whether this child changes the world, as far as the broker knows: it goes on without its runner.
    pub fn outlives(self, child: u64) -> bool {
        self == Self::KillRunner && child.is_multiple_of(3)
    }

    /// Children, and what each prints: bytes, the milliseconds it takes for that, and how many times longer every other
    /// child takes.
    pub fn load(self, seed: u64) -> (u64, u64, u64, u64) {
        match self {
            _ if self.fills_spool(seed) => (5, 20_000_000, 500, 1),
            Self::SlowLine if Self::slow_line(seed).0 == UnderWay::SmallBatches => (4, 40_000, 1000, 2),
            Self::SlowLine => (4, 6_000_000, 1000, 2),
            Self::RunnerDiskFull => (5, 2_500_000, 700, 1),
            Self::EndLogSessionAtTheCap => (6, 1_500_000, 1000, 1),
            Self::KillRunner | Self::PostgresWalFull => (6, 150_000, 1000, 3),
            Self::KillRunnerFullSpool | Self::CorruptSpool => (6, 600_000, 600, 5),
            _ => (6, 150_000, 1000, 1),
        }
    }
}

impl std::fmt::Display for LogOp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.typed())
    }
}
