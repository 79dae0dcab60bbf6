//! What all logs of a runner share while they wait for the spool: the memory that they take, and the signals about it.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use crate::clock::BootTime;

/// Memory and signals of all captured text that the spool does not have yet.
#[derive(Debug)]
pub struct Intake {
    waiting: AtomicUsize,
    /// What the last turn of the collector left, for want of room in the spool.
    left_over: AtomicUsize,
    /// Nanoseconds for which pipes were not read, as far as nobody has asked.
    paused_ns: AtomicU64,
    limit_bytes: usize,
    flush_bytes: usize,
    /// Some log has something again.
    pub first: Notify,
    /// The spool should take what there is now: much waits, or a log has ended.
    pub urgent: Notify,
    /// The spool has taken something.
    pub freed: Notify,
}

impl Intake {
    /// At most about `limit_bytes` wait; when `flush_bytes` have come since the last turn it is urgent.
    pub fn new(limit_bytes: usize, flush_bytes: usize) -> Self {
        Self {
            waiting: AtomicUsize::new(0),
            left_over: AtomicUsize::new(0),
            paused_ns: AtomicU64::new(0),
            limit_bytes,
            flush_bytes,
            first: Notify::new(),
            urgent: Notify::new(),
            freed: Notify::new(),
        }
    }

    /// Bytes that wait in all logs.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Bytes that may still come.
    pub fn left(&self) -> usize {
        self.limit_bytes.saturating_sub(self.waiting())
    }

    /// A pipe is not read from now on, until what this returns is dropped.
    pub fn pause(&self) -> Pause<'_> {
        Pause { intake: self, begun: BootTime::now() }
    }

    /// For how long pipes were not read since this was asked last; several at once count several times.
    pub fn take_paused(&self) -> Duration {
        Duration::from_nanos(self.paused_ns.swap(0, Ordering::Relaxed))
    }

    /// The collector has taken what there is room for.
    pub fn turned(&self) {
        self.left_over.store(self.waiting(), Ordering::Relaxed);
        self.freed.notify_waiters();
    }

    /// A log that had `before` bytes waiting has `now`.
    pub fn changed(&self, before: usize, now: usize) {
        if now > before {
            let all = self.waiting.fetch_add(now - before, Ordering::Relaxed) + (now - before);
            if before == 0 {
                self.first.notify_one();
            }
            if all >= self.left_over.load(Ordering::Relaxed).saturating_add(self.flush_bytes) {
                self.urgent.notify_one();
            }
        } else {
            self.waiting.fetch_sub(before - now, Ordering::Relaxed);
        }
    }
}

/// A pipe is not read, for want of room.
#[derive(Debug)]
pub struct Pause<'a> {
    intake: &'a Intake,
    begun: BootTime,
}

impl Drop for Pause<'_> {
    fn drop(&mut self) {
        let ns = u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.intake.paused_ns.fetch_add(ns, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_the_spool_has_no_room_for_does_not_make_each_line_urgent() {
        let intake = Intake::new(1000, 100);
        let is_urgent = async || {
            tokio::select! {
                biased;
                () = intake.urgent.notified() => true,
                () = std::future::ready(()) => false,
            }
        };
        intake.changed(0, 500);
        assert!(is_urgent().await);
        intake.turned();
        intake.changed(0, 10);
        assert!(!is_urgent().await, "a line after a turn that took nothing");
        intake.changed(10, 110);
        assert!(is_urgent().await);
    }
}
