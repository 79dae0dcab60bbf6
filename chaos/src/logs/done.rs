//! What was done to the pipeline, and what that may have cost.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::corrupt::Destroyed;
use super::evidence::Allowed;
use super::figures::Figures;

/// What was done.
#[derive(Debug, Default)]
pub struct Done {
    /// In words.
    pub acts: Vec<String>,
    /// What may be missing now.
    pub allowed: Allowed,
    /// What each attempt had printed long before its runner was killed: bytes of standard output and standard error.
    pub owed: Vec<(Uuid, u64, u64)>,
    /// A slow line: whether its session was a fresh one, what the runner said as it began to be slow, and at its end.
    pub slow: Option<(bool, Figures, Figures)>,
    /// What was destroyed of each log.
    pub destroyed: BTreeMap<Uuid, Destroyed>,
}

impl Done {
    /// One more.
    pub fn act(&mut self, what: impl Into<String>) {
        self.acts.push(what.into());
    }
}
