//! The archive's tasks beside the duties: closed logs to the archive, and old days out of the database.

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::archive::{days, ledger};
use crate::refusal::Error;
use crate::serve::APPLICATION;
use crate::serve::metrics::Metrics;
use crate::serve::trouble::Trouble;
use crate::session::Address;

#[cfg(feature = "archive")]
pub use shipping::ship;

/// Sessions for shipping, beside those of the duties.
pub const SESSIONS: u32 = 4;

/// How often to look for days to remove; the database lets one replica a minute do it.
const LOOK: Duration = Duration::from_secs(20);
/// How often to read the gauges.
const OBSERVE: Duration = Duration::from_secs(10);

/// Removes days that are due, until `stop`, on a session of its own: the removal waits for others.
pub async fn remove_days(address: Address, metrics: Arc<Metrics>, stop: CancellationToken) {
    let mut trouble = Trouble::beside_the_pulse("log removal");
    loop {
        let done = tokio::select! {
            done = remove_once(&address, &metrics) => done,
            () = stop.cancelled() => return,
        };
        let wait = match done {
            Ok(()) => {
                trouble.is_over();
                LOOK
            }
            Err(error) => {
                metrics.archive.removal_errors.inc();
                // The database would let nobody look again before the minute is over.
                trouble.grows(&error).max(LOOK)
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn remove_once(address: &Address, metrics: &Metrics) -> Result<(), Error> {
    let mut connection = address.connect(APPLICATION).await?;
    for removed in days::remove_due(&mut connection).await? {
        info!(day = %removed.day, unarchived = removed.unarchived, "removed a day of logs");
        metrics.archive.days_removed.inc();
    }
    Ok(())
}

/// Reads how far behind the archive is, until `stop`.
pub async fn observe(pool: PgPool, metrics: Arc<Metrics>, stop: CancellationToken) {
    let mut trouble = Trouble::beside_the_pulse("archive gauges");
    loop {
        let read = tokio::select! {
            read = ledger::lag(&pool) => read,
            () = stop.cancelled() => return,
        };
        let wait = match read {
            Ok(lag) => {
                trouble.is_over();
                metrics.archive.waiting.set(lag.waiting);
                metrics.archive.troubled.set(lag.troubled);
                metrics.archive.lag.set(lag.seconds);
                OBSERVE
            }
            Err(error) => trouble.grows(&error),
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// What takes part only where the S3 client was built in.
#[cfg(feature = "archive")]
mod shipping {
    use std::collections::HashMap;
    use std::time::Duration;

    use tokio::task::{Id, JoinError, JoinSet};
    use tokio::time::Instant;
    use tracing::{debug, error, warn};
    use uuid::Uuid;

    use super::*;
    use crate::archive::{Archive, ArchiveError, Archived, ClosedLog, LEASE, Sizes, UploadError, archive};
    use crate::clock::new_id;

    /// Logs at once, each with at most 20 MiB in memory.
    const AT_ONCE: usize = 4;
    /// How long to wait when nothing was due.
    const IDLE: Duration = Duration::from_secs(5);
    /// First and longest pause of a log that failed.
    const PAUSE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(900));

    /// Archives closed logs until `stop`. What is under way then is given back at once, and begun anew by whoever comes next.
    pub async fn ship(pool: PgPool, archive: Archive, url: String, metrics: Arc<Metrics>, stop: CancellationToken) {
        let trouble = Trouble::beside_the_pulse("archive");
        let (tasks, held) = (JoinSet::new(), HashMap::new());
        let mut shipping = Shipping { pool, archive, metrics, trouble, tasks, held, stop };
        shipping.go_on(&url).await;
        shipping.give_back().await;
    }

    /// What became of one log, as far as it matters to the others.
    type Settled = Result<Option<ArchiveError>, Error>;

    struct Shipping {
        pool: PgPool,
        archive: Archive,
        metrics: Arc<Metrics>,
        trouble: Trouble,
        tasks: JoinSet<Settled>,
        /// Logs that are ours until their tasks have ended: attempt and claim.
        held: HashMap<Id, (Uuid, Uuid)>,
        stop: CancellationToken,
    }

    impl Shipping {
        async fn go_on(&mut self, url: &str) {
            while let Err(error) = ledger::announce(&self.pool, url).await {
                let wait = self.trouble.grows(&error);
                if !self.waited(wait).await {
                    return;
                }
            }
            while !self.stop.is_cancelled() {
                // Not cut short: what it has claimed has to be known, so that it can be given back.
                let wait = match self.take_more().await {
                    Ok(true) if self.tasks.len() < AT_ONCE => continue,
                    Ok(_) => IDLE,
                    Err(error) => self.trouble.grows(&error),
                };
                // With nothing under way there is nothing to join, and the wait ends by itself.
                let joined = async {
                    match self.tasks.join_next_with_id().await {
                        Some(done) => done,
                        None => std::future::pending().await,
                    }
                };
                let done = tokio::select! {
                    done = tokio::time::timeout(wait, joined) => done,
                    () = self.stop.cancelled() => return,
                };
                if let Ok(done) = done {
                    self.ended(done).await;
                }
            }
        }

        async fn ended(&mut self, done: Result<(Id, Settled), JoinError>) {
            let id = done.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
            self.held.remove(&id);
            match done {
                Ok((_, Ok(None))) => self.trouble.is_over(),
                // The archive is away or refuses: no use in trying the next log at once.
                Ok((_, Ok(Some(error)))) => self.rest(&error.into()).await,
                Ok((_, Err(error))) => self.rest(&error).await,
                Err(error) => error!(%error, "archiving a log panicked; its lease runs out"),
            }
        }

        /// Lets another replica have at once what was under way here. What was recorded meanwhile stays recorded.
        async fn give_back(mut self) {
            self.tasks.shutdown().await;
            for (attempt, claim) in self.held.into_values() {
                match ledger::give_back(&self.pool, (attempt, claim), None, Duration::ZERO).await {
                    Ok(()) => info!(%attempt, "gave back a log that was being archived"),
                    Err(error) => warn!(%attempt, %error, "could not give back a log; its lease runs out"),
                }
            }
        }

        /// Waits; `false` when it is time to stop.
        async fn waited(&self, wait: Duration) -> bool {
            tokio::time::timeout(wait, self.stop.cancelled()).await.is_err()
        }

        async fn rest(&mut self, error: &Error) {
            let wait = self.trouble.grows(error).max(Duration::from_secs(1));
            self.waited(wait).await;
        }

        /// Claims what there is room for; whether anything was due.
        async fn take_more(&mut self) -> Result<bool, Error> {
            let room = i32::try_from(AT_ONCE.saturating_sub(self.tasks.len())).unwrap_or(0);
            if room == 0 {
                return Ok(false);
            }
            let claim = new_id();
            let logs = ledger::claim(&self.pool, claim, LEASE, room).await?;
            let any = !logs.is_empty();
            for log in logs {
                let (pool, store, metrics) = (self.pool.clone(), self.archive.clone(), self.metrics.clone());
                let attempt = log.attempt_id;
                let task = self.tasks.spawn(async move {
                    let started = Instant::now();
                    let done = archive(&pool, &store, &log, claim, Sizes::default()).await;
                    settle(&pool, &metrics, (&log, claim, started.elapsed()), done).await
                });
                self.held.insert(task.id(), (attempt, claim));
            }
            Ok(any)
        }
    }

    /// Counts, tells, and gives back what failed. What concerns the archive as a whole is returned.
    async fn settle(
        pool: &PgPool,
        metrics: &Metrics,
        (log, claim, took): (&ClosedLog, Uuid, Duration),
        done: Result<Archived, UploadError>,
    ) -> Settled {
        let attempt = log.attempt_id;
        let failure = match done {
            Ok(Archived::Stored(record)) => {
                metrics.archive.stored(record.text_bytes, record.object_bytes, took);
                debug!(%attempt, rows = record.log_rows, bytes = record.object_bytes, "archived");
                return Ok(None);
            }
            Ok(Archived::Empty) => {
                metrics.archive.ended("empty");
                return Ok(None);
            }
            Ok(Archived::Superseded) => {
                metrics.archive.ended("superseded");
                warn!(%attempt, "another replica has this log now, or its rows have changed; nothing was recorded");
                return Ok(None);
            }
            Err(failure) => failure,
        };
        metrics.archive.ended("failed");
        let why = failure.to_string();
        ledger::give_back(pool, (attempt, claim), Some(&why), pause(log.tries)).await?;
        match failure {
            UploadError::Database(error) => Err(error),
            UploadError::Archive(error) if !error.is_of_one_object() => Ok(Some(error)),
            one => {
                error!(%attempt, error = %one, tries = log.tries, "a log was not archived; it is tried again");
                Ok(None)
            }
        }
    }

    fn pause(tries: i32) -> Duration {
        let doublings = u32::try_from(tries - 1).unwrap_or(0).min(10);
        (PAUSE.0 * 2u32.pow(doublings)).min(PAUSE.1)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn pauses_double_up_to_a_quarter_of_an_hour() {
            // Tried: the first failure, the third, the thousandth, a number that no claim has.
            let pauses = [1, 3, 1000, 0].map(|tries| pause(tries).as_secs());
            assert_eq!(pauses, [5, 20, 900, 5]);
        }
    }
}

/// Never called: without the S3 client no archive was opened.
#[cfg(not(feature = "archive"))]
pub async fn ship(_: PgPool, archive: crate::archive::Archive, _: String, _: Arc<Metrics>, _: CancellationToken) {
    match archive {}
}
