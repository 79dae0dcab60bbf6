//! Ships what the spool holds: one batch for all logs at a time, as soon as something is in it.
//!
//! Exactly once: chunks are fixed, only one session may append, and after anything unclear that session is taken over
//! and the stored positions are read before the next batch.

use crate::clock::{self, BootTime};
use crate::config::Logs;
use crate::heartbeat::REVOKED_EVERY;
use crate::line::{LONGEST_WAIT, Line, SMALLEST_BATCH_BYTES, TARGET, backoff};
use crate::metrics::Metrics;
use crate::off_loop::beside;
use crate::spool::{Outgoing, Spool, Standing};
use crate::whose::Whose;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tendril_broker::connect::Connector;
use tendril_broker::runner::{BrokerError, LogRow, LogWriter, Position, RefusedAttempt, Written};
use time::Date;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// A batch later than this counts as unclear.
const PATIENCE: Duration = Duration::from_secs(20);
/// Batches one after the other of which nothing was stored, before the session is taken over anew, with its waits.
const FRUITLESS: u32 = 8;

/// Numbers by attempt.
type Positions = BTreeMap<Uuid, i64>;

/// The one writer for the spool of this runner.
pub struct Shipper {
    settings: Logs,
    spool: Arc<Spool>,
    metrics: Arc<Metrics>,
}

impl Shipper {
    /// Ships what is in this spool.
    pub fn new(settings: Logs, spool: Arc<Spool>, metrics: Arc<Metrics>) -> Self {
        Self { settings, spool, metrics }
    }

    /// Ships until `end`, then what is left, until `end` of patience by the caller: it may be dropped at any time.
    pub async fn run(&self, connector: &Connector, end: CancellationToken) {
        let mut waits = backoff();
        loop {
            let Some(mut session) = self.session(connector, &end).await else { return };
            // A batch that is never stored in time would be sent for ever: each session finds out anew what the line bears.
            let mut line = Line::default();
            loop {
                let ended = end.is_cancelled();
                match self.flush(&mut session, &mut line).await {
                    Ok(()) if ended && self.ask(Spool::is_empty).await => return,
                    Ok(()) => {}
                    Err(error) => {
                        tracing::warn!(%error, "log rows could not be sent; taking the writer over anew");
                        break;
                    }
                }
                self.pause(&end, ended, line.tried_again_in()).await;
            }
            // A broker that takes sessions but no rows, when its disk is full, is given time.
            if line.has_stored {
                waits = backoff();
            } else {
                rest(waits.next().unwrap_or(LONGEST_WAIT), &end).await;
            }
        }
    }

    /// Waits for more to send, or until logs are tried again that were put aside. After the end there is nothing more.
    async fn pause(&self, end: &CancellationToken, ended: bool, aside: Option<Duration>) {
        tokio::select! {
            () = self.spool.filled.notified(), if !ended => {}
            () = end.cancelled(), if !ended => {}
            () = tokio::time::sleep(aside.unwrap_or_default()), if ended || aside.is_some() => {}
        }
    }

    /// Takes the writer over, with backoff, and forgets what turns out to be stored already.
    async fn session(&self, connector: &Connector, end: &CancellationToken) -> Option<LogWriter> {
        let (mut waits, mut refusals) = (backoff(), 0_u32);
        loop {
            let error = match within(self.take_over(connector)).await {
                Ok(session) => return Some(session),
                Err(error) => error,
            };
            if end.is_cancelled() && self.ask(Spool::is_empty).await {
                return None;
            }
            refusals = if error.is_credential() { refusals + 1 } else { 0 };
            // Twice in a row is no outage: it is told of once, by the heartbeat, and asked for rarely.
            if refusals < 2 {
                let wait = waits.next().unwrap_or(LONGEST_WAIT);
                tracing::warn!(%error, wait_ms = wait.as_millis(), "the log connection is down");
                rest(wait, end).await;
            } else {
                rest(REVOKED_EVERY, end).await;
            }
        }
    }

    async fn take_over(&self, connector: &Connector) -> Result<LogWriter, BrokerError> {
        let session = LogWriter::take_over(connector, self.spool.writer()).await?;
        self.resume(&session.positions().await?).await;
        self.metrics.log_session();
        Ok(session)
    }

