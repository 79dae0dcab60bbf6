//! What the broker says after anything unclear: how far it has each log, and where those end that have ended.

use std::collections::BTreeMap;
use std::sync::Arc;

use time::OffsetDateTime;
use uuid::Uuid;

use super::backlog::Backlog;
use super::entry::Gone;
use super::{Inner, Spool};
use crate::logs::GapKind;
use crate::whose::Whose;

/// More records than a log has: a terabyte of empty lines. Numbers of several such leaps are still exact in JSON.
const LEAP: i64 = 1 << 40;

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
        let by_attempt = |standing: &Standing| (standing.whose.lease.attempt_id, standing.clone());
        // Whoever goes on with a log has heard all of this, or nothing.
        let mut inner = self.inner();
        // It is the first one that counts.
        drop(self.first.set(standings.iter().map(by_attempt).collect()));
        for standing in standings {
            inner.correct_end(standing, now);
        }
        let stored: BTreeMap<Uuid, i64> =
            standings.iter().map(|standing| (standing.whose.lease.attempt_id, standing.stored)).collect();
        inner.acknowledge(&stored);
        for (attempt, stored) in &stored {
            inner.mend(*attempt, *stored, now);
        }
        let closed =
            |(attempt, log): (&Uuid, &Backlog)| (log.recovered && !stored.contains_key(attempt)).then_some(*attempt);
        let closed: Vec<Uuid> = inner.backlogs.iter().filter_map(closed).collect();
        closed.into_iter().map(|attempt| (attempt, inner.close(attempt))).collect()
    }

    /// What a log's command prints goes on, although the process that began it is gone: what stood as its last row is none.
    /// To be said before anything is sent.
    pub fn reopen(&self, attempt: Uuid) {
        self.inner().backlogs.change(attempt, |log| {
            (log.recovered, log.cut_off, log.end, log.end_written) = (false, false, None, false);
        });
    }

    /// Waits until the writer was taken over once: from then on it is known how far the broker has each log.
    pub async fn taken_over(&self) {
        self.first.wait().await;
    }

    /// Goes on with a log that was reopened. Returns its next number, which is behind all that the broker has of it, and
    /// whether something of it is missing of which nothing in it says so: a spool that was lost, or lost its end.
    ///
    /// Where the broker has said nothing yet, it may have more of the log than the spool, which is not synced. To number on
    /// from what the spool knows would give a number to a second record, which the next takeover takes for stored. So it
    /// goes on beyond all numbers that can have been given, and the takeover, before which nothing is sent, puts a gap
    /// between what the broker has and that.
    pub fn go_on(&self, whose: Arc<Whose>) -> (i64, bool) {
        let attempt = whose.lease.attempt_id;
        let mut inner = self.inner();
        let (is_heard, stored) = (self.first.initialized(), self.first_stored(attempt));
        let is_known = inner.backlogs.get(attempt).is_some();
        let next_seq = inner.backlogs.open(attempt, || Backlog::new(whose, 0)).next_seq;
        let (goes_on_at, is_lost) = if is_heard {
            // The gap of a log that was cut off is its last row: one that the broker has is another row.
            (next_seq.max(stored + 1), !is_known || next_seq - 1 <= stored)
        } else {
            (next_seq.saturating_add(LEAP), false)
        };
        inner.backlogs.change(attempt, |log| log.next_seq = goes_on_at);
        (goes_on_at, is_lost)
    }

    /// Nobody goes on with a log that was reopened: its end was reported by the process that began it.
    pub fn leave(&self, attempt: Uuid, now: OffsetDateTime) {
        let told = self.first.get().and_then(|first| first.get(&attempt)?.end);
        let stored = self.first_stored(attempt);
        let mut inner = self.inner();
        let mut gone = Gone::default();
        let left = inner.backlogs.change(attempt, |log| {
            log.recovered = true;
            log.end_at(told.unwrap_or(log.next_seq - 1), &mut gone);
            log.stored
        });
        let Some(known) = left else { return };
        inner.mend(attempt, known.max(stored), now);
        inner.release(&gone);
        drop(inner);
        self.filled.notify_one();
    }

    fn first_stored(&self, attempt: Uuid) -> i64 {
        self.first.get().and_then(|first| first.get(&attempt)).map_or(-1, |standing| standing.stored)
    }

    /// A log is stored up to `stored`, as the broker says: it goes on from there.
    pub fn rewind(&self, attempt: Uuid, stored: i64, now: OffsetDateTime) {
        let mut inner = self.inner();
        inner.acknowledge(&BTreeMap::from([(attempt, stored)]));
        inner.mend(attempt, stored, now);
    }

    /// An earlier process has reported that a log ends with this number, or was about to, and has perhaps not written that
    /// here. To be said before anything is sent.
    pub fn end_at(&self, attempt: Uuid, end: i64) {
        let mut inner = self.inner();
        let mut gone = Gone::default();
        inner.backlogs.change(attempt, |log| log.end_at(end, &mut gone));
        inner.release(&gone);
    }

    /// Whether an earlier process has left this log.
    pub fn is_recovered(&self, attempt: Uuid) -> bool {
        self.inner().backlogs.get(attempt).is_some_and(|log| log.recovered)
    }
}

impl Inner {
    fn mend(&mut self, attempt: Uuid, stored: i64, now: OffsetDateTime) {
        let mended = self.backlogs.change(attempt, |log| log.mend(stored, GapKind::Lost, now));
        self.kept_bytes += mended.unwrap_or_default();
    }

    fn correct_end(&mut self, standing: &Standing, now: OffsetDateTime) {
        let attempt = standing.whose.lease.attempt_id;
        match (self.backlogs.get(attempt), standing.end) {
            // This process has every log of its own here until it is stored to its end. What was refused for good is tried
            // once more: readers should hear of it.
            (None, Some(end)) if end > standing.stored => {
                let mut log = Backlog::new(Arc::new(standing.whose.clone()), end + 1);
                log.recovered = true;
                log.end = Some(end);
                self.backlogs.open(attempt, || log);
            }
            (Some(log), Some(end)) if log.recovered => {
                let mut gone = Gone::default();
                self.backlogs.change(attempt, |log| log.end_at(end, &mut gone));
                self.release(&gone);
            }
            (Some(_), None) => {
                let moved = self.backlogs.change(attempt, |log| log.end_behind(standing.stored, now));
                self.kept_bytes += moved.unwrap_or_default();
            }
            _ => {}
        }
    }
}
