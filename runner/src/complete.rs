//! The report of an attempt's end, and what happens to its folder.

use crate::clock::BootTime;
use crate::handover::FILE as HANDOVER;
use crate::run::Run;
use crate::runner::Runner;
use crate::stop::Stop;
use crate::work::Work;
use backon::{BackoffBuilder, ExponentialBuilder};
use serde_json::Value;
use std::path::Path;
use std::time::Duration;
use tendril_broker::runner::{Disposition, Lease, Report};

/// The file of a report in an attempt's folder.
const REPORT: &str = "report.json";

/// Sends the report until the broker answers it. The call is idempotent, so that an unclear reply is asked again.
///
/// # Errors
/// The broker refused the report for good; in words.
pub async fn finish(runner: &Runner, lease: &Lease, report: &Report) -> Result<Disposition, String> {
    let mut waits = backoff();
    loop {
        let sent = BootTime::now();
        let error = match runner.broker.finish(lease, report).await {
            Ok(disposition) => {
                runner.metrics.answered("finish", sent.elapsed());
                if disposition == Disposition::Noted {
                    runner.metrics.lease_lost();
                    tracing::warn!(attempt.id = %lease.attempt_id, "the job had gone on without this attempt; its report is kept as a note");
                }
                return Ok(disposition);
            }
            Err(error) => error,
        };
        runner.metrics.broker_error("finish");
        let wait = match (error.is_passing(), error.is_credential()) {
            (true, _) => waits.next().unwrap_or(Duration::from_secs(15)),
            (false, true) => Duration::from_secs(60),
            (false, false) => return Err(error.to_string()),
        };
        tracing::warn!(attempt.id = %lease.attempt_id, %error, wait_ms = wait.as_millis(), "the report was not answered");
        tokio::time::sleep(wait).await;
    }
}

/// Puts the report of a job that has changed the world where the next process finds it, if this one is lost before the
/// broker has answered.
pub fn keep(work: &Work, report: &Report) {
    let path = work.file(REPORT);
    let bytes = serde_json::to_vec_pretty(report).map_err(std::io::Error::other);
    if let Err(error) = bytes.and_then(|bytes| std::fs::write(&path, bytes)) {
        tracing::warn!(%error, report = %path.display(), "a report could not be put on disk");
    }
}

/// The report in a folder, if there is one.
///
/// # Errors
/// It cannot be read.
pub fn kept_report(folder: &Path) -> std::io::Result<Option<Report>> {
    match std::fs::read(folder.join(REPORT)) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes the work folder once the report is answered, unless something in it is nowhere else. A report that was refused
/// stays in the folder.
pub async fn tidy(run: Option<&Run>, report: &Report, reported: &Result<Disposition, String>) {
    let Some(run) = run else { return };
    match reported {
        Ok(Disposition::Accepted | Disposition::Again | Disposition::Noted) if run.keeps_folder() => {
            // Nobody is to go on with it, or to report it anew.
            drop(std::fs::remove_file(run.work.file(REPORT)));
            drop(std::fs::remove_file(run.work.file(HANDOVER)));
            tracing::warn!(folder = %run.work.file("").display(), "a work folder is kept: look at it, then remove it");
        }
        _ => tidy_reported(&run.work, report, reported).await,
    }
}

/// The same for a folder in which nothing is that is nowhere else.
pub async fn tidy_reported(work: &Work, report: &Report, reported: &Result<Disposition, String>) {
    match reported {
        Ok(Disposition::Accepted | Disposition::Again | Disposition::Noted) => {
            if let Err(error) = work.remove().await {
                tracing::warn!(%error, "a work folder was not tidied up");
            }
        }
        Err(reason) => {
            keep(work, report);
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
        Err(Stop::Released(_)) => "released",
        Err(Stop::Superseded(_)) => "superseded",
    }
}

/// Between tries of a call that must be answered.
pub fn backoff() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(200))
        .with_max_delay(Duration::from_secs(15))
        .with_jitter()
        .without_max_times()
        .build()
}
