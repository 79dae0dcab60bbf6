//! Bounds what is stored of one attempt: its beginning as it comes, and its end when it has ended.

use std::collections::VecDeque;
use std::mem;

use time::OffsetDateTime;

use super::chunk::{Chunker, Gap, GapKind};
use super::frame::Record;
use super::stream::Stream;

/// What a record of the end is reckoned to take in memory beside its text, in bytes.
pub const TAIL_OVERHEAD_BYTES: usize = 64;

/// Lets records pass until `cap_bytes` of output have; from then on it keeps the newest ones, up to `tail_bytes`, and
/// counts what it leaves out. Lines of Tendril itself always pass.
///
/// What is stored of a single stream is therefore: the longest row of whole records from its beginning that fits the cap;
/// a gap with the exact number of bytes, if anything is missing; the longest row of whole records to its end that fits
/// the tail, each counted with [`TAIL_OVERHEAD_BYTES`]. Of two streams the same holds for both together in the order in
/// which their records became complete, with a gap for each that lacks something.
#[derive(Debug)]
pub(super) struct Cap {
    cap_bytes: u64,
    tail_bytes: usize,
    passed_bytes: u64,
    end: Option<End>,
}

/// There while more has come than is to be stored.
#[derive(Debug, Default)]
struct End {
    tail: VecDeque<Kept>,
    taken_bytes: usize,
    left_out: [Option<LeftOut>; Stream::ALL.len()],
}

#[derive(Debug)]
struct Kept {
    stream: Stream,
    text: Box<str>,
    at: OffsetDateTime,
}

impl Kept {
    fn cost(&self) -> usize {
        self.text.len() + TAIL_OVERHEAD_BYTES
    }
}

#[derive(Debug, Clone, Copy)]
struct LeftOut {
    bytes: u64,
    since: OffsetDateTime,
}

impl Cap {
    /// A cap that nothing has come to yet.
    pub(super) fn new(cap_bytes: u64, tail_bytes: usize) -> Self {
        Self { cap_bytes, tail_bytes, passed_bytes: 0, end: None }
    }

    /// Takes the next record.
    pub(super) fn record(&mut self, record: Record<'_>, chunker: &mut Chunker) {
        let bytes = record.text.len() as u64;
        match &mut self.end {
            _ if record.stream == Stream::System => chunker.record(record),
            None if self.passed_bytes + bytes <= self.cap_bytes => {
                self.passed_bytes += bytes;
                chunker.record(record);
            }
            None => {
                let text = self.notice();
                chunker.record(Record { stream: Stream::System, text: &text, at: record.at });
                self.end.insert(End::default()).keep(record, self.tail_bytes);
            }
            Some(end) => end.keep(record, self.tail_bytes),
        }
    }

    /// The log ends: what is left out gets its gaps, and the end comes after them.
    pub(super) fn finish(&mut self, chunker: &mut Chunker) {
        let Some(end) = &mut self.end else { return };
        for (stream, left_out) in Stream::ALL.into_iter().zip(end.left_out) {
            if let Some(LeftOut { bytes, since }) = left_out {
                chunker.gap(stream, Gap { kind: GapKind::Capped, bytes: Some(bytes) }, since);
            }
        }
        end.taken_bytes = 0;
        for Kept { stream, text, at } in mem::take(&mut end.tail) {
            chunker.record(Record { stream, text: &text, at });
        }
    }

    /// Bytes left out so far; what is kept of the end is not among them.
    pub(super) fn left_out_bytes(&self) -> u64 {
        self.end.iter().flat_map(|end| end.left_out).flatten().map(|left_out| left_out.bytes).sum()
    }

    /// Memory that the end takes, in bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        self.end.as_ref().map_or(0, |end| end.taken_bytes)
    }

    fn notice(&self) -> String {
        format!(
            "[tendril: this log has reached its bound of {} bytes (logs.cap_bytes). The job goes on; the last {} bytes of \
             its output will be shown when it has ended]\n",
            self.cap_bytes, self.tail_bytes
        )
    }
}

impl End {
    fn keep(&mut self, record: Record<'_>, tail_bytes: usize) {
        let Record { stream, text, at } = record;
        let kept = Kept { stream, text: text.into(), at };
        self.taken_bytes += kept.cost();
        self.tail.push_back(kept);
        while self.taken_bytes > tail_bytes
            && let Some(oldest) = self.tail.pop_front()
        {
            self.taken_bytes -= oldest.cost();
            let left_out = &mut self.left_out[oldest.stream.index()];
            let left_out = left_out.get_or_insert(LeftOut { bytes: 0, since: oldest.at });
            left_out.bytes += oldest.text.len() as u64;
        }
    }
}