    /// The spool's answer. Never on the runtime's own threads: who writes to a slow disk keeps everybody else waiting, and
    /// heartbeats must go on meanwhile.
    async fn ask<T: Send + 'static>(&self, ask: impl FnOnce(&Spool) -> T + Send + 'static) -> T {
        let spool = self.spool.clone();
        beside(move || ask(&spool)).await
    }

    async fn resume(&self, positions: &[Position]) {
        let standings: Vec<Standing> = positions.iter().map(standing).collect();
        for (attempt, bytes) in self.ask(move |spool| spool.resume(&standings, clock::wall())).await {
            self.gave_up(attempt, "an earlier process has left it, and it is closed", bytes);
        }
    }

    /// Sends what waits, in batches, until nothing does. A small batch is no sign of that: each log gives its share only,
    /// and a loud one that an earlier process has left may be all that is left, with nobody to say that more has come.
    async fn flush(&self, session: &mut LogWriter, line: &mut Line) -> Result<(), BrokerError> {
        let mut fruitless = 0;
        let (mut batch, mut stored) = (Vec::new(), Positions::new());
        loop {
            self.try_again(session, line).await?;
            let (batch_bytes, aside) = (line.batch_bytes, line.aside().clone());
            if batch.is_empty() {
                let (stored, aside) = (std::mem::take(&mut stored), aside.clone());
                batch = self.ask(move |spool| spool.exchange(&stored, batch_bytes, &Positions::new(), &aside)).await;
            }
            if batch.is_empty() {
                return Ok(());
            }
            // While the broker stores one batch the next one is made ready: the spool's disk and the broker's take turns at
            // nothing.
            let (before, sent) = (std::mem::take(&mut stored), positions(&batch));
            let on_its_way = sent.clone();
            let next = self.ask(move |spool| spool.exchange(&before, batch_bytes, &on_its_way, &aside));
            let rows = rows(&batch);
            let ((written, took), next) = tokio::join!(timed(session.write(&rows, PATIENCE)), next);
            let written = written?;
            let settled = written == Written::Stored;
            fruitless = if settled || is_settling(&written) { 0 } else { fruitless + 1 };
            if fruitless > FRUITLESS {
                return Err(BrokerError::Unavailable(format!("{FRUITLESS} batches were refused, one after the other")));
            }
            match written {
                Written::Stored => {
                    self.metrics.flushed(&batch, took);
                    stored = sent;
                }
                Written::Refused(refused) => self.refused(session, refused).await?,
                Written::Rewind(reason) => {
                    tracing::info!(reason, "a batch overlapped with what is stored");
                    let open = within(session.positions()).await?;
                    self.resume(&open).await;
                    if fruitless > 1 && self.weed_out(session, days(&batch), &open, line).await? {
                        fruitless = 1;
                    }
                }
            }
            line.has_stored |= settled;
            line.resize(line_bytes(&batch), took, self.settings.batch_bytes());
            if settled && line.fits(line_bytes(&next)) {
                batch = next;
                continue;
            }
            // Who was to be sent has the next turn; of what is refused again and again others come first.
            let unsent = if settled || fruitless > 1 { next } else { batch };
            self.ask(move |spool| spool.give_back(&unsent)).await;
            batch = Vec::new();
        }
    }

    /// Rows were refused as a whole again, although they begin where the stored ones end: there is no place for some of
    /// them. They must not keep the other attempts' from theirs. The place of an `open` log comes: nobody has prepared its day
    /// yet. A day whose logs are all closed may be stored no more. Only logs of the `refused` batch are looked at: whoever was
    /// claimed since the broker was asked what is open would pass for closed. Whether it came to anything.
    async fn weed_out(
        &self,
        session: &mut LogWriter,
        refused: BTreeMap<Uuid, Date>,
        open: &[Position],
        line: &mut Line,
    ) -> Result<bool, BrokerError> {
        let mut came_to_something = false;
        for (attempt, day) in refused {
            if line.aside().contains(&day) {
                continue;
            }
            let place = self.store_alone(session, attempt, open).await?;
            if place == Place::None {
                tracing::error!(
                    %day, "the broker has no place for log rows of this day yet; they wait for it: does tendril-broker \
                    serve run, and what does tendril-broker doctor say?"
                );
                line.put_aside(day);
            }
            came_to_something |= place != Place::Unclear;
        }
        Ok(came_to_something)
    }

    /// One log of each day that was put aside says whether somebody has prepared it since.
    async fn try_again(&self, session: &mut LogWriter, line: &mut Line) -> Result<(), BrokerError> {
        let due = line.due();
        if due.is_empty() {
            return Ok(());
        }
        let open = within(session.positions()).await?;
        self.resume(&open).await;
        let waiting = self.ask(Spool::waiting).await;
        let mut prepared = Vec::new();
        for day in due {
            let of_the_day = |log: &&Position| log.claim_day == day && waiting.contains(&log.lease.attempt_id);
            // Where none is open any more, the next batch finds out what is left.
            let place = match open.iter().find(of_the_day) {
                Some(log) => self.store_alone(session, log.lease.attempt_id, &open).await?,
                None => Place::Found,
            };
            prepared.extend((place != Place::None).then_some(day));
        }
        line.tried(&prepared);
        Ok(())
    }

    /// Sends the next rows of one log by themselves.
    async fn store_alone(
        &self,
        session: &mut LogWriter,
        attempt: Uuid,
        open: &[Position],
    ) -> Result<Place, BrokerError> {
        let batch = self.ask(move |spool| spool.take_of(attempt, SMALLEST_BATCH_BYTES)).await;
        if batch.is_empty() {
            return Ok(Place::Unclear);
        }
        let rows = rows(&batch);
        let (written, took) = timed(session.write(&rows, PATIENCE)).await;
        let written = written?;
        let settling = is_settling(&written);
        match written {
            Written::Stored => {
                self.metrics.flushed(&batch, took);
                let stored = positions(&batch);
                self.ask(move |spool| spool.acknowledge(&stored)).await;
            }
            Written::Refused(refused) => {
                self.refused(session, refused).await?;
                return Ok(if settling { Place::Found } else { Place::Unclear });
            }
            Written::Rewind(_) if open.iter().any(|log| log.lease.attempt_id == attempt) => return Ok(Place::None),
            Written::Rewind(reason) => self.give_up(attempt, &reason).await,
        }
        Ok(Place::Found)
    }

    async fn refused(&self, session: &LogWriter, refused: Vec<RefusedAttempt>) -> Result<(), BrokerError> {
        for RefusedAttempt { attempt_id, reason, stored } in refused {
            match reason.as_str() {
                // An earlier process had reported where it ends, and did not come to write that down.
                "beyond_end" if self.ask(move |spool| spool.is_recovered(attempt_id)).await => {
                    self.resume(&within(session.positions()).await?).await;
                }
                "position" => self.ask(move |spool| spool.rewind(attempt_id, stored, clock::wall())).await,
                "quota" => {
                    let bytes = self.ask(move |spool| spool.over_quota(attempt_id, stored, clock::wall())).await;
                    self.gave_up(attempt_id, "the quota of log text is used up", bytes);
                }
                reason => self.give_up(attempt_id, reason).await,
            }
        }
        Ok(())
    }

    async fn give_up(&self, attempt: Uuid, reason: &str) {
        let bytes = self.ask(move |spool| spool.close(attempt)).await;
        self.gave_up(attempt, reason, bytes);
    }

    fn gave_up(&self, attempt: Uuid, reason: &str, bytes: u64) {
        tracing::error!(attempt.id = %attempt, reason, bytes, "the broker takes no more log rows of this attempt");
        self.metrics.log_refused(bytes);
    }
}

