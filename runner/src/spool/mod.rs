//! The spool: log chunks on local disk, between the commands that print and the broker that stores.
//!
//! Chunks of all logs of a runner go into one row of files (*segments*), and from there to the broker in batches. A chunk
//! is taken away when the broker has it; a segment is removed when nothing in it is wanted any more. Nothing is ever
//! changed in place, so a process that dies leaves at worst half a record at the end, which the next one passes over.
//!
//! Nothing is synced: what the kernel has taken outlives the process, but not a power cut. What stands in the spool has
//! been redacted already.

mod backlog;
mod backlogs;
mod entry;
mod packed;
pub mod record;
mod recover;
mod resume;
mod segment;
mod take;
#[cfg(test)]
mod tests;
mod write;

pub use recover::Recovered;
pub use resume::Standing;
pub use take::{Outgoing, ROW_BYTES};

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::{Notify, SetOnce};
use uuid::Uuid;

use crate::logs::Chunk;
use crate::whose::Whose;
use backlog::Backlog;
use backlogs::Backlogs;
use entry::{Entry, Gone, Place};
use segment::Segment;

/// How much a spool may hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes on disk.
    pub disk_bytes: u64,
    /// Bytes in memory: of chunks that need not be read again, and of where the others stand on disk. Without room for the
    /// latter the spool is full.
    pub memory_bytes: usize,
    /// Chunks older than this are not sent any more.
    pub max_age: Duration,
}

/// What of a log may be put in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// So much text, in bytes.
    Bytes(u64),
    /// Nothing: nobody wants any more of it.
    Unwanted,
    /// Nothing: from this number on a gap is to close it; see [`Spool::end_over_quota`].
    OverQuota(i64),
}

/// What waits in a spool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Level {
    /// Bytes of log text that wait.
    pub waiting_bytes: u64,
    /// Bytes that the segments take on disk.
    pub disk_bytes: u64,
    /// Bytes in memory: of chunks, and of where those stand that are on disk only.
    pub memory_bytes: usize,
    /// Logs that are not stored to their end.
    pub logs: usize,
    /// Records that could not be read, since this process began.
    pub unreadable: u64,
    /// Bytes of log text that waited for too long, since this process began.
    pub expired_bytes: u64,
}

/// The spool of one runner. All methods that touch the disk block.
#[derive(Debug)]
pub struct Spool {
    writer: Uuid,
    inner: Mutex<Inner>,
    /// Told when there is something to send.
    pub filled: Notify,
    /// What the first takeover said; from then on no other process sends.
    first: SetOnce<BTreeMap<Uuid, Standing>>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    limits: Limits,
    segments: BTreeMap<u32, Segment>,
    active: Option<u32>,
    next_segment: u32,
    /// Logs that are not stored to their end.
    backlogs: Backlogs,
    /// Logs of which nothing is wanted any more, as no segment says yet.
    done: Vec<Done>,
    kept_bytes: usize,
    /// The disk did not take what it was given last.
    failing: bool,
    unreadable: u64,
    expired_bytes: u64,
    /// Who gave the last chunks to a batch: the next one begins behind it.
    turn: Uuid,
}

/// A log of which nothing is wanted any more.
#[derive(Clone, Copy, Debug)]
struct Done {
    attempt: Uuid,
    /// No older segment has anything of it.
    first: u32,
    /// No younger one.
    last: u32,
}

impl Spool {
    /// The writer whose batches carry what is in here; it stays the same from process to process.
    pub fn writer(&self) -> Uuid {
        self.writer
    }

    /// Begins a log, or goes on with one; returns its next number.
    pub fn open(&self, whose: Arc<Whose>) -> i64 {
        let attempt = whose.lease.attempt_id;
        let mut inner = self.inner();
        inner.backlogs.open(attempt, || Backlog::new(whose, 0)).next_seq
    }

