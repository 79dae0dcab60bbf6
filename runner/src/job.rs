//! One job from claim to report: the table of contents. All branching is here.

use crate::attempt_log::AttemptLog;
use crate::clock::BootTime;
use crate::complete::{self, Kept};
use crate::desk::Metered;
use crate::holdings::Held;
use crate::logs::{LOCK_CONFLICT, value_without_secrets, without_nul, without_secrets};
use crate::memory::JobName;
use crate::off_loop::beside;
use crate::run::{Means, Run};
use crate::runner::Runner;
use crate::secrets::Handed;
use crate::start::Start;
use crate::stop::Stop;
use crate::work::Work;
use serde_json::Value;
use std::sync::Arc;
use tendril_broker::runner::{Claimed, Lease, Outcome, Report};

/// Runs a claimed job and reports its end. Holds it until the report is answered.
pub async fn run(runner: Arc<Runner>, job: Claimed, held: Held) {
    let begun = BootTime::now();
    let (kind, lease, held) = (job.kind.clone(), job.lease, Arc::new(held));
    let means = means(&runner);
    let start = starts_at_once(&runner, &job).then(|| {
        let (desk, deadline) = (means.desk.clone(), begun.after(job.timeout));
        Start { desk, lease, held: held.clone(), deadline }.begin()
    });
    tracing::info!(attempt.id = %lease.attempt_id, fence = lease.fence, job = job.job, kind, deployment.id = %job.deployment_id, "claimed");
    let doing = runner.clone();
    let (job, log, begun_work) = beside(move || {
        let log = doing.collector.open(&job);
        let work = begin(&doing, &job, &log);
        (job, log, work)
    })
    .await;

    let (verdict, run) = match begun_work {
        Ok(work) => {
            let mut run = Run::new(means, job, work, log.clone(), held);
            run.expect_start(start);
            let verdict = execute(&runner, &mut run, &kind).await;
            (verdict, Some(run))
        }
        Err(stop) => (Err(stop), None),
    };
    end(&runner, (&kind, lease, begun), (&log, verdict), run).await;
}

/// What the runs of this runner share.
pub fn means(runner: &Runner) -> Means {
    Means {
        config: runner.config.clone(),
        cluster: runner.registered.cluster_id,
        desk: Arc::new(Metered::new(runner.broker.clone(), runner.metrics.clone())),
        key: runner.key.clone(),
        supervisors: runner.supervisors.clone(),
        keyring: runner.keyring.clone(),
        metrics: runner.metrics.clone(),
    }
}

/// Ends the log, reports, and tidies up.
pub async fn end(
    runner: &Runner,
    (kind, lease, begun): (&str, Lease, BootTime),
    (log, verdict): (&AttemptLog, Result<Value, Stop>),
    run: Option<Run>,
) {
    if let Err(stop) = &verdict {
        log.say(&format!("tendril: {}", stop.reason()));
        if stop.reason().contains(LOCK_CONFLICT) {
            runner.metrics.state_was_locked();
        }
    }
    let report = report(&verdict, log, run.as_ref());
    let (started, keeps_folder) = run.as_ref().map_or((false, false), |run| (run.has_started(), run.keeps_folder()));
    let name = |run: &Run| JobName { deployment_id: run.job.deployment_id, job: run.job.job.clone() };
    let kept = Kept { lease, job: run.as_ref().map(name), report, keeps_folder };
    complete::ready(&runner.collector, &kept, run.as_ref().filter(|_| started).map(|run| &run.work)).await;
    let report = &kept.report;
    runner.metrics.log_screened(log.counters());
    tracing::info!(attempt.id = %lease.attempt_id, outcome = ?report.outcome, error = report.error.as_deref(), "ended");

    let reported = match started {
        true => complete::finish_change(runner, &kept).await,
        false => complete::finish(runner, &lease, report).await,
    };
    // What waited for this job may be claimable now, and the slot is free.
    runner.signals.work.notify_one();
    if let Some(run) = &run {
        // The folder may stay; what only its commands were to have does not, unless one of them may live.
        if run.children_dead() {
            Handed::take_back(&run.work);
        }
        complete::tidy(&run.work, &kept, &reported).await;
    }
    runner.metrics.ended(kind, complete::label(&verdict), begun.elapsed());
}

fn starts_at_once(runner: &Runner, job: &Claimed) -> bool {
    job.mutating && runner.kinds.get(job.kind.as_str()).is_some_and(|kind| kind.starts_at_once(job))
}

/// Nothing is said of a job before its secrets are known.
fn begin(runner: &Runner, job: &Claimed, log: &AttemptLog) -> Result<Work, Stop> {
    runner.keyring.guard(log, &job.snapshot)?;
    Work::create(&runner.config.state_dir, job.lease.attempt_id)
        .map_err(|error| Stop::failed(format!("cannot make a work folder: {error}; see state_dir")))
}

async fn execute(runner: &Runner, run: &mut Run, kind: &str) -> Result<Value, Stop> {
    match runner.kinds.get(kind) {
        Some(kind) => kind.clone().run(run).await,
        None => Err(Stop::refused(format!("this runner does not know jobs of kind {kind}; upgrade it"))),
    }
}

/// Ends the log, and says how the attempt ended; without secrets.
pub fn report(verdict: &Result<Value, Stop>, log: &AttemptLog, run: Option<&Run>) -> Report {
    let (log_end, secrets) = (log.finish(), log.secrets());
    let (outcome, error, permanent, result) = match verdict {
        Ok(result) => (Outcome::Success, None, false, result.clone()),
        Err(stop) => {
            let (permanent, result) = match stop {
                Stop::Failed { permanent, result, .. } => (*permanent, result.clone()),
                Stop::Cancelled(_) | Stop::TimedOut(_) | Stop::Released(_) | Stop::Barred(_) | Stop::Superseded(_) => {
                    let known = run.map_or(Value::Null, |run| run.known().clone());
                    (matches!(stop, Stop::Barred(_)), known)
                }
            };
            (stop.outcome(), Some(stop.reason().to_owned()), permanent, result)
        }
    };
    // Words and figures of other programs: with U+0000 in them the broker could not take the report at all.
    let result = value_without_secrets(without_nul(result), &secrets);
    let error = error.map(|words| without_secrets(&words.replace('\0', "\u{2400}"), &secrets));
    let commands = run.map(|run| serde_json::to_value(run.records()).unwrap_or_default()).unwrap_or_default();
    let commands = value_without_secrets(commands, &secrets);
    Report { outcome, log_end, child_dead: run.is_none_or(Run::children_dead), error, permanent, result, commands }
}
