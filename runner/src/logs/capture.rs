//! The whole way from an attempt's pipes to its chunks, as one value.

use std::mem;
use std::sync::Arc;
use time::{Duration, OffsetDateTime};

use super::cap::Cap;
use super::chunk::{Chunk, Chunker, Counters, Gap};
use super::events::{Events, MAX_EVENT_BYTES};
use super::frame::{Framer, Record};
use super::redact::Redactor;
use super::sanitise::Sanitiser;
use super::secrets::Secrets;
use super::stream::Stream;

/// Bytes that go through the stages at once, so that a large read does not need a large buffer.
const BLOCK_BYTES: usize = 64 * 1024;

/// What a child prints on its standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dialect {
    /// Text for people, or anything else.
    #[default]
    Text,
    /// The event lines of `terraform -json` or `tofu -json`.
    Events,
}

/// Takes what the children of one attempt print, one child after the other, and gives the chunks to store.
///
/// Memory: the waiting room of `limit_bytes`, plus under 4 MiB, plus the tail of [`capped`](Capture::capped); an event line of [`MAX_EVENT_BYTES`] takes a few times
/// its size while it is read.
#[derive(Debug)]
pub struct Capture {
    lanes: [Lane; Stream::ALL.len()],
    events: Events,
    rear: Rear,
    secrets: Arc<Secrets>,
    /// Marks of redactors that are gone.
    redactions: u64,
}

/// One stream on its way to the framer.
#[derive(Debug)]
struct Lane {
    front: Front,
    lines: Option<EventLines>,
}

/// What makes a stream's bytes safe to store.
#[derive(Debug)]
struct Front {
    stream: Stream,
    sanitiser: Sanitiser,
    redactor: Redactor,
}

/// What the streams share.
#[derive(Debug)]
struct Rear {
    framer: Framer,
    cap: Cap,
    chunker: Chunker,
    scratch: String,
}

impl Capture {
    /// A log of which at most `limit_bytes` wait to be drained, see [`Chunker::new`]; of any length, and in which only
    /// what has the form of a token is redacted.
    pub fn new(limit_bytes: usize) -> Self {
        let secrets = Secrets::of_known_forms();
        let lane = |stream| Lane { front: Front::new(stream, secrets.clone()), lines: None };
        Self {
            lanes: Stream::ALL.map(lane),
            events: Events::default(),
            rear: Rear {
                framer: Framer::default(),
                cap: Cap::new(u64::MAX, 0),
                chunker: Chunker::new(limit_bytes),
                scratch: String::new(),
            },
            secrets,
            redactions: 0,
        }
    }

    /// The same with at most `cap_bytes` of output stored as it comes, and the last `tail_bytes` at its end.
    pub fn capped(mut self, cap_bytes: u64, tail_bytes: usize) -> Self {
        self.rear.cap = Cap::new(cap_bytes, tail_bytes);
        self
    }

    /// The same for a log that another process began: its next number is `next_seq`.
    pub fn going_on(mut self, next_seq: i64) -> Self {
        self.rear.chunker = self.rear.chunker.going_on(next_seq);
        self
    }

    /// From now on these secrets are in force. What the streams have left open ends here.
    pub fn redact(&mut self, secrets: Arc<Secrets>, at: OffsetDateTime) {
        for stream in Stream::ALL {
            self.end(stream, at);
            let front = &mut self.lanes[stream.index()].front;
            self.redactions += front.redactor.count();
            front.redactor = Redactor::new(secrets.clone());
        }
        self.secrets = secrets;
    }

    /// The secrets in force.
    pub fn secrets(&self) -> &Arc<Secrets> {
        &self.secrets
    }

    /// The next child begins: what the one before has left open ends here.
    pub fn begin_child(&mut self, stdout: Dialect, at: OffsetDateTime) {
        self.end(Stream::Stdout, at);
        self.end(Stream::Stderr, at);
        self.lanes[Stream::Stdout.index()].lines = match stdout {
            Dialect::Text => None,
            Dialect::Events => Some(EventLines::default()),
        };
    }

    /// Takes bytes read from a pipe at the time `at`.
    pub fn push(&mut self, stream: Stream, bytes: &[u8], at: OffsetDateTime) {
        let Self { lanes, events, rear, .. } = self;
        let Lane { front, lines } = &mut lanes[stream.index()];
        let mut show = |bytes: &[u8]| rear.text(front, bytes, at);
        match lines {
            None => show(bytes),
            Some(lines) => {
                lines.push(bytes, &mut |piece| render(events, piece, &mut show));
                if mem::take(&mut lines.overlong) {
                    events.missed_one();
                }
            }
        }
    }

