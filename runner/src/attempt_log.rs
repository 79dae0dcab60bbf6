//! The log of one running attempt: written by its job, emptied by the shipper.

use crate::clock;
use crate::config::Logs;
use crate::logs::{Capture, Chunk, ChunkKind, Dialect, Problem, Progress, Stream};
use serde_json::{Map, Value};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tendril_broker::runner::{Claimed, Lease, LogRow};
use time::Date;
use tokio::sync::Notify;
use uuid::Uuid;

/// What the capture takes beyond the limit, in bytes: who writes asks for room only before each read, of which an event
/// or a run of NULs makes more.
const SLACK_BYTES: usize = 4 * 1024 * 1024;
/// A line without its end is shown after this long.
const IDLE: time::Duration = time::Duration::seconds(1);

/// Whose log it is: what every row of it says.
#[derive(Clone, Debug)]
pub struct Whose {
    deployment_id: Uuid,
    /// The attempt's address.
    pub lease: Lease,
    claim_day: Date,
    job: String,
    ordinal: i16,
}

/// A chunk that is to be stored, with whose it is.
#[derive(Clone)]
pub struct Outgoing {
    /// Whose.
    pub whose: Arc<Whose>,
    /// What.
    pub chunk: Arc<Chunk>,
}

impl Outgoing {
    /// As the broker wants it.
    pub fn row(&self) -> LogRow<'_> {
        let (gap_kind, gap_bytes) = match self.chunk.kind {
            ChunkKind::Text => (None, None),
            ChunkKind::Gap(gap) => (Some(gap.kind.as_str()), gap.bytes.map(|n| i64::try_from(n).unwrap_or(i64::MAX))),
        };
        LogRow {
            deployment_id: self.whose.deployment_id,
            lease: self.whose.lease,
            claim_day: self.whose.claim_day,
            job: &self.whose.job,
            attempt: self.whose.ordinal,
            seq: self.chunk.seq,
            seq_to: self.chunk.seq_to,
            stream: self.chunk.stream.as_str(),
            text: &self.chunk.text,
            ts: self.chunk.ts,
            gap_kind,
            gap_bytes,
        }
    }
}

/// The log of one attempt. Bounded: who writes asks [`AttemptLog::room`] first.
pub struct AttemptLog {
    whose: Arc<Whose>,
    limit_bytes: usize,
    flush_bytes: usize,
    stall: Duration,
    inner: Mutex<Inner>,
    room: Notify,
    shipper: Arc<Notify>,
}

struct Inner {
    capture: Capture,
    /// Fixed chunks that are not acknowledged yet, in order.
    unacked: VecDeque<Arc<Chunk>>,
    unacked_bytes: usize,
    finished: bool,
    closed: bool,
    /// Nothing was stored for too long: until something is, the capture takes what it can and counts the rest.
    stalled: bool,
}

impl AttemptLog {
    /// An empty log; `shipper` is told when something is worth sending early.
    pub fn new(claimed: &Claimed, settings: &Logs, shipper: Arc<Notify>) -> Self {
        let limit_bytes = settings.attempt_buffer_bytes;
        let whose = Whose {
            deployment_id: claimed.deployment_id,
            lease: claimed.lease,
            claim_day: claimed.claim_day,
            job: claimed.job.clone(),
            ordinal: claimed.ordinal,
        };
        let inner = Inner {
            capture: Capture::new(limit_bytes.saturating_add(SLACK_BYTES)),
            unacked: VecDeque::new(),
            unacked_bytes: 0,
            finished: false,
            closed: false,
            stalled: false,
        };
        Self {
            whose: Arc::new(whose),
            limit_bytes,
            flush_bytes: settings.flush_bytes.min(limit_bytes / 2),
            stall: Duration::from_secs(settings.stall_s),
            inner: Mutex::new(inner),
            room: Notify::new(),
            shipper,
        }
    }

    /// Whose log it is.
    pub fn whose(&self) -> &Whose {
        &self.whose
    }

    /// A line of Tendril itself.
    pub fn say(&self, line: &str) {
        self.inner().capture.system(line, clock::wall());
    }

    /// The next command begins.
    pub fn begin_child(&self, stdout: Dialect) {
        self.inner().capture.begin_child(stdout, clock::wall());
    }

    /// Bytes from a pipe.
    pub fn push(&self, stream: Stream, bytes: &[u8]) {
        let mut inner = self.inner();
        inner.capture.push(stream, bytes, clock::wall());
        if inner.waiting() > self.flush_bytes {
            self.shipper.notify_one();
        }
    }

