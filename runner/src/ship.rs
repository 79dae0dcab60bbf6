//! Ships the logs of all attempts: one batch for all of them, every flush interval or when enough waits.
//!
//! Exactly once: chunks are fixed, only one session may append, and after anything unclear that session is taken over
//! and the stored positions are read before the next batch.

use crate::attempt_log::{AttemptLog, Outgoing};
use crate::clock::BootTime;
use crate::config::Logs;
use crate::metrics::Metrics;
use backon::{BackoffBuilder, ExponentialBuilder};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tendril_broker::connect::Connector;
use tendril_broker::runner::{BrokerError, Claimed, LogWriter, Position, RefusedAttempt, Written};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// A batch later than this counts as unclear.
const PATIENCE: Duration = Duration::from_secs(20);
/// Batches are sized so that one takes less than this.
const TARGET: Duration = Duration::from_secs(3);
/// Smallest batch, with which every session begins: a line may be slow.
const SMALLEST_BATCH_BYTES: usize = 64 * 1024;
/// Batches one after the other of which nothing was stored, before the session is taken over anew, with its waits.
const FRUITLESS: u32 = 8;

/// All open logs of this runner process, and the one writer for them.
pub struct Shipper {
    settings: Logs,
    writer: Uuid,
    metrics: Arc<Metrics>,
    wake: Arc<Notify>,
    logs: Mutex<BTreeMap<Uuid, Arc<AttemptLog>>>,
    /// Who comes first in a batch; counts on.
    turn: AtomicUsize,
}

impl Shipper {
    /// A shipper that nothing has been given to yet.
    pub fn new(settings: Logs, writer: Uuid, metrics: Arc<Metrics>) -> Self {
        Self { settings, writer, metrics, wake: Arc::default(), logs: Mutex::default(), turn: AtomicUsize::new(0) }
    }

    /// Opens the log of a claimed attempt.
    pub fn open(&self, claimed: &Claimed) -> Arc<AttemptLog> {
        let log = Arc::new(AttemptLog::new(claimed, &self.settings, self.wake.clone()));
        self.logs().insert(claimed.lease.attempt_id, log.clone());
        log
    }

    /// Whether every log is stored to its end.
    pub fn is_idle(&self) -> bool {
        self.logs().is_empty()
    }

    /// Age of the oldest log text that waits, and bytes of all that does.
    pub fn backlog(&self) -> (Duration, usize) {
        let logs: Vec<_> = self.logs().values().cloned().collect();
        let lag = logs.iter().filter_map(|log| log.lag()).max().unwrap_or_default();
        (lag, logs.iter().map(|log| log.waiting()).sum())
    }

    /// Ships until `end`, then what is left, until `end` of patience by the caller: it may be dropped at any time.
    pub async fn run(&self, connector: &Connector, end: CancellationToken) {
        loop {
            let Some(mut session) = self.session(connector, &end).await else { return };
            // A batch that is never stored in time would be sent for ever: each session finds out anew what the line bears.
            let mut batch_bytes = SMALLEST_BATCH_BYTES;
            loop {
                let ended = end.is_cancelled();
                if !ended {
                    self.pause(&end).await;
                }
                match self.flush(&mut session, &mut batch_bytes).await {
                    Ok(()) if ended && self.is_idle() => return,
                    Ok(()) => {}
                    Err(error) => {
                        tracing::warn!(%error, "log rows could not be sent; taking the writer over anew");
                        break;
                    }
                }
            }
        }
    }

