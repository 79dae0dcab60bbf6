//! The log of one running attempt: written by its job, emptied by the collector.

use crate::clock::{self, BootTime};
use crate::config::Logs;
use crate::intake::{Intake, LetIn};
use crate::logs::{
    Capture, Chunk, Counters, Dialect, Gap, GapKind, Problem, Progress, Secrets, Stream, without_secrets,
};
use crate::whose::Whose;
use serde_json::{Map, Value};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use time::OffsetDateTime;
use tokio::sync::Notify;

/// What the capture takes beyond the limit, in bytes: who writes asks for room only before each read, of which an event
/// or a run of NULs makes more.
const SLACK_BYTES: usize = 4 * 1024 * 1024;
/// A line without its end is shown after this long.
const IDLE: time::Duration = time::Duration::seconds(1);
/// The spool has room, but its disk takes nothing: after this long output gets lost rather than that a command hangs.
const STUCK: Duration = Duration::from_secs(30);

/// The log of one attempt. Bounded: who writes asks [`AttemptLog::room`] first.
pub struct AttemptLog {
    whose: Arc<Whose>,
    intake: Arc<Intake>,
    limit_bytes: usize,
    stall: Duration,
    inner: Mutex<Inner>,
    /// The spool has no room for it any more, or nobody takes it: who waits is to know.
    turned_away: Notify,
}

struct Inner {
    capture: Capture,
    /// What the intake knows of.
    counted: usize,
    /// The intake knows that it is ripe: that it has more than the beginning of a chunk, or has ended.
    ripe: bool,
    told: Counters,
    finished: bool,
    closed: bool,
    /// With this number, before it was finished.
    closed_at: Option<i64>,
    /// The spool has no room for it.
    full: bool,
    /// Nothing was taken for too long: until something is, the capture takes what it can and counts the rest.
    stalled: bool,
    /// The runner's own log says so; with a spool that is full for long it would say little else.
    has_stalled: bool,
}

/// What a turn of the collector looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// At logs that have ended, or have enough for rows of a good size: each of thousands may be worth a turn.
    AtRipe,
    /// At all, and at lines without an end: once in a flush interval.
    AtAll,
}

/// What the collector takes at one go.
#[derive(Debug, Default)]
pub struct Collected {
    /// The next chunks, fixed from now on.
    pub chunks: Vec<Chunk>,
    /// The last number, when nothing follows any more.
    pub end: Option<i64>,
    /// Whether something is left.
    pub is_more: bool,
    /// Bytes that were refused since the last time, for want of room.
    pub refused_bytes: u64,
}

impl Inner {
    fn take(&mut self, look: Look, max_bytes: usize) -> Vec<Chunk> {
        match look {
            Look::AtRipe => self.capture.drain_ripe(max_bytes),
            Look::AtAll => self.capture.drain(max_bytes),
        }
    }
}

impl AttemptLog {
    /// A log whose first number is `next_seq`: 0, unless another process began it.
    pub fn new(whose: Arc<Whose>, next_seq: i64, settings: &Logs, intake: Arc<Intake>) -> Self {
        let limit_bytes = settings.attempt_buffer_bytes;
        let inner = Inner {
            capture: Capture::new(limit_bytes.saturating_add(SLACK_BYTES))
                .capped(settings.cap_bytes, settings.cap_tail_bytes)
                .going_on(next_seq),
            counted: 0,
            ripe: false,
            told: Counters::default(),
            finished: false,
            closed: false,
            closed_at: None,
            full: false,
            stalled: false,
            has_stalled: false,
        };
        Self {
            whose,
            intake,
            limit_bytes,
            stall: Duration::from_secs(settings.stall_s),
            inner: Mutex::new(inner),
            turned_away: Notify::new(),
        }
    }

    /// Whose log it is.
    pub fn whose(&self) -> &Arc<Whose> {
        &self.whose
    }

    /// From now on these secrets are kept out of it.
    pub fn redact(&self, secrets: Arc<Secrets>) {
        self.change(|inner| inner.capture.redact(secrets, clock::wall()));
    }

    /// The secrets that are kept out of it, and are to be kept out of all else that is told of the attempt.
    pub fn secrets(&self) -> Arc<Secrets> {
        self.inner().capture.secrets().clone()
    }

    /// What went through so far.
    pub fn counters(&self) -> Counters {
        self.inner().capture.counters()
    }

    /// A line of Tendril itself. It may quote others, shortened.
    pub fn say(&self, line: &str) {
        let line = without_secrets(line, &self.secrets());
        self.change(|inner| inner.capture.system(&line, clock::wall()));
    }

    /// The next command begins.
    pub fn begin_child(&self, stdout: Dialect) {
        self.change(|inner| inner.capture.begin_child(stdout, clock::wall()));
    }

    /// Bytes from a pipe.
    pub fn push(&self, stream: Stream, bytes: &[u8]) {
        self.change(|inner| inner.capture.push(stream, bytes, clock::wall()));
    }

    /// What an earlier process had read is nowhere, and nobody knows how much it was.
    pub fn lost(&self) {
        let gap = Gap { kind: GapKind::Lost, bytes: None };
        self.change(|inner| inner.capture.gap(Stream::System, gap, clock::wall()));
    }

    /// So many bytes of a stream are nowhere.
    pub fn missed(&self, stream: Stream, bytes: u64) {
        let gap = Gap { kind: GapKind::Overflow, bytes: Some(bytes) };
        self.change(|inner| inner.capture.gap(stream, gap, clock::wall()));
    }

    /// The pipe has ended.
    pub fn end(&self, stream: Stream) {
        self.change(|inner| inner.capture.end(stream, clock::wall()));
    }