    /// Adds a line of Tendril itself, given without its line feed.
    pub fn system(&mut self, line: &str, at: OffsetDateTime) {
        self.push(Stream::System, line.as_bytes(), at);
        self.push(Stream::System, b"\n", at);
    }

    /// Adds the notice that output of `stream` is missing; what came before it is complete.
    pub fn gap(&mut self, stream: Stream, gap: Gap, at: OffsetDateTime) {
        self.end(stream, at);
        self.rear.chunker.gap(stream, gap, at);
    }

    /// The pipe has ended: an unterminated line is complete. The stream may go on with the next child.
    pub fn end(&mut self, stream: Stream, at: OffsetDateTime) {
        let Self { lanes, events, rear, .. } = self;
        let Lane { front, lines } = &mut lanes[stream.index()];
        if let Some(lines) = lines {
            let mut show = |bytes: &[u8]| rear.text(front, bytes, at);
            lines.finish(&mut |piece| render(events, piece, &mut show));
        }
        rear.end(front, at);
    }

    /// Makes records of text that has been waiting `after` or longer for its line feed at the time `now`. What may be the
    /// beginning of a secret goes on waiting.
    pub fn idle(&mut self, now: OffsetDateTime, after: Duration) {
        let Rear { framer, cap, chunker, .. } = &mut self.rear;
        framer.idle(now, after, &mut |record: Record<'_>| cap.record(record, chunker));
    }

    /// Ends the log and returns its last number, -1 when it is empty; what waits can still be drained.
    pub fn finish(&mut self, at: OffsetDateTime) -> i64 {
        for stream in Stream::ALL {
            self.end(stream, at);
        }
        let Rear { cap, chunker, .. } = &mut self.rear;
        if cap.memory_bytes() > 0 {
            // It only moves, and many short records take more as chunks.
            chunker.make_room(2 * cap.memory_bytes());
        }
        cap.finish(chunker);
        chunker.finish();
        chunker.last_seq()
    }

    /// From now on at most `limit_bytes` wait to be drained.
    pub fn limit_to(&mut self, limit_bytes: usize) {
        self.rear.chunker.limit_to(limit_bytes);
    }

    /// Hands out chunks; see [`Chunker::drain`].
    pub fn drain(&mut self, max_bytes: usize) -> Vec<Chunk> {
        self.rear.chunker.drain(max_bytes)
    }

    /// Hands out chunks; see [`Chunker::drain_ripe`].
    pub fn drain_ripe(&mut self, max_bytes: usize) -> Vec<Chunk> {
        self.rear.chunker.drain_ripe(max_bytes)
    }

    /// Whether [`Self::drain_ripe`] would hand out anything.
    pub fn is_ripe(&self) -> bool {
        self.rear.chunker.is_ripe()
    }

    /// What waits to be drained, in bytes; see [`Chunker::waiting_bytes`].
    pub fn waiting_bytes(&self) -> usize {
        self.rear.chunker.waiting_bytes()
    }

    /// When the first record that waits became complete; see [`Chunker::oldest`].
    pub fn oldest(&self) -> Option<OffsetDateTime> {
        self.rear.chunker.oldest()
    }

    /// What went through so far.
    pub fn counters(&self) -> Counters {
        let redactors = self.lanes.iter().map(|lane| lane.front.redactor.count());
        Counters {
            redactions: self.redactions + redactors.sum::<u64>(),
            capped_bytes: self.rear.cap.left_out_bytes(),
            ..self.rear.chunker.counters()
        }
    }

    /// The last number given, -1 when there is none.
    pub fn last_seq(&self) -> i64 {
        self.rear.chunker.last_seq()
    }

    /// What the events have told so far.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// Memory held beside what waits to be drained, in bytes.
    pub fn memory_bytes(&self) -> usize {
        let lines = self.lanes.iter().flat_map(|lane| &lane.lines).map(|lines| lines.line.capacity());
        let redactors = self.lanes.iter().map(|lane| lane.front.redactor.memory_bytes());
        let Rear { framer, cap, scratch, .. } = &self.rear;
        let stages = framer.memory_bytes() + cap.memory_bytes() + redactors.sum::<usize>();
        lines.sum::<usize>() + scratch.capacity() + stages
    }
}

impl Front {
    fn new(stream: Stream, secrets: Arc<Secrets>) -> Self {
        Self { stream, sanitiser: Sanitiser::default(), redactor: Redactor::new(secrets) }
    }
}

impl Rear {
    fn text(&mut self, front: &mut Front, bytes: &[u8], at: OffsetDateTime) {
        self.chunker.expect(bytes.len());
        for block in bytes.chunks(BLOCK_BYTES) {
            front.sanitiser.push(block, &mut self.scratch);
            self.redact(front, at);
        }
        self.chunker.expect_no_more();
    }

