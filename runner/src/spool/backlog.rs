//! What of one log is not stored yet: where each chunk is, in order.

use std::collections::VecDeque;
use std::sync::Arc;

use time::OffsetDateTime;

use crate::logs::{Chunk, ChunkKind, Gap, GapKind, Stream};
use crate::whose::Whose;

/// One log on its way.
#[derive(Debug)]
pub(super) struct Backlog {
    pub(super) whose: Arc<Whose>,
    /// Not stored yet, in order and without holes, but for a log that an earlier process has left: see [`Self::mend`].
    pub(super) entries: VecDeque<Entry>,
    /// Bytes of their text.
    pub(super) bytes: u64,
    /// Entries at the end that stand in no segment yet.
    pub(super) unwritten: usize,
    /// The number that the next chunk begins with.
    pub(super) next_seq: i64,
    /// The last number that the broker has, as far as is known.
    pub(super) stored: i64,
    /// The log's last number, once it has ended.
    pub(super) end: Option<i64>,
    /// Whether a segment says so.
    pub(super) end_written: bool,
    /// The segment that names it last.
    pub(super) named_in: Option<u32>,
    /// The broker takes only a gap, from this number on, as it said then.
    pub(super) over_quota: Option<(i64, OffsetDateTime)>,
    /// Left by an earlier process.
    pub(super) recovered: bool,
    /// Its last entry is the gap of a log that was cut off, put there by this process and never sent.
    pub(super) cut_off: bool,
}

/// One chunk.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) seq: i64,
    pub(super) seq_to: i64,
    /// Of its text.
    pub(super) bytes: u32,
    pub(super) place: Place,
    /// The chunk itself, while there is room for it in memory.
    pub(super) kept: Option<Arc<Chunk>>,
}

/// Where a chunk stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Only in memory: it was not written yet, or the disk did not take it.
    Unwritten,
    /// In a segment.
    Disk { segment: u32, offset: u32, size: u32 },
    /// A gap that is found anew each time.
    Found,
}

impl Entry {
    pub(super) fn new(chunk: Chunk, place: Place) -> Self {
        let bytes = u32::try_from(chunk.text.len()).unwrap_or(u32::MAX);
        Self { seq: chunk.seq, seq_to: chunk.seq_to, bytes, place, kept: Some(Arc::new(chunk)) }
    }

    pub(super) fn segment(&self) -> Option<u32> {
        match self.place {
            Place::Disk { segment, .. } => Some(segment),
            Place::Unwritten | Place::Found => None,
        }
    }
}

impl Backlog {
    pub(super) fn new(whose: Arc<Whose>, next_seq: i64) -> Self {
        Self {
            whose,
            entries: VecDeque::new(),
            bytes: 0,
            unwritten: 0,
            next_seq,
            stored: -1,
            end: None,
            end_written: false,
            named_in: None,
            over_quota: None,
            recovered: false,
            cut_off: false,
        }
    }

    pub(super) fn push(&mut self, entry: Entry) {
        self.bytes += u64::from(entry.bytes);
        self.unwritten += usize::from(entry.place == Place::Unwritten);
        self.next_seq = self.next_seq.max(entry.seq_to + 1);
        self.entries.push_back(entry);
    }

    /// Its next number is this one at least: if it had ended before, it was reopened.
    pub(super) fn goes_on_at(&mut self, next_seq: i64) {
        if self.end.take_if(|end| *end < next_seq - 1).is_some() {
            self.end_written = false;
        }
    }

    /// Takes away what is stored.
    pub(super) fn acknowledge(&mut self, stored: i64) -> Vec<Entry> {
        self.stored = self.stored.max(stored);
        let mut gone = Vec::new();
        while let Some(entry) = self.entries.pop_front_if(|entry| entry.seq_to <= stored) {
            self.bytes -= u64::from(entry.bytes);
            self.unwritten -= usize::from(entry.place == Place::Unwritten);
            gone.push(entry);
        }
        self.trim(stored);
        gone
    }

    /// A gap that was found here may begin before what is stored: text that is stored already had become too old to be read
    /// again. Only the rest of it is missing.
    fn trim(&mut self, stored: i64) {
        let Some(front) = self.entries.front_mut().filter(|front| front.place == Place::Found && front.seq <= stored)
        else {
            return;
        };
        let Some((ChunkKind::Gap(found), ts)) = front.kept.as_ref().map(|chunk| (chunk.kind, chunk.ts)) else { return };
        let rest = Entry::new(gap(stored + 1, front.seq_to, found.kind, None, ts), Place::Found);
        self.bytes = self.bytes - u64::from(front.bytes) + u64::from(rest.bytes);
        *front = rest;
    }

