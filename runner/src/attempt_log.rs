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
mod tests {
    use super::*;
    use crate::logs::Secret;
    use crate::testing::claimed;
    use tendril_broker::runner::Lease;
    use time::Date;
    use uuid::Uuid;

    /// Sooner than anybody loses patience.
    const SOON: Duration = Duration::from_secs(10);

    fn log(intake: &Arc<Intake>) -> AttemptLog {
        log_of(intake, 1000)
    }

    fn log_of(intake: &Arc<Intake>, attempt_buffer_bytes: usize) -> AttemptLog {
        let lease = Lease { attempt_id: Uuid::from_u128(1), fence: 1 };
        let whose = Whose { deployment_id: Uuid::nil(), lease, claim_day: Date::MIN, job: "a".into(), ordinal: 1 };
        let settings = Logs { attempt_buffer_bytes, ..Logs::default() };
        AttemptLog::new(Arc::new(whose), 0, &settings, intake.clone())
    }

    async fn was_told(signal: &Notify) -> bool {
        has_come(&mut Box::pin(signal.notified())).await
    }

    /// Asked once.
    async fn has_come(what: &mut (impl Future + Unpin)) -> bool {
        tokio::select! {
            biased;
            _ = what => true,
            () = std::future::ready(()) => false,
        }
    }

    #[test]
    fn a_secret_that_was_shortened_does_not_show_in_what_tendril_says() {
        let log = log(&Arc::new(Intake::new(1 << 20, 1 << 20)));
        let (secrets, _) = Secrets::new(&[Secret::new("inputs.password", "correct horse battery staple")]).unwrap();
        log.redact(Arc::new(secrets));
        log.say("tendril: no such user: correct horse bat… (see above)");
        let said: String = log.collect(u64::MAX, Look::AtAll).chunks.into_iter().map(|chunk| chunk.text).collect();
        assert_eq!(said, "tendril: no such user: [redacted]… (see above)\n");
    }