    async fn pause(&self, end: &CancellationToken) {
        let interval = Duration::from_millis(self.settings.flush_interval_ms);
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = self.wake.notified() => {}
            () = end.cancelled() => {}
        }
    }

    /// Takes the writer over, with backoff, and forgets what turns out to be stored already.
    async fn session(&self, connector: &Connector, end: &CancellationToken) -> Option<LogWriter> {
        let mut waits = backoff();
        loop {
            let error = match within(self.take_over(connector)).await {
                Ok(session) => return Some(session),
                Err(error) => error,
            };
            if end.is_cancelled() && self.is_idle() {
                return None;
            }
            let wait = waits.next().unwrap_or(Duration::from_secs(10));
            tracing::warn!(%error, wait_ms = wait.as_millis(), "the log connection is down");
            tokio::time::sleep(wait).await;
        }
    }

    async fn take_over(&self, connector: &Connector) -> Result<LogWriter, BrokerError> {
        let session = LogWriter::take_over(connector, self.writer).await?;
        self.resume(&session.positions().await?);
        Ok(session)
    }

    fn resume(&self, positions: &[Position]) {
        for position in positions {
            let log = self.logs().get(&position.lease.attempt_id).cloned();
            if let Some(log) = log
                && !log.acknowledge(position.stored)
            {
                self.give_up(&log, "its next record is not here any more");
            }
        }
        self.forget_done();
    }

    /// Sends what waits, in batches; the last one may be small, and what comes meanwhile waits for the next turn.
    async fn flush(&self, session: &mut LogWriter, batch_bytes: &mut usize) -> Result<(), BrokerError> {
        let mut fruitless = 0;
        loop {
            let batch = self.gather(*batch_bytes);
            if batch.is_empty() {
                self.forget_done();
                return Ok(());
            }
            let full = batch.iter().map(|row| row.chunk.text.len()).sum::<usize>() >= *batch_bytes / 2;
            let begun = BootTime::now();
            let rows: Vec<_> = batch.iter().map(Outgoing::row).collect();
            let written = within(session.write(&rows, PATIENCE)).await?;
            let took = begun.elapsed();
            let settled = written == Written::Stored;
            fruitless = if settled { 0 } else { fruitless + 1 };
            if fruitless > FRUITLESS {
                return Err(BrokerError::Unavailable(format!("{FRUITLESS} batches were refused, one after the other")));
            }
            match written {
                Written::Stored => self.stored(&batch, took),
                Written::Refused(refused) => self.refused(&refused),
                Written::Rewind(reason) => {
                    tracing::info!(reason, "a batch overlapped with what is stored");
                    self.resume(&within(session.positions()).await?);
                    if fruitless > 1 {
                        self.weed_out(session).await?;
                    }
                }
            }
            *batch_bytes = resized(*batch_bytes, took, self.settings.flush_bytes);
            if settled && !full {
                self.forget_done();
                return Ok(());
            }
        }
    }

    /// Rows were refused as a whole again, although they begin where the stored ones end: there is no place for some of
    /// them, such as those of a day that is stored no more. They must not keep the other attempts' from theirs.
    async fn weed_out(&self, session: &mut LogWriter) -> Result<(), BrokerError> {
        let logs: Vec<_> = self.logs().values().cloned().collect();
        for log in logs {
            let batch = log.outgoing(SMALLEST_BATCH_BYTES);
            if batch.is_empty() {
                continue;
            }
            let begun = BootTime::now();
            let rows: Vec<_> = batch.iter().map(Outgoing::row).collect();
            match within(session.write(&rows, PATIENCE)).await? {
                Written::Stored => self.stored(&batch, begun.elapsed()),
                Written::Refused(refused) => self.refused(&refused),
                Written::Rewind(reason) => self.give_up(&log, &reason),
            }
        }
        self.forget_done();
        Ok(())
    }

    fn gather(&self, budget: usize) -> Vec<Outgoing> {
        let mut logs: Vec<_> = self.logs().values().cloned().collect();
        // Turns and shares, so that one loud attempt does not starve the others.
        let first = self.turn.fetch_add(1, Ordering::Relaxed) % logs.len().max(1);
        logs.rotate_left(first);
        let share = (budget / logs.len().max(1)).max(4096);
        let (mut batch, mut bytes) = (Vec::new(), 0);
        for log in logs {
            // Each gives one chunk at least: the batch's own bound comes first.
            if bytes >= budget {
                break;
            }
            let rows = log.outgoing(share);
            bytes += rows.iter().map(|row| row.chunk.text.len()).sum::<usize>();
            batch.extend(rows);
        }
        batch
    }

    fn stored(&self, batch: &[Outgoing], took: Duration) {
        let bytes = batch.iter().map(|row| row.chunk.text.len()).sum();
        self.metrics.flushed(batch.len(), bytes, took);
        let mut last = BTreeMap::new();
        for row in batch {
            last.insert(row.whose.lease.attempt_id, row.chunk.seq_to);
        }
        for (attempt, stored) in last {
            let log = self.logs().get(&attempt).cloned();
            if let Some(log) = log {
                log.acknowledge(stored);
            }
        }
    }

    fn refused(&self, refused: &[RefusedAttempt]) {
        for one in refused {
            let Some(log) = self.logs().get(&one.attempt_id).cloned() else { continue };
            let rewound = one.reason == "position" && log.acknowledge(one.stored);
            if !rewound {
                self.give_up(&log, &one.reason);
            }
        }
    }

    fn give_up(&self, log: &AttemptLog, reason: &str) {
        let bytes = log.close();
        let attempt = log.whose().lease.attempt_id;
        tracing::error!(attempt.id = %attempt, reason, bytes, "the broker takes no more log rows of this attempt");
        self.metrics.log_refused(bytes);
    }

    fn forget_done(&self) {
        self.logs().retain(|_, log| !log.is_done());
    }

    fn logs(&self) -> MutexGuard<'_, BTreeMap<Uuid, Arc<AttemptLog>>> {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn backoff() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(200))
        .with_max_delay(Duration::from_secs(10))
        .with_jitter()
        .without_max_times()
        .build()
}

/// Bounds what the session's own time-outs leave open, such as a line that swallows everything.
async fn within<T>(call: impl Future<Output = Result<T, BrokerError>>) -> Result<T, BrokerError> {
    match tokio::time::timeout(PATIENCE + TARGET, call).await {
        Ok(result) => result,
        Err(_) => Err(BrokerError::Unavailable(format!("no reply within {} s", (PATIENCE + TARGET).as_secs()))),
    }
}

/// The next batch's size after one that took `took`: halved on a slow line, doubled back on a fast one.
fn resized(bytes: usize, took: Duration, most: usize) -> usize {
    if took > TARGET {
        (bytes / 2).max(SMALLEST_BATCH_BYTES)
    } else if took < TARGET / 4 {
        (bytes * 2).min(most)
    } else {
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_shrink_on_a_slow_line_and_grow_back() {
        let most = 1024 * 1024;
        let mut bytes = most;
        for _ in 0..20 {
            bytes = resized(bytes, Duration::from_secs(5), most);
        }
        assert_eq!(bytes, SMALLEST_BATCH_BYTES);
        assert_eq!(resized(bytes, Duration::from_secs(2), most), bytes);
        for _ in 0..20 {
            bytes = resized(bytes, Duration::from_millis(10), most);
        }
        assert_eq!(bytes, most);
    }
}
