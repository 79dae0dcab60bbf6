//! The archived object. It is a plain `.zst` file: `zstd -dc` prints one JSON line per row.
//!
//! ```text
//! zstd frame | zstd frame | ... | skippable frame: index as JSON, 16 bytes of trailer
//! ```
//!
//! Each frame stands for itself and holds whole rows, about 512 KiB of lines, with a checksum of its content. The index says
//! for each frame `[offset, bytes, first record, last record]`; the database keeps it too, so that a reader asks for just
//! the frame it needs. The trailer is the length of the index (u32, little endian), four bytes of its SHA-256, and a mark.

use std::borrow::Cow;
use std::io;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use time::{Date, OffsetDateTime};
use uuid::Uuid;
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::CParameter;

use crate::archive::ledger::{ArchivedRow, ClosedLog, Frame, Record};

/// Lines of one frame, in bytes; a ranged read brings it compressed.
pub(crate) const FRAME_BYTES: usize = 512 << 10;
/// The usual level.
const LEVEL: i32 = 3;
/// A frame holds at most this: its lines, and one more row of 256 KiB whose characters are all escaped.
const FRAME_MAX: usize = FRAME_BYTES + (2 << 20);
/// Longer than the index of any log: of 200 GiB of text.
const MAX_INDEX: u32 = 16 << 20;
const SKIPPABLE: u32 = 0x184D_2A5E;
const MARK: &[u8; 8] = b"TLOGIDX1";
const TRAILER: usize = 16;

/// What a frame or an index has wrong with it, in words.
pub(crate) type Wrong = String;

#[derive(Serialize, Deserialize)]
struct Line<'a> {
    seq: i64,
    seq_to: i64,
    stream: Cow<'a, str>,
    #[serde(with = "time::serde::rfc3339")]
    ts: OffsetDateTime,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    gap_kind: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    gap_bytes: Option<i64>,
    text: Cow<'a, str>,
}

/// The index at the object's end: all that is needed to read it without the database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Index {
    format: String,
    cluster_id: Uuid,
    deployment_id: Uuid,
    pub attempt_id: Uuid,
    fence: i64,
    claim_day: String,
    job: String,
    attempt: i16,
    log_state: String,
    log_end: Option<i64>,
    log_rows: i64,
    text_bytes: i64,
    pub frames: Vec<Frame>,
}

/// Makes an object from rows, a frame at a time.
pub(crate) struct Packer {
    compressor: Compressor<'static>,
    frame_bytes: usize,
    lines: Vec<u8>,
    span: Option<(i64, i64)>,
    frames: Vec<Frame>,
    offset: u64,
    digest: Sha256,
    log_rows: i64,
    text_bytes: i64,
}

impl Packer {
    /// An empty object.
    pub fn new(frame_bytes: usize) -> io::Result<Self> {
        let mut compressor = Compressor::new(LEVEL)?;
        compressor.set_parameter(CParameter::ChecksumFlag(true))?;
        let (lines, frames) = (Vec::new(), Vec::new());
        let digest = Sha256::new();
        Ok(Self { compressor, frame_bytes, lines, span: None, frames, offset: 0, digest, log_rows: 0, text_bytes: 0 })
    }

    /// Whether no row came.
    pub fn is_empty(&self) -> bool {
        self.log_rows == 0
    }

    /// Adds a row; bytes that are ready go behind those in `out`.
    pub fn push(&mut self, row: &ArchivedRow, out: &mut Vec<u8>) -> io::Result<()> {
        let line = Line {
            seq: row.seq,
            seq_to: row.seq_to,
            stream: Cow::Borrowed(&row.stream),
            ts: row.ts,
            gap_kind: row.gap_kind.as_deref().map(Cow::Borrowed),
            gap_bytes: row.gap_bytes,
            text: Cow::Borrowed(&row.log_chunk),
        };
        serde_json::to_writer(&mut self.lines, &line)?;
        self.lines.push(b'\n');
        self.span = Some((self.span.map_or(row.seq, |(first, _)| first), row.seq_to));
        self.log_rows += 1;
        self.text_bytes += i64::try_from(row.log_chunk.len()).unwrap_or(i64::MAX);
        if self.lines.len() >= self.frame_bytes { self.close_frame(out) } else { Ok(()) }
    }

    fn close_frame(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        let Some((first, last)) = self.span.take() else {
            return Ok(());
        };
        let bytes = self.compressor.compress(&self.lines)?;
        self.lines.clear();
        self.frames.push(Frame { offset: self.offset, bytes: bytes.len() as u64, first, last });
        self.emit(&bytes, out);
        Ok(())
    }

    fn emit(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        self.digest.update(bytes);
        self.offset += bytes.len() as u64;
        out.extend_from_slice(bytes);
    }

    /// Ends the object with its index; says what it holds. `url` is where it will lie.
    pub fn finish(mut self, log: &ClosedLog, url: String, out: &mut Vec<u8>) -> io::Result<Record> {
        self.close_frame(out)?;
        let index = Index {
            format: "tendril-log/1".into(),
            cluster_id: log.cluster_id,
            deployment_id: log.deployment_id,
            attempt_id: log.attempt_id,
            fence: log.fence,
            claim_day: day(log.claim_day),
            job: log.job.clone(),
            attempt: log.attempt,
            log_state: log.log_state.clone(),
            log_end: log.log_end,
            log_rows: self.log_rows,
            text_bytes: self.text_bytes,
            frames: std::mem::take(&mut self.frames),
        };
        let footer = footer(&serde_json::to_vec(&index)?)?;
        self.emit(&footer, out);
        let (first_seq, last_seq) = match index.frames.as_slice() {
            [first, .., last] => (first.first, last.last),
            [only] => (only.first, only.last),
            [] => (0, -1),
        };
        Ok(Record {
            url,
            first_seq,
            last_seq,
            log_rows: self.log_rows,
            text_bytes: self.text_bytes,
            object_bytes: self.offset,
            sha256: self.digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect(),
            frames: index.frames,
        })
    }
}

