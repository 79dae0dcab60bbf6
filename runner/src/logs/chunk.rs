//! Numbers records and groups them into the rows that are stored.

use std::collections::VecDeque;
use std::fmt;
use std::mem;

use time::OffsetDateTime;

use super::frame::Record;
use super::stream::Stream;

/// Longest text of a chunk in bytes: with two round trips of 2 s it is stored within 5 s where the line bears 50 KB/s.
pub const MAX_CHUNK_BYTES: usize = 32 * 1024;
/// From this length on one that is still growing is worth a row.
const RIPE_BYTES: usize = MAX_CHUNK_BYTES / 2;
/// Room for lines of Tendril itself when the rest is full, in bytes.
pub const SYSTEM_BYTES: usize = 256 * 1024;
/// What a waiting chunk is reckoned to take in memory beside its text, in bytes.
const CHUNK_OVERHEAD_BYTES: usize = 128;
/// A chunk that has come to this is taken to become a whole one.
const LOUD_BYTES: usize = 8 * 1024;

/// One row of an attempt's log. Once handed out it is never cut anew, so that sending it again cannot store a record
/// twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Number of its first record; over both streams of an attempt numbers begin at 0 and have no holes.
    pub seq: i64,
    /// Number of its last record.
    pub seq_to: i64,
    /// Where the text came from.
    pub stream: Stream,
    /// The records, one after the other; for a gap a line that says so.
    pub text: String,
    /// When its first record became complete.
    pub ts: OffsetDateTime,
    /// Output, or the notice that some is missing.
    pub kind: ChunkKind,
}

impl Chunk {
    /// The stored name of the gap's kind; `None` for output.
    pub fn gap_kind(&self) -> Option<&'static str> {
        match self.kind {
            ChunkKind::Text => None,
            ChunkKind::Gap(gap) => Some(gap.kind.as_str()),
        }
    }

    /// The bytes missing, as stored; `None` for output, and for a gap when nobody knows.
    pub fn gap_bytes(&self) -> Option<i64> {
        match self.kind {
            ChunkKind::Text => None,
            ChunkKind::Gap(gap) => gap.bytes.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
        }
    }
}

/// What a chunk stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkKind {
    /// Output of the stream.
    Text,
    /// Output of the stream that was lost here.
    Gap(Gap),
}

/// A hole in a stream's output. It takes one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// Why output is missing.
    pub kind: GapKind,
    /// Bytes of sanitised text that are missing; `None` when nobody knows.
    pub bytes: Option<u64>,
}

/// Why output is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GapKind {
    /// It came faster than it could be stored and the waiting room was full.
    Overflow,
    /// A runner died before it had read it, what was kept of it cannot be read, or the database has lost what it had stored.
    Lost,
    /// It waited for longer than it may.
    Expired,
    /// The attempt printed more than is stored of one.
    Capped,
    /// The broker stores no more of it: the attempt or its cluster has used up its quota.
    Quota,
}

impl GapKind {
    /// The name stored with the row.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Overflow => "overflow",
            Self::Lost => "lost",
            Self::Expired => "expired",
            Self::Capped => "capped",
            Self::Quota => "quota",
        }
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.kind {
            GapKind::Overflow => "it came faster than it could be stored",
            GapKind::Lost => "it was lost before it was stored for good",
            GapKind::Expired => "it could not be stored for too long",
            GapKind::Capped => "this log had reached its bound; what follows is the end",
            GapKind::Quota => "the quota of log text is used up; the job goes on",
        };
        match self.bytes {
            Some(bytes) => write!(f, "[tendril: {bytes} bytes of output are missing here: {why}]"),
            None => write!(f, "[tendril: output is missing here: {why}]"),
        }
    }
}

/// How much went through a capture. The last two are not the [`Chunker`]'s.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Records numbered, gaps aside.
    pub records: u64,
    /// Bytes of their text.
    pub bytes: u64,
    /// Chunks made, gaps included.
    pub chunks: u64,
    /// Gaps among them.
    pub gaps: u64,
    /// Records refused because too much was waiting.
    pub refused_records: u64,
    /// Bytes of their text.
    pub refused_bytes: u64,
    /// Marks that stand in the place of secrets.
    pub redactions: u64,
    /// Bytes of text left out because the attempt's log had reached its bound.
    pub capped_bytes: u64,
}

