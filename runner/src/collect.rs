//! Collects the chunks of all running attempts into the spool: every flush interval, or sooner.
//!
//! Sooner where that pays: when much waits, when a log has ended, and when something comes after a rest, so that a line
//! that comes alone is shown at once and many are still sent together.

use crate::attempt_log::{AttemptLog, Look};
use crate::clock;
use crate::config::Logs;
use crate::intake::Intake;
use crate::metrics::Metrics;
use crate::off_loop::beside;
use crate::spool::{Admission, Level, Spool};
use crate::whose::Whose;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tendril_broker::runner::{Claimed, Lease};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// What comes after a rest is given this long to bring its neighbours along.
const LINGER: Duration = Duration::from_millis(20);
/// A look at all logs is followed by a rest of three times as long, but for no longer than this: a full spool makes each
/// turn one of those.
const LONGEST_REST: Duration = Duration::from_millis(50);
/// How often it is looked for chunks that are too old.
const EXPIRE_EVERY: Duration = Duration::from_secs(600);
/// How long a report waits for the spool to take its log: a turn of the collector takes milliseconds.
const SPOOL_WITHIN: Duration = Duration::from_secs(5);

/// The logs of all running attempts.
pub struct Collector {
    settings: Logs,
    spool: Arc<Spool>,
    metrics: Arc<Metrics>,
    intake: Arc<Intake>,
    logs: Mutex<BTreeMap<Uuid, Arc<AttemptLog>>>,
}

impl Collector {
    /// A collector that no log was opened with yet.
    pub fn new(settings: Logs, spool: Arc<Spool>, metrics: Arc<Metrics>) -> Self {
        let intake = Arc::new(Intake::new(settings.memory_bytes / 2, settings.urgent_bytes()));
        Self { settings, spool, metrics, intake, logs: Mutex::default() }
    }

    /// Opens the log of a claimed attempt.
    pub fn open(&self, claimed: &Claimed) -> Arc<AttemptLog> {
        let whose = Arc::new(Whose::of(claimed));
        let next_seq = self.spool.open(whose.clone());
        self.begin(whose, next_seq)
    }

    /// Goes on with the log of an attempt that an earlier process began, where nobody has numbered anything yet.
    pub fn go_on(&self, claimed: &Claimed) -> Arc<AttemptLog> {
        let whose = Arc::new(Whose::of(claimed));
        let (next_seq, is_lost) = self.spool.go_on(whose.clone());
        let log = self.begin(whose, next_seq);
        if is_lost {
            log.lost();
        }
        log
    }

    /// Nobody goes on with the log of an attempt that an earlier process began: it has reported its end.
    pub async fn leave(&self, lease: &Lease) {
        let (spool, attempt) = (self.spool.clone(), lease.attempt_id);
        beside(move || spool.leave(attempt, clock::wall())).await;
    }

    /// Waits until the broker has said once how far it has each log, and takes none from anybody else.
    pub async fn taken_over(&self) {
        self.spool.taken_over().await;
    }

    /// Waits until the spool holds a log that has ended to its end: what is on disk then outlives this process. Longer than
    /// `SPOOL_WITHIN` only a spool takes that is full or fails, and nobody waits for that.
    pub async fn spooled(&self, lease: &Lease) {
        let begun = Instant::now();
        loop {
            let turned = self.intake.turned.notified();
            let (spool, attempt) = (self.spool.clone(), lease.attempt_id);
            if beside(move || spool.has_all_of(attempt)).await {
                return;
            }
            let left = SPOOL_WITHIN.saturating_sub(begun.elapsed());
            if tokio::time::timeout(left, turned).await.is_err() {
                tracing::warn!(attempt.id = %lease.attempt_id, "the spool does not take its log; its end is reported all the same");
                return;
            }
        }
    }

    fn begin(&self, whose: Arc<Whose>, next_seq: i64) -> Arc<AttemptLog> {
        let attempt = whose.lease.attempt_id;
        let log = Arc::new(AttemptLog::new(whose, next_seq, &self.settings, self.intake.clone()));
        self.logs().insert(attempt, log.clone());
        // Its first words may be a prompt, of which nobody tells: from now on it is looked after.
        self.intake.first.notify_one();
        log
    }

    /// Bytes of text that the spool does not have yet.
    pub fn captured_bytes(&self) -> usize {
        self.intake.waiting()
    }

    /// Age of the oldest text that is not stored yet, and how much of it there is.
    pub fn level(&self) -> (Duration, Level) {
        let logs: Vec<_> = self.logs().values().cloned().collect();
        let mut level = self.spool.level();
        let captured = self.intake.waiting();
        level.waiting_bytes += captured as u64;
        level.memory_bytes += captured;
        let oldest = logs.iter().filter_map(|log| log.oldest()).chain(self.spool.oldest()).min();
        self.metrics.log_paused(self.intake.take_paused());
        let lag = oldest.and_then(|oldest| Duration::try_from(clock::wall() - oldest).ok());
        (lag.unwrap_or_default(), level)
    }