fn day(day: Date) -> String {
    day.to_string()
}

fn footer(index: &[u8]) -> io::Result<Vec<u8>> {
    let length = u32::try_from(index.len()).ok().filter(|length| *length <= MAX_INDEX);
    let length = length.ok_or_else(|| io::Error::other("the log has too many frames for one index"))?;
    let whole = length + TRAILER as u32;
    let mut footer = Vec::with_capacity(index.len() + TRAILER + 8);
    footer.extend(SKIPPABLE.to_le_bytes());
    footer.extend(whole.to_le_bytes());
    footer.extend(index);
    footer.extend(length.to_le_bytes());
    footer.extend(&Sha256::digest(index)[..4]);
    footer.extend(MARK);
    Ok(footer)
}

/// Bytes of the footer, index and trailer, as the last 16 bytes of `end` tell: those of an object.
pub(crate) fn index_bytes(end: &[u8]) -> Result<u64, Wrong> {
    match end.last_chunk::<TRAILER>() {
        Some([a, b, c, d, _, _, _, _, mark @ ..]) if mark == MARK => match u32::from_le_bytes([*a, *b, *c, *d]) {
            length @ ..=MAX_INDEX => Ok(u64::from(length) + TRAILER as u64),
            length => Err(format!("its index would have {length} bytes, which is more than any has")),
        },
        _ => Err("it does not end as an archived log does".into()),
    }
}

/// The index from the footer's bytes, the trailer included.
pub(crate) fn read_index(footer: &[u8]) -> Result<Index, Wrong> {
    let wrong = || "its index does not fit its own digest".to_owned();
    let (json, trailer) = footer.split_at_checked(footer.len().saturating_sub(TRAILER)).ok_or_else(wrong)?;
    if trailer.get(4..8) != Some(&Sha256::digest(json)[..4]) {
        return Err(wrong());
    }
    serde_json::from_slice(json).map_err(|error| format!("its index cannot be read: {error}"))
}

/// Whether a frame could be so long: whoever wrote the index need not be us.
pub(crate) fn is_plausible(frame: &Frame) -> bool {
    frame.bytes <= FRAME_MAX as u64
}

/// The rows of one frame. Exactly the bytes of the frame are wanted, and exactly the records that the index promises.
pub(crate) fn unpack(bytes: &[u8], frame: &Frame) -> Result<Vec<ArchivedRow>, Wrong> {
    if bytes.len() as u64 != frame.bytes {
        return Err(format!("{} bytes of a frame of {} are there", bytes.len(), frame.bytes));
    }
    let lines = Decompressor::new().and_then(|mut zstd| zstd.decompress(bytes, FRAME_MAX));
    let lines = lines.map_err(|error| format!("a frame cannot be read: {error}"))?;
    let mut rows = Vec::new();
    let mut next = frame.first;
    for line in lines.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        let line: Line<'_> = serde_json::from_slice(line).map_err(|error| format!("a line cannot be read: {error}"))?;
        if line.seq != next || line.seq_to < line.seq {
            return Err(format!("record {next} is not where its index says"));
        }
        next = line.seq_to.checked_add(1).ok_or("its last record has no number behind it")?;
        rows.push(ArchivedRow {
            seq: line.seq,
            seq_to: line.seq_to,
            stream: line.stream.into_owned(),
            log_chunk: line.text.into_owned(),
            ts: line.ts,
            gap_kind: line.gap_kind.map(Cow::into_owned),
            gap_bytes: line.gap_bytes,
        });
    }
    if Some(next) != frame.last.checked_add(1) {
        return Err(format!("its frame ends before record {next} and not at {}", frame.last));
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_object_of_ours_promises_is_refused_before_it_is_fetched() {
        let end = |length: u32| [&length.to_le_bytes()[..], &[0; 4], MARK].concat();
        assert_eq!(index_bytes(&end(7)), Ok(7 + TRAILER as u64));
        assert!(index_bytes(&end(MAX_INDEX + 1)).is_err() && index_bytes(b"short").is_err());
        let frame = |bytes| Frame { offset: 0, bytes, first: 0, last: 1 };
        assert!(is_plausible(&frame(FRAME_MAX as u64)) && !is_plausible(&frame(u64::MAX)));
    }

    #[test]
    fn a_frame_up_to_the_last_number_there_is_is_refused() {
        let line = |seq, seq_to| {
            format!(r#"{{"seq":{seq},"seq_to":{seq_to},"stream":"stdout","ts":"1970-01-01T00:00:00Z","text":""}}"#)
        };
        let unpacked = |lines: String, first, last| {
            let bytes = Compressor::new(LEVEL).and_then(|mut zstd| zstd.compress(lines.as_bytes())).expect("in memory");
            unpack(&bytes, &Frame { offset: 0, bytes: bytes.len() as u64, first, last })
        };
        assert_eq!(unpacked(line(3, 4), 3, 4).map(|rows| rows.len()), Ok(1));
        // Tried: a last record without a next number, in a line and in the index; a line that ends before it begins.
        assert!(unpacked(line(3, i64::MAX), 3, i64::MAX).is_err());
        assert!(unpacked(line(3, 4), 3, i64::MAX).is_err());
        assert!(unpacked(line(3, 2), 3, 2).is_err());
    }
}