#[derive(Debug, Clone, Copy)]
struct Refused {
    bytes: u64,
    since: OffsetDateTime,
}

/// Numbers the records of one attempt and groups consecutive ones of a stream into chunks.
///
/// At most `limit_bytes` wait to be drained. Beyond that records are refused and counted, until half of it is free
/// again; then each stream that lost some gets one gap. What Tendril itself has to say has [`SYSTEM_BYTES`] more, which
/// its few lines do not fill: they tell where a state lies that could not be saved.
#[derive(Debug)]
pub struct Chunker {
    next_seq: i64,
    open: Option<Chunk>,
    fixed: VecDeque<Chunk>,
    waiting_bytes: usize,
    limit_bytes: usize,
    refusing: bool,
    refused: [Option<Refused>; Stream::ALL.len()],
    /// Bytes of text that are about to come.
    expected_bytes: usize,
    counters: Counters,
}

impl Chunker {
    /// A chunker in which at most `limit_bytes` wait, a small overhead per chunk included.
    pub fn new(limit_bytes: usize) -> Self {
        Self {
            next_seq: 0,
            open: None,
            fixed: VecDeque::new(),
            waiting_bytes: 0,
            limit_bytes,
            refusing: false,
            refused: [None; Stream::ALL.len()],
            expected_bytes: 0,
            counters: Counters::default(),
        }
    }

    /// The same, with the numbers going on from `next_seq`.
    pub fn going_on(self, next_seq: i64) -> Self {
        Self { next_seq, ..self }
    }

    /// From now on at most `limit_bytes` wait.
    pub fn limit_to(&mut self, limit_bytes: usize) {
        self.limit_bytes = limit_bytes;
    }

    /// Takes `bytes` more than what waits now, whatever was refused so far: that gets its gaps here.
    pub(super) fn make_room(&mut self, bytes: usize) {
        self.settle();
        self.limit_bytes = self.limit_bytes.max(self.waiting_bytes).saturating_add(bytes);
    }

    /// About so many bytes of text come next: to grow with each of their records would copy them again and again.
    pub fn expect(&mut self, bytes: usize) {
        self.expected_bytes = bytes;
    }

    /// What was expected has come, or been left out: room that was made for it in vain is given back.
    pub fn expect_no_more(&mut self) {
        self.expected_bytes = 0;
        if let Some(Chunk { text, .. }) = self.open.as_mut().filter(|open| open.text.capacity() > 4 * open.text.len()) {
            text.shrink_to(2 * text.len());
        }
    }

    /// Takes the next record.
    pub fn record(&mut self, record: Record<'_>) {
        let cost = record.text.len() + CHUNK_OVERHEAD_BYTES;
        let (closed, limit_bytes) = match record.stream {
            Stream::System => (false, self.limit_bytes.saturating_add(SYSTEM_BYTES)),
            Stream::Stdout | Stream::Stderr => (self.refusing, self.limit_bytes),
        };
        if closed || self.waiting_bytes + cost > limit_bytes {
            return self.refuse(record);
        }
        let bytes = record.text.len();
        let fits = |open: &&mut Chunk| open.stream == record.stream && open.text.len() + bytes <= MAX_CHUNK_BYTES;
        if let Some(open) = self.open.as_mut().filter(fits) {
            grow(&mut open.text, bytes, self.expected_bytes);
            open.text.push_str(record.text);
            open.seq_to += 1;
            self.next_seq += 1;
            self.waiting_bytes += bytes;
        } else {
            self.fix();
            let mut text = String::with_capacity(self.expected_bytes.min(MAX_CHUNK_BYTES).max(bytes));
            text.push_str(record.text);
            self.open = Some(self.numbered(record.stream, text, record.at, ChunkKind::Text));
        }
        self.expected_bytes = self.expected_bytes.saturating_sub(bytes);
        self.counters.records += 1;
        self.counters.bytes += u64::try_from(bytes).unwrap_or(u64::MAX);
    }

    /// Notes that output of `stream` is missing here.
    pub fn gap(&mut self, stream: Stream, gap: Gap, ts: OffsetDateTime) {
        self.fix();
        let chunk = self.numbered(stream, format!("{gap}\n"), ts, ChunkKind::Gap(gap));
        self.fixed.push_back(chunk);
        self.counters.gaps += 1;
    }

