//! I10: never two runs that change one state, by the children's own file and by the witness in the database.

use super::case::{Case, JobCase, TERMINAL};
use super::{Promise, Verdict};
use crate::facts::{Fact, What};
use crate::workload::Work;

/// From one moment to another a job had a key to itself; on which clock is for who compares them.
struct Turn<'a> {
    key: &'a str,
    from: i64,
    to: i64,
    label: String,
    evidence: Vec<String>,
}

pub fn check(case: &Case<'_>, verdict: &mut Verdict) {
    one_by_one(runs(case), "ran beside", verdict);
    let with_key = case.jobs.iter().filter_map(|job| Some((job.row.state_key.as_deref()?, job)));
    one_by_one(with_key.flat_map(|(key, job)| holds(key, job)).collect(), "was handed out before the end of", verdict);
}

/// Children, from their start to their end, also of attempts that the database has forgotten. One that was killed told no end; the
/// locks speak for those.
fn runs<'a>(case: &Case<'a>) -> Vec<Turn<'a>> {
    let mut turns = Vec::new();
    for deployment in &case.history.workload.deployments {
        for spec in &deployment.jobs {
            let Work::Apply { path, .. } = &spec.work else { continue };
            let label = deployment.label(&spec.name);
            let facts: Vec<&Fact> = case.history.facts.iter().filter(|fact| fact.job == label).collect();
            for start in facts.iter().filter(|fact| fact.what == What::Start) {
                let of_it = |fact: &&&Fact| fact.process == start.process && matches!(fact.what, What::End(..));
                let Some(end) = facts.iter().find(of_it) else { continue };
                let evidence = [start, end].map(|fact| format!("fact: {fact}")).to_vec();
                turns.push(Turn {
                    key: path,
                    from: start.at.boot_us,
                    to: end.at.boot_us,
                    label: label.clone(),
                    evidence,
                });
            }
        }
    }
    turns
}

/// From each claim of the job to where it ends or is queued again, by the witness's numbers. Whatever becomes of the runner, and
/// also when nobody knows that, the key stays with the job: its command may still be at work.
fn holds<'a>(key: &'a str, job: &'a JobCase<'a>) -> Vec<Turn<'a>> {
    let mut turns: Vec<Turn<'a>> = Vec::new();
    for seen in &job.transitions {
        if seen.became == "CLAIMED" {
            turns.push(Turn { key, from: seen.n, to: i64::MAX, label: job.label.clone(), evidence: job.evidence() });
        } else if ["QUEUED", "AWAITING_APPROVAL"].contains(&seen.became.as_str())
            || TERMINAL.contains(&seen.became.as_str())
        {
            turns.last_mut().into_iter().for_each(|turn| turn.to = turn.to.min(seen.n));
        }
    }
    turns
}

fn one_by_one(mut turns: Vec<Turn<'_>>, what: &str, verdict: &mut Verdict) {
    turns.sort_by_key(|turn| (turn.key, turn.from));
    for pair in turns.windows(2) {
        let (turn, next) = (&pair[0], &pair[1]);
        if turn.key == next.key && next.from < turn.to {
            let evidence = [turn.evidence.clone(), next.evidence.clone()].concat();
            let what = format!("{what} {} on {}", turn.label, turn.key);
            verdict.violate(Promise::I10, &next.label, what, evidence);
        }
    }
}
