//! The exact end of each job, from its work, the children's facts, and what was broken. I8: and when.

use super::case::{AttemptCase, Case, JobCase};
use super::{Promise, Verdict};
use crate::facts::How;
use crate::options::TIMES;
use crate::workload::Work;

/// What a server, or a runner that was stopped, needs to be itself again.
const RECOVERY_US: i64 = 15_000_000;
/// A duty that is due runs within this time on a busy machine.
const DUTY_US: i64 = 5_000_000;

pub fn check(case: &Case<'_>, verdict: &mut Verdict) {
    for job in case.jobs.iter().filter(|job| job.is_terminal()) {
        if let Some(wrong) = wrong_end(case, job) {
            verdict.violate(Promise::End, &job.label, wrong, job.evidence());
        }
        for attempt in &job.attempts {
            loss(case, job, attempt, verdict);
        }
    }
}

fn wrong_end(case: &Case<'_>, job: &JobCase<'_>) -> Option<String> {
    let state = job.row.state.as_str();
    if case.history.decisions.get(&job.label) == Some(&false) {
        return (state != "CANCELLED").then(|| format!("is {state}, and people said that it is not to run"));
    }
    // A runner that has heard of a cancel obeys it, also when the database has forgotten it.
    let cancelled = job.deployment.cancel_requested || case.cancel_is_forgotten(job.deployment.id);
    let needs = job.spec.needs.iter().filter_map(|name| case.beside(job, name));
    let broken = needs.into_iter().find(|need| need.row.state != "SUCCESS");
    let Some((last, earlier)) = job.attempts.split_last() else {
        let right = state == "SKIPPED" && broken.is_some() || state == "CANCELLED" && cancelled;
        return (!right).then(|| format!("is {state}, never ran, and was neither cancelled nor skipped for a need"));
    };
    if let Some(need) = broken {
        return Some(format!("ran although {} is {}", need.row.name, need.row.state));
    }
    if let Some(wrong) = earlier.iter().find(|attempt| !may_be_followed(job, attempt)) {
        return Some(format!("was tried again after attempt {}, which left no right to it", wrong.row.ordinal));
    }
    // Waiting to be tried again is a state in which a cancel needs nobody's report.
    let waited = job.transitions.last().is_some_and(|seen| seen.was.as_deref() == Some("QUEUED"));
    if state == "CANCELLED" && cancelled && waited && may_be_followed(job, last) {
        return None;
    }
    let expected = match (last.row.ended_us, last.row.outcome.as_deref()) {
        (Some(_), Some("failure")) if plan_is_stale(case, job, last) => Ok("FAILED"),
        (Some(_), Some("failure")) if case.child_was_killed(job) && last.end.is_none() => Ok("FAILED"),
        (Some(_), Some(outcome)) => by_report(job, last, outcome, cancelled),
        // The loss of a job that somebody has asked to cancel is its end.
        (None, Some("lost")) if cancelled => Ok("CANCELLED"),
        (None, Some("lost")) if job.attempts.len() >= usize::try_from(job.row.max_attempts).unwrap_or(0) => {
            Ok("FAILED")
        }
        (None, Some("outcome unknown")) => unknown(case, job, last),
        (_, outcome) => Err(format!("its last attempt is {}", outcome.unwrap_or("neither ended nor superseded"))),
    };
    match expected {
        Ok(expected) if expected == state => None,
        Ok(expected) => Some(format!("is {state} and has to be {expected}")),
        Err(wrong) => Some(format!("is {state}: {wrong}")),
    }
}

/// Another attempt may follow one that was lost or handed back before it changed anything, or a failure to be retried.
fn may_be_followed(job: &JobCase<'_>, attempt: &AttemptCase<'_>) -> bool {
    match attempt.row.outcome.as_deref() {
        Some("lost" | "released") => {
            !job.spec.is_mutating() || attempt.start.is_none() && attempt.row.started_us.is_none()
        }
        Some("failure" | "timeout") => !job.spec.is_mutating() && job.spec.max_attempts.is_some(),
        _ => false,
    }
}

