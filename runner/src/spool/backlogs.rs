//! All logs of a spool, and what they come to together: nobody goes through thousands of them for that.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};

use uuid::Uuid;

use super::backlog::Backlog;

/// Logs that are not stored to their end.
#[derive(Debug, Default)]
pub(super) struct Backlogs {
    logs: BTreeMap<Uuid, Backlog>,
    /// Bytes of text that wait.
    bytes: u64,
    /// Bytes of memory that places take.
    index_bytes: usize,
    /// Those of which something waits to be sent.
    waiting: BTreeSet<Uuid>,
    /// Those of which segments do not say all yet.
    due: BTreeSet<Uuid>,
}

/// What a log adds to that.
#[derive(Clone, Copy, Default)]
struct Part {
    bytes: u64,
    index_bytes: usize,
    waits: bool,
    is_due: bool,
}

impl Part {
    fn of(log: &Backlog) -> Self {
        Self {
            bytes: log.bytes,
            index_bytes: log.index_bytes,
            waits: !log.entries.is_empty(),
            is_due: log.unwritten > 0 || log.named_in.is_none() || log.end.is_some() != log.end_written,
        }
    }
}

impl Backlogs {
    pub(super) fn len(&self) -> usize {
        self.logs.len()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn index_bytes(&self) -> usize {
        self.index_bytes
    }

    /// In the order of their ids, as in [`Self::due`].
    pub(super) fn waiting(&self) -> &BTreeSet<Uuid> {
        &self.waiting
    }

    /// All of which something waits, beginning behind this one.
    pub(super) fn waiting_behind(&self, attempt: Uuid) -> impl Iterator<Item = Uuid> {
        let behind = self.waiting.range((Excluded(attempt), Unbounded));
        behind.chain(self.waiting.range(..=attempt)).copied()
    }

    pub(super) fn due(&self) -> &BTreeSet<Uuid> {
        &self.due
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Uuid, &Backlog)> {
        self.logs.iter()
    }

    pub(super) fn get(&self, attempt: Uuid) -> Option<&Backlog> {
        self.logs.get(&attempt)
    }

    /// The log, which is `made` when there is none.
    pub(super) fn open(&mut self, attempt: Uuid, make: impl FnOnce() -> Backlog) -> &Backlog {
        if !self.logs.contains_key(&attempt) {
            let log = make();
            self.count(attempt, Part::default(), Part::of(&log));
            self.logs.insert(attempt, log);
        }
        &self.logs[&attempt]
    }

    /// Changes a log, if there is one.
    pub(super) fn change<T>(&mut self, attempt: Uuid, change: impl FnOnce(&mut Backlog) -> T) -> Option<T> {
        let log = self.logs.get_mut(&attempt)?;
        let before = Part::of(log);
        let result = change(log);
        let after = Part::of(log);
        self.count(attempt, before, after);
        Some(result)
    }

    pub(super) fn change_all(&mut self, mut change: impl FnMut(&mut Backlog)) {
        let all: Vec<Uuid> = self.logs.keys().copied().collect();
        for attempt in all {
            self.change(attempt, &mut change);
        }
    }

    pub(super) fn remove(&mut self, attempt: Uuid) -> Option<Backlog> {
        let log = self.logs.remove(&attempt)?;
        self.count(attempt, Part::of(&log), Part::default());
        Some(log)
    }

    /// What they come to, gone through one by one.
    #[cfg(test)]
    pub(super) fn recounted(&self) -> (u64, usize, BTreeSet<Uuid>, BTreeSet<Uuid>) {
        let parts = || self.logs.iter().map(|(id, log)| (*id, Part::of(log)));
        (
            parts().map(|(_, part)| part.bytes).sum(),
            parts().map(|(_, part)| part.index_bytes).sum(),
            parts().filter(|(_, part)| part.waits).map(|(id, _)| id).collect(),
            parts().filter(|(_, part)| part.is_due).map(|(id, _)| id).collect(),
        )
    }

    #[cfg(test)]
    pub(super) fn counted(&self) -> (u64, usize, BTreeSet<Uuid>, BTreeSet<Uuid>) {
        (self.bytes, self.index_bytes, self.waiting.clone(), self.due.clone())
    }

    fn count(&mut self, attempt: Uuid, before: Part, after: Part) {
        self.bytes = self.bytes - before.bytes + after.bytes;
        self.index_bytes = self.index_bytes - before.index_bytes + after.index_bytes;
        let is_among = [(&mut self.waiting, before.waits, after.waits), (&mut self.due, before.is_due, after.is_due)];
        for (set, was, is) in is_among {
            if is && !was {
                set.insert(attempt);
            } else if was && !is {
                set.remove(&attempt);
            }
        }
    }
}
