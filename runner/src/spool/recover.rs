//! What an earlier process has left in the spool.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use time::OffsetDateTime;
use tokio::sync::{Notify, SetOnce};
use uuid::Uuid;

use super::backlog::Backlog;
use super::backlogs::Backlogs;
use super::entry::{self, Entry, Gone, Place};
use super::packed::Row;
use super::record::{self, Found, Record};
use super::segment::{self, Segment};
use super::{Done, Inner, Limits, Spool};
use crate::descriptors;
use crate::logs::GapKind;

/// What was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Logs that are not known to be stored to their end.
    pub logs: usize,
    /// Logs among them whose end was never written: their runner was lost.
    pub cut_off: usize,
    /// Bytes of text that are perhaps not stored yet.
    pub bytes: u64,
    /// Bytes that are no records, but for the end of a file: there a process died.
    pub broken_bytes: u64,
    /// Segments that could not be read at all.
    pub unreadable: u64,
}

impl Spool {
    /// Opens the spool in `dir`, which this process must own, and reads what is in it. A log whose end is not written gets
    /// a gap of unknown size as its last row. `fresh` is the writer of a spool that is made here.
    ///
    /// # Errors
    /// The disk's, when it cannot be read or the writer's id cannot be put there; too few open files for what is in it. A disk
    /// that takes nothing more is none.
    pub fn open_dir(dir: &Path, limits: Limits, fresh: Uuid, now: OffsetDateTime) -> io::Result<(Self, Recovered)> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let writer = writer(dir, fresh)?;
        let mut inner = Inner {
            dir: dir.to_owned(),
            limits,
            segments: BTreeMap::new(),
            active: None,
            next_segment: 1,
            backlogs: Backlogs::default(),
            done: Vec::new(),
            kept_bytes: 0,
            failing: false,
            unreadable: 0,
            expired_bytes: 0,
            turn: Uuid::nil(),
        };
        let mut recovered = Recovered::default();
        for (number, path) in segment::list(dir)? {
            inner.next_segment = number + 1;
            // What is in the others is sent all the same.
            match Segment::reopen(path.clone()).and_then(|segment| inner.read(number, segment)) {
                Ok(broken_bytes) => recovered.broken_bytes += broken_bytes,
                // What is in it is whole: no gap may stand for that.
                Err(error) if descriptors::are_used_up(&error) => {
                    return Err(io::Error::other(format!(
                        "{}: {error}: raise the limit of open files",
                        path.display()
                    )));
                }
                Err(error) => {
                    let segment = path.display();
                    tracing::error!(%error, %segment, "a segment of the log spool cannot be read; it is left there");
                    recovered.unreadable += 1;
                }
            }
        }
        inner.unreadable = u64::from(recovered.broken_bytes > 0) + recovered.unreadable;
        recovered.cut_off = inner.end_what_was_cut_off(now);
        recovered.logs = inner.backlogs.len();
        recovered.bytes = inner.backlogs.bytes();
        inner.expire(now);
        let written = inner.write();
        inner.remove_dead();
        // A full disk must not keep a runner from sending what fills it. What was not written waits in memory, as always.
        if let Err(error) = written.or_else(|_| inner.write()) {
            tracing::error!(%error, spool = %dir.display(), "the disk takes no log text; what the spool holds is sent all the same");
            inner.failing = true;
        }
        Ok((Self { writer, inner: Mutex::new(inner), filled: Notify::new(), first: SetOnce::new() }, recovered))
    }
}

impl Inner {
    /// Reads a segment; returns how many bytes of it are broken, but for its end: there a process died.
    fn read(&mut self, number: u32, mut segment: Segment) -> io::Result<u64> {
        let bytes = segment.read()?;
        let (mut at, mut broken) = (0, 0);
        while at < bytes.len() {
            match record::read(&bytes[at..]) {
                Found::Record(record, size) => {
                    self.recall(record, number, &mut segment, (at, size));
                    at += size;
                }
                Found::Broken(size) => {
                    at += size;
                    broken += if at == bytes.len() { 0 } else { size as u64 };
                }
            }
        }
        self.segments.insert(number, segment);
        Ok(broken)
    }

