//! What all logs of a runner share while they wait for the spool: the memory that they take, and the signals about it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use uuid::Uuid;

use crate::clock::BootTime;

/// Memory and signals of all captured text that the spool does not have yet.
#[derive(Debug)]
pub struct Intake {
    waiting: AtomicUsize,
    /// What the last turn of the collector left.
    left_over: AtomicUsize,
    paused: Mutex<Paused>,
    /// Logs that have become ripe since a turn has looked at them.
    ripe: Mutex<BTreeSet<Uuid>>,
    /// How often the collector has turned.
    turns: AtomicU64,
    limit_bytes: usize,
    flush_bytes: usize,
    /// Some log has something again.
    pub first: Notify,
    /// The collector should turn now: much has come, a log has ended, or somebody waits for room.
    pub urgent: Notify,
    /// The collector has turned.
    pub turned: Notify,
    /// Who waits for room, in order.
    door: Notify,
}

/// For how long pipes were not read, as far as nobody has asked; several at once count several times.
#[derive(Debug)]
struct Paused {
    count: u32,
    since: BootTime,
    pipes: Duration,
}

impl Paused {
    fn reckon(&mut self) {
        let now = BootTime::now();
        self.pipes += self.since.elapsed() * self.count;
        self.since = now;
    }
}

impl Intake {
    /// At most about `limit_bytes` wait; when `flush_bytes` have come since the last turn it is urgent.
    pub fn new(limit_bytes: usize, flush_bytes: usize) -> Self {
        Self {
            waiting: AtomicUsize::new(0),
            left_over: AtomicUsize::new(0),
            paused: Mutex::new(Paused { count: 0, since: BootTime::now(), pipes: Duration::ZERO }),
            ripe: Mutex::default(),
            turns: AtomicU64::new(0),
            limit_bytes,
            flush_bytes,
            first: Notify::new(),
            urgent: Notify::new(),
            turned: Notify::new(),
            door: Notify::new(),
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

    /// Whether so much waits that small beginnings of many logs are worth their rows.
    pub fn is_filling(&self) -> bool {
        self.waiting() >= self.limit_bytes / 2
    }

    /// A pipe is not read from now on, until what this returns is dropped.
    pub fn pause(&self) -> Pause<'_> {
        let mut paused = self.paused();
        paused.reckon();
        paused.count += 1;
        Pause(self)
    }

    /// For how long pipes were not read since this was asked last; several at once count several times.
    pub fn take_paused(&self) -> Duration {
        let mut paused = self.paused();
        paused.reckon();
        std::mem::take(&mut paused.pipes)
    }

    /// The collector has taken what there is room for.
    pub fn turned(&self) {
        self.left_over.store(self.waiting(), Ordering::Relaxed);
        self.turns.fetch_add(1, Ordering::Relaxed);
        self.turned.notify_waiters();
        self.call_next();
    }

    /// How often the collector has turned.
    pub fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    /// The next one in the row of those who wait for room: one after the other, since whoever comes in may fill it. To wake
    /// them all would cost a runner with thousands of loud logs more than to read what they print.
    pub fn next_in_row(&self) -> Notified<'_> {
        self.door.notified()
    }

    /// Whoever was called from the row has come in; the next one is called when what this returns is dropped.
    pub fn come_in(&self, is_called: bool) -> LetIn<'_> {
        LetIn { intake: self, is_called }
    }

    /// Calls the next one in the row, if there is room.
    pub fn call_next(&self) {
        if self.left() > 0 {
            self.door.notify_one();
        }
    }

    /// A log has enough for rows of a good size, or has ended.
    pub fn tell(&self, attempt: Uuid) {
        self.ripe().insert(attempt);
    }

    /// Whether so much has come since the last turn that it is urgent.
    pub fn has_much(&self) -> bool {
        self.waiting() >= self.left_over.load(Ordering::Relaxed).saturating_add(self.flush_bytes)
    }

    /// Whether there are any of which that was told.
    pub fn has_ripe(&self) -> bool {
        !self.ripe().is_empty()
    }

    /// Logs of which that was told, each of which is looked at now.
    pub fn take_ripe(&self) -> BTreeSet<Uuid> {
        std::mem::take(&mut *self.ripe())
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

    // Nothing panics half-way while it holds these.

    fn paused(&self) -> MutexGuard<'_, Paused> {
        self.paused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ripe(&self) -> MutexGuard<'_, BTreeSet<Uuid>> {
        self.ripe.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whoever was let in does what it came for; then the next one is.
#[derive(Debug)]
#[must_use = "the next one is let in when it is dropped"]
pub struct LetIn<'a> {
    intake: &'a Intake,
    /// From the row: then there is room, and others were not called yet. Who comes in otherwise may be one of thousands.
    pub is_called: bool,
}

impl Drop for LetIn<'_> {
    fn drop(&mut self) {
        self.intake.call_next();
    }
}

/// A pipe is not read, for want of room.
#[derive(Debug)]
pub struct Pause<'a>(&'a Intake);

impl Drop for Pause<'_> {
    fn drop(&mut self) {
        let mut paused = self.0.paused();
        paused.reckon();
        paused.count -= 1;
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
