//! What is sent next: rows of all logs in turn, as many as a batch has room for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use time::{Date, OffsetDateTime};
use uuid::Uuid;

use super::backlog::Backlog;
use super::entry::{self, Place};
use super::packed::Row;
use super::{Inner, Spool};
use crate::logs::{Chunk, GapKind};
use crate::whose::Whose;

/// What a row is reckoned to take on the line beside its text, in bytes: thirteen fields, each with its length.
pub const ROW_BYTES: usize = 192;
/// A log's turn is worth so much at least, in bytes, however many there are.
const LEAST_SHARE_BYTES: usize = 4096;
/// Loud logs of one batch: the broker looks at each, which costs it as much as a row does.
const SHARES: usize = 64;

/// A chunk that is to be stored, with whose it is.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Whose.
    pub whose: Arc<Whose>,
    /// What.
    pub chunk: Arc<Chunk>,
}

impl Outgoing {
    /// What it takes on the line, in bytes.
    pub fn line_bytes(&self) -> usize {
        self.chunk.text.len() + ROW_BYTES
    }
}

/// Rows that are sent together.
struct Batch {
    rows: Vec<Outgoing>,
    /// What they take on the line.
    bytes: usize,
    budget: usize,
    /// Records that a gap stands for, since they could not be read.
    unreadable: u64,
}

impl Batch {
    fn new(budget: usize) -> Self {
        Self { rows: Vec::new(), bytes: 0, budget, unreadable: 0 }
    }

    /// Whether a row with so much text finds room. The first one always does: it cannot be cut.
    fn takes(&self, text_bytes: usize) -> bool {
        self.rows.is_empty() || self.bytes + text_bytes + ROW_BYTES <= self.budget
    }

    fn push(&mut self, row: Outgoing) {
        self.bytes += row.line_bytes();
        self.rows.push(row);
    }
}

impl Spool {
    /// The next chunks to send, up to `budget` bytes on the line, of all logs in turn; one at least, however long it is. A
    /// record that cannot be read any more is replaced by a gap.
    pub fn take(&self, budget: usize) -> Vec<Outgoing> {
        self.take_behind(budget, &BTreeMap::new(), &BTreeSet::new())
    }

    /// Takes out what is `stored`, and gives the next chunks behind those that were `sent` and are not stored yet: the last
    /// number of each log among them.
    /// Logs that were claimed on a day that is put `aside` give nothing.
    pub fn exchange(
        &self,
        stored: &BTreeMap<Uuid, i64>,
        budget: usize,
        sent: &BTreeMap<Uuid, i64>,
        aside: &BTreeSet<Date>,
    ) -> Vec<Outgoing> {
        self.acknowledge(stored);
        self.take_behind(budget, sent, aside)
    }

    /// A batch is not sent after all: whoever has given its first chunk is the first of the next one.
    pub fn give_back(&self, batch: &[Outgoing]) {
        if let Some(first) = batch.first() {
            self.inner().turn = Uuid::from_u128(first.whose.lease.attempt_id.as_u128().wrapping_sub(1));
        }
    }

    /// The next chunks of one log.
    pub fn take_of(&self, attempt: Uuid, budget: usize) -> Vec<Outgoing> {
        let (mut batch, mut inner) = (Batch::new(budget), self.inner());
        inner.take_of((attempt, -1), budget, &mut batch);
        inner.unreadable += batch.unreadable;
        batch.rows
    }

    fn take_behind(&self, budget: usize, sent: &BTreeMap<Uuid, i64>, aside: &BTreeSet<Date>) -> Vec<Outgoing> {
        let mut inner = self.inner();
        let share = (budget / inner.count_waiting(sent, aside).clamp(1, SHARES)).max(LEAST_SHARE_BYTES);
        let (mut batch, mut turn) = (Batch::new(budget), inner.turn);
        for attempt in inner.backlogs.waiting_behind(turn) {
            let behind = sent.get(&attempt).copied().unwrap_or(-1);
            if !inner.waits(attempt, behind, aside) {
                continue;
            }
            let before = batch.rows.len();
            let is_full = inner.take_of((attempt, behind), share, &mut batch);
            // Who found no room for anything is the first of the next batch.
            if batch.rows.len() > before {
                turn = attempt;
            }
            if is_full {
                break;
            }
        }
        inner.turn = turn;
        inner.unreadable += batch.unreadable;
        batch.rows
    }
}

impl Inner {
    /// Whether something of a log waits behind what was sent of it.
    fn waits(&self, attempt: Uuid, behind: i64, aside: &BTreeSet<Date>) -> bool {
        let waits = |log: &Backlog| {
            log.entries.back().is_some_and(|last| last.seq_to > behind) && !aside.contains(&log.whose.claim_day)
        };
        self.backlogs.get(attempt).is_some_and(waits)
    }

    /// Logs that have a share of the next batch: nobody has one who has nothing to put into it.
    fn count_waiting(&self, sent: &BTreeMap<Uuid, i64>, aside: &BTreeSet<Date>) -> usize {
        let waiting = self.backlogs.waiting();
        if !aside.is_empty() {
            let behind = |attempt: &Uuid| sent.get(attempt).copied().unwrap_or(-1);
            return waiting.iter().filter(|attempt| self.waits(**attempt, behind(attempt), aside)).count();
        }
        // Thousands may wait, of which few were sent.
        let is_sent =
            |(attempt, behind): &(&Uuid, &i64)| waiting.contains(*attempt) && !self.waits(**attempt, **behind, aside);
        waiting.len() - sent.iter().filter(is_sent).count()
    }

    /// Puts the next chunks of a log into a batch, about a `share` of them, and one at least. Whether there was no room for
    /// another one.
    fn take_of(&self, (attempt, behind): (Uuid, i64), share: usize, batch: &mut Batch) -> bool {
        let Some(backlog) = self.backlogs.get(attempt) else { return false };
        let until = batch.bytes.saturating_add(share);
        let first = backlog.entries.partition_point(|entry| entry.seq_to <= behind);
        let (mut is_full, mut unreadable) = (false, 0);
        // Whether there may be another one.
        let mut give = |text_bytes: usize, chunk: &mut dyn FnMut() -> Arc<Chunk>| {
            is_full = !batch.takes(text_bytes);
            if !is_full {
                batch.push(Outgoing { whose: backlog.whose.clone(), chunk: chunk() });
            }
            !is_full && batch.bytes < until
        };
        let mut read = |row: &Row| {
            let segment = self.segments.get(&row.segment);
            let read = segment.and_then(|segment| segment.chunk(attempt, row));
            Arc::new(read.unwrap_or_else(|| {
                unreadable += 1;
                let printed = segment.and_then(|segment| segment.newest).unwrap_or(OffsetDateTime::UNIX_EPOCH);
                entry::gap(row.seq, row.seq_to, GapKind::Lost, Some(row.bytes.into()), printed)
            }))
        };
        for entry in backlog.entries.range(first..) {
            let goes_on = match (&entry.place, &entry.kept, entry.row()) {
                (Place::Packed(packed), ..) => packed
                    .rows(entry.seq)
                    .filter(|row| row.seq_to > behind)
                    .all(|row| give(row.bytes as usize, &mut || read(&row))),
                (_, Some(chunk), _) => give(chunk.text.len(), &mut || chunk.clone()),
                (_, None, Some(row)) => give(row.bytes as usize, &mut || read(&row)),
                (_, None, None) => true,
            };
            if !goes_on {
                break;
            }
        }
        batch.unreadable += unreadable;
        is_full
    }
}