    fn end(&mut self, front: &mut Front, at: OffsetDateTime) {
        front.sanitiser.finish(&mut self.scratch);
        self.redact(front, at);
        let Self { framer, cap, chunker, .. } = self;
        let mut record = |record: Record<'_>| cap.record(record, chunker);
        front.redactor.finish(&mut |piece| framer.push(front.stream, piece, at, &mut record));
        framer.finish(front.stream, at, &mut record);
    }

    fn redact(&mut self, front: &mut Front, at: OffsetDateTime) {
        let Self { framer, cap, chunker, scratch } = self;
        let mut record = |record: Record<'_>| cap.record(record, chunker);
        front.redactor.push(scratch, &mut |piece| framer.push(front.stream, piece, at, &mut record));
        scratch.clear();
    }
}

/// The text stored for a child that printed `stream_bytes` in the dialect [`Dialect::Events`]: each line that is an
/// event as [`Events::push`] renders it, everything else as it is, and then sanitised as in
/// [`stored_text`](super::stored_text). Secrets are taken out after that, see [`redacted`](super::redacted).
pub fn stored_event_text(stream_bytes: &[u8]) -> String {
    let mut events = Events::default();
    let mut shown = Vec::new();
    for line in stream_bytes.split_inclusive(|&byte| byte == b'\n') {
        let event = line.strip_suffix(b"\n").unwrap_or(line);
        let rendered = str::from_utf8(event).ok().and_then(|event| events.push(event));
        match rendered {
            Some(rendered) => shown.extend_from_slice(rendered.text.as_bytes()),
            None => shown.extend_from_slice(line),
        }
    }
    super::stored_text(&shown)
}

fn render(events: &mut Events, piece: Piece<'_>, show: &mut impl FnMut(&[u8])) {
    let line = match piece {
        Piece::Other(bytes) => return show(bytes),
        Piece::Line(line) => line,
    };
    let event = line.strip_suffix(b"\n").unwrap_or(line);
    match str::from_utf8(event).ok().and_then(|event| events.push(event)) {
        Some(rendered) => show(rendered.text.as_bytes()),
        None => show(line),
    }
}

/// Puts together the lines that may be events; all else passes without waiting.
#[derive(Debug, Default)]
struct EventLines {
    line: Vec<u8>,
    /// The present line is known not to be an event.
    passing: bool,
    /// A line began like an event and was too long to be read as one.
    overlong: bool,
}

enum Piece<'a> {
    /// A line that begins like an event, with its line feed if it has one.
    Line(&'a [u8]),
    /// A part of any other line.
    Other(&'a [u8]),
}

impl EventLines {
    fn push(&mut self, bytes: &[u8], sink: &mut impl FnMut(Piece<'_>)) {
        for part in bytes.split_inclusive(|&byte| byte == b'\n') {
            let ends = part.ends_with(b"\n");
            if self.line.is_empty() && !self.passing {
                self.passing = !part.starts_with(b"{");
            }
            if self.passing {
                sink(Piece::Other(part));
            } else if self.line.is_empty() && ends && part.len() <= MAX_EVENT_BYTES {
                sink(Piece::Line(part));
            } else if self.line.len() + part.len() <= MAX_EVENT_BYTES + usize::from(ends) {
                self.line.extend_from_slice(part);
                if ends {
                    sink(Piece::Line(&self.line));
                    self.clear();
                }
            } else {
                sink(Piece::Other(&self.line));
                sink(Piece::Other(part));
                self.clear();
                self.passing = true;
                self.overlong = true;
            }
            self.passing &= !ends;
        }
    }

    fn finish(&mut self, sink: &mut impl FnMut(Piece<'_>)) {
        if !self.line.is_empty() {
            sink(Piece::Line(&self.line));
        }
        self.clear();
        self.passing = false;
    }

    fn clear(&mut self) {
        self.line.clear();
        self.line.shrink_to(BLOCK_BYTES);
    }
}
