//! Settings of the log pipeline.

use crate::spool::Limits;
use crate::variables;
use serde::Deserialize;
use std::time::Duration;

/// The log pipeline's numbers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Logs {
    /// Longest wait of a line before it is sent.
    pub flush_interval_ms: u64,
    /// Bytes that are sent at once; see [`Logs::batch_bytes`].
    pub flush_bytes: usize,
    /// Bytes of one attempt that may wait for the spool; beyond that its pipe is not read.
    pub attempt_buffer_bytes: usize,
    /// Bytes of log text of all attempts that may be in memory: half of it before the spool, half of it a copy of what is
    /// in there.
    pub memory_bytes: usize,
    /// Bytes that the spool may take on disk.
    pub spool_bytes: u64,
    /// Log text that waits for longer is not sent any more.
    pub spool_max_age_h: u64,
    /// Bytes of output of one attempt that are stored as they come.
    pub cap_bytes: u64,
    /// Bytes of the end of its output that are stored beside them when there is more.
    pub cap_tail_bytes: usize,
    /// Names of variables, among those that jobs see, whose values are kept out of logs; `*` stands for any characters,
    /// upper and lower case are alike.
    pub redact_env: Vec<String>,
    /// How long a pipe is not read (`pause`) while the spool has no room; beyond that output is dropped, with a gap in its
    /// place. 0 drops at once.
    pub stall_s: u64,
}

/// Names that secrets usually have.
const REDACT_ENV: [&str; 10] = [
    "*TOKEN",
    "*SECRET*",
    "*PASSWORD*",
    "*PASSWD",
    "*PASSPHRASE*",
    "*API_KEY",
    "*ACCESS_KEY",
    "*PRIVATE_KEY*",
    "*CREDENTIALS*",
    "*CONNECTION_STRING",
];

impl Default for Logs {
    fn default() -> Self {
        Self {
            flush_interval_ms: 500,
            flush_bytes: 4 * 1024 * 1024,
            attempt_buffer_bytes: 8 * 1024 * 1024,
            memory_bytes: 64 * 1024 * 1024,
            spool_bytes: 1024 * 1024 * 1024,
            spool_max_age_h: 72,
            cap_bytes: 64 * 1024 * 1024,
            cap_tail_bytes: 256 * 1024,
            redact_env: REDACT_ENV.map(str::to_owned).into(),
            stall_s: 10,
        }
    }
}

impl Logs {
    /// What is sent at once: `flush_bytes`, and at most an eighth of what may be in memory.
    pub fn batch_bytes(&self) -> usize {
        self.flush_bytes.min(self.memory_bytes / 8)
    }

    /// What ends the wait early: less than a whole batch, so that many quiet streams together are not the later for it.
    pub fn urgent_bytes(&self) -> usize {
        self.batch_bytes().min(1024 * 1024)
    }

    /// What the spool may hold.
    pub fn limits(&self) -> Limits {
        Limits {
            disk_bytes: self.spool_bytes,
            memory_bytes: self.memory_bytes / 2,
            max_age: Duration::from_secs(self.spool_max_age_h.saturating_mul(3600)),
        }
    }

    /// Whether the values can be meant.
    ///
    /// # Errors
    /// The key, and what is wrong with it.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        if !(10..=60_000).contains(&self.flush_interval_ms) {
            return Err(("logs.flush_interval_ms", "must be between 10 and 60000".to_owned()));
        }
        if self.flush_bytes < 65_536 || self.attempt_buffer_bytes < 262_144 {
            return Err((
                "logs",
                "flush_bytes must be at least 65536, attempt_buffer_bytes at least 262144".to_owned(),
            ));
        }
        if self.memory_bytes < 4 * 1024 * 1024 || self.spool_bytes < 64 * 1024 * 1024 {
            return Err(("logs", "memory_bytes must be at least 4194304, spool_bytes at least 67108864".to_owned()));
        }
        if self.spool_max_age_h == 0 {
            return Err(("logs.spool_max_age_h", "must be at least 1".to_owned()));
        }
        if self.cap_bytes < 65_536 || self.cap_tail_bytes > 16 * 1024 * 1024 {
            return Err(("logs", "cap_bytes must be at least 65536, cap_tail_bytes at most 16777216".to_owned()));
        }
        if let Some(reason) = self.redact_env.iter().find_map(|pattern| variables::wildcard_error(pattern)) {
            return Err(("logs.redact_env", reason.clone()));
        }
        Ok(())
    }
}
