//! One file of the spool.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc::{O_NOFOLLOW, O_NONBLOCK};
use time::OffsetDateTime;
use uuid::Uuid;

use super::Done;
use super::packed::Row;
use super::record::{self, Found, Record};
use crate::logs::Chunk;

/// A segment that has this much gets no more.
pub(super) const SEGMENT_BYTES: u64 = 16 * 1024 * 1024;
/// No segment is larger: the last page may go beyond the bound, and the first one names all logs.
const LARGEST_BYTES: u64 = 4 * SEGMENT_BYTES;
/// Names of segments end so; before that stands the number in hex.
const SUFFIX: &str = ".seg";

/// A file of records. It is removed when no chunk in it is wanted any more.
#[derive(Debug)]
pub(super) struct Segment {
    path: PathBuf,
    file: File,
    /// Bytes of whole records.
    pub(super) len: u64,
    /// Chunks in it that are not stored yet.
    pub(super) live: usize,
    /// When the oldest of its chunks was printed.
    pub(super) oldest: Option<OffsetDateTime>,
    /// When the newest of them was.
    pub(super) newest: Option<OffsetDateTime>,
    /// Logs that it says are done.
    pub(super) done: Vec<Done>,
}

impl Segment {
    /// A new file, readable by this user only.
    pub(super) fn create(dir: &Path, number: u32) -> io::Result<Self> {
        let path = dir.join(format!("{number:08x}{SUFFIX}"));
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(Self { path, file, len: 0, live: 0, oldest: None, newest: None, done: Vec::new() })
    }

    /// A file that an earlier process has left. Whoever else could write there may have put anything in its place.
    pub(super) fn reopen(path: PathBuf) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).custom_flags(O_NOFOLLOW | O_NONBLOCK).open(&path)?;
        let metadata = file.metadata()?;
        let len = metadata.len();
        if !metadata.is_file() || len > LARGEST_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no file, or larger than any segment"));
        }
        Ok(Self { path, file, len, live: 0, oldest: None, newest: None, done: Vec::new() })
    }

    /// Appends whole records; none of them when it fails.
    pub(super) fn append(&mut self, records: &[u8]) -> io::Result<()> {
        let written = self.file.write_all_at(records, self.len);
        if written.is_err() {
            // What stays behind if this fails too is no record, and readers pass over it.
            let _ = self.file.set_len(self.len);
        }
        written?;
        self.len += records.len() as u64;
        Ok(())
    }

    /// All that stands in it, with the places.
    pub(super) fn read(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(self.len).unwrap_or(usize::MAX)];
        self.file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    /// One more chunk that is wanted.
    pub(super) fn holds(&mut self, printed: OffsetDateTime) {
        self.live += 1;
        self.oldest = Some(self.oldest.map_or(printed, |oldest| oldest.min(printed)));
        self.newest = self.newest.max(Some(printed));
    }

    /// The chunk of an attempt in a row; none when it cannot be read.
    pub(super) fn chunk(&self, attempt: Uuid, row: &Row) -> Option<Chunk> {
        let mut bytes = vec![0; usize::try_from(row.size).ok()?];
        self.file.read_exact_at(&mut bytes, u64::from(row.offset)).ok()?;
        match record::read(&bytes) {
            Found::Record(Record::Chunk { whose, chunk }, _) if whose.lease.attempt_id == attempt => Some(chunk),
            _ => None,
        }
    }

    /// Removes the file.
    pub(super) fn remove(self) -> io::Result<()> {
        std::fs::remove_file(&self.path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// Segments in a folder, oldest first. Other files are passed over.
pub(super) fn list(dir: &Path) -> io::Result<Vec<(u32, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let number = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(SUFFIX));
        // The last number is nobody's: there must be a next one.
        if let Some(number) = number.and_then(|hex| u32::from_str_radix(hex, 16).ok()).filter(|n| *n < u32::MAX) {
            found.push((number, path));
        }
    }
    found.sort_unstable();
    Ok(found)
}
