//! I1 and I9 by the children's own file: what changes the world runs once, alone, and after its start was committed.

use super::case::{Case, JobCase, claimed_us};
use super::{Promise, Verdict};
use crate::facts::{Fact, What};

pub fn check(case: &Case<'_>, verdict: &mut Verdict) {
    once_and_alone(case, verdict);
    for job in &case.jobs {
        after_the_start(case, job, verdict);
        of_known_attempts(case, job, verdict);
    }
    for survivor in &case.history.survivors {
        verdict.violate(Promise::I9, survivor, "is alive although everything has ended", vec![]);
    }
}

/// Whatever the database knows of the job, and also when it has forgotten all of it.
fn once_and_alone(case: &Case<'_>, verdict: &mut Verdict) {
    for deployment in &case.history.workload.deployments {
        for spec in &deployment.jobs {
            let label = deployment.label(&spec.name);
            let facts = || case.history.facts.iter().filter(|fact| fact.job == label);
            let starts = facts().filter(|fact| fact.what == What::Start).count();
            if spec.is_mutating() && starts > 1 {
                let what = format!("changes the world and was started {starts} times");
                verdict.violate(Promise::I1, &label, what, evidence(case, &label));
            }
            for lock in facts().filter_map(|fact| fact.what.clash()) {
                let promise = if lock.starts_with("state-key") { Promise::I10 } else { Promise::I1 };
                let what = format!("two children that change the world ran at the same time: {lock} was held");
                verdict.violate(promise, &label, what, evidence(case, &label));
            }
        }
    }
}

fn evidence(case: &Case<'_>, label: &str) -> Vec<String> {
    let facts = || case.history.facts.iter().filter(|fact| fact.job == label).map(|fact| format!("fact: {fact}"));
    case.jobs.iter().find(|job| job.label == label).map_or_else(|| facts().collect(), JobCase::evidence)
}

fn of_known_attempts(case: &Case<'_>, job: &JobCase<'_>, verdict: &mut Verdict) {
    let known = |fact: &Fact| job.attempts.iter().any(|attempt| Some(attempt.row.id) == fact.attempt);
    for fact in job.facts.iter().filter(|fact| !known(fact)) {
        // Its claim is forgotten when the child began in the time that is.
        let start = job.facts.iter().find(|one| one.what == What::Start && one.process == fact.process);
        if case.may_follow_the_forgotten(start.map_or(fact.at, |start| start.at).wall_us, claimed_us(fact)) {
            let what = format!("{}: a child ran for an attempt that the database has forgotten", job.label);
            verdict.notes.push(what);
            continue;
        }
        let mut evidence = job.evidence();
        evidence.insert(0, format!("fact: {fact}"));
        let what = "a child ran for an attempt that the database does not know";
        verdict.violate(Promise::I3, &job.label, what, evidence);
    }
}

fn after_the_start(case: &Case<'_>, job: &JobCase<'_>, verdict: &mut Verdict) {
    for attempt in &job.attempts {
        let starts = job.facts.iter().filter(|fact| fact.what == What::Start && fact.attempt == Some(attempt.row.id));
        let starts = starts.count();
        if starts > 1 {
            let what = format!("attempt {} started {starts} children", attempt.row.ordinal);
            verdict.violate(Promise::I1, &job.label, what, job.evidence());
        }
        let Some(start) = attempt.start.filter(|_| job.spec.is_mutating()) else { continue };
        // A start that was forgotten is heard of later, or never.
        let committed = attempt.row.started_us.is_some_and(|started| started <= start.at.wall_us);
        if !committed && !case.may_follow_the_forgotten(start.at.wall_us, Some(attempt.row.claimed_us)) {
            let what = "its child started before the start was committed";
            verdict.violate(Promise::I1, &job.label, what, job.evidence());
        }
        if attempt.row.superseded_us.is_some_and(|superseded| superseded < start.at.wall_us) {
            let what = "its child started after the job had gone on without it";
            verdict.violate(Promise::I3, &job.label, what, job.evidence());
        }
    }
}
