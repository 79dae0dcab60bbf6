//! What of one log is not stored yet: where each chunk is, in order.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Arc;

use time::OffsetDateTime;

use super::entry::{Entry, Gone, Place, gap};
use super::packed::{Packed, Row};
use crate::logs::{Chunk, ChunkKind, GapKind};
use crate::whose::Whose;

/// One log on its way.
#[derive(Debug)]
pub(super) struct Backlog {
    pub(super) whose: Arc<Whose>,
    /// Not stored yet, in order and without holes, but for a log that an earlier process has left: see [`Self::mend`].
    pub(super) entries: VecDeque<Entry>,
    /// Bytes of their text.
    pub(super) bytes: u64,
    /// Bytes of memory that the places of those take that are on disk only.
    pub(super) index_bytes: usize,
    /// When the first one was printed, by its number, once that was read from the disk.
    pub(super) first_printed: Cell<Option<(i64, OffsetDateTime)>>,
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
    /// The segment that has something of it first.
    pub(super) first_in: Option<u32>,
    /// The broker takes only a gap, from this number on, as it said then.
    pub(super) over_quota: Option<(i64, OffsetDateTime)>,
    /// Left by an earlier process.
    pub(super) recovered: bool,
    /// Its last entry is the gap of a log that was cut off, put there by this process and never sent.
    pub(super) cut_off: bool,
}

impl Backlog {
    pub(super) fn new(whose: Arc<Whose>, next_seq: i64) -> Self {
        Self {
            whose,
            entries: VecDeque::new(),
            bytes: 0,
            index_bytes: 0,
            first_printed: Cell::default(),
            unwritten: 0,
            next_seq,
            stored: -1,
            end: None,
            end_written: false,
            named_in: None,
            first_in: None,
            over_quota: None,
            recovered: false,
            cut_off: false,
        }
    }

    pub(super) fn push(&mut self, entry: Entry) {
        self.bytes += u64::from(entry.bytes);
        self.unwritten += usize::from(entry.is_unwritten());
        self.next_seq = self.next_seq.max(entry.seq_to + 1);
        self.entries.push_back(entry);
    }

    /// A row that is on disk only.
    pub(super) fn push_row(&mut self, row: &Row) {
        self.bytes += u64::from(row.bytes);
        self.next_seq = self.next_seq.max(row.seq_to + 1);
        self.put_row(self.entries.len(), row);
    }

    /// Puts a row that is on disk only to this place.
    fn put_row(&mut self, at: usize, row: &Row) {
        if let Some(before) = at.checked_sub(1).and_then(|before| self.entries.get_mut(before)) {
            let memory_bytes = before.memory_bytes();
            if before.add(row) {
                self.index_bytes = self.index_bytes + before.memory_bytes() - memory_bytes;
                return;
            }
        }
        let entry = Entry { place: Place::Packed(Box::new(Packed::new(row))), ..Entry::cold(row) };
        self.index_bytes += entry.memory_bytes();
        self.entries.insert(at, entry);
    }

    /// The first chunk that no segment has.
    pub(super) fn first_unwritten(&self) -> Option<&Chunk> {
        self.entries.get(self.entries.len() - self.unwritten)?.kept.as_deref()
    }

    /// The first chunk that no segment had stands in this place now. When it is not to be `kept` in memory, returns the bytes
    /// that this sets free.
    pub(super) fn written(&mut self, place: Place, kept: bool) -> usize {
        let at = self.entries.len() - self.unwritten;
        let Some(entry) = self.entries.get_mut(at) else { return 0 };
        entry.place = place;
        let (row, kept_bytes) = (entry.row(), entry.kept_bytes());
        self.unwritten -= 1;
        match row {
            Some(row) if !kept => {
                self.entries.remove(at);
                self.put_row(at, &row);
                kept_bytes
            }
            _ => 0,
        }
    }

    /// Keeps nothing in memory that is on disk, too; returns the bytes that this sets free.
    pub(super) fn cool(&mut self) -> usize {
        let mut freed = 0;
        self.index_bytes = 0;
        for entry in std::mem::take(&mut self.entries) {
            match (&entry.place, entry.row()) {
                (Place::Packed(packed), _) => {
                    packed.rows(entry.seq).for_each(|row| self.put_row(self.entries.len(), &row));
                }
                (_, Some(row)) => {
                    freed += entry.kept_bytes();
                    self.put_row(self.entries.len(), &row);
                }
                _ => self.entries.push_back(entry),
            }
        }
        freed
    }

    /// No more memory for entries than there are, about: a burst had many.
    pub(super) fn tighten(&mut self) {
        if self.entries.capacity() > 64 + 4 * self.entries.len() {
            self.entries.shrink_to(2 * self.entries.len());
        }
    }

    /// Its next number is this one at least: if it had ended before, it was reopened.
    pub(super) fn goes_on_at(&mut self, next_seq: i64) {
        if self.end.take_if(|end| *end < next_seq - 1).is_some() {
            self.end_written = false;
        }
    }

    /// Takes away what is stored.
    pub(super) fn acknowledge(&mut self, stored: i64, gone: &mut Gone) {
        self.stored = self.stored.max(stored);
        while let Some(entry) = self.entries.pop_front_if(|entry| entry.seq_to <= stored) {
            self.forget(&entry, gone);
        }
        self.take_rows(stored, gone);
        self.trim(stored);
    }