    /// Moves the gap of a log that was cut off behind what is stored: the broker may have more of it than the spool,
    /// which is not synced. Returns the bytes that it takes.
    pub(super) fn end_behind(&mut self, stored: i64, now: OffsetDateTime) -> usize {
        if !std::mem::take(&mut self.cut_off) || self.end.is_none_or(|end| end > stored) {
            return 0;
        }
        let gap = gap(stored + 1, stored + 1, GapKind::Lost, None, now);
        let bytes = gap.text.len();
        self.push(Entry::new(gap, Place::Unwritten));
        self.end = Some(stored + 1);
        self.end_written = false;
        bytes
    }

    /// The log ends with this number, as was reported to the broker: takes away what stands behind it, which is the gap of
    /// a log that was cut off.
    pub(super) fn end_at(&mut self, end: i64) -> Vec<Entry> {
        let mut gone = Vec::new();
        let mut is_guess = std::mem::take(&mut self.cut_off);
        while let Some(entry) = self.entries.pop_back_if(|entry| std::mem::take(&mut is_guess) || entry.seq_to > end) {
            self.bytes -= u64::from(entry.bytes);
            self.unwritten -= usize::from(entry.place == Place::Unwritten);
            gone.push(entry);
        }
        self.end_written &= self.end == Some(end);
        self.end = Some(end);
        gone
    }

    /// Puts gaps in the place of numbers that are nowhere any more, behind what is stored and up to the log's end.
    pub(super) fn mend(&mut self, stored: i64, why: GapKind, now: OffsetDateTime) {
        let mut next = stored + 1;
        let mut at = 0;
        while let Some(entry) = self.entries.get(at) {
            if entry.seq > next {
                let gap = gap(next, entry.seq - 1, why, None, now);
                next = entry.seq;
                self.bytes += gap.text.len() as u64;
                self.entries.insert(at, Entry::new(gap, Place::Found));
            } else {
                next = entry.seq_to + 1;
            }
            at += 1;
        }
        if let Some(end) = self.end.filter(|end| *end >= next) {
            let gap = gap(next, end, why, None, now);
            self.push(Entry::new(gap, Place::Found));
        }
    }

    /// Takes away what stands in these segments, and puts gaps in its place.
    pub(super) fn expire(&mut self, segments: &[u32], now: OffsetDateTime) -> Vec<Entry> {
        let is_old = |entry: &Entry| entry.segment().is_some_and(|number| segments.contains(&number));
        let mut gone: Vec<Entry> = Vec::new();
        let mut hole: Option<(i64, i64, u64)> = None;
        for entry in std::mem::take(&mut self.entries) {
            if is_old(&entry) {
                let (from, _, bytes) = hole.unwrap_or((entry.seq, entry.seq_to, 0));
                hole = Some((from, entry.seq_to, bytes + u64::from(entry.bytes)));
                self.bytes -= u64::from(entry.bytes);
                gone.push(entry);
                continue;
            }
            self.close_hole(hole.take(), now);
            self.entries.push_back(entry);
        }
        self.close_hole(hole, now);
        gone
    }

    fn close_hole(&mut self, hole: Option<(i64, i64, u64)>, now: OffsetDateTime) {
        let Some((seq, seq_to, bytes)) = hole else { return };
        let gap = gap(seq, seq_to, GapKind::Expired, Some(bytes), now);
        self.bytes += gap.text.len() as u64;
        self.entries.push_back(Entry::new(gap, Place::Found));
    }

    /// Closes a log that is over its quota with a gap up to its last number, or with one of a single number.
    pub(super) fn end_over_quota(&mut self, last_seq: i64, bytes: Option<u64>, now: OffsetDateTime) {
        let Some((from, _)) = self.over_quota else { return };
        let to = last_seq.max(from);
        self.push(Entry::new(gap(from, to, GapKind::Quota, bytes, now), Place::Found));
        self.end = Some(to);
    }

    /// Whether it has ended and segments hold all of it that is not stored.
    pub(super) fn is_written(&self) -> bool {
        self.end_written && self.unwritten == 0
    }

    /// Whether nothing of it is left to do.
    pub(super) fn is_done(&self) -> bool {
        self.end.is_some_and(|end| end <= self.stored) && self.entries.is_empty()
    }
}

/// A chunk that stands for others which cannot be read any more.
pub(super) fn gap(seq: i64, seq_to: i64, kind: GapKind, bytes: Option<u64>, ts: OffsetDateTime) -> Chunk {
    let gap = Gap { kind, bytes };
    Chunk { seq, seq_to, stream: Stream::System, text: format!("{gap}\n"), ts, kind: ChunkKind::Gap(gap) }
}
