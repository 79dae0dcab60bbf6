//! I12 by the state files: a state is what the last apply that could touch it has made of it.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::case::{Case, JobCase};
use super::{Promise, Verdict};
use crate::facts::{How, What};
use crate::workload::Work;

/// An apply that has begun to touch a state.
struct Run<'a> {
    began_us: i64,
    deployment: Uuid,
    /// As far as the database knows of it: an apply that it has forgotten has changed the state, too.
    job: Option<&'a JobCase<'a>>,
    /// It came to its end. What was cut short may have left the state before it, or its own.
    ended_well: bool,
}

pub fn check(case: &Case<'_>, verdict: &mut Verdict) {
    let mut by_path: BTreeMap<&str, Vec<Run<'_>>> = BTreeMap::new();
    for deployment in &case.history.workload.deployments {
        for spec in &deployment.jobs {
            let Work::Apply { path, .. } = &spec.work else { continue };
            let label = deployment.label(&spec.name);
            let job = case.jobs.iter().find(|job| job.label == label);
            let runs = by_path.entry(path).or_default();
            runs.extend(job.into_iter().flat_map(|job| known(job, deployment.id)));
            runs.extend(forgotten(case, job, &label, deployment.id));
        }
    }
    for (path, mut runs) in by_path {
        runs.sort_by_key(|run| run.began_us);
        last(case, path, &runs, verdict);
    }
}

fn known<'a>(job: &'a JobCase<'a>, deployment: Uuid) -> impl Iterator<Item = Run<'a>> {
    let refused = job.row.reason.as_deref().is_some_and(|reason| reason.contains("plan is stale"));
    let attempts = job.attempts.iter().filter(move |_| !refused);
    attempts.filter_map(move |attempt| {
        // A start that was forgotten and taken on has the moment at which it was heard of.
        let began_us = attempt.start.map(|start| start.at.wall_us).or(attempt.row.started_us)?;
        Some(Run { began_us, deployment, job: Some(job), ended_well: job.row.state == "SUCCESS" })
    })
}

/// Those that their children alone tell of. Whether it may be forgotten is another question.
fn forgotten<'a>(
    case: &'a Case<'a>,
    job: Option<&'a JobCase<'a>>,
    label: &str,
    deployment: Uuid,
) -> impl Iterator<Item = Run<'a>> {
    let attempts: Vec<Uuid> = job.iter().flat_map(|job| &job.attempts).map(|attempt| attempt.row.id).collect();
    let facts: Vec<_> = case.history.facts.iter().filter(|fact| fact.job == label).collect();
    let unknown = |attempt: Option<Uuid>| attempt.is_none_or(|id| !attempts.contains(&id));
    let runs: Vec<Run<'a>> = facts
        .iter()
        .filter(|fact| fact.what == What::Start && unknown(fact.attempt))
        .map(|start| {
            let well = |what: &What| matches!(what, What::End(How::Exit(0), _));
            let ended_well = facts.iter().any(|fact| fact.process == start.process && well(&fact.what));
            Run { began_us: start.at.wall_us, deployment, job: None, ended_well }
        })
        .collect();
    runs.into_iter()
}

/// The state shows the last apply that came to its end, or one that was cut short after it.
fn last(case: &Case<'_>, path: &str, runs: &[Run<'_>], verdict: &mut Verdict) {
    let Some(at) = runs.iter().rposition(|run| run.ended_well) else { return };
    let (last, later) = (&runs[at], &runs[at + 1..]);
    // What the database knows to have been cut short may have left anything of a state that is whole.
    if later.iter().any(|run| run.job.is_some()) {
        return;
    }
    let state = case.history.states.get(path);
    let shows = |run: &Run<'_>| state.is_some_and(|state| state.contains(&run.deployment.to_string()));
    if !shows(last) && !later.iter().any(shows) {
        let (of, evidence) =
            last.job.map_or_else(|| (last.deployment.to_string(), vec![]), |job| (job.label.clone(), job.evidence()));
        let what = format!("succeeded last on state {path}, and the state does not show it");
        verdict.violate(Promise::I12, &of, what, evidence);
    }
}