    /// Collects until `end`, and then until the spool has all of the logs that have ended: it may have to wait for room, which
    /// the shipper makes. May be dropped at any time.
    pub async fn run(self: Arc<Self>, end: CancellationToken) {
        let interval = Duration::from_millis(self.settings.flush_interval_ms);
        // When all were looked at last, and when that came to anything.
        let (mut looked, mut last) = (Instant::now(), Instant::now());
        let (mut expired, mut rests) = (Instant::now(), Instant::now());
        while !end.is_cancelled() {
            let urgent = tokio::select! {
                () = self.intake.first.notified() => false,
                () = self.intake.urgent.notified() => true,
                () = tokio::time::sleep_until(looked + interval), if self.has_work() => false,
                () = tokio::time::sleep(EXPIRE_EVERY) => false,
                () = end.cancelled() => true,
            };
            if !urgent {
                tokio::select! {
                    () = tokio::time::sleep_until((last + interval).max(Instant::now() + LINGER)) => {}
                    () = self.intake.urgent.notified() => {}
                    () = end.cancelled() => {}
                }
            }
            tokio::select! {
                () = tokio::time::sleep_until(rests) => {}
                () = end.cancelled() => {}
            }
            let is_due = last.elapsed() >= interval || self.intake.is_filling() || self.has_many_quiet();
            let look = if is_due { Look::AtAll } else { Look::AtRipe };
            let begun = Instant::now();
            let any = self.clone().turn(look).await;
            if is_due {
                looked = Instant::now();
                rests = looked + (3 * begun.elapsed()).min(LONGEST_REST);
                last = if any { looked } else { last };
            }
            if expired.elapsed() >= EXPIRE_EVERY {
                expired = Instant::now();
                let collector = self.clone();
                if let Err(error) = tokio::task::spawn_blocking(move || collector.expire()).await {
                    tracing::error!(%error, "looking for log text that is too old failed");
                }
            }
        }
        self.clone().turn(Look::AtAll).await;
        while self.logs().values().any(|log| log.has_ended()) {
            tokio::time::sleep(interval).await;
            self.clone().turn(Look::AtAll).await;
        }
    }

    /// A line without its end has to be looked after, or a disk that failed.
    fn has_work(&self) -> bool {
        !self.logs().is_empty() || self.spool.is_failing()
    }

    /// Whether logs have come to much of which none is ripe.
    fn has_many_quiet(&self) -> bool {
        self.intake.has_much() && !self.intake.has_ripe()
    }

    fn expire(&self) {
        let bytes = self.spool.expire(clock::wall());
        if bytes > 0 {
            tracing::error!(bytes, "log text was too old to be sent any more; gaps stand in its place");
        }
    }

    /// Away from the runtime: disks can be slow.
    async fn turn(self: Arc<Self>, look: Look) -> bool {
        let turned = tokio::task::spawn_blocking(move || self.collect(look)).await;
        // The logs of other jobs are worth the next turn.
        turned.unwrap_or_else(|error| {
            tracing::error!(%error, "collecting log text failed; what it had in hand is lost");
            false
        })
    }

    /// The logs that a turn looks at, in the order of their ids.
    fn looked_at(&self, look: Look) -> Vec<(Uuid, Arc<AttemptLog>)> {
        let ripe = self.intake.take_ripe();
        let logs = self.logs();
        match look {
            Look::AtRipe => ripe.into_iter().filter_map(|id| Some((id, logs.get(&id)?.clone()))).collect(),
            Look::AtAll => logs.iter().map(|(id, log)| (*id, log.clone())).collect(),
        }
    }

    /// Puts what these logs have into the spool; whether there was anything.
    fn collect(&self, look: Look) -> bool {
        let logs = self.looked_at(look);
        let attempts: Vec<Uuid> = logs.iter().map(|(attempt, _)| *attempt).collect();
        let (mut chunks, mut ended, mut over, mut taken) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for ((attempt, log), admitted) in logs.into_iter().zip(self.spool.admits(&attempts)) {
            let admitted = match admitted {
                Admission::Bytes(bytes) => bytes,
                Admission::Unwanted => {
                    log.close(None);
                    over.push(attempt);
                    continue;
                }
                Admission::OverQuota(from) => {
                    let last_seq = log.close(Some(from));
                    self.spool.end_over_quota(attempt, last_seq, None, clock::wall());
                    over.push(attempt);
                    continue;
                }
            };
            let collected = log.collect(admitted.saturating_sub(taken), look);
            self.metrics.log_dropped(collected.refused_bytes);
            if collected.is_more {
                self.intake.tell(attempt);
            }
            taken += collected.chunks.iter().map(|chunk| chunk.text.len() as u64).sum::<u64>();
            if !collected.chunks.is_empty() {
                chunks.push((attempt, collected.chunks));
            }
            if let Some(last_seq) = collected.end {
                ended.push((attempt, last_seq));
                over.push(attempt);
            }
        }
        let any = !chunks.is_empty() || !ended.is_empty();
        if any || self.spool.is_failing() {
            let was_failing = self.spool.is_failing();
            match self.spool.put(chunks, &ended) {
                Ok(()) if was_failing => tracing::info!("the disk takes log text again"),
                Ok(()) => {}
                Err(error) if !was_failing => {
                    tracing::error!(%error, "the disk takes no log text; it waits in memory as far as there is room");
                }
                Err(_) => {}
            }
        }
        self.intake.turned();
        let mut logs = self.logs();
        for attempt in over {
            logs.remove(&attempt);
        }
        any
    }

