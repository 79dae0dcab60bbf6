//! Damages a spool that nobody uses, and says which records that destroys.
//!
//! The form of the files is read here anew, from its description and not by the runner's code: what the runner makes of
//! the damage is what is to be judged.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::chance::Chance;

/// Begins every record.
const MARK: [u8; 4] = [0x00, 0xff, 0x7e, 0x1d];
/// Mark, length, checksum.
const HEAD_BYTES: usize = 12;
const CHUNK: u8 = 2;
const END: u8 = 3;
/// What a disk loses at once.
const SECTOR: usize = 512;

/// A record of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Record {
    at: Range<usize>,
    kind: u8,
    attempt: Uuid,
    /// The numbers that it holds.
    seq: Option<(i64, i64)>,
}

/// What was damaged.
#[derive(Debug, Default)]
pub struct Damage {
    /// In words.
    pub what: Vec<String>,
    /// What it did to each log.
    pub done: BTreeMap<Uuid, Destroyed>,
}

/// What is nowhere any more of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Destroyed {
    /// Its chunks: first and last number of each.
    pub chunks: Vec<(i64, i64)>,
    /// Bytes of those records: at most so much text was in them.
    #[serde(default)]
    pub bytes: u64,
    /// Where it ends.
    pub end: bool,
    /// All that the spool knew of it.
    pub all: bool,
}

/// A file as it was, and what of it was hit.
struct Segment {
    path: PathBuf,
    bytes: Vec<u8>,
    records: Vec<Record>,
    hit: Vec<Range<usize>>,
}

/// Damages what is there, by chance.
///
/// # Errors
/// The system's error.
pub fn damage(spool: &Path, chance: &mut Chance) -> io::Result<Damage> {
    let mut segments = Vec::new();
    for path in paths(spool)? {
        let bytes = fs::read(&path)?;
        let records = records(&bytes);
        segments.push(Segment { path, bytes, records, hit: Vec::new() });
    }
    let mut damage = Damage::default();
    for _ in 0..chance.between(1, 3) {
        let number = chance.index(segments.len().max(1));
        let newest = number + 1 == segments.len();
        let Some(segment) = segments.get_mut(number) else { continue };
        let whole = segment.records.iter().take_while(|record| record.at.end <= segment.bytes.len()).count();
        if whole == 0 {
            continue;
        }
        let record = segment.records[chance.index(whole)].at.clone();
        let before = segment.bytes.len();
        let hit = segment.hurt(record, newest, chance);
        fs::write(&segment.path, &segment.bytes)?;
        let name = segment.path.file_name().unwrap_or_default().to_string_lossy();
        damage.what.push(format!("bytes {} to {} of {name}", hit.start, hit.end.min(before)));
        segment.hit.push(hit);
    }
    damage.done = destroyed(&segments);
    Ok(damage)
}

impl Segment {
    fn hurt(&mut self, record: Range<usize>, newest: bool, chance: &mut Chance) -> Range<usize> {
        match chance.between(0, 9) {
            6..8 => {
                let from = record.start / SECTOR * SECTOR;
                let sector = from..(from + SECTOR).min(self.bytes.len());
                self.bytes[sector.clone()].fill(0);
                sector
            }
            // A file that lacks its end; only the newest can.
            8.. if newest => {
                let gone = record.start + chance.index(record.len())..usize::MAX;
                self.bytes.truncate(gone.start);
                gone
            }
            _ => {
                let at = record.start + chance.index(record.len());
                self.bytes[at] ^= 1 << chance.index(8);
                at..at + 1
            }
        }
    }

    fn lives(&self, record: &Record) -> bool {
        !self.hit.iter().any(|hit| record.at.start < hit.end && hit.start < record.at.end)
    }
}