    /// The log has ended; its last number, -1 when it is empty.
    pub fn finish(&self) -> i64 {
        let end = self.change(|inner| {
            inner.finished = true;
            let last_seq = inner.capture.finish(clock::wall());
            inner.closed_at.unwrap_or(last_seq)
        });
        self.intake.urgent.notify_one();
        end
    }

    /// Whether more may be pushed at once: each log may have as much as all together leave free, so that loud ones whom the
    /// spool has no room for leave some to the quiet ones.
    pub fn has_room(&self) -> bool {
        let inner = self.inner();
        inner.closed || inner.stalled || inner.capture.waiting_bytes() < self.limit_bytes.min(self.intake.left())
    }

    /// How long output waits for room.
    fn patience(&self, inner: &Inner) -> Duration {
        if inner.full { self.stall } else { self.stall.max(STUCK) }
    }

    /// Waits until more may be pushed; what this returns is dropped when that is done, for the next one who waits. While the
    /// spool has no room for this log that is at most `logs.stall_s` after `since`: then output gets lost, with a gap in its
    /// place, rather than that a command is held up for ever.
    pub async fn room(&self, since: BootTime) -> LetIn<'_> {
        let (mut turns, mut pause, mut is_called) = (self.intake.turns(), None, false);
        loop {
            let (called, turned_away) = (self.intake.next_in_row(), self.turned_away.notified());
            if self.has_room() {
                return self.intake.come_in(is_called);
            }
            // Once: a turn of the collector may find no room in the spool.
            if pause.is_none() {
                pause = Some(self.intake.pause());
                self.intake.urgent.notify_one();
            }
            // Others may have room where this one has none. Who was called in this turn already ends the row.
            let before = std::mem::replace(&mut turns, self.intake.turns());
            if turns > before {
                self.intake.call_next();
            }
            let left = self.patience(&self.inner()).saturating_sub(since.elapsed());
            let heard = async {
                tokio::select! {
                    () = called => true,
                    () = turned_away => false,
                }
            };
            let heard = tokio::time::timeout(left, heard).await;
            is_called = heard == Ok(true);
            let mut inner = self.inner();
            // Meanwhile the spool may have taken something.
            if heard.is_err() && since.elapsed() >= self.patience(&inner) {
                inner.stalled = true;
                if !std::mem::replace(&mut inner.has_stalled, true) {
                    tracing::warn!(attempt.id = %self.whose.lease.attempt_id, "its log finds no room; output may get lost");
                }
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

    // ---- for the collector ----

    /// When the oldest text that waits was printed.
    pub fn oldest(&self) -> Option<OffsetDateTime> {
        self.inner().capture.oldest()
    }

    /// Whether nothing more comes; what came may wait.
    pub fn has_ended(&self) -> bool {
        self.inner().finished
    }

    /// Takes the next chunks, up to about `budget` bytes.
    pub fn collect(&self, budget: u64, look: Look) -> Collected {
        let was_full = self.inner().full;
        let collected = self.change(|inner| {
            if inner.closed {
                return Collected::default();
            }
            inner.capture.idle(clock::wall(), IDLE);
            let chunks = match usize::try_from(budget) {
                Ok(0) => Vec::new(),
                budget => inner.take(look, budget.unwrap_or(usize::MAX)),
            };
            let emptied = inner.capture.waiting_bytes() == 0;
            let is_more = !emptied && (look == Look::AtAll || inner.capture.is_ripe());
            // A look at what is ripe finds nothing where there is only a beginning, for which there may be no room either.
            let any = !chunks.is_empty();
            inner.full = is_more || inner.full && !emptied && !any;
            // One that has nothing waits for the room that others take.
            inner.stalled &= !any && (!emptied || self.intake.left() == 0);
            let counters = inner.capture.counters();
            let refused_bytes = counters.refused_bytes - inner.told.refused_bytes;
            inner.told = counters;
            let end = (inner.finished && emptied).then(|| inner.capture.last_seq());
            Collected { chunks, end, is_more, refused_bytes }
        });
        if collected.is_more && !was_full {
            self.turned_away.notify_waiters();
        }
        collected
    }

    /// Nobody takes more of this log: what waits is dropped, and writers never wait again. It ends with the number `at`,
    /// unless it has been told already that it ends with another; returns its last one.
    pub fn close(&self, at: Option<i64>) -> i64 {
        let last_seq = self.change(|inner| {
            inner.closed = true;
            if !inner.finished {
                inner.closed_at = at;
            }
            inner.closed_at.unwrap_or(inner.capture.last_seq())
        });
        self.turned_away.notify_waiters();
        last_seq
    }

    fn change<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = self.inner();
        if inner.stalled {
            // One that waits no more leaves as much to the others as it has.
            let share = inner.counted.saturating_add(self.intake.left()) / 2;
            let most = share.min(self.limit_bytes).max(inner.counted);
            inner.capture.limit_to(most);
        } else {
            inner.capture.limit_to(self.limit_bytes.saturating_add(SLACK_BYTES));
        }
        let result = change(&mut inner);
        if inner.closed {
            inner.capture.drain(usize::MAX);
        }
        let now = inner.capture.waiting_bytes();
        self.intake.changed(inner.counted, now);
        inner.counted = now;
        let ripe = inner.finished || inner.capture.is_ripe();
        if ripe && !std::mem::replace(&mut inner.ripe, ripe) {
            self.intake.tell(self.whose.lease.attempt_id);
        }
        inner.ripe = ripe;
        result
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here panics half-way; a poisoned lock still holds a whole value.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
