//! What the broker says after anything unclear: how far it has each log, and where those end that have ended.

use std::collections::BTreeMap;
use std::sync::Arc;

use time::OffsetDateTime;
use uuid::Uuid;

use super::backlog::Backlog;
use super::{Inner, OVERHEAD_BYTES, Spool};
use crate::logs::GapKind;
use crate::whose::Whose;

/// How far the broker has a log that may still be appended to.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Whose.
    pub whose: Whose,
    /// Number of its last stored record; -1 when there is none.
    pub stored: i64,
    /// Its last number, where its end was reported.
    pub end: Option<i64>,
}

impl Spool {
    /// What a takeover of the writer says. Logs that an earlier process has left get the end that the broker knows, and
    /// gaps for what the spool does not have of them, also where it has nothing. Returns those among them that are closed,
    /// with the bytes given up.
    pub fn resume(&self, standings: &[Standing], now: OffsetDateTime) -> Vec<(Uuid, u64)> {
        let mut inner = self.inner();
        for standing in standings {
            inner.correct_end(standing, now);
        }
        let stored: BTreeMap<Uuid, i64> =
            standings.iter().map(|standing| (standing.whose.lease.attempt_id, standing.stored)).collect();
        inner.acknowledge(&stored);
        for (attempt, stored) in &stored {
            if let Some(log) = inner.backlogs.get_mut(attempt) {
                log.mend(*stored, GapKind::Lost, now);
            }
        }
        let closed =
            |(attempt, log): (&Uuid, &Backlog)| (log.recovered && !stored.contains_key(attempt)).then_some(*attempt);
        let closed: Vec<Uuid> = inner.backlogs.iter().filter_map(closed).collect();
        closed.into_iter().map(|attempt| (attempt, inner.close(attempt))).collect()
    }

    /// A log is stored up to `stored`, as the broker says: it goes on from there.
    pub fn rewind(&self, attempt: Uuid, stored: i64, now: OffsetDateTime) {
        let mut inner = self.inner();
        inner.acknowledge(&BTreeMap::from([(attempt, stored)]));
        if let Some(log) = inner.backlogs.get_mut(&attempt) {
            log.mend(stored, GapKind::Lost, now);
        }
    }

    /// An earlier process has reported that a log ends with this number, or was about to, and has perhaps not written that
    /// here. To be said before anything is sent.
    pub fn end_at(&self, attempt: Uuid, end: i64) {
        let mut inner = self.inner();
        let Some(log) = inner.backlogs.get_mut(&attempt) else { return };
        let gone = log.end_at(end);
        inner.release(&gone);
    }

    /// Whether an earlier process has left this log.
    pub fn is_recovered(&self, attempt: Uuid) -> bool {
        self.inner().backlogs.get(&attempt).is_some_and(|log| log.recovered)
    }
}

impl Inner {
    fn correct_end(&mut self, standing: &Standing, now: OffsetDateTime) {
        let attempt = standing.whose.lease.attempt_id;
        match (self.backlogs.get_mut(&attempt), standing.end) {
            // This process has every log of its own here until it is stored to its end. What was refused for good is tried
            // once more: readers should hear of it.
            (None, Some(end)) if end > standing.stored => {
                let mut log = Backlog::new(Arc::new(standing.whose.clone()), end + 1);
                log.recovered = true;
                log.end = Some(end);
                self.backlogs.insert(attempt, log);
            }
            (Some(log), Some(end)) if log.recovered => {
                let gone = log.end_at(end);
                self.release(&gone);
            }
            (Some(log), None) => {
                let bytes = log.end_behind(standing.stored, now);
                self.kept_bytes += if bytes > 0 { bytes + OVERHEAD_BYTES } else { 0 };
            }
            _ => {}
        }
    }
}
