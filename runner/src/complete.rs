//! The report of an attempt's end, and what happens to its folder.

use crate::clock::BootTime;
use crate::collect::Collector;
use crate::handover::FILE as HANDOVER;
use crate::heartbeat::REVOKED_EVERY;
use crate::memory::JobName;
use crate::off_loop::beside;
use crate::runner::Runner;
use crate::stop::Stop;
use crate::work::Work;
use backon::{BackoffBuilder, ExponentialBuilder};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::Path;
use std::time::Duration;
use tendril_broker::runner::{BrokerError, Disposition, Lease, Report};

/// The file of a report in an attempt's folder.
const REPORT: &str = "report.json";
const DRAFT: &str = "report.json.draft";

/// A report as it lies in an attempt's folder.
#[derive(Debug, Deserialize, Serialize)]
pub struct Kept {
    /// Whose.
    pub lease: Lease,
    /// Of which job. Not in files of runners before 0.2.
    #[serde(default)]
    pub job: Option<JobName>,
    /// What is to be told.
    pub report: Report,
    /// The folder stays also when it is told: something in it is nowhere else, or may still be written to.
    pub keeps_folder: bool,
}

/// Sends the report until the broker answers it. The call is idempotent, so that an unclear reply is asked again.
///
/// # Errors
/// The broker refused the report for good; in words.
pub async fn finish(runner: &Runner, lease: &Lease, report: &Report) -> Result<Disposition, String> {
    let ask = || runner.broker.finish(lease, report).boxed();
    let disposition = until_answered(runner, ("finish", lease), ask).await?;
    if disposition == Disposition::Noted {
        runner.metrics.lease_lost();
        tracing::warn!(attempt.id = %lease.attempt_id, "the job had gone on without this attempt; its report is kept as a note");
    }
    Ok(disposition)
}

/// Reports the end of an attempt that has changed the world, or may have; that it was taken is remembered.
///
/// # Errors
/// As [`finish`].
pub async fn finish_change(runner: &Runner, kept: &Kept) -> Result<Disposition, String> {
    let disposition = finish(runner, &kept.lease, &kept.report).await?;
    if disposition != Disposition::Noted {
        let (memory, lease, job, report) = (runner.memory.clone(), kept.lease, kept.job.clone(), kept.report.clone());
        beside(move || memory.ended(lease, job.as_ref(), &report)).await;
    }
    Ok(disposition)
}

/// Asks the broker about an attempt until it answers. The call is idempotent.
///
/// # Errors
/// It refused for good; in words.
pub async fn until_answered<'a, T>(
    runner: &Runner,
    (call, lease): (&'static str, &Lease),
    ask: impl Fn() -> BoxFuture<'a, Result<T, BrokerError>>,
) -> Result<T, String> {
    let (mut waits, mut refused) = (backoff(), false);
    loop {
        let sent = BootTime::now();
        let error = match ask().await {
            Ok(answer) => {
                runner.metrics.answered(call, sent.elapsed());
                return Ok(answer);
            }
            Err(error) => error,
        };
        runner.metrics.broker_error(call);
        let wait = match (error.is_passing(), error.is_credential()) {
            (true, _) => waits.next().unwrap_or(Duration::from_secs(15)),
            (false, true) => REVOKED_EVERY,
            (false, false) => return Err(error.to_string()),
        };
        // A credential that is gone is told of once, by the heartbeat, with where the results lie.
        let said = std::mem::replace(&mut refused, error.is_credential());
        if said && refused {
            tracing::debug!(attempt.id = %lease.attempt_id, call, "the credential is still refused");
        } else {
            tracing::warn!(attempt.id = %lease.attempt_id, call, %error, wait_ms = wait.as_millis(), "the broker has not answered");
        }
        tokio::time::sleep(wait).await;
    }
}

/// Makes a report ready to be sent: waits until the spool holds the log to its end, which the report tells, and puts that of
/// a job that has changed the world where the next process finds it, if this one is lost before the broker has answered.
/// In this order: whoever finds a report, or hears of a log's end, reads nothing anew of what the command has printed.
pub async fn ready(collector: &Collector, kept: &Kept, work: Option<&Work>) {
    collector.spooled(&kept.lease).await;
    if let Some(work) = work {
        keep(work, kept);
    }
}

