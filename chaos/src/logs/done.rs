//! What was done to the pipeline, and what that may have cost.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::corrupt::Destroyed;
use super::evidence::Allowed;

/// What was done.
#[derive(Debug, Default)]
pub struct Done {
    /// In words.
    pub acts: Vec<String>,
    /// What may be missing now.
    pub allowed: Allowed,
    /// What each attempt had printed long before its runner was killed: bytes of standard output and standard error.
    pub owed: Vec<(Uuid, u64, u64)>,
    /// Late batches that the runner had stored before its line became slow.
    pub late_before: Option<u64>,
    /// What was destroyed of each log.
    pub destroyed: BTreeMap<Uuid, Destroyed>,
}

impl Done {
    /// One more.
    pub fn act(&mut self, what: impl Into<String>) {
        self.acts.push(what.into());
    }
}
