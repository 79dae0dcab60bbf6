//! All that is known of a run's logs, in one file: what was broken, what children printed, what a portal reads.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::corrupt::Destroyed;
use super::op::LogOp;
use super::script::Script;

/// A run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Evidence {
    /// What was broken.
    pub op: LogOp,
    /// The seed of everything.
    pub seed: u64,
    /// What was broken, in words, with its particulars.
    pub acts: Vec<String>,
    /// What may be missing after it.
    pub allowed: Allowed,
    /// The attempts of its children.
    pub attempts: Vec<Attempt>,
    /// Jobs that had no attempt.
    pub without_attempt: usize,
    /// How the batches fared, where the line was slow.
    #[serde(default)]
    pub slow: Option<SlowLine>,
}

/// What may be missing. Nothing else may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allowed {
    /// A log may end in an open gap: its runner was killed.
    pub cut_off: bool,
    /// There was no room: gaps of kind `overflow`, with their bytes. At least so many bytes are stored of all logs together.
    pub overflow: Option<u64>,
    /// A report may have been ahead of its log: the spool had no room, and what waited for it in memory died with the runner.
    #[serde(default)]
    pub unspooled: bool,
    /// Logs reach their cap: a gap of kind `capped`, with its bytes, and then the end.
    pub capped: Option<Capped>,
}

/// How batches fared on a slow line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlowLine {
    /// It was slow from the beginning of the log connection on: no batch was under way that knew nothing of it.
    pub fresh: bool,
    /// Batches that were stored while it was slow.
    pub stored: u64,
    /// Batches that took longer than they are to, from then to the end of the run.
    pub late: u64,
    /// Log connections that were made since: a batch took so long that it was given up.
    pub sessions: u64,
}

/// How a log that is longer than its bound is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capped {
    /// `logs.cap_bytes`: of its beginning.
    pub cap_bytes: u64,
    /// `logs.cap_tail_bytes`: of its end.
    pub tail_bytes: u64,
}

/// An attempt.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Attempt {
    /// Its id.
    pub id: Uuid,
    /// What its child had to print.
    pub script: Script,
    /// What had to be stored of standard output, as `tendril-runner log-text` says.
    pub stdout: String,
    /// The same of standard error.
    pub stderr: String,
    /// The child has told its end: then nothing follows for certain. Else the last piece is in doubt.
    pub ended: bool,
    /// Its command outlives the runner, and the next process of the place goes on with it.
    #[serde(default)]
    pub outlives: bool,
    /// Of both streams, what had to be in the spool when its runner was killed: stored bytes. None where it had begun too
    /// shortly before.
    pub owed: Option<(u64, u64)>,
    /// What was destroyed of it in the spool.
    pub destroyed: Option<Destroyed>,
    /// The log's last number, once the attempt has finished.
    pub log_end: Option<i64>,
    /// open, complete or incomplete.
    pub log_state: String,
    /// What a portal reads.
    pub rows: Vec<Row>,
    /// What it had read before, while things were broken.
    pub seen_before: Vec<Row>,
    /// What became of it in the archive, where there is one.
    #[serde(default)]
    pub archived: Option<Archived>,
}

/// A log that was to be archived, and whose rows were then to leave the database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Archived {
    /// waiting, stored or empty.
    pub state: Option<String>,
    /// Objects of it in the bucket.
    pub objects: usize,
    /// The object that the database names is there and has its size.
    pub whole: bool,
    /// Its rows are still in the database.
    pub in_database: bool,
    /// Its rows left the database while the archive was away.
    pub left_early: bool,
    /// What a portal reads of it then.
    pub rows: Vec<Row>,
}

/// A row as a portal reads it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// First record.
    pub seq: i64,
    /// Last record.
    pub seq_to: i64,
    /// stdout, stderr or system.
    pub stream: String,
    /// The text.
    pub text: String,
    /// Set for a gap.
    pub gap_kind: Option<String>,
    /// Bytes that are missing, if known.
    pub gap_bytes: Option<u64>,
}

impl Row {
    /// Whether it says that the rest is missing, and not how much.
    pub fn is_open_gap(&self) -> bool {
        self.gap_kind.as_deref() == Some("lost") && self.gap_bytes.is_none()
    }

    /// Whether it says that the next process of the place goes on with the attempt.
    pub fn is_adoption(&self) -> bool {
        self.stream == "system" && self.text.starts_with("tendril: the runner was lost")
    }
}

impl Attempt {
    /// Whether the next process of the place has gone on with it.
    pub fn is_adopted(&self) -> bool {
        self.rows.iter().any(Row::is_adoption)
    }

    /// Whether something of it may be missing without a word: nobody has heard of its end, and nothing of it had reached the
    /// spool, or all that had was destroyed.
    pub fn is_unsaid(&self) -> bool {
        let nothing_owed = self.rows.is_empty() && self.owed.is_none();
        self.log_end.is_none() && (nothing_owed || self.destroyed.as_ref().is_some_and(|log| log.all))
    }
}

impl Evidence {
    /// Writes it.
    ///
    /// # Errors
    /// The system's error.
    pub fn write(&self, file: &Path) -> io::Result<()> {
        fs::write(file, serde_json::to_vec(self)?)
    }

    /// Reads it.
    ///
    /// # Errors
    /// The system's error, or a file that is something else.
    pub fn read(file: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&fs::read(file)?)?)
    }
}