    /// What of each of these logs may be put in now.
    ///
    /// A log gets as much as the others leave free, less what it has: a loud one alone fills half of the spool and leaves
    /// room for quiet ones, many equal ones share it. The same goes for memory to say where rows stand: a row is reckoned to
    /// take an eighth of what its text has.
    pub fn admits(&self, attempts: &[Uuid]) -> Vec<Admission> {
        let inner = self.inner();
        let (free, places) = (inner.free(), inner.free_places());
        let admission = |attempt: &Uuid| match inner.backlogs.get(*attempt) {
            None => Admission::Unwanted,
            Some(Backlog { over_quota: Some((from, _)), .. }) => Admission::OverQuota(*from),
            Some(log) => {
                let places = 8 * places.saturating_sub(log.index_bytes) as u64;
                Admission::Bytes(free.saturating_sub(log.bytes).min(places))
            }
        };
        attempts.iter().map(admission).collect()
    }

    /// Takes chunks of logs, and the last numbers of those that have ended. When the disk does not take them they wait in
    /// memory, are sent from there, and are written with the next ones.
    ///
    /// # Errors
    /// The disk's. Nothing is lost by it.
    pub fn put(&self, chunks: Vec<(Uuid, Vec<Chunk>)>, ended: &[(Uuid, i64)]) -> io::Result<()> {
        let mut inner = self.inner();
        for (attempt, chunks) in chunks {
            // The broker may have refused more of it since it was asked for what is admitted.
            let put = |log: &mut Backlog| {
                let mut bytes = 0;
                if log.over_quota.is_none() {
                    for entry in chunks.into_iter().map(|chunk| Entry::new(chunk, Place::Unwritten)) {
                        bytes += entry.kept_bytes();
                        log.push(entry);
                    }
                }
                bytes
            };
            inner.kept_bytes += inner.backlogs.change(attempt, put).unwrap_or_default();
        }
        for (attempt, last_seq) in ended {
            let is_done = inner.backlogs.change(*attempt, |log| {
                if let Some((_, at)) = log.over_quota {
                    log.end_over_quota(*last_seq, None, at);
                    return false;
                }
                log.end = Some(*last_seq);
                log.is_done()
            });
            if is_done == Some(true) {
                inner.forget(*attempt);
            }
        }
        let written = inner.write();
        inner.failing = written.is_err();
        drop(inner);
        self.filled.notify_one();
        written
    }

    /// Logs of which something waits.
    pub fn waiting(&self) -> Vec<Uuid> {
        self.inner().backlogs.waiting().iter().copied().collect()
    }

    /// Everything of these logs up to and including the numbers is in the database.
    pub fn acknowledge(&self, stored: &BTreeMap<Uuid, i64>) {
        self.inner().acknowledge(stored);
    }

    /// The broker takes nothing of a log behind `stored` but one gap. What waits is dropped; returns its bytes. When it is
    /// not known yet where the log ends, [`Spool::end_over_quota`] has to say.
    pub fn over_quota(&self, attempt: Uuid, stored: i64, now: OffsetDateTime) -> u64 {
        let mut inner = self.inner();
        inner.acknowledge(&BTreeMap::from([(attempt, stored)]));
        if inner.backlogs.get(attempt).is_some_and(|log| log.over_quota.is_some()) {
            // Not even the gap was taken.
            return inner.close(attempt);
        }
        let mut gone = Gone::default();
        let dropped = inner.backlogs.change(attempt, |log| {
            let bytes = log.bytes;
            log.acknowledge(i64::MAX, &mut gone);
            log.over_quota = Some((stored + 1, now));
            (bytes, log.end)
        });
        let Some((bytes, end)) = dropped else { return 0 };
        inner.release(&gone);
        drop(inner);
        if let Some(end) = end {
            self.end_over_quota(attempt, end, Some(bytes), now);
        }
        bytes
    }

