//! Cuts sanitised text into records: lines, or pieces of very long lines.

use time::{Duration, OffsetDateTime};

use super::sanitise::MAX_CONTROL_BYTES;
use super::stream::Stream;

/// Longest record in bytes; a longer line is stored as several.
pub const MAX_RECORD_BYTES: usize = 16 * 1024;

const ESC: u8 = 0x1b;

/// What gets a number: one line with its line feed, a piece of a longer line, or an unterminated rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// Where the text came from.
    pub stream: Stream,
    /// Never empty, at most [`MAX_RECORD_BYTES`].
    pub text: &'a str,
    /// When the record became complete.
    pub at: OffsetDateTime,
}

/// Frames the streams of one attempt.
///
/// Records come out in the order in which they became complete. Those of one stream, put together, are exactly its
/// text. Per stream at most [`MAX_RECORD_BYTES`] wait for the end of their line.
#[derive(Debug, Default)]
pub struct Framer {
    rests: [Rest; Stream::ALL.len()],
}

#[derive(Debug, Default)]
struct Rest {
    text: String,
    last_at: Option<OffsetDateTime>,
}

impl Framer {
    /// Takes sanitised text of `stream` that arrived at `at`, and hands each record that is now complete to `sink`.
    ///
    /// Records do not depend on how the text is split over calls, unless [`idle`](Self::idle) comes between.
    pub fn push(&mut self, stream: Stream, text: &str, at: OffsetDateTime, sink: &mut impl FnMut(Record<'_>)) {
        if text.is_empty() {
            return;
        }
        let rest = &mut self.rests[stream.index()];
        rest.last_at = Some(at);
        let mut emit = |text: &str| sink(Record { stream, text, at });
        let mut begin = 0;
        for feed in memchr::memchr_iter(b'\n', text.as_bytes()) {
            rest.take(&text[begin..=feed], &mut emit);
            begin = feed + 1;
        }
        rest.take(&text[begin..], &mut emit);
    }

    /// Emits unterminated text that has been waiting for `after` or longer at the time `now`, such as a prompt; at once where
    /// the clock was set back meanwhile.
    pub fn idle(&mut self, now: OffsetDateTime, after: Duration, sink: &mut impl FnMut(Record<'_>)) {
        for stream in Stream::ALL {
            let rest = &mut self.rests[stream.index()];
            if rest.last_at.is_some_and(|last| now < last || now - last >= after) {
                rest.flush(false, &mut |text| sink(Record { stream, text, at: now }));
            }
        }
    }

    /// Emits what `stream` has left when it has ended.
    pub fn finish(&mut self, stream: Stream, at: OffsetDateTime, sink: &mut impl FnMut(Record<'_>)) {
        self.rests[stream.index()].flush(true, &mut |text| sink(Record { stream, text, at }));
    }

    /// Memory that waiting text takes, in bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        self.rests.iter().map(|rest| rest.text.capacity()).sum()
    }
}

impl Rest {
    /// Takes text with at most one line feed, at its end.
    fn take(&mut self, line: &str, emit: &mut impl FnMut(&str)) {
        let mut line = line;
        while !line.is_empty() {
            if self.text.is_empty() {
                line = self.take_whole(line, emit);
                continue;
            }
            let room = line.floor_char_boundary(MAX_RECORD_BYTES.saturating_sub(self.text.len()));
            self.text.push_str(&line[..room]);
            line = &line[room..];
            if self.text.ends_with('\n') {
                emit(&self.text);
                self.text.clear();
            } else if !line.is_empty() {
                let cut = cut_point(&self.text);
                emit(&self.text[..cut]);
                self.text.drain(..cut);
            }
        }
    }

    /// Takes text while nothing waits, without copying what is complete; returns what is still to be taken.
    fn take_whole<'a>(&mut self, line: &'a str, emit: &mut impl FnMut(&str)) -> &'a str {
        let piece = &line[..line.floor_char_boundary(MAX_RECORD_BYTES)];
        let cut = if piece.ends_with('\n') {
            piece.len()
        } else if piece.len() < line.len() {
            cut_point(piece)
        } else {
            self.text.push_str(line);
            return "";
        };
        emit(&line[..cut]);
        &line[cut..]
    }

    fn flush(&mut self, all: bool, emit: &mut impl FnMut(&str)) {
        let cut = if all { self.text.len() } else { open_colour(&self.text).unwrap_or(self.text.len()) };
        if cut > 0 {
            emit(&self.text[..cut]);
            self.text.drain(..cut);
        }
        if self.text.is_empty() {
            self.last_at = None;
        }
    }
}

/// Where to cut `text`: at its end, or before a colour sequence that it ends in the middle of.
fn cut_point(text: &str) -> usize {
    open_colour(text).filter(|&at| at > 0).unwrap_or(text.len())
}

fn open_colour(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let from = bytes.len().saturating_sub(MAX_CONTROL_BYTES);
    let tail = &bytes[from..];
    let at = tail.iter().rposition(|&byte| byte == ESC)?;
    (!tail[at..].contains(&b'm')).then_some(from + at)
}