fn keep(work: &Work, kept: &Kept) {
    let (path, draft) = (work.file(REPORT), work.file(DRAFT));
    let bytes = serde_json::to_vec_pretty(kept).map_err(std::io::Error::other);
    // Half a report would keep the next process from finding out anew.
    let written = bytes.and_then(|bytes| std::fs::write(&draft, bytes)).and_then(|()| std::fs::rename(&draft, &path));
    if let Err(error) = written {
        tracing::warn!(%error, report = %path.display(), "a report could not be put on disk");
    }
}

/// The report in a folder, if there is one.
///
/// # Errors
/// It cannot be read.
pub fn kept_report(folder: &Path) -> std::io::Result<Option<Kept>> {
    match std::fs::read(folder.join(REPORT)) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes the work folder once the report is answered, unless something in it is nowhere else. A report that was refused
/// stays in the folder.
pub async fn tidy(work: &Work, kept: &Kept, reported: &Result<Disposition, String>) {
    match reported {
        Ok(_) if kept.keeps_folder => {
            // Nobody is to go on with it, or to report it anew.
            drop(std::fs::remove_file(work.file(HANDOVER)));
            drop(std::fs::remove_file(work.file(REPORT)));
            tracing::warn!(folder = %work.file("").display(), "a work folder is kept: look at it, then remove it");
        }
        Ok(_) => {
            if let Err(error) = work.remove().await {
                tracing::warn!(%error, "a work folder was not tidied up");
            }
        }
        Err(reason) => {
            keep(work, kept);
            tracing::error!(reason, report = %work.file(REPORT).display(), "the broker refused the report; it stays on disk");
        }
    }
}

/// How an attempt ended, as a metric's label.
pub fn label(verdict: &Result<Value, Stop>) -> &'static str {
    match verdict {
        Ok(_) => "success",
        Err(Stop::Failed { .. }) => "failure",
        Err(Stop::Cancelled(_)) => "cancelled",
        Err(Stop::TimedOut(_)) => "timeout",
        Err(Stop::Released(_) | Stop::Barred(_)) => "released",
        Err(Stop::Superseded(_)) => "superseded",
    }
}

fn backoff() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(200))
        .with_max_delay(Duration::from_secs(15))
        .with_jitter()
        .without_max_times()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance;
    use crate::clock;
    use crate::config::Logs;
    use crate::logs::Stream;
    use crate::spool::Spool;
    use crate::testing::claimed;
    use std::sync::Arc;
    use tempfile::TempDir;
    use tendril_broker::runner::Outcome;
    use tokio_util::sync::CancellationToken;
    use uuid::Uuid;

    const LEASE: Lease = Lease { attempt_id: Uuid::from_u128(1), fence: 1 };

    fn opened(folder: &TempDir, settings: &Logs) -> Spool {
        Spool::open_dir(&folder.path().join("spool"), settings.limits(), chance::id(), clock::wall()).unwrap().0
    }

    #[tokio::test]
    async fn a_report_is_on_disk_only_when_the_spool_holds_the_log_to_its_end() {
        let folder = TempDir::new().unwrap();
        let settings = Logs::default();
        let spool = Arc::new(opened(&folder, &settings));
        let collector = Arc::new(Collector::new(settings.clone(), spool, Arc::default()));
        let work = Work::create(folder.path(), LEASE.attempt_id).unwrap();
        let log = collector.open(&claimed(1));
        log.push(Stream::Stdout, b"the last line\n");
        let report = Report {
            outcome: Outcome::Success,
            log_end: log.finish(),
            child_dead: true,
            error: None,
            permanent: false,
            result: Value::Null,
            commands: Value::Null,
        };
        let kept = Kept { lease: LEASE, job: None, report, keeps_folder: false };
        let mut ready = Box::pin(ready(&collector, &kept, Some(&work)));
        // Nobody has collected the log yet: a process that is killed here leaves no report that says that it has ended.
        assert!(futures_util::poll!(&mut ready).is_pending());
        assert!(!work.file(REPORT).exists());
        let end = CancellationToken::new();
        let collecting = tokio::spawn(collector.clone().run(end.clone()));
        tokio::time::timeout(Duration::from_secs(30), ready).await.unwrap();
        assert!(work.file(REPORT).exists());
        // One that is killed here leaves all of it.
        let left = opened(&folder, &settings);
        let text: String = left.take(usize::MAX).into_iter().map(|row| row.chunk.text.clone()).collect();
        assert_eq!(text, "the last line\n");
        assert!(left.has_all_of(LEASE.attempt_id));
        end.cancel();
        collecting.await.unwrap();
    }
}
