//! Segments of the spool, as a crash, a bad disk or another user may have left them.

use crate::feed::Feed;
use tendril_broker::runner::Lease;
use tendril_runner::logs::{Chunk, ChunkKind, Gap, GapKind, Stream};
use tendril_runner::spool::record::{Found, Record, put_chunk, put_done, put_end, put_open, read};
use tendril_runner::whose::Whose;
use time::{Date, OffsetDateTime};
use uuid::Uuid;

const MARK: [u8; 4] = 0x00ff_7e1d_u32.to_be_bytes();

/// Any bytes are passed over to their end; what is a record reads the same once more; no noise takes a record with it.
pub fn records(data: &[u8]) {
    pieces(data);
    pieces(&framed(data));
    let (mut feed, mut segment, mut wanted, mut is_noise) = (Feed(data), Vec::new(), Vec::new(), true);
    while !feed.is_empty() && wanted.len() < 8 {
        let noise = feed.bytes();
        is_noise &= !noise.windows(MARK.len()).any(|window| window == MARK);
        segment.extend_from_slice(noise);
        let record = record(&mut feed);
        put(&mut segment, &record);
        wanted.push(record);
    }
    let found = pieces(&segment);
    if is_noise {
        assert_eq!(found, wanted);
    }
}

/// The records in `bytes`.
fn pieces(bytes: &[u8]) -> Vec<Record> {
    let (mut at, mut found) = (0, Vec::new());
    while at < bytes.len() {
        at += match read(&bytes[at..]) {
            Found::Broken(size) => size,
            Found::Record(record, size) => {
                let mut again = Vec::new();
                put(&mut again, &record);
                assert_eq!(read(&again), Found::Record(record.clone(), again.len()));
                obeys(&record);
                found.push(record);
                size
            }
        };
        assert!(at <= bytes.len());
    }
    found
}

/// Numbers have a next one, and go upwards: what adds to them relies on it.
fn obeys(record: &Record) {
    let fits = match record {
        Record::Open { next_seq, .. } => (0..i64::MAX).contains(next_seq),
        Record::Chunk { chunk, .. } => 0 <= chunk.seq && chunk.seq <= chunk.seq_to && chunk.seq_to < i64::MAX,
        Record::End { last_seq, .. } => (-1..i64::MAX).contains(last_seq),
        Record::Done { .. } => true,
    };
    assert!(fits, "{record:?}");
}

/// The bytes as a record with a checksum that is right.
fn framed(payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("few bytes").to_be_bytes();
    let crc = crc32fast::hash(&[&length, payload].concat()).to_be_bytes();
    [&MARK, &length, &crc, payload].concat()
}

fn put(out: &mut Vec<u8>, record: &Record) {
    match record {
        Record::Open { whose, next_seq } => put_open(out, whose, *next_seq),
        Record::Chunk { whose, chunk } => put_chunk(out, whose, chunk),
        Record::End { attempt, last_seq } => put_end(out, *attempt, *last_seq),
        Record::Done { attempt } => put_done(out, *attempt),
    }
}

fn record(feed: &mut Feed<'_>) -> Record {
    let attempt = Uuid::from_u128(feed.byte().into());
    match feed.byte() % 4 {
        0 => Record::Open { whose: whose(attempt, feed), next_seq: feed.byte().into() },
        1 => Record::End { attempt, last_seq: i64::from(feed.byte()) - 1 },
        2 => Record::Done { attempt },
        _ => Record::Chunk { whose: whose(attempt, feed), chunk: chunk(feed) },
    }
}

fn whose(attempt: Uuid, feed: &mut Feed<'_>) -> Whose {
    Whose {
        deployment_id: Uuid::from_u128(feed.byte().into()),
        lease: Lease { attempt_id: attempt, fence: feed.number() },
        claim_day: Date::from_julian_day(2_460_000 + i32::from(feed.byte())).expect("a day"),
        job: feed.text(),
        ordinal: feed.byte().into(),
    }
}

fn chunk(feed: &mut Feed<'_>) -> Chunk {
    let seq = i64::from(feed.byte());
    let gaps = [GapKind::Overflow, GapKind::Lost, GapKind::Expired, GapKind::Capped, GapKind::Quota];
    let kind = match gaps.get(usize::from(feed.byte())) {
        None => ChunkKind::Text,
        Some(kind) => ChunkKind::Gap(Gap { kind: *kind, bytes: u64::try_from(feed.number()).ok() }),
    };
    Chunk {
        seq,
        seq_to: seq + i64::from(feed.byte()),
        stream: Stream::ALL[usize::from(feed.byte() % 3)],
        text: feed.text(),
        ts: OffsetDateTime::UNIX_EPOCH + time::Duration::milliseconds(feed.byte().into()),
        kind,
    }
}
