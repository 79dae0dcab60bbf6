//! An attempt as a value: its address goes with every later write, and the broker checks it.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::time::Duration;
use time::Date;
use uuid::Uuid;

/// The address of an attempt: both halves, so that a database set back in time cannot confuse two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Lease {
    /// Id of the attempt.
    pub attempt_id: Uuid,
    /// Its fence: from a sequence, never used again.
    pub fence: i64,
}

/// What a claim hands to a runner.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Claimed {
    /// The attempt's address.
    pub lease: Lease,
    /// 1, 2, 3 within the job.
    pub ordinal: i16,
    /// UTC day of the claim: the log partition.
    pub claim_day: Date,
    /// The job.
    pub job_id: Uuid,
    /// Its deployment.
    pub deployment_id: Uuid,
    /// The job's name within the deployment.
    pub job: String,
    /// The job's kind.
    pub kind: String,
    /// Whether it changes the world: then it needs a committed start.
    pub mutating: bool,
    /// Longest run of its commands.
    pub timeout: Duration,
    /// Between the one SIGINT and SIGKILL.
    pub kill_grace: Duration,
    /// The state that it changes, if it changes one.
    pub state_key: Option<String>,
    /// What is the job's alone.
    pub spec: Value,
    /// The deployment's snapshot.
    pub snapshot: Value,
    /// The attempt whose plan it applies.
    pub plan_attempt: Option<Uuid>,
}

/// How an attempt ended, in the broker's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It did what it should.
    Success,
    /// It did not.
    Failure,
    /// It was stopped because somebody cancelled.
    Cancelled,
    /// It ran for too long.
    Timeout,
    /// Handed back before it started to change anything.
    Released,
}

/// The report of a finish.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// How it ended.
    pub outcome: Outcome,
    /// Number of the last log record; -1 when there is none.
    pub log_end: i64,
    /// Whether every process of the attempt is confirmed dead.
    pub child_dead: bool,
    /// Why, unless it succeeded: one sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Trying again cannot help.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub permanent: bool,
    /// Figures, outputs, names of artifacts.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub result: Value,
    /// Exit, duration and memory of each command.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub commands: Value,
}

/// What became of an attempt that another process of the same place had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adoption {
    /// This runner holds it from now on.
    Adopted,
    /// Its end was reported already.
    Ended,
    /// The job went on without it: its report will be a note.
    Superseded,
}

/// What the broker did with a finish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// The job has this result now.
    Accepted,
    /// It had it already: an earlier reply was lost.
    Again,
    /// The attempt was superseded: the report is kept and shown, and changes nothing.
    Noted,
}
