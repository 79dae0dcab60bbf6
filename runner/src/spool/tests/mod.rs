//! A spool in a folder of its own, and a broker's answers made by hand.

mod bounds;
mod disk;
mod model;
mod sending;
mod taking_over;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use tempfile::TempDir;
use tendril_broker::runner::Lease;
use time::Date;

use super::*;
use crate::logs::{ChunkKind, Stream};

const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;
const ROOMY: Limits = Limits { disk_bytes: 1 << 30, memory_bytes: 1 << 20, max_age: Duration::from_secs(3600) };
/// Nothing stays in memory: all that is sent has been read from disk.
const DISK_ONLY: Limits = Limits { memory_bytes: 0, ..ROOMY };

fn id(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

fn whose(n: u128) -> Arc<Whose> {
    let lease = Lease { attempt_id: id(n), fence: 7 };
    let claim_day = Date::from_ordinal_date(2026, 100).unwrap();
    Arc::new(Whose { deployment_id: id(1000 + n), lease, claim_day, job: format!("job-{n}"), ordinal: 2 })
}

fn chunk(seq: i64, text: &str) -> Chunk {
    Chunk { seq, seq_to: seq, stream: Stream::Stdout, text: text.into(), ts: NOW, kind: ChunkKind::Text }
}

fn open(folder: &TempDir, limits: Limits) -> (Spool, Recovered) {
    Spool::open_dir(&folder.path().join("spool"), limits, id(1), NOW).unwrap()
}

/// A spool with a log of these texts, each a chunk.
fn filled(folder: &TempDir, limits: Limits, texts: &[&str]) -> Spool {
    let (spool, _) = open(folder, limits);
    spool.open(whose(1));
    put(&spool, 1, 0, texts);
    spool
}

fn put(spool: &Spool, log: u128, from: i64, texts: &[&str]) {
    let chunks = (from..).zip(texts).map(|(seq, text)| chunk(seq, text)).collect();
    spool.put(vec![(id(log), chunks)], &[]).unwrap();
}

fn stored(log: u128, seq: i64) -> BTreeMap<Uuid, i64> {
    BTreeMap::from([(id(log), seq)])
}

/// What the broker says of an open log that was stored so far.
fn known(log: u128, seq: i64) -> [Standing; 1] {
    [Standing { whose: whose(log).as_ref().clone(), stored: seq, end: None }]
}

/// The same, of a log whose end was reported.
fn ended(log: u128, seq: i64, end: i64) -> [Standing; 1] {
    known(log, seq).map(|standing| Standing { end: Some(end), ..standing })
}

/// Numbers and kinds of the rows that would be sent now.
fn kinds(spool: &Spool) -> Vec<(i64, i64, Option<&'static str>)> {
    spool.take(usize::MAX).iter().map(|row| (row.chunk.seq, row.chunk.seq_to, row.chunk.gap_kind())).collect()
}

/// Numbers and texts of what would be sent now.
fn sent(spool: &Spool) -> Vec<(i64, String)> {
    spool.take(usize::MAX).iter().map(|out| (out.chunk.seq, out.chunk.text.clone())).collect()
}

fn admitted(spool: &Spool, log: u128) -> u64 {
    let [Admission::Bytes(bytes)] = spool.admits(&[id(log)])[..] else { panic!("it is closed") };
    bytes
}

fn segments(folder: &TempDir) -> Vec<PathBuf> {
    segment::list(&folder.path().join("spool")).unwrap().into_iter().map(|(_, path)| path).collect()
}