    fn recall(&mut self, record: Record, number: u32, segment: &mut Segment, (offset, size): (usize, usize)) {
        match record {
            Record::Open { whose, next_seq } => {
                let attempt = whose.lease.attempt_id;
                self.backlogs.open(attempt, || Backlog::new(Arc::new(whose), next_seq));
                self.backlogs.change(attempt, |log| {
                    log.next_seq = log.next_seq.max(next_seq);
                    log.recovered = true;
                    log.first_in.get_or_insert(number);
                    log.goes_on_at(next_seq);
                });
            }
            Record::Chunk { whose, chunk } => {
                let attempt = whose.lease.attempt_id;
                // Where the log's opening is broken, its first chunk that is not opens it.
                self.backlogs.open(attempt, || Backlog::new(Arc::new(whose), chunk.seq));
                self.backlogs.change(attempt, |log| {
                    log.recovered = true;
                    log.first_in.get_or_insert(number);
                    log.goes_on_at(chunk.seq + 1);
                    // Written twice, when the disk failed in between.
                    if log.entries.back().is_some_and(|last| last.seq_to >= chunk.seq) {
                        return;
                    }
                    let (Ok(offset), Ok(size)) = (u32::try_from(offset), u32::try_from(size)) else { return };
                    segment.holds(chunk.ts);
                    let bytes = u32::try_from(chunk.text.len()).unwrap_or(u32::MAX);
                    log.push_row(&Row { seq: chunk.seq, seq_to: chunk.seq_to, bytes, segment: number, offset, size });
                });
            }
            Record::End { attempt, last_seq } => {
                self.backlogs.change(attempt, |log| {
                    log.end = Some(last_seq);
                    log.end_written = true;
                });
            }
            Record::Done { attempt } => {
                if let Some(mut log) = self.backlogs.remove(attempt) {
                    segment.done.push(Done { attempt, first: log.first_in.unwrap_or_default(), last: number });
                    let mut gone = Gone::default();
                    log.acknowledge(i64::MAX, &mut gone);
                    for (other, rows) in gone.rows {
                        if other == number {
                            segment.live -= rows;
                        } else if let Some(segment) = self.segments.get_mut(&other) {
                            segment.live -= rows;
                        }
                    }
                }
            }
        }
    }

    /// What the earlier process had read and not written yet is lost. (What a command that outlived it prints comes behind
    /// that: see [`Spool::reopen`].)
    fn end_what_was_cut_off(&mut self, now: OffsetDateTime) -> usize {
        let mut count = 0;
        self.backlogs.change_all(|log| {
            if log.end.is_some() {
                return;
            }
            let gap = entry::gap(log.next_seq, log.next_seq, GapKind::Lost, None, now);
            let gap = Entry::new(gap, Place::Unwritten);
            self.kept_bytes += gap.kept_bytes();
            log.push(gap);
            log.end = Some(log.next_seq - 1);
            log.cut_off = true;
            count += 1;
        });
        count
    }
}

/// The writer's id, as it stands in the folder; `fresh` is put there when there is none.
fn writer(dir: &Path, fresh: Uuid) -> io::Result<Uuid> {
    let path = dir.join("writer");
    match std::fs::read(&path) {
        Ok(text) => {
            if let Ok(writer) = Uuid::try_parse_ascii(text.trim_ascii()) {
                return Ok(writer);
            }
            tracing::error!(file = %path.display(), "it holds no id; what the spool holds cannot be sent any more");
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let new = dir.join("writer.new");
    let mut file = File::create(&new)?;
    file.write_all(fresh.to_string().as_bytes())?;
    // The one thing here that a power cut must not take: without it nothing that is kept can be sent.
    file.sync_all()?;
    std::fs::rename(&new, &path)?;
    Ok(fresh)
}
