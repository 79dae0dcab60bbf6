//! All that is known of a run, in one file: what was asked for, what was broken, what children said, what the database
//! remembers. The checker needs nothing else.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tendril_broker::testing::history::Dump;
use uuid::Uuid;

use crate::clock::Moment;
use crate::facts::Fact;
use crate::options::{Engine, Options};
use crate::schedule::Step;
use crate::workload::Workload;

/// A run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct History {
    /// What it came from.
    pub seed: u64,
    /// Its sizes.
    pub options: Options,
    /// The engine of plans and applies.
    pub engine: Option<Engine>,
    /// What was to be submitted.
    pub workload: Workload,
    /// What was to be broken.
    pub schedule: Vec<Step>,
    /// What became of the submits, in the workload's order.
    pub submits: Vec<Submit>,
    /// When the broker's word for each was heard, in the workload's order.
    #[serde(default)]
    pub acknowledged: Vec<Option<Moment>>,
    /// What became of the cancels.
    pub cancels: Vec<Cancelled>,
    /// What was broken, and when.
    pub acts: Vec<Act>,
    /// What children said.
    pub facts: Vec<Fact>,
    /// Runner processes.
    pub runners: Vec<RunnerLife>,
    /// Processes that were alive when everything had ended.
    pub survivors: Vec<String>,
    /// The operator's doings: keys that were released after the holder was seen to be dead.
    pub released_keys: Vec<String>,
    /// What people decided about jobs that may have been done in a time that the database has forgotten, by the job's name in
    /// facts; true for those that were let run.
    #[serde(default)]
    pub decisions: BTreeMap<String, bool>,
    /// The states that applies have left, by their path, as their files hold them.
    pub states: BTreeMap<String, String>,
    /// Whether all jobs had ended before patience did.
    pub came_to_rest: bool,
    /// What the database remembers.
    pub dump: Dump,
}

/// What became of a submit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Submit {
    /// The broker has it.
    Committed,
    /// It was rolled back.
    TakenBack,
    /// The broker said no.
    Refused(String),
}

/// What became of a cancel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancelled {
    /// The deployment.
    pub deployment: Uuid,
    /// Whether the broker took the request: false when everything had ended already, or when it knew of no such deployment.
    pub accepted: bool,
    /// Whether it knew of no such deployment.
    #[serde(default)]
    pub unknown: bool,
    /// When its word was heard.
    #[serde(default)]
    pub at: Option<Moment>,
}

/// Something that was broken.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Act {
    /// What, in words.
    pub what: String,
    /// Whom it hit: a runner process by name, `postgres`, a session or a `serve`.
    pub hit: String,
    /// When it began.
    pub began: Moment,
    /// When it was over: continued, started again. The same as `began` for what has no length.
    pub ended: Moment,
    /// The database may have forgotten what it acknowledged from `began` to this moment, at which the server that knew was gone.
    #[serde(default)]
    pub forgot_until: Option<Moment>,
}

/// A runner process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunnerLife {
    /// The name it registers with: `runner-1.2` is the second process of the second runner.
    pub name: String,
    /// How it ended.
    pub end: RunnerEnd,
    /// When it was seen to have ended.
    pub at: Moment,
}

/// How a runner process ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunnerEnd {
    /// SIGKILL, on purpose.
    Killed,
    /// SIGTERM, on purpose, and exit code 0.
    Drained,
    /// SIGTERM, on purpose, before it listened for signals: it must not have been known to anybody yet.
    Unready,
    /// Anything else: exit code or signal.
    Other(String),
}

impl History {
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
    /// The system's error, or a file that is no history.
    pub fn read(file: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&fs::read(file)?)?)
    }
}
