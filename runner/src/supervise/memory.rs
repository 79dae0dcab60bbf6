//! Peak memory of the whole tree.
//!
//! The figure is the largest *sum of resident sizes* over all descendants at one moment, and never less than the largest
//! single process that the kernel accounted (`ru_maxrss`). Pages that processes share count once for each, so it
//! may be too high for a tree of forks; a peak between two samples is missed unless one process made it.

use nix::sys::resource::{UsageWho, getrusage};
use nix::unistd::{Pid, SysconfVar, sysconf};

use super::procs;

/// Samples come quickly at first, for trees that live a few tenths of a second, then at this pace. What lives shorter is
/// mostly one process, which the kernel accounts without a sample.
const SLOWEST_MS: u64 = 200;
const FIRST_MS: u64 = 50;

/// The highest that was seen.
#[derive(Debug)]
pub(super) struct Peak {
    page_bytes: u64,
    bytes: u64,
    interval_ms: u64,
    due_ms: u64,
}

impl Peak {
    /// Begins to watch at `now_ms` (boot time).
    pub(super) fn new(now_ms: u64) -> Self {
        let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096);
        Self {
            page_bytes: u64::try_from(page).unwrap_or(4096),
            bytes: 0,
            interval_ms: FIRST_MS,
            due_ms: now_ms + FIRST_MS,
        }
    }

    /// When the next sample is due.
    pub(super) fn due_ms(&self) -> u64 {
        self.due_ms
    }

    /// Takes a sample if one is due.
    pub(super) fn sample(&mut self, now_ms: u64) {
        if now_ms >= self.due_ms {
            self.sample_now();
            self.interval_ms = (self.interval_ms * 2).min(SLOWEST_MS);
            self.due_ms = now_ms + self.interval_ms;
        }
    }

    /// Takes a sample.
    pub(super) fn sample_now(&mut self) {
        let mut queue = procs::children(Pid::this().as_raw());
        let mut pages: u64 = 0;
        while let Some(pid) = queue.pop() {
            if let Some(process) = procs::read(pid) {
                pages = pages.saturating_add(process.resident_pages);
                queue.extend(procs::children(pid));
            }
        }
        self.bytes = self.bytes.max(pages.saturating_mul(self.page_bytes));
    }

    /// The peak in bytes, once all children are reaped.
    pub(super) fn bytes(&self) -> u64 {
        let largest_kib = getrusage(UsageWho::RUSAGE_CHILDREN).map_or(0, |usage| usage.max_rss());
        let largest = u64::try_from(largest_kib).unwrap_or(0).saturating_mul(1024);
        self.bytes.max(largest)
    }
}