    fn logs(&self) -> MutexGuard<'_, BTreeMap<Uuid, Arc<AttemptLog>>> {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::BootTime;
    use crate::logs::Stream;
    use crate::spool::Limits;
    use crate::testing::claimed;
    use tempfile::TempDir;

    /// What takes 300,000 bytes of a log whose buffer has 262,144.
    const LINES: usize = 30_000;
    const PATIENCE: Duration = Duration::from_secs(30);

    fn collector(folder: &TempDir, settings: &Logs, limits: Limits) -> (Arc<Collector>, Arc<Spool>, Arc<Metrics>) {
        let (spool, _) = Spool::open_dir(folder.path(), limits, Uuid::from_u128(9), clock::wall()).unwrap();
        let (spool, metrics) = (Arc::new(spool), Arc::new(Metrics::default()));
        (Arc::new(Collector::new(settings.clone(), spool.clone(), metrics.clone())), spool, metrics)
    }

    #[tokio::test]
    async fn what_is_much_and_a_log_that_has_ended_wait_for_no_interval() {
        let folder = TempDir::new().unwrap();
        let settings = Logs { flush_interval_ms: 3_600_000, flush_bytes: 65_536, ..Logs::default() };
        let (collector, spool, _) = collector(&folder, &settings, settings.limits());
        let running = tokio::spawn(collector.clone().run(CancellationToken::new()));
        let filled = async || {
            let filled = tokio::time::timeout(PATIENCE, spool.filled.notified()).await;
            assert!(filled.is_ok(), "it waits for the interval, which is an hour");
        };
        let (loud, quiet) = (collector.open(&claimed(1)), collector.open(&claimed(2)));
        loud.push(Stream::Stdout, "0123456\n".repeat(10_000).as_bytes());
        filled().await;
        assert_eq!(spool.level().waiting_bytes, 2 * 32_768, "what makes whole rows, and no beginning of one");
        quiet.push(Stream::Stdout, b"the end\n");
        quiet.finish();
        filled().await;
        assert_eq!(spool.level().waiting_bytes, 2 * 32_768 + 8);
        running.abort();
    }

    #[tokio::test]
    async fn many_quiet_logs_that_come_to_much_wait_for_no_interval() {
        let folder = TempDir::new().unwrap();
        let settings = Logs { flush_interval_ms: 3_600_000, flush_bytes: 65_536, ..Logs::default() };
        let (collector, spool, _) = collector(&folder, &settings, settings.limits());
        let running = tokio::spawn(collector.clone().run(CancellationToken::new()));
        for n in 1..=100 {
            collector.open(&claimed(n)).push(Stream::Stdout, "0123456\n".repeat(100).as_bytes());
        }
        let filled = tokio::time::timeout(PATIENCE, spool.filled.notified()).await;
        assert!(filled.is_ok(), "none of them is ripe, and all wait for the interval, which is an hour");
        running.abort();
    }

    #[tokio::test]
    async fn what_a_full_spool_does_to_a_command_is_counted_by_time_and_by_bytes() {
        let folder = TempDir::new().unwrap();
        let settings = Logs { attempt_buffer_bytes: 262_144, stall_s: 0, ..Logs::default() };
        let (collector, _, metrics) = collector(&folder, &settings, Limits { disk_bytes: 0, ..settings.limits() });
        let log = collector.open(&claimed(1));
        let figure = |name: &str| -> f64 {
            collector.level();
            let text = metrics.text().unwrap();
            let line =
                text.lines().find_map(|line| line.strip_prefix(&format!("tendril_runner_{name}_total "))).unwrap();
            line.parse().unwrap()
        };
        log.push(Stream::Stdout, "012345678\n".repeat(LINES).as_bytes());
        collector.collect(Look::AtAll);
        assert_eq!((figure("log_paused_seconds"), figure("log_dropped_bytes")), (0.0, 0.0));
        // It pauses for as long as it may, which is not at all, and then takes what finds no room.
        drop(log.room(BootTime::now()).await);
        log.push(Stream::Stdout, "012345678\n".repeat(40 * LINES).as_bytes());
        collector.collect(Look::AtAll);
        assert!(figure("log_paused_seconds") > 0.0);
        let refused = log.counters().refused_bytes;
        assert!(
            refused > 0 && (figure("log_dropped_bytes") - refused as f64).abs() < 0.5,
            "{refused} bytes are missing"
        );
    }
}
