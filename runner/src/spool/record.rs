//! What stands in a segment: records, each with its length and checksum.
//!
//! ```text
//! mark u32 | length u32 | crc32 of length and payload | payload: kind u8, then its fields, big-endian
//! ```
//!
//! A reader that finds anything else searches for the next whole record, so that one broken sector does not take the rest
//! of a segment with it.

use bytes::{Buf, BufMut};
use tendril_broker::runner::Lease;
use time::{Date, OffsetDateTime};
use uuid::Uuid;

use crate::logs::{Chunk, ChunkKind, Gap, GapKind, MAX_CHUNK_BYTES, Stream};
use crate::whose::Whose;

/// Begins every record; no text that went through the sanitiser holds it.
const MARK: u32 = 0x00ff_7e1d;
/// Bytes before the payload.
pub const HEAD_BYTES: usize = 12;
/// Bytes that the fields of a chunk take beside its text and its job's name, at most.
const FIELDS_BYTES: usize = 128;
/// No payload is longer: a chunk with its fields, with room to spare. Earlier versions had chunks of 64 KiB.
const MAX_PAYLOAD_BYTES: usize = 64 * 1024 + 4096;
const _: () = assert!(MAX_CHUNK_BYTES + FIELDS_BYTES < MAX_PAYLOAD_BYTES);

const OPEN: u8 = 1;
const CHUNK: u8 = 2;
const END: u8 = 3;
const DONE: u8 = 4;

/// One entry of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A log goes on in this segment; `next_seq` is the number that its next chunk begins with.
    Open {
        /// Whose.
        whose: Whose,
        /// 0 or more.
        next_seq: i64,
    },
    /// Text or a gap. It says itself whose it is, so that nothing else has to be readable for it.
    Chunk {
        /// Whose.
        whose: Whose,
        /// What.
        chunk: Chunk,
    },
    /// The log ends with this number: nothing follows.
    End {
        /// Whose.
        attempt: Uuid,
        /// -1 for an empty log.
        last_seq: i64,
    },
    /// Nothing of this log is wanted any more: all is stored, or the broker takes no more.
    Done {
        /// Whose.
        attempt: Uuid,
    },
}

/// What is found at a place of a segment.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// A record and the bytes that it takes.
    Record(Record, usize),
    /// So many bytes that are no record.
    Broken(usize),
}

/// Appends a log's opening.
pub fn put_open(out: &mut Vec<u8>, whose: &Whose, next_seq: i64) {
    framed(out, OPEN, |out| {
        out.put_slice(whose.lease.attempt_id.as_bytes());
        out.put_i64(next_seq);
        put_whose(out, whose);
    });
}

/// Appends a chunk.
pub fn put_chunk(out: &mut Vec<u8>, whose: &Whose, chunk: &Chunk) {
    // At once, and not a few times double what is there.
    out.reserve(HEAD_BYTES + FIELDS_BYTES + whose.job.len() + chunk.text.len());
    framed(out, CHUNK, |out| {
        out.put_slice(whose.lease.attempt_id.as_bytes());
        out.put_i64(chunk.seq);
        out.put_i64(chunk.seq_to);
        out.put_u8(stream_code(chunk.stream));
        out.put_i64(i64::try_from(chunk.ts.unix_timestamp_nanos()).unwrap_or(i64::MAX));
        out.put_u8(chunk.gap_kind().map_or(0, |_| gap_code(chunk.kind)));
        out.put_i64(chunk.gap_bytes().unwrap_or(-1));
        put_whose(out, whose);
        out.put_slice(chunk.text.as_bytes());
    });
}

/// All of it but the attempt's id, with which every payload begins.
fn put_whose(out: &mut Vec<u8>, whose: &Whose) {
    out.put_i64(whose.lease.fence);
    out.put_slice(whose.deployment_id.as_bytes());
    out.put_i32(whose.claim_day.to_julian_day());
    out.put_i16(whose.ordinal);
    out.put_u16(u16::try_from(whose.job.len()).unwrap_or(u16::MAX));
    out.put_slice(whose.job.as_bytes());
}

/// Appends a log's end.
pub fn put_end(out: &mut Vec<u8>, attempt: Uuid, last_seq: i64) {
    framed(out, END, |out| {
        out.put_slice(attempt.as_bytes());
        out.put_i64(last_seq);
    });
}

/// Appends that nothing of a log is wanted any more.
pub fn put_done(out: &mut Vec<u8>, attempt: Uuid) {
    framed(out, DONE, |out| out.put_slice(attempt.as_bytes()));
}

/// Reads what stands at the beginning of `bytes`, which is not empty.
pub fn read(bytes: &[u8]) -> Found {
    if let Some((record, size)) = whole(bytes) {
        return Found::Record(record, size);
    }
    let mark = MARK.to_be_bytes();
    let mut from = 1;
    while let Some(at) = bytes.get(from..).and_then(|rest| rest.windows(mark.len()).position(|window| window == mark)) {
        if whole(&bytes[from + at..]).is_some() {
            return Found::Broken(from + at);
        }
        from += at + 1;
    }
    Found::Broken(bytes.len())
}

