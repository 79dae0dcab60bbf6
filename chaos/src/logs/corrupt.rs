//! Damages a spool that nobody uses, and says which records that destroys.
//!
//! The form of the files is read here anew, from its description and not by the runner's code: what the runner makes of
//! the damage is what is to be judged.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::chance::Chance;

/// Begins every record.
const MARK: [u8; 4] = [0x00, 0xff, 0x7e, 0x1d];
/// Mark, length, checksum.
const HEAD_BYTES: usize = 12;
const OPEN: u8 = 1;
const CHUNK: u8 = 2;
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
    /// Records of attempts that are nowhere any more, both ends included.
    pub destroyed: Vec<(Uuid, (i64, i64))>,
}

/// Damages what is there, by chance.
///
/// # Errors
/// The system's error.
pub fn damage(spool: &Path, chance: &mut Chance) -> io::Result<Damage> {
    let mut damage = Damage::default();
    let segments = segments(spool)?;
    if segments.is_empty() {
        return Ok(damage);
    }
    for _ in 0..chance.between(1, 3) {
        let path = &segments[chance.index(segments.len())];
        let mut bytes = fs::read(path)?;
        let records = records(&bytes);
        if records.is_empty() {
            continue;
        }
        let record = &records[chance.index(records.len())];
        let hit = match chance.between(0, 9) {
            0..6 => {
                let at = record.at.start + chance.index(record.at.len());
                bytes[at] ^= 1 << chance.index(8);
                at..at + 1
            }
            6..8 => {
                let from = record.at.start / SECTOR * SECTOR;
                let sector = from..(from + SECTOR).min(bytes.len());
                bytes[sector.clone()].fill(0);
                sector
            }
            // A file that lacks its end; only the newest can.
            _ if Some(path) == segments.last() => {
                let cut = record.at.start + chance.index(record.at.len());
                let gone = cut..bytes.len();
                bytes.truncate(cut);
                gone
            }
            _ => continue,
        };
        fs::write(path, &bytes)?;
        damage.what.push(format!("bytes {hit:?} of {}", path.file_name().unwrap_or_default().to_string_lossy()));
        damage.destroyed.extend(destroyed(&records, &hit));
    }
    Ok(damage)
}

fn segments(spool: &Path) -> io::Result<Vec<PathBuf>> {
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

/// What these bytes took with them: chunks, and no more than that. A log's opening is there more than once.
fn destroyed(records: &[Record], hit: &Range<usize>) -> Vec<(Uuid, (i64, i64))> {
    let hit = records.iter().filter(|record| record.at.start < hit.end && hit.start < record.at.end);
    hit.filter(|record| record.kind != OPEN).filter_map(|record| Some((record.attempt, record.seq?))).collect()
}

/// What the files of a spool take, in bytes.
///
/// # Errors
/// The system's error.
pub fn size(spool: &Path) -> io::Result<u64> {
    segments(spool)?.iter().map(|path| Ok(fs::metadata(path)?.len())).sum()
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
        let bytes = [record(OPEN, 1, 0), record(CHUNK, 1, 0), record(CHUNK, 2, 7)].concat();
        let found = records(&bytes);
        assert_eq!(found.iter().map(|record| record.kind).collect::<Vec<_>>(), [OPEN, CHUNK, CHUNK]);
        assert_eq!(found[2].seq, Some((7, 8)));
        let size = found[0].at.len();
        assert_eq!(destroyed(&found, &(2 * size..2 * size + 1)), [(Uuid::from_u128(2), (7, 8))]);
        assert_eq!(destroyed(&found, &(size - 1..size + 1)), [(Uuid::from_u128(1), (0, 1))]);
        assert!(destroyed(&found, &(0..3)).is_empty());
    }
}