/// What an accepted report makes of the job, if the child's own word agrees with it.
fn by_report(
    job: &JobCase<'_>,
    attempt: &AttemptCase<'_>,
    outcome: &str,
    cancelled: bool,
) -> Result<&'static str, String> {
    let how = attempt.how();
    match (outcome, &job.spec.work, how) {
        ("success", Work::Plan { fails: false }, _)
        | ("success", Work::Exec { .. } | Work::Apply { .. }, Some(How::Exit(0))) => Ok("SUCCESS"),
        ("failure", Work::Plan { fails: true }, _) | ("failure", Work::Apply { .. }, Some(How::Exit(1..))) => {
            Ok("FAILED")
        }
        ("failure", Work::Exec { .. }, Some(How::Exit(code @ 1..))) => match job.row.reason.as_deref() {
            Some(reason) if reason.contains(&format!("code {code}")) => Ok("FAILED"),
            reason => Err(format!("its child left with code {code}, its reason is {reason:?}")),
        },
        ("cancelled", ..) if cancelled => Ok("CANCELLED"),
        ("released", ..) if cancelled => Ok("CANCELLED"),
        ("timeout", ..) if job.spec.overruns() || ran_out(job, attempt) => Ok("FAILED"),
        _ => Err(format!("the report is '{outcome}', the child says {how:?}, cancelled is {cancelled}")),
    }
}

/// An apply is refused by its engine when another one has changed the state since the plan was made; then no child runs.
fn plan_is_stale(case: &Case<'_>, job: &JobCase<'_>, attempt: &AttemptCase<'_>) -> bool {
    let said = job.row.reason.as_deref().is_some_and(|reason| reason.contains("plan is stale"));
    let plan = case.beside(job, "plan").and_then(|plan| plan.attempts.last());
    let Some(planned) = plan.filter(|_| said && attempt.start.is_none()).map(|plan| plan.row.claimed_us) else {
        return false;
    };
    let meanwhile = |other: &AttemptCase<'_>| {
        let over = other.row.ended_us.or(other.row.superseded_us);
        other.row.started_us.is_some_and(|started| started < attempt.row.claimed_us)
            && over.is_none_or(|at| at > planned)
    };
    let others =
        case.jobs.iter().filter(|other| other.row.state_key == job.row.state_key && other.row.id != job.row.id);
    others.flat_map(|other| &other.attempts).any(meanwhile)
}

/// A machine under load may be slower than the job was meant to be.
fn ran_out(job: &JobCase<'_>, attempt: &AttemptCase<'_>) -> bool {
    let timeout_us = i64::try_from(job.spec.timeout_s * 1_000_000).unwrap_or(i64::MAX);
    attempt.row.ended_us.is_some_and(|ended| ended - attempt.row.claimed_us >= timeout_us)
}

/// "Outcome unknown" is for what had started, changes the world, and whose holder was silent at the deadline.
fn unknown(case: &Case<'_>, job: &JobCase<'_>, attempt: &AttemptCase<'_>) -> Result<&'static str, String> {
    let Some(deadline) = job.row.deadline_us.filter(|_| job.spec.is_mutating() && attempt.row.started_us.is_some())
    else {
        return Err("its outcome is called unknown, and it had not started or only reads".into());
    };
    if attempt.row.superseded_us.is_none_or(|at| at < deadline) {
        return Err(format!("was given up before its deadline, {deadline}"));
    }
    if !case.acts_within(attempt.runner, (deadline, deadline), RECOVERY_US).is_empty() {
        return Ok("FAILED");
    }
    Err(format!("its outcome is called unknown, and nothing kept {} from reporting it", attempt.runner))
}

/// Losses have a cause and are noticed in time.
fn loss(case: &Case<'_>, job: &JobCase<'_>, attempt: &AttemptCase<'_>, verdict: &mut Verdict) {
    let (Some(outcome), Some(at)) = (attempt.row.outcome.as_deref(), attempt.row.superseded_us) else { return };
    let acts = case.acts_within(attempt.runner, (attempt.row.claimed_us, at), RECOVERY_US);
    if outcome == "lost" && acts.is_empty() {
        verdict.notes.push(format!(
            "{}: attempt {} was lost without a fault; is the machine too busy?",
            job.label, attempt.row.ordinal
        ));
    }
    let death = case.death_of(attempt.runner);
    let due = match (outcome, death, job.row.deadline_us) {
        ("lost", Some(death), _) => death + i64::from(TIMES.lease_ttl_ms) * 1000,
        ("outcome unknown", _, Some(deadline)) => deadline,
        _ => return,
    };
    // Somebody else's fault, a server that was away above all, puts everything off.
    let put_off = acts.iter().filter(|act| act.hit != attempt.runner).any(|act| act.ended.wall_us + RECOVERY_US >= due);
    if at > due + DUTY_US && !put_off {
        let what = format!("attempt {} was given up {} ms late", attempt.row.ordinal, (at - due) / 1000);
        verdict.violate(Promise::I8, &job.label, what, job.evidence());
    }
}
