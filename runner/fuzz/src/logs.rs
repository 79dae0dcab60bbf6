//! What must be true of any bytes that a child prints, in any reads, with any turns of its streams.

use crate::forms::{self, FORMS};
use std::sync::{Arc, LazyLock};
use tendril_runner::logs::{
    Capture, Chunk, ChunkKind, Dialect, MAX_CHUNK_BYTES, REDACTED, Redactor, Secret, Secrets, Stream, redacted,
    stored_event_text, stored_text,
};
use time::{Duration, OffsetDateTime};

/// Values that are in force in every check.
pub const VALUES: [&str; 5] =
    ["hunter2-correct", forms::QUOTED, "first line of it\nsecond line of it\nx", "aaaabaaabaaaab", forms::URL];

static SECRETS: LazyLock<Arc<Secrets>> = LazyLock::new(|| {
    let values = VALUES.map(|value| Secret::new("value", value));
    Arc::new(Secrets::new(&values).expect("few values").0)
});

/// The first bytes say how the rest is read; the rest is what is printed.
struct Plan<'a> {
    steps: &'a [u8],
    printed: &'a [u8],
}

impl<'a> Plan<'a> {
    fn of(data: &'a [u8]) -> Self {
        let steps = data.first().map_or(0, |count| usize::from(count % 32)).min(data.len().saturating_sub(1));
        let rest = data.get(1..).unwrap_or_default();
        Self { steps: &rest[..steps], printed: &rest[steps..] }
    }
}

/// Both streams through the whole pipeline become their documented texts, in rows without holes.
pub fn framing(data: &[u8]) {
    let Plan { steps, printed } = Plan::of(data);
    let dialect = if steps.first().is_some_and(|step| step % 2 == 1) { Dialect::Events } else { Dialect::Text };
    let (stdout, stderr) = printed.split_at(printed.len() / 2);
    let (mut out, mut err, mut now) = (stdout, stderr, OffsetDateTime::UNIX_EPOCH);
    let mut capture = Capture::new(usize::MAX / 2);
    capture.redact(SECRETS.clone(), now);
    capture.begin_child(dialect, now);
    let mut chunks = Vec::new();
    for step in steps {
        now += Duration::SECOND;
        let len = usize::from(step / 4);
        match step % 4 {
            0 => read(&mut capture, Stream::Stdout, &mut out, len, now),
            1 => read(&mut capture, Stream::Stderr, &mut err, len, now),
            2 => capture.idle(now, Duration::SECOND),
            _ => chunks.extend(capture.drain(len)),
        }
    }
    read(&mut capture, Stream::Stdout, &mut out, usize::MAX, now);
    read(&mut capture, Stream::Stderr, &mut err, usize::MAX, now);
    let last = capture.finish(now);
    chunks.extend(capture.drain(usize::MAX));
    let documented = if dialect == Dialect::Events { stored_event_text(stdout) } else { stored_text(stdout) };
    assert_eq!(text_of(&chunks, Stream::Stdout), redacted(&documented, &SECRETS));
    assert_eq!(text_of(&chunks, Stream::Stderr), redacted(&stored_text(stderr), &SECRETS));
    let mut next = 0;
    for chunk in &chunks {
        assert!(chunk.seq == next && chunk.seq_to >= chunk.seq && chunk.text.len() <= MAX_CHUNK_BYTES);
        assert!(!chunk.text.contains('\0'));
        next = chunk.seq_to + 1;
    }
    assert_eq!(next, last + 1);
}

/// No split changes the text, no value is left in any form, and what was free of secrets is as it was.
pub fn redaction(data: &[u8]) {
    let Plan { steps, printed } = Plan::of(data);
    let text = stored_text(printed);
    let whole = redacted(&text, &SECRETS);
    let (mut redactor, mut out, mut rest) = (Redactor::new(SECRETS.clone()), String::new(), text.as_str());
    for step in steps {
        let (piece, later) = rest.split_at(rest.floor_char_boundary(usize::from(*step)));
        redactor.push(piece, &mut |piece| out.push_str(piece));
        rest = later;
    }
    redactor.push(rest, &mut |piece| out.push_str(piece));
    redactor.finish(&mut |piece| out.push_str(piece));
    assert_eq!(out, whole);
    assert_eq!(left_of(&whole), None);
    // What is left stands in the text, in this order.
    let mut from = 0;
    for part in whole.split(REDACTED) {
        let found = text[from..].find(part);
        from += found.expect("nothing is made up") + part.len();
    }
}

/// A value that a text shows, or a form of one.
pub fn left_of(text: &str) -> Option<&'static str> {
    VALUES.into_iter().chain(FORMS.iter().map(|form| form.text)).find(|form| text.contains(form))
}

/// A text as it is stored.
pub fn covered(text: &str) -> String {
    redacted(&stored_text(text.as_bytes()), &SECRETS)
}

fn read(capture: &mut Capture, stream: Stream, source: &mut &[u8], len: usize, now: OffsetDateTime) {
    let (read, rest) = source.split_at(source.len().min(len));
    *source = rest;
    capture.push(stream, read, now);
}

fn text_of(chunks: &[Chunk], stream: Stream) -> String {
    let of_it = chunks.iter().filter(|chunk| chunk.stream == stream && chunk.kind == ChunkKind::Text);
    of_it.map(|chunk| chunk.text.as_str()).collect()
}
