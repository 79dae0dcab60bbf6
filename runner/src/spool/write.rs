//! Writing what the segments do not have yet.

use std::io;

use time::OffsetDateTime;
use uuid::Uuid;

use super::backlog::Backlog;
use super::entry::Place;
use super::segment::{SEGMENT_BYTES, Segment};
use super::{Inner, record};

/// Written at one go.
const PAGE_BYTES: usize = 1024 * 1024;
/// A segment takes chunks for this part of the time that they may wait: it goes when its newest is too old.
const SEGMENTS_OF_AN_AGE: i32 = 8;

/// Records that go to the active segment together, and what becomes true with them.
#[derive(Default)]
struct Page {
    records: Vec<u8>,
    /// Log, offset in the page, size of the record; entries of a log stand in their order.
    chunks: Vec<(Uuid, usize, usize)>,
    named: Vec<Uuid>,
    ended: Vec<Uuid>,
}

impl Inner {
    /// Writes all that no segment has.
    pub(super) fn write(&mut self) -> io::Result<()> {
        let due: Vec<Uuid> = self.backlogs.due().iter().copied().collect();
        if due.is_empty() && self.done.is_empty() {
            return Ok(());
        }
        self.have_room()?;
        let mut page = Page::default();
        for attempt in due {
            let mut at = 0;
            while let Some(log) = self.backlogs.get(attempt) {
                page.name(log, self.active);
                let next = log.entries.len() - log.unwritten + at;
                let Some(chunk) = log.entries.get(next).and_then(|entry| entry.kept.as_ref()) else {
                    page.end(log);
                    break;
                };
                let begin = page.records.len();
                record::put_chunk(&mut page.records, &log.whose, chunk);
                page.chunks.push((attempt, begin, page.records.len() - begin));
                at += 1;
                if page.records.len() >= PAGE_BYTES {
                    self.append(&page)?;
                    page.clear();
                    self.have_room()?;
                    at = 0;
                }
            }
        }
        for log in &self.done {
            record::put_done(&mut page.records, log.attempt);
        }
        self.append(&page)?;
        if let Some(segment) = self.active.and_then(|number| self.segments.get_mut(&number)) {
            segment.done.append(&mut self.done);
        }
        self.cool();
        Ok(())
    }

    /// Sees to it that the active segment has room.
    fn have_room(&mut self) -> io::Result<()> {
        let full = |segment: &Segment| {
            // One of which all is stored is given up earlier, so that disk is free again.
            segment.len >= SEGMENT_BYTES || segment.live == 0 && segment.len >= SEGMENT_BYTES / 2
        };
        let active = self.active.and_then(|number| self.segments.get(&number));
        if active.is_none_or(full) { self.roll() } else { Ok(()) }
    }

    /// Nothing is written to a segment any more that holds old chunks, so that it can go as a whole, also when nothing new
    /// is printed.
    pub(super) fn roll_by_age(&mut self, now: OffsetDateTime, max_age: time::Duration) {
        let active = self.active.and_then(|number| self.segments.get(&number));
        let is_old = |oldest| now - oldest > max_age / SEGMENTS_OF_AN_AGE;
        if active.and_then(|segment| segment.oldest).is_some_and(is_old)
            && let Err(error) = self.roll()
        {
            tracing::warn!(%error, "the disk takes no new segment of the log spool; what is too old waits on");
        }
    }

    /// Goes on in a new segment.
    fn roll(&mut self) -> io::Result<()> {
        let number = self.next_segment;
        let segment = Segment::create(&self.dir, number)?;
        self.next_segment += 1;
        self.segments.insert(number, segment);
        let former = self.active.replace(number);
        // The newest segment names every log, so that older ones can go.
        let mut page = Page::default();
        for (_, log) in self.backlogs.iter() {
            page.name(log, self.active);
        }
        if let Err(error) = self.append(&page) {
            // One without the names must not stand there: older ones would go before it.
            self.active = former;
            if let Some(Err(error)) = self.segments.remove(&number).map(Segment::remove) {
                tracing::warn!(%error, number, "an empty segment of the log spool cannot be removed");
            }
            return Err(error);
        }
        self.remove_dead();
        Ok(())
    }

    /// All of a page, or nothing. Chunks stay in memory while they leave room to say where others stand.
    fn append(&mut self, page: &Page) -> io::Result<()> {
        let usual_bytes = self.usual_memory_bytes();
        let Some(number) = self.active else { return Ok(()) };
        let Some(segment) = self.segments.get_mut(&number) else { return Ok(()) };
        let base = segment.len;
        segment.append(&page.records)?;
        for attempt in &page.named {
            self.backlogs.change(*attempt, |log| {
                log.named_in = Some(number);
                log.first_in.get_or_insert(number);
            });
        }
        for (attempt, begin, size) in &page.chunks {
            let offset = u32::try_from(base).unwrap_or(u32::MAX) + u32::try_from(*begin).unwrap_or(u32::MAX);
            let place = Place::Disk { segment: number, offset, size: u32::try_from(*size).unwrap_or(u32::MAX) };
            // The oldest are sent first: those stay in memory.
            let stays = self.kept_bytes <= usual_bytes.saturating_sub(self.backlogs.index_bytes());
            self.backlogs.change(*attempt, |log| {
                let Some(chunk) = log.first_unwritten() else { return };
                segment.holds(chunk.ts);
                self.kept_bytes -= log.written(place, stays);
                log.tighten();
            });
        }
        for attempt in &page.ended {
            self.backlogs.change(*attempt, |log| log.end_written = true);
        }
        Ok(())
    }
}

impl Page {
    /// For the next records, in the same memory.
    fn clear(&mut self) {
        self.records.clear();
        self.chunks.clear();
        self.named.clear();
        self.ended.clear();
    }

    fn name(&mut self, log: &Backlog, active: Option<u32>) {
        let attempt = log.whose.lease.attempt_id;
        if log.named_in != active && self.named.last() != Some(&attempt) {
            let unwritten = log.entries.len() - log.unwritten;
            let next_seq = log.entries.get(unwritten).map_or(log.next_seq, |entry| entry.seq);
            record::put_open(&mut self.records, &log.whose, next_seq);
            // The segment that says how it ended may go before this one.
            if let Some(last_seq) = log.end.filter(|_| log.end_written) {
                record::put_end(&mut self.records, attempt, last_seq);
            }
            self.named.push(attempt);
        }
    }

    fn end(&mut self, log: &Backlog) {
        if let Some(last_seq) = log.end.filter(|_| !log.end_written) {
            let attempt = log.whose.lease.attempt_id;
            record::put_end(&mut self.records, attempt, last_seq);
            self.ended.push(attempt);
        }
    }
}