    /// Hands out waiting chunks in order, at most `max_bytes` of text; one chunk always, so that a small bound cannot
    /// stop a log. The one still growing is fixed when it goes along.
    pub fn drain(&mut self, max_bytes: usize) -> Vec<Chunk> {
        self.hand_out(max_bytes, 0)
    }

    /// The same, but for one that is still growing and not half full yet.
    pub fn drain_ripe(&mut self, max_bytes: usize) -> Vec<Chunk> {
        self.hand_out(max_bytes, RIPE_BYTES)
    }

    /// Whether [`Self::drain_ripe`] would hand out anything.
    pub fn is_ripe(&self) -> bool {
        !self.fixed.is_empty() || self.open.as_ref().is_some_and(|open| open.text.len() >= RIPE_BYTES)
    }

    fn hand_out(&mut self, max_bytes: usize, least_open_bytes: usize) -> Vec<Chunk> {
        let mut batch = Vec::new();
        let mut taken = 0;
        loop {
            if self.fixed.is_empty() && self.open.as_ref().is_some_and(|open| open.text.len() >= least_open_bytes) {
                self.fix();
            }
            let fits = |chunk: &Chunk| batch.is_empty() || taken + chunk.text.len() <= max_bytes;
            let Some(chunk) = self.fixed.front().is_some_and(fits).then(|| self.fixed.pop_front()).flatten() else {
                break;
            };
            taken += chunk.text.len();
            self.waiting_bytes -= chunk.text.len() + CHUNK_OVERHEAD_BYTES;
            batch.push(chunk);
        }
        if self.refusing && self.waiting_bytes <= self.limit_bytes / 2 {
            self.settle();
        }
        batch
    }

    /// Ends the log: refused output gets its gaps, and [`last_seq`](Self::last_seq) is final.
    pub fn finish(&mut self) {
        self.settle();
        self.fix();
    }

    /// The last number given, -1 when there is none.
    pub fn last_seq(&self) -> i64 {
        self.next_seq - 1
    }

    /// What waits to be drained, in bytes, a small overhead per chunk included.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// When the first record that waits became complete.
    pub fn oldest(&self) -> Option<OffsetDateTime> {
        self.fixed.front().or(self.open.as_ref()).map(|chunk| chunk.ts)
    }

    /// What went through so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    fn numbered(&mut self, stream: Stream, text: String, ts: OffsetDateTime, kind: ChunkKind) -> Chunk {
        let seq = self.next_seq;
        self.next_seq += 1;
        self.waiting_bytes += text.len() + CHUNK_OVERHEAD_BYTES;
        self.counters.chunks += 1;
        Chunk { seq, seq_to: seq, stream, text, ts, kind }
    }

    fn fix(&mut self) {
        if let Some(mut chunk) = self.open.take() {
            chunk.text.shrink_to_fit();
            self.fixed.push_back(chunk);
        }
    }

    fn refuse(&mut self, record: Record<'_>) {
        let bytes = u64::try_from(record.text.len()).unwrap_or(u64::MAX);
        self.refusing = true;
        self.counters.refused_records += 1;
        self.counters.refused_bytes += bytes;
        let refused = self.refused[record.stream.index()].get_or_insert(Refused { bytes: 0, since: record.at });
        refused.bytes += bytes;
    }

    /// Writes a gap for each stream that lost records, and takes records again.
    fn settle(&mut self) {
        self.refusing = false;
        let refused = mem::take(&mut self.refused);
        for (stream, refused) in Stream::ALL.into_iter().zip(refused) {
            if let Some(Refused { bytes, since }) = refused {
                self.gap(stream, Gap { kind: GapKind::Overflow, bytes: Some(bytes) }, since);
            }
        }
    }
}

/// Makes room for `bytes` more, of so many that are expected; for a loud stream's chunk once, since each time all of it may be
/// copied.
fn grow(text: &mut String, bytes: usize, expected_bytes: usize) {
    let left = MAX_CHUNK_BYTES - text.len();
    if text.capacity() - text.len() >= bytes {
        return;
    }
    if text.len() >= LOUD_BYTES {
        text.reserve_exact(left);
    } else if expected_bytes > text.len() {
        text.reserve_exact(expected_bytes.clamp(bytes, left));
    }
}