    /// Closes a log that is over its quota with a gap up to its last number, or with one of a single number.
    pub fn end_over_quota(&self, attempt: Uuid, last_seq: i64, bytes: Option<u64>, now: OffsetDateTime) {
        let ended = self.inner().backlogs.change(attempt, |log| log.end_over_quota(last_seq, bytes, now));
        if ended.is_some() {
            self.filled.notify_one();
        }
    }

    /// The broker takes nothing more of this log: what waits is dropped. Returns its bytes.
    pub fn close(&self, attempt: Uuid) -> u64 {
        self.inner().close(attempt)
    }

    /// Drops what is older than it may become, with a gap in its place. Returns the bytes of text that are gone by that.
    pub fn expire(&self, now: OffsetDateTime) -> u64 {
        let mut inner = self.inner();
        let before = inner.expired_bytes;
        inner.expire(now);
        inner.expired_bytes - before
    }

    /// What waits.
    pub fn level(&self) -> Level {
        let inner = self.inner();
        Level {
            waiting_bytes: inner.backlogs.bytes(),
            disk_bytes: inner.disk_bytes(),
            memory_bytes: inner.memory_bytes(),
            logs: inner.backlogs.len(),
            unreadable: inner.unreadable,
            expired_bytes: inner.expired_bytes,
        }
    }

    /// When the oldest chunk that waits was printed.
    pub fn oldest(&self) -> Option<OffsetDateTime> {
        let inner = self.inner();
        let waiting = inner.backlogs.waiting().iter().filter_map(|attempt| inner.backlogs.get(*attempt));
        waiting.filter_map(|log| first_printed(log, &inner.segments)).min()
    }

    /// Whether all of a log that has ended is on disk, or not wanted any more.
    pub fn has_all_of(&self, attempt: Uuid) -> bool {
        self.inner().backlogs.get(attempt).is_none_or(|log| log.over_quota.is_some() || log.is_written())
    }

    /// Whether something is still to be written to the disk, which did not take it.
    pub fn is_failing(&self) -> bool {
        self.inner().failing
    }