    #[test]
    fn loud_logs_whom_the_spool_has_no_room_for_leave_room_to_quiet_ones() {
        let intake = Arc::new(Intake::new(16 * 1024, 1 << 20));
        let loud: Vec<_> = (0..5).map(|_| log_of(&intake, 1 << 20)).collect();
        let quiet = log_of(&intake, 1 << 20);
        // In turn, for as long as any of them finds room; nothing is ever taken.
        while loud
            .iter()
            .filter(|log| log.has_room())
            .inspect(|log| log.push(Stream::Stdout, b"a line of some length\n"))
            .count()
            > 0
        {}
        assert!(quiet.has_room() && intake.left() > 1000, "{} bytes are left", intake.left());
        quiet.push(Stream::Stdout, b"a line\n");
        assert!(quiet.has_room());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn those_who_wait_are_let_in_one_after_the_other_and_not_beyond_the_room_that_there_is() {
        let intake = Arc::new(Intake::new(10_000, 1 << 20));
        let full = log_of(&intake, 1 << 20);
        full.push(Stream::Stdout, "a line of some length\n".repeat(500).as_bytes());
        assert_eq!(intake.left(), 0);
        let served = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let mut waiting = tokio::task::JoinSet::new();
        for _ in 0..100 {
            let (log, served) = (log_of(&intake, 1 << 20), served.clone());
            waiting.spawn(async move {
                let let_in = log.room(BootTime::now()).await;
                // What it came for is done later, as by a reader who waits for its turn.
                tokio::task::yield_now().await;
                log.push(Stream::Stdout, &[b'x'; 3000]);
                log.push(Stream::Stdout, b"\n");
                served.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                drop(let_in);
                log
            });
        }
        let settle = async || {
            for _ in 0..1000 {
                tokio::task::yield_now().await;
            }
            served.load(std::sync::atomic::Ordering::Relaxed)
        };
        assert_eq!(settle().await, 0);
        full.collect(u64::MAX, Look::AtAll);
        intake.turned();
        assert_eq!(settle().await, 4, "10,000 bytes have room for three of them, and one more begins");
        while let Some(Ok(log)) = waiting.try_join_next() {
            log.collect(u64::MAX, Look::AtAll);
        }
        intake.turned();
        assert_eq!(settle().await, 8);
    }

    #[tokio::test]
    async fn one_who_is_called_and_goes_away_calls_the_next() {
        let intake = Arc::new(Intake::new(1000, 1 << 20));
        let logs: Vec<_> = (0..3).map(|_| log_of(&intake, 1 << 20)).collect();
        logs[0].push(Stream::Stdout, "a line of some length\n".repeat(100).as_bytes());
        let mut first = Box::pin(logs[1].room(BootTime::now()));
        let mut second = Box::pin(logs[2].room(BootTime::now()));
        assert!(!has_come(&mut first).await && !has_come(&mut second).await, "there is no room");
        logs[0].collect(u64::MAX, Look::AtAll);
        intake.turned();
        drop(first);
        let let_in =
            tokio::time::timeout(SOON, second).await.expect("the first has gone, and the second is not called");
        // Tried: two are called one after the other by one turn, the second by the first.
        logs[0].push(Stream::Stdout, "a line of some length\n".repeat(100).as_bytes());
        drop(let_in);
        let mut first = Box::pin(logs[1].room(BootTime::now()));
        let mut second = Box::pin(logs[2].room(BootTime::now()));
        assert!(!has_come(&mut first).await && !has_come(&mut second).await, "there is no room");
        logs[0].collect(u64::MAX, Look::AtAll);
        intake.turned();
        drop(tokio::time::timeout(SOON, first).await.expect("the first is called"));
        drop(
            tokio::time::timeout(SOON, second)
                .await
                .expect("the first has come and gone, and the second is not called"),
        );
    }

    #[tokio::test]
    async fn who_waits_hears_that_the_spool_is_full_and_that_nobody_takes_the_log_any_more() {
        let intake = Arc::new(Intake::new(1000, 1 << 20));
        let settings = Logs { attempt_buffer_bytes: 1 << 20, stall_s: 0, ..Logs::default() };
        let new = || AttemptLog::new(Arc::new(Whose::of(&claimed(1))), 0, &settings, intake.clone());
        let (impatient, closed) = (new(), new());
        for log in [&impatient, &closed] {
            log.push(Stream::Stdout, "a line of some length\n".repeat(100).as_bytes());
        }
        assert_eq!(intake.left(), 0);
        let mut waits = [Box::pin(impatient.room(BootTime::now())), Box::pin(closed.room(BootTime::now()))];
        for wait in &mut waits {
            assert!(!has_come(wait).await, "there is no room, and nobody knows yet why");
        }
        let [impatient_waits, closed_waits] = waits;
        // A turn that finds the spool full takes nothing, so nobody is called in.
        assert!(impatient.collect(0, Look::AtAll).chunks.is_empty());
        intake.turned();
        drop(
            tokio::time::timeout(SOON, impatient_waits).await.expect("with stall_s = 0 nobody waits for a full spool"),
        );
        closed.close(None);
        drop(tokio::time::timeout(SOON, closed_waits).await.expect("nobody waits for a log that is closed"));
    }

    #[test]
    fn one_that_waits_no_more_goes_on_while_others_fill_the_memory_and_leaves_room_itself() {
        let intake = Arc::new(Intake::new(16 * 1024, 1 << 20));
        let (loud, quiet) = (log_of(&intake, 1 << 20), log_of(&intake, 1 << 20));
        loud.push(Stream::Stdout, "a line of some length\n".repeat(1000).as_bytes());
        assert_eq!(intake.left(), 0);
        quiet.inner().stalled = true;
        assert!(quiet.collect(0, Look::AtAll).chunks.is_empty());
        assert!(quiet.has_room(), "it would wait anew for each of its reads");
        // Tried: far more than there is room for, by one that does not wait.
        loud.collect(u64::MAX, Look::AtAll);
        quiet.push(Stream::Stdout, "a line of some length\n".repeat(10_000).as_bytes());
        assert!(intake.left() >= 7 * 1024, "{} bytes are left", intake.left());
        assert!(quiet.counters().refused_bytes > 0);
        quiet.collect(u64::MAX, Look::AtAll);
        assert!(!quiet.inner().stalled);
    }

    #[test]
    fn a_look_at_what_is_ripe_does_not_take_a_full_spool_for_one_with_room() {
        let log = log_of(&Arc::new(Intake::new(1 << 20, 1 << 20)), 1 << 20);
        log.push(Stream::Stdout, b"the beginning of a chunk\n");
        assert!(log.collect(0, Look::AtAll).is_more && log.inner().full);
        assert!(!log.collect(0, Look::AtRipe).is_more && log.inner().full);
        log.collect(u64::MAX, Look::AtAll);
        assert!(!log.inner().full);
    }

    #[tokio::test]
    async fn who_waits_for_a_full_spool_does_not_make_the_collector_turn_without_a_rest() {
        let intake = Arc::new(Intake::new(1 << 20, 1 << 20));
        let log = log(&intake);
        log.push(Stream::Stdout, "a line of some length\n".repeat(100).as_bytes());
        let mut room = Box::pin(log.room(BootTime::now()));
        let mut turns_asked_for = 0;
        for _ in 0..3 {
            assert!(!has_come(&mut room).await, "nothing was taken");
            turns_asked_for += usize::from(was_told(&intake.urgent).await);
            // What a turn does that finds the spool full.
            assert!(log.collect(0, Look::AtAll).chunks.is_empty());
            intake.turned();
        }
        assert_eq!(turns_asked_for, 1);
        log.collect(u64::MAX, Look::AtAll);
        intake.turned();
        drop(tokio::time::timeout(SOON, room).await.expect("there is room"));
        assert!(!intake.take_paused().is_zero(), "how long it waited is counted");
    }
}
