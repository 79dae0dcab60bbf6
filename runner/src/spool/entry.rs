//! One chunk in a backlog, or several: what is known of it in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use time::OffsetDateTime;

use super::packed::{Packed, Row};
use crate::logs::{Chunk, ChunkKind, Gap, GapKind, Stream};

/// What a kept chunk is reckoned to take in memory beside its text, in bytes.
const OVERHEAD_BYTES: usize = 160;

/// One chunk, or several that are on disk only.
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
#[derive(Debug)]
pub(super) enum Place {
    /// Only in memory: it was not written yet, or the disk did not take it.
    Unwritten,
    /// In a segment.
    Disk { segment: u32, offset: u32, size: u32 },
    /// Several, in segments only.
    Packed(Box<Packed>),
    /// A gap that is found anew each time.
    Found,
}

/// What is taken out of a backlog, and what that sets free.
#[derive(Debug, Default)]
pub(super) struct Gone {
    /// Bytes of text.
    pub(super) text_bytes: u64,
    /// Bytes that were kept in memory.
    pub(super) kept_bytes: usize,
    /// Rows by segment.
    pub(super) rows: BTreeMap<u32, usize>,
}

impl Gone {
    /// A row that was on disk only.
    pub(super) fn row(&mut self, row: &Row) {
        self.text_bytes += u64::from(row.bytes);
        *self.rows.entry(row.segment).or_default() += 1;
    }

    pub(super) fn entry(&mut self, entry: &Entry) {
        self.kept_bytes += entry.kept_bytes();
        match (&entry.place, entry.row()) {
            (Place::Packed(packed), _) => packed.rows(entry.seq).for_each(|row| self.row(&row)),
            (_, Some(row)) => self.row(&row),
            _ => self.text_bytes += u64::from(entry.bytes),
        }
    }
}

impl Entry {
    pub(super) fn new(chunk: Chunk, place: Place) -> Self {
        let bytes = u32::try_from(chunk.text.len()).unwrap_or(u32::MAX);
        Self { seq: chunk.seq, seq_to: chunk.seq_to, bytes, place, kept: Some(Arc::new(chunk)) }
    }

    /// A row that is on disk only.
    pub(super) fn cold(row: &Row) -> Self {
        let place = Place::Disk { segment: row.segment, offset: row.offset, size: row.size };
        Self { seq: row.seq, seq_to: row.seq_to, bytes: row.bytes, place, kept: None }
    }

    pub(super) fn is_unwritten(&self) -> bool {
        matches!(self.place, Place::Unwritten)
    }

    /// Where it stands, when that is one place in a segment.
    pub(super) fn row(&self) -> Option<Row> {
        let Place::Disk { segment, offset, size } = self.place else { return None };
        Some(Row { seq: self.seq, seq_to: self.seq_to, bytes: self.bytes, segment, offset, size })
    }

    /// Bytes of its chunk that are in memory, where those are counted.
    pub(super) fn kept_bytes(&self) -> usize {
        let is_counted = !matches!(self.place, Place::Found);
        self.kept.as_ref().filter(|_| is_counted).map_or(0, |chunk| chunk.text.len() + OVERHEAD_BYTES)
    }

    /// Bytes of memory that the places of several rows take.
    pub(super) fn memory_bytes(&self) -> usize {
        match &self.place {
            Place::Packed(packed) => size_of::<Self>() + packed.memory_bytes(),
            _ => 0,
        }
    }

    /// Adds the row that follows to those that are on disk only; whether it could be.
    pub(super) fn add(&mut self, row: &Row) -> bool {
        let Place::Packed(packed) = &mut self.place else { return false };
        let fits = self.seq_to + 1 == row.seq && packed.add(row);
        if fits {
            self.seq_to = row.seq_to;
            self.bytes = self.bytes.saturating_add(row.bytes);
        }
        fits
    }
}

/// A chunk that stands for others which cannot be read any more.
pub(super) fn gap(seq: i64, seq_to: i64, kind: GapKind, bytes: Option<u64>, ts: OffsetDateTime) -> Chunk {
    let gap = Gap { kind, bytes };
    Chunk { seq, seq_to, stream: Stream::System, text: format!("{gap}\n"), ts, kind: ChunkKind::Gap(gap) }
}