/// What the hits took with them. An opening takes nothing: chunks say themselves whose they are.
fn destroyed(segments: &[Segment]) -> BTreeMap<Uuid, Destroyed> {
    let mut done: BTreeMap<Uuid, Destroyed> = BTreeMap::new();
    let all = || segments.iter().flat_map(|segment| segment.records.iter().map(move |record| (segment, record)));
    for (segment, record) in all() {
        let log =
            done.entry(record.attempt).or_insert_with(|| Destroyed { end: true, all: true, ..Destroyed::default() });
        if segment.lives(record) {
            log.all = false;
            log.end &= record.kind != END;
        } else if let Some(seq) = record.seq {
            log.chunks.push(seq);
            log.bytes += record.at.len() as u64;
        }
    }
    done
}

fn paths(spool: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> = fs::read_dir(spool)?.flatten().map(|entry| entry.path()).collect();
    found.retain(|path| path.extension().is_some_and(|extension| extension == "seg"));
    found.sort();
    Ok(found)
}

fn records(bytes: &[u8]) -> Vec<Record> {
    let (mut found, mut at) = (Vec::new(), 0);
    while at + HEAD_BYTES + 17 <= bytes.len() {
        let number =
            |from: usize| bytes.get(from..from + 8).and_then(|field| field.try_into().ok()).map(i64::from_be_bytes);
        let length = bytes.get(at + 4..at + 8).and_then(|field| field.try_into().ok()).map_or(0, u32::from_be_bytes);
        let end = at + HEAD_BYTES + length as usize;
        if bytes[at..at + 4] != MARK || end > bytes.len() {
            // Damaged before: on to the next mark.
            at += 1;
            continue;
        }
        let payload = at + HEAD_BYTES;
        let attempt = bytes[payload + 1..payload + 17].try_into().map(Uuid::from_bytes).unwrap_or_default();
        let seq = number(payload + 17).zip(number(payload + 25)).filter(|_| bytes[payload] == CHUNK);
        found.push(Record { at: at..end, kind: bytes[payload], attempt, seq });
        at = end;
    }
    found
}

/// What the files of a spool take, in bytes.
///
/// # Errors
/// The system's error.
pub fn size(spool: &Path) -> io::Result<u64> {
    // One that has just been removed takes no room.
    Ok(paths(spool)?.iter().filter_map(|path| fs::metadata(path).ok()).map(|file| file.len()).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u8, attempt: u128, seq: i64) -> Vec<u8> {
        let fields = [&[kind][..], &attempt.to_be_bytes(), &seq.to_be_bytes(), &(seq + 1).to_be_bytes()];
        let payload = [fields.concat(), b"text".to_vec()].concat();
        [&MARK[..], &u32::try_from(payload.len()).unwrap().to_be_bytes(), &[0; 4], &payload].concat()
    }

    #[test]
    fn records_are_found_with_what_they_hold_and_damage_is_laid_at_the_right_door() {
        const OPEN: u8 = 1;
        let bytes = [record(OPEN, 1, 0), record(CHUNK, 1, 0), record(CHUNK, 2, 7), record(END, 1, 1)].concat();
        let records = records(&bytes);
        assert_eq!(records.iter().map(|record| record.kind).collect::<Vec<_>>(), [OPEN, CHUNK, CHUNK, END]);
        let size = records[0].at.len();
        let after = |hit: Range<usize>| {
            destroyed(&[Segment {
                path: PathBuf::new(),
                bytes: bytes.clone(),
                records: records.clone(),
                hit: vec![hit],
            }])
        };
        let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
        // A bit of the second log's only chunk; the end of the first one's opening with what follows; the end of the file.
        let bit = after(2 * size..2 * size + 1);
        assert_eq!((bit[&two].chunks.as_slice(), bit[&two].all), ([(7, 8)].as_slice(), true));
        assert_eq!(bit[&one], Destroyed::default());
        let hit = Destroyed { chunks: vec![(0, 1)], bytes: size as u64, ..Destroyed::default() };
        assert_eq!(after(size - 1..size + 1)[&one], hit);
        assert_eq!(after(3 * size + 5..usize::MAX)[&one], Destroyed { end: true, ..Destroyed::default() });
    }
}