/// Whether the broker has a place for rows of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// It has, or the log is done with.
    Found,
    /// Not yet.
    None,
    /// Something else is wrong with the log, or it has nothing.
    Unclear,
}

/// Each refusal for good takes a log out of the next batch: thousands that are over a day's quota are no endless loop.
fn is_settling(written: &Written) -> bool {
    matches!(written, Written::Refused(refused) if refused.iter().any(|one| one.reason != "position"))
}

fn standing(position: &Position) -> Standing {
    let Position { lease, deployment_id, claim_day, ref job, attempt, stored, log_end } = *position;
    Standing {
        whose: Whose { deployment_id, lease, claim_day, job: job.clone(), ordinal: attempt },
        stored,
        end: log_end,
    }
}

/// The last number of each log.
fn positions(batch: &[Outgoing]) -> Positions {
    batch.iter().map(|row| (row.whose.lease.attempt_id, row.chunk.seq_to)).collect()
}

/// The day of each log's claim.
fn days(batch: &[Outgoing]) -> BTreeMap<Uuid, Date> {
    batch.iter().map(|row| (row.whose.lease.attempt_id, row.whose.claim_day)).collect()
}

fn line_bytes(batch: &[Outgoing]) -> usize {
    batch.iter().map(Outgoing::line_bytes).sum()
}

fn rows(batch: &[Outgoing]) -> Vec<LogRow<'_>> {
    batch.iter().map(|row| row.whose.row(&row.chunk)).collect()
}

/// Waits before the next try. The end is worth one at once; those after it have their waits, too.
async fn rest(wait: Duration, end: &CancellationToken) {
    let has_ended = end.is_cancelled();
    tokio::select! {
        () = tokio::time::sleep(wait) => {}
        () = end.cancelled(), if !has_ended => {}
    }
}

/// Bounds what the session's own time-outs leave open, such as a line that swallows everything.
async fn within<T>(call: impl Future<Output = Result<T, BrokerError>>) -> Result<T, BrokerError> {
    match tokio::time::timeout(PATIENCE + TARGET, call).await {
        Ok(result) => result,
        Err(_) => Err(BrokerError::Unavailable(format!("no reply within {} s", (PATIENCE + TARGET).as_secs()))),
    }
}

/// The reply, and what it took.
async fn timed<T>(call: impl Future<Output = Result<T, BrokerError>>) -> (Result<T, BrokerError>, Duration) {
    let begun = BootTime::now();
    (within(call).await, begun.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_cuts_a_wait_short_for_one_last_try() {
        let end = CancellationToken::new();
        let waited = async { tokio::join!(rest(Duration::from_secs(3600), &end), async { end.cancel() }) };
        tokio::time::timeout(Duration::from_secs(10), waited).await.expect("it does not wait an hour");
        // The tries after that one have their waits: a broker that is away is not asked in a loop.
        let next = tokio::time::timeout(Duration::from_millis(50), rest(Duration::from_secs(3600), &end)).await;
        assert!(next.is_err());
    }
}