    /// Whether nothing waits to be sent.
    pub fn is_empty(&self) -> bool {
        self.inner().backlogs.waiting().is_empty()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here panics half-way; a poisoned lock still holds a whole value.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn disk_bytes(&self) -> u64 {
        self.segments.values().map(|segment| segment.len).sum()
    }

    /// Bytes that may still be put in.
    fn free(&self) -> u64 {
        if self.failing {
            return (self.limits.memory_bytes.saturating_sub(self.memory_bytes())) as u64;
        }
        self.limits.disk_bytes.saturating_sub(self.disk_bytes())
    }

    fn memory_bytes(&self) -> usize {
        self.kept_bytes + self.backlogs.index_bytes()
    }

    /// Bytes of memory that may still be used to say where rows stand.
    fn free_places(&self) -> usize {
        self.usual_memory_bytes().saturating_sub(self.backlogs.index_bytes())
    }

    /// What is usually taken of the memory: what one turn brings must not go beyond the bound.
    fn usual_memory_bytes(&self) -> usize {
        self.limits.memory_bytes - self.limits.memory_bytes / 8
    }

    /// Where rows stand that are on disk only comes before chunks that need not be read again.
    fn cool(&mut self) {
        if self.memory_bytes() > self.limits.memory_bytes {
            self.backlogs.change_all(|log| self.kept_bytes -= log.cool());
        }
    }

    fn acknowledge(&mut self, stored: &BTreeMap<Uuid, i64>) {
        let mut gone = Gone::default();
        for (attempt, stored) in stored {
            let is_done = self.backlogs.change(*attempt, |log| {
                log.acknowledge(*stored, &mut gone);
                log.is_done()
            });
            if is_done == Some(true) {
                self.forget(*attempt);
            }
        }
        self.release(&gone);
    }

    fn close(&mut self, attempt: Uuid) -> u64 {
        let Some(mut backlog) = self.forget(attempt) else { return 0 };
        let (bytes, mut gone) = (backlog.bytes, Gone::default());
        backlog.acknowledge(i64::MAX, &mut gone);
        self.release(&gone);
        bytes
    }

    /// Nothing of this log is wanted any more.
    fn forget(&mut self, attempt: Uuid) -> Option<Backlog> {
        let backlog = self.backlogs.remove(attempt)?;
        // A disk that takes nothing has none that names it; all that there are may hold something of it.
        let last = backlog.named_in.or_else(|| self.segments.keys().next_back().copied());
        let first = backlog.first_in.unwrap_or_default();
        self.done.extend(last.map(|last| Done { attempt, first, last }));
        Some(backlog)
    }

    /// Chunks are not wanted any more.
    fn release(&mut self, gone: &Gone) {
        self.kept_bytes -= gone.kept_bytes;
        for (number, rows) in &gone.rows {
            if let Some(segment) = self.segments.get_mut(number) {
                segment.live -= rows;
            }
        }
        self.remove_dead();
    }

    fn remove_dead(&mut self) {
        let dead: Vec<u32> = self
            .segments
            .iter()
            .filter(|(number, segment)| segment.live == 0 && Some(**number) != self.active)
            .map(|(number, _)| *number)
            .collect();
        for number in dead {
            let Some(segment) = self.segments.remove(&number) else { continue };
            let path = segment.path().to_owned();
            self.tell_again(&segment.done);
            if let Err(error) = segment.remove() {
                tracing::warn!(%error, segment = %path.display(), "a segment of the log spool cannot be removed");
            }
        }
    }

    /// The segment that said it goes: while an older one may hold something of a log, a younger one must say that it is done.
    fn tell_again(&mut self, done: &[Done]) {
        let is_there = |log: &Done| self.segments.range(log.first..=log.last.max(log.first)).next().is_some();
        let matters = |log: &&Done| is_there(log) && self.backlogs.get(log.attempt).is_none();
        self.done.extend(done.iter().filter(matters));
    }

    fn expire(&mut self, now: OffsetDateTime) {
        let Ok(max_age) = time::Duration::try_from(self.limits.max_age) else { return };
        self.roll_by_age(now, max_age);
        let old = |segment: &Segment| segment.live > 0 && segment.newest.is_some_and(|newest| now - newest > max_age);
        let expired: Vec<u32> = self
            .segments
            .iter()
            .filter(|(number, segment)| old(segment) && Some(**number) != self.active)
            .map(|(number, _)| *number)
            .collect();
        if expired.is_empty() {
            return;
        }
        let mut gone = Gone::default();
        self.backlogs.change_all(|log| log.expire(&expired, now, &mut gone));
        self.expired_bytes += gone.text_bytes;
        self.release(&gone);
    }
}

/// When the first chunk of a log that waits was printed.
fn first_printed(log: &Backlog, segments: &BTreeMap<u32, Segment>) -> Option<OffsetDateTime> {
    let first = log.entries.front()?;
    if let Some(chunk) = &first.kept {
        return Some(chunk.ts);
    }
    if let Some((_, printed)) = log.first_printed.get().filter(|(seq, _)| *seq == first.seq) {
        return Some(printed);
    }
    let row = match &first.place {
        Place::Packed(packed) => packed.rows(first.seq).next(),
        _ => first.row(),
    }?;
    let segment = segments.get(&row.segment)?;
    let read = segment.chunk(log.whose.lease.attempt_id, &row).map(|chunk| chunk.ts);
    let printed = read.or(segment.oldest)?;
    log.first_printed.set(Some((row.seq, printed)));
    Some(printed)
}

/// The folder of a cluster's spool below a runner's `state_dir`.
pub fn folder(state_dir: &Path, cluster: Uuid) -> PathBuf {
    state_dir.join("spool").join(cluster.simple().to_string())
}
