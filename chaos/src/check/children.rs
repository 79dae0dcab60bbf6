//! I1 and I9 by the children's own file: what changes the world runs once, alone, and after its start was committed.

use super::case::{Case, JobCase};
use super::{Promise, Verdict};
use crate::facts::{Fact, What};

pub fn check(case: &Case<'_>, verdict: &mut Verdict) {
    for job in &case.jobs {
        starts(case, job, verdict);
        for fact in &job.facts {
            let unknown = fact.attempt.is_none_or(|id| !job.attempts.iter().any(|attempt| attempt.row.id == id));
            if unknown && case.forgot_before(fact.at.wall_us) && began_in_a_forgotten_time(case, job, fact) {
                let what = format!("{}: a child ran for an attempt that the database has forgotten", job.label);
                verdict.notes.push(what);
            } else if unknown {
                let mut evidence = job.evidence();
                evidence.insert(0, format!("fact: {fact}"));
                verdict.violate(
                    Promise::I3,
                    &job.label,
                    "a child ran for an attempt that the database does not know",
                    evidence,
                );
            }
            if let What::Clash(lock) = &fact.what {
                let promise = if lock.starts_with("state-key") { Promise::I10 } else { Promise::I1 };
                let what = format!("two children that change the world ran at the same time: {lock} was held");
                verdict.violate(promise, &job.label, what, job.evidence());
            }
        }
    }
    for survivor in &case.history.survivors {
        verdict.violate(Promise::I9, survivor, "is alive although everything has ended", vec![]);
    }
}

/// Whether the child of this fact was started in a time that the database does not know of any more.
fn began_in_a_forgotten_time(case: &Case<'_>, job: &JobCase<'_>, fact: &Fact) -> bool {
    let start = job.facts.iter().find(|one| one.what == What::Start && one.process == fact.process);
    case.is_forgotten(start.map_or(fact.at, |start| start.at).wall_us)
}

fn starts(case: &Case<'_>, job: &JobCase<'_>, verdict: &mut Verdict) {
    let starts: Vec<&&Fact> = job.facts.iter().filter(|fact| fact.what == What::Start).collect();
    if job.spec.is_mutating() && starts.len() > 1 {
        let what = format!("changes the world and was started {} times", starts.len());
        verdict.violate(Promise::I1, &job.label, what, job.evidence());
    }
    for attempt in &job.attempts {
        let own: Vec<_> = starts.iter().filter(|fact| fact.attempt == Some(attempt.row.id)).collect();
        if own.len() > 1 {
            let what = format!("attempt {} started {} children", attempt.row.ordinal, own.len());
            verdict.violate(Promise::I1, &job.label, what, job.evidence());
        }
        let Some(start) = attempt.start.filter(|_| job.spec.is_mutating()) else { continue };
        // A start that was forgotten is heard of later, or never.
        let committed = attempt.row.started_us.is_some_and(|started| started <= start.at.wall_us);
        if !committed && !case.is_forgotten(start.at.wall_us) {
            let what = "its child started before the start was committed";
            verdict.violate(Promise::I1, &job.label, what, job.evidence());
        }
        if attempt.row.superseded_us.is_some_and(|superseded| superseded < start.at.wall_us) {
            let what = "its child started after the job had gone on without it";
            verdict.violate(Promise::I3, &job.label, what, job.evidence());
        }
    }
}