    /// The pipe has ended.
    pub fn end(&self, stream: Stream) {
        self.inner().capture.end(stream, clock::wall());
    }

    /// The log has ended; its last number, -1 when it is empty.
    pub fn finish(&self) -> i64 {
        let mut inner = self.inner();
        inner.finished = true;
        let end = inner.capture.finish(clock::wall());
        self.shipper.notify_one();
        end
    }

    /// Waits until more may be pushed, but while nothing of the log is stored no longer than `logs.stall_s`: then output
    /// gets lost, with a gap in its place, rather than that a command is held up for ever.
    pub async fn room(&self) {
        loop {
            let stored = self.room.notified();
            {
                let inner = self.inner();
                if inner.closed || inner.stalled || inner.waiting() < self.limit_bytes {
                    return;
                }
            }
            if tokio::time::timeout(self.stall, stored).await.is_err() {
                self.inner().stalled = true;
                tracing::warn!(attempt.id = %self.whose.lease.attempt_id, "its log cannot be stored; output may get lost");
            }
        }
    }

    /// What the engine's events have told so far, when they have told anything.
    pub fn progress(&self) -> Progress {
        self.inner().capture.events().progress().clone()
    }

    /// Errors that the engine's events have told.
    pub fn problems(&self) -> Vec<Problem> {
        self.inner().capture.events().problems().to_vec()
    }

    /// The output values that the engine's events have told, sensitive ones masked.
    pub fn outputs(&self) -> Option<Map<String, Value>> {
        self.inner().capture.events().outputs().cloned()
    }

    /// Whether an event was too long to be read.
    pub fn has_missed_an_event(&self) -> bool {
        self.inner().capture.events().has_missed()
    }

    // ---- for the shipper ----

    /// Bytes that wait to be stored.
    pub fn waiting(&self) -> usize {
        self.inner().waiting()
    }

    /// Age of the oldest text that waits.
    pub fn lag(&self) -> Option<Duration> {
        let oldest = {
            let inner = self.inner();
            inner.unacked.front().map(|chunk| chunk.ts).or(inner.capture.oldest())?
        };
        Duration::try_from(clock::wall() - oldest).ok()
    }

    /// The next chunks to send, from the first unacknowledged one on, up to about `budget` bytes.
    pub fn outgoing(&self, budget: usize) -> Vec<Outgoing> {
        let mut inner = self.inner();
        if inner.closed {
            return Vec::new();
        }
        inner.capture.idle(clock::wall(), IDLE);
        if inner.unacked_bytes < budget {
            let free = budget - inner.unacked_bytes;
            let more = inner.capture.drain(free);
            for chunk in more {
                inner.unacked_bytes += chunk.text.len();
                inner.unacked.push_back(Arc::new(chunk));
            }
        }
        let mut left = budget;
        let mut rows = Vec::new();
        for chunk in &inner.unacked {
            if left == 0 {
                break;
            }
            left = left.saturating_sub(chunk.text.len());
            rows.push(Outgoing { whose: self.whose.clone(), chunk: chunk.clone() });
        }
        rows
    }

    /// Everything up to and including `stored` is in the database. False when what should come next is not here any
    /// more: then the log cannot go on.
    pub fn acknowledge(&self, stored: i64) -> bool {
        let mut inner = self.inner();
        let before = inner.unacked.len();
        while inner.unacked.front().is_some_and(|chunk| chunk.seq_to <= stored) {
            let bytes = inner.unacked.pop_front().map_or(0, |chunk| chunk.text.len());
            inner.unacked_bytes -= bytes;
        }
        // Only what was stored is progress: a session that comes and goes is none.
        if inner.unacked.len() < before {
            inner.stalled = false;
            self.room.notify_waiters();
        }
        inner.unacked.front().is_none_or(|chunk| chunk.seq == stored + 1)
    }

    /// The broker takes nothing more of this log: what waits is dropped, and writers never wait again.
    pub fn close(&self) -> usize {
        let mut inner = self.inner();
        let dropped = inner.waiting();
        inner.closed = true;
        inner.unacked.clear();
        inner.unacked_bytes = 0;
        self.room.notify_waiters();
        dropped
    }

    /// Whether all of a finished log is stored, or nobody wants the rest.
    pub fn is_done(&self) -> bool {
        let inner = self.inner();
        inner.finished && (inner.closed || inner.waiting() == 0 && inner.unacked.is_empty())
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here panics half-way; a poisoned lock still holds a whole value.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn waiting(&self) -> usize {
        self.capture.waiting_bytes() + self.unacked_bytes
    }
}