/// The record that `bytes` begin with, and its size.
fn whole(bytes: &[u8]) -> Option<(Record, usize)> {
    let mut head = bytes.get(..HEAD_BYTES)?;
    if head.get_u32() != MARK {
        return None;
    }
    let length = usize::try_from(head.get_u32()).ok().filter(|&length| length <= MAX_PAYLOAD_BYTES)?;
    let payload = bytes.get(HEAD_BYTES..HEAD_BYTES + length)?;
    if checksum(payload) != head.get_u32() {
        return None;
    }
    Some((parse(payload)?, HEAD_BYTES + length))
}

fn framed(out: &mut Vec<u8>, kind: u8, fields: impl FnOnce(&mut Vec<u8>)) {
    let begin = out.len();
    out.put_bytes(0, HEAD_BYTES);
    out.put_u8(kind);
    fields(out);
    let payload = begin + HEAD_BYTES;
    let length = u32::try_from(out.len() - payload).unwrap_or(u32::MAX);
    let crc = checksum(&out[payload..]);
    let mut head = &mut out[begin..payload];
    head.put_u32(MARK);
    head.put_u32(length);
    head.put_u32(crc);
}

fn checksum(payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes());
    hasher.update(payload);
    hasher.finalize()
}

fn parse(mut fields: &[u8]) -> Option<Record> {
    let kind = fields.try_get_u8().ok()?;
    let attempt = uuid(&mut fields)?;
    match kind {
        OPEN => {
            let next_seq = number(&mut fields, 0)?;
            Some(Record::Open { whose: whose(attempt, &mut fields)?, next_seq })
        }
        CHUNK => chunk(attempt, fields),
        END => Some(Record::End { attempt, last_seq: number(&mut fields, -1)? }),
        DONE => Some(Record::Done { attempt }),
        _ => None,
    }
}

fn whose(attempt: Uuid, fields: &mut &[u8]) -> Option<Whose> {
    let lease = Lease { attempt_id: attempt, fence: fields.try_get_i64().ok()? };
    let deployment_id = uuid(fields)?;
    let claim_day = Date::from_julian_day(fields.try_get_i32().ok()?).ok()?;
    let ordinal = fields.try_get_i16().ok()?;
    let length = usize::from(fields.try_get_u16().ok()?);
    let (job, rest) = fields.split_at_checked(length)?;
    *fields = rest;
    Some(Whose { deployment_id, lease, claim_day, job: str::from_utf8(job).ok()?.to_owned(), ordinal })
}

fn chunk(attempt: Uuid, mut fields: &[u8]) -> Option<Record> {
    let seq = number(&mut fields, 0)?;
    let seq_to = number(&mut fields, seq)?;
    let stream = stream_of(fields.try_get_u8().ok()?)?;
    let ts = OffsetDateTime::from_unix_timestamp_nanos(fields.try_get_i64().ok()?.into()).ok()?;
    let gap = fields.try_get_u8().ok()?;
    let gap_bytes = fields.try_get_i64().ok()?;
    let kind = match gap {
        0 => ChunkKind::Text,
        code => ChunkKind::Gap(Gap { kind: gap_of(code)?, bytes: u64::try_from(gap_bytes).ok() }),
    };
    let whose = whose(attempt, &mut fields)?;
    let text = str::from_utf8(fields).ok()?.to_owned();
    Some(Record::Chunk { whose, chunk: Chunk { seq, seq_to, stream, text, ts, kind } })
}

/// A record's number: there is always a next one.
fn number(fields: &mut &[u8], least: i64) -> Option<i64> {
    fields.try_get_i64().ok().filter(|number| (least..i64::MAX).contains(number))
}

fn uuid(fields: &mut &[u8]) -> Option<Uuid> {
    let mut bytes = [0; 16];
    fields.try_copy_to_slice(&mut bytes).ok()?;
    Some(Uuid::from_bytes(bytes))
}

/// Places in these lists are stored: append only.
const STREAMS: [Stream; 3] = [Stream::Stdout, Stream::Stderr, Stream::System];
const GAPS: [GapKind; 5] = [GapKind::Overflow, GapKind::Lost, GapKind::Expired, GapKind::Capped, GapKind::Quota];

fn stream_code(stream: Stream) -> u8 {
    place(&STREAMS, stream)
}

fn stream_of(code: u8) -> Option<Stream> {
    STREAMS.get(usize::from(code)).copied()
}

fn gap_code(kind: ChunkKind) -> u8 {
    match kind {
        ChunkKind::Text => 0,
        ChunkKind::Gap(gap) => 1 + place(&GAPS, gap.kind),
    }
}

fn gap_of(code: u8) -> Option<GapKind> {
    GAPS.get(usize::from(code).checked_sub(1)?).copied()
}

fn place<T: PartialEq>(all: &[T], one: T) -> u8 {
    all.iter().position(|other| *other == one).and_then(|at| u8::try_from(at).ok()).unwrap_or(u8::MAX)
}
