//! I1 and I3 by the attempts' rows: one current attempt at a time, and what is superseded decides nothing.

use super::case::{AttemptCase, Case, JobCase};
use super::{Promise, Verdict};

pub fn check(case: &Case<'_>, verdict: &mut Verdict) {
    for job in &case.jobs {
        in_turn(job, verdict);
        decided_by_current(job, verdict);
    }
    let mut fences: Vec<i64> = case.history.dump.attempts.iter().map(|attempt| attempt.fence).collect();
    fences.sort_unstable();
    for twice in fences.windows(2).filter(|pair| pair[0] == pair[1]) {
        verdict.violate(Promise::I1, "fences", format!("fence {} was given twice", twice[0]), vec![]);
    }
}

/// Claim follows claim only after the one before was ended or superseded.
fn in_turn(job: &JobCase<'_>, verdict: &mut Verdict) {
    for (index, attempt) in job.attempts.iter().enumerate() {
        if usize::try_from(attempt.row.ordinal).unwrap_or(0) != index + 1 {
            let what = format!("attempt {} is the {}. claim of its job", attempt.row.ordinal, index + 1);
            verdict.violate(Promise::I1, &job.label, what, job.evidence());
        }
    }
    if job.attempts.len() != usize::try_from(job.row.attempts).unwrap_or(0) {
        verdict.violate(Promise::I1, &job.label, "the job counts other attempts than there are", job.evidence());
    }
    for pair in job.attempts.windows(2) {
        let over = over(&pair[0]);
        if over.is_none_or(|over| over > pair[1].row.claimed_us) {
            let what =
                format!("attempts {} and {} were current at the same time", pair[0].row.ordinal, pair[1].row.ordinal);
            verdict.violate(Promise::I1, &job.label, what, job.evidence());
        }
    }
}

/// When an attempt stopped being current.
fn over(attempt: &AttemptCase<'_>) -> Option<i64> {
    match (attempt.row.ended_us, attempt.row.superseded_us) {
        (Some(ended), Some(superseded)) => Some(ended.min(superseded)),
        (ended, superseded) => ended.or(superseded),
    }
}

/// A result comes from the report that was accepted, of the attempt that was current.
fn decided_by_current(job: &JobCase<'_>, verdict: &mut Verdict) {
    let last = job.transitions.last().filter(|last| last.became == job.row.state);
    let Some(last) = last.filter(|_| job.is_terminal()) else { return };
    let Some(attempt) = last.attempt_id.and_then(|id| job.attempts.iter().find(|attempt| attempt.row.id == id)) else {
        if job.row.state == "SUCCESS" {
            verdict.violate(Promise::I3, &job.label, "succeeded without a current attempt", job.evidence());
        }
        return;
    };
    if job.attempts.iter().any(|other| other.row.fence > attempt.row.fence) {
        let what = format!("was ended by attempt {}, which a later one had superseded", attempt.row.ordinal);
        verdict.violate(Promise::I3, &job.label, what, job.evidence());
    }
    if job.row.state != "SUCCESS" {
        return;
    }
    if attempt.row.superseded_us.is_some() || attempt.row.outcome.as_deref() != Some("success") {
        let what =
            format!("succeeded by attempt {}, which is superseded or did not report success", attempt.row.ordinal);
        verdict.violate(Promise::I3, &job.label, what, job.evidence());
    }
    let reported =
        attempt.row.report.as_ref().and_then(|report| report.get("result")).filter(|result| !result.is_null());
    if reported != job.row.result.as_ref().filter(|result| !result.is_null()) {
        verdict.violate(Promise::I3, &job.label, "its result is not the one that was accepted", job.evidence());
    }
}