    fn forget(&mut self, entry: &Entry, gone: &mut Gone) {
        self.bytes -= u64::from(entry.bytes);
        self.index_bytes -= entry.memory_bytes();
        self.unwritten -= usize::from(entry.is_unwritten());
        gone.entry(entry);
    }

    /// Takes away those of the first rows that are stored.
    fn take_rows(&mut self, stored: i64, gone: &mut Gone) {
        let Some(front) = self.entries.front_mut().filter(|front| front.seq <= stored) else { return };
        let Place::Packed(packed) = &mut front.place else { return };
        while packed.rows(front.seq).next().is_some_and(|row| row.seq_to <= stored) {
            let Some(row) = packed.pop(front.seq) else { return };
            front.seq = row.seq_to + 1;
            front.bytes = front.bytes.saturating_sub(row.bytes);
            self.bytes -= u64::from(row.bytes);
            gone.row(&row);
        }
    }

    /// A gap that was found here may begin before what is stored: text that is stored already had become too old to be read
    /// again. Only the rest of it is missing.
    fn trim(&mut self, stored: i64) {
        let Some(front) =
            self.entries.front_mut().filter(|front| matches!(front.place, Place::Found) && front.seq <= stored)
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
        let gap = Entry::new(gap(stored + 1, stored + 1, GapKind::Lost, None, now), Place::Unwritten);
        let kept_bytes = gap.kept_bytes();
        self.push(gap);
        self.end = Some(stored + 1);
        self.end_written = false;
        kept_bytes
    }

    /// The log ends with this number, as was reported to the broker: takes away what stands behind it, which is the gap of
    /// a log that was cut off.
    pub(super) fn end_at(&mut self, end: i64, gone: &mut Gone) {
        let mut is_guess = std::mem::take(&mut self.cut_off);
        while self.entries.back().is_some_and(|entry| is_guess || entry.seq_to > end) {
            self.unpack_last();
            is_guess = false;
            if let Some(entry) = self.entries.pop_back() {
                self.forget(&entry, gone);
            }
        }
        self.end_written &= self.end == Some(end);
        self.end = Some(end);
    }

    /// Gives each of the last rows an entry of its own.
    fn unpack_last(&mut self) {
        let Some(entry) = self.entries.pop_back_if(|entry| matches!(entry.place, Place::Packed(_))) else { return };
        self.index_bytes -= entry.memory_bytes();
        if let Place::Packed(packed) = &entry.place {
            self.entries.extend(packed.rows(entry.seq).map(|row| Entry::cold(&row)));
        }
    }

    /// Puts gaps in the place of numbers that are nowhere any more, behind what is stored and up to the log's end. Returns
    /// the bytes that are kept in memory for it.
    pub(super) fn mend(&mut self, stored: i64, why: GapKind, now: OffsetDateTime) -> usize {
        let (mut next, mut at, mut kept_bytes) = (stored + 1, 0, 0);
        while let Some(entry) = self.entries.get(at) {
            let (seq, seq_to) = (entry.seq, entry.seq_to);
            if seq > next {
                kept_bytes += self.put_gap(at, gap(next, seq - 1, why, None, now));
                at += 1;
            }
            next = next.max(seq_to + 1);
            at += 1;
        }
        if let Some(end) = self.end.filter(|end| *end >= next) {
            kept_bytes += self.put_gap(at, gap(next, end, why, None, now));
        }
        kept_bytes
    }

    /// Puts a gap to this place. Those that no segment has stand at the end: behind one of them it is one, too.
    fn put_gap(&mut self, at: usize, gap: Chunk) -> usize {
        let is_written = at <= self.entries.len() - self.unwritten;
        let entry = Entry::new(gap, if is_written { Place::Found } else { Place::Unwritten });
        self.unwritten += usize::from(!is_written);
        self.bytes += u64::from(entry.bytes);
        self.next_seq = self.next_seq.max(entry.seq_to + 1);
        let kept_bytes = entry.kept_bytes();
        self.entries.insert(at, entry);
        kept_bytes
    }

    /// Takes away what stands in these segments, and puts gaps in its place.
    pub(super) fn expire(&mut self, segments: &[u32], now: OffsetDateTime, gone: &mut Gone) {
        let mut hole: Option<(i64, i64, u64)> = None;
        self.index_bytes = 0;
        for entry in std::mem::take(&mut self.entries) {
            let rows: Vec<Row> = match &entry.place {
                Place::Packed(packed) => packed.rows(entry.seq).collect(),
                _ => entry.row().into_iter().collect(),
            };
            if rows.is_empty() || entry.kept.is_some() && !rows.iter().any(|row| segments.contains(&row.segment)) {
                self.close_hole(hole.take(), now);
                self.entries.push_back(entry);
                continue;
            }
            for row in &rows {
                if segments.contains(&row.segment) {
                    let (from, _, bytes) = hole.unwrap_or((row.seq, row.seq_to, 0));
                    hole = Some((from, row.seq_to, bytes + u64::from(row.bytes)));
                    self.bytes -= u64::from(row.bytes);
                    gone.row(row);
                } else {
                    self.close_hole(hole.take(), now);
                    self.put_row(self.entries.len(), row);
                }
            }
            gone.kept_bytes += entry.kept_bytes();
        }
        self.close_hole(hole, now);
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
