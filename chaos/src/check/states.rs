//! I12 by the state files: a state is what the last apply that could touch it has made of it.

use super::case::{Case, JobCase};
use super::{Promise, Verdict};
use crate::workload::Work;

pub fn check(case: &Case<'_>, verdict: &mut Verdict) {
    // What was applied in a time that is forgotten has changed states, too.
    if case.forgot_before(i64::MAX) {
        return;
    }
    let mut starts: Vec<(&str, i64, &JobCase<'_>)> = Vec::new();
    for job in &case.jobs {
        let Work::Apply { path, .. } = &job.spec.work else { continue };
        let refused = job.row.reason.as_deref().is_some_and(|reason| reason.contains("plan is stale"));
        let started = job.attempts.iter().filter(|_| !refused).filter_map(|attempt| attempt.row.started_us);
        starts.extend(started.map(|at| (path.as_str(), at, job)));
    }
    starts.sort_by_key(|(path, at, _)| (*path, *at));
    for (index, (path, _, job)) in starts.iter().enumerate() {
        let is_last = starts.get(index + 1).is_none_or(|(next, ..)| next != path);
        // What was cut short may have left its predecessor's state, or its own; what succeeded left its own.
        if !is_last || job.row.state != "SUCCESS" {
            continue;
        }
        let state = case.history.states.get(*path);
        if state.is_none_or(|state| !state.contains(&job.row.deployment_id.to_string())) {
            let what = format!("succeeded last on state {path}, and the state does not show it");
            verdict.violate(Promise::I12, &job.label, what, job.evidence());
        }
    }
}
