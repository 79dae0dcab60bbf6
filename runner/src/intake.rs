//! What all logs of a runner share while they wait for the spool: the memory that they take, and the signals about it.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Memory and signals of all captured text that the spool does not have yet.
#[derive(Debug)]
pub struct Intake {
    waiting: AtomicUsize,
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
    /// At most about `limit_bytes` wait; from `flush_bytes` on it is urgent.
    pub fn new(limit_bytes: usize, flush_bytes: usize) -> Self {
        Self {
            waiting: AtomicUsize::new(0),
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

    /// A log that had `before` bytes waiting has `now`.
    pub fn changed(&self, before: usize, now: usize) {
        if now > before {
            let all = self.waiting.fetch_add(now - before, Ordering::Relaxed) + (now - before);
            if before == 0 {
                self.first.notify_one();
            }
            if all >= self.flush_bytes {
                self.urgent.notify_one();
            }
        } else {
            self.waiting.fetch_sub(before - now, Ordering::Relaxed);
        }
    }
}
