//! I2 and submit's own promise: what was committed is there once and ends, what was rolled back is not there.

use super::case::{Case, TERMINAL, claimed_us};
use super::{Promise, Verdict};
use crate::facts::What;
use crate::history::Submit;
use crate::workload::Deployment;

pub fn check(case: &Case<'_>, verdict: &mut Verdict) {
    let history = case.history;
    let mut forgotten = Vec::new();
    for (number, (deployment, submit)) in history.workload.deployments.iter().zip(&history.submits).enumerate() {
        let acknowledged = history.acknowledged.get(number).copied().flatten();
        match submit {
            Submit::Committed
                if !is_there(case, deployment) && acknowledged.is_some_and(|at| case.is_forgotten(at.wall_us)) =>
            {
                verdict.notes.push(format!("{}: the database has forgotten its submit", deployment.id));
                forgotten.push(deployment.id.to_string());
            }
            Submit::Committed => committed(case, deployment, verdict),
            Submit::TakenBack => taken_back(case, deployment, verdict),
            Submit::Refused(why) => {
                verdict.violate(
                    Promise::I2,
                    &deployment.id.to_string(),
                    format!("the submit was refused: {why}"),
                    vec![],
                );
            }
        }
    }
    let is_lost = |id: &str| forgotten.iter().any(|lost| lost == id);
    let known = |id| history.workload.deployments.iter().any(|deployment| deployment.id == id);
    for row in history.dump.deployments.iter().filter(|row| !known(row.id)) {
        verdict.violate(Promise::I2, &row.id.to_string(), "nobody submitted this deployment", vec![]);
    }
    for cancel in history.cancels.iter().filter(|cancel| cancel.accepted) {
        let row = history.dump.deployments.iter().find(|row| row.id == cancel.deployment);
        let forgotten =
            row.is_none() && is_lost(&cancel.deployment.to_string()) || case.cancel_is_forgotten(cancel.deployment);
        if row.is_none_or(|row| !row.cancel_requested) && forgotten {
            verdict.notes.push(format!("{}: the database has forgotten its cancel", cancel.deployment));
        } else if row.is_none_or(|row| !row.cancel_requested) {
            let what = "the cancel was accepted, and the deployment knows nothing of it";
            verdict.violate(Promise::I2, &cancel.deployment.to_string(), what, vec![]);
        }
    }
    for cancel in history.cancels.iter().filter(|cancel| cancel.unknown) {
        let id = cancel.deployment.to_string();
        if !is_lost(&id) && !cancel.at.is_some_and(|at| case.may_be_led_astray(at.wall_us)) {
            let what = "the broker knew nothing of it when it was to be cancelled, and had taken its submit";
            verdict.violate(Promise::I2, &id, what, vec![]);
        }
    }
    for fact in history.facts.iter().filter(|fact| !case.jobs.iter().any(|job| job.label == fact.job)) {
        let lost = fact.job.split_once('/').is_some_and(|(id, _)| is_lost(id));
        let what = match lost {
            false => "a child ran for a job that does not exist",
            true if fact.what == What::Start && !case.may_follow_the_forgotten(fact.at.wall_us, claimed_us(fact)) => {
                "a child was started for a job that the database had forgotten long before"
            }
            true => continue,
        };
        verdict.violate(Promise::I2, &fact.job, what, vec![fact.to_string()]);
    }
}

fn is_there(case: &Case<'_>, deployment: &Deployment) -> bool {
    case.history.dump.deployments.iter().any(|row| row.id == deployment.id)
}

fn taken_back(case: &Case<'_>, deployment: &Deployment, verdict: &mut Verdict) {
    let dump = &case.history.dump;
    let left = dump.deployments.iter().any(|row| row.id == deployment.id)
        || dump.jobs.iter().any(|row| row.deployment_id == deployment.id);
    if left {
        verdict.violate(
            Promise::I2,
            &deployment.id.to_string(),
            "the submit was rolled back and left something",
            vec![],
        );
    }
}

fn committed(case: &Case<'_>, deployment: &Deployment, verdict: &mut Verdict) {
    let id = deployment.id.to_string();
    let dump = &case.history.dump;
    let Some(row) = dump.deployments.iter().find(|row| row.id == deployment.id) else {
        verdict.violate(Promise::I2, &id, "the submit was committed and is not there", vec![]);
        return;
    };
    let mut names: Vec<&str> =
        dump.jobs.iter().filter(|job| job.deployment_id == row.id).map(|job| job.name.as_str()).collect();
    let mut wanted: Vec<&str> = deployment.jobs.iter().map(|job| job.name.as_str()).collect();
    names.sort_unstable();
    wanted.sort_unstable();
    if names != wanted {
        verdict.violate(Promise::I2, &id, format!("has jobs {names:?} and should have {wanted:?}"), vec![]);
        return;
    }
    let jobs: Vec<_> = case.jobs.iter().filter(|job| job.row.deployment_id == row.id).collect();
    for job in jobs.iter().filter(|job| !job.is_terminal()) {
        verdict.violate(Promise::I2, &job.label, "has not ended", job.evidence());
    }
    let states: Vec<&str> = jobs.iter().map(|job| job.row.state.as_str()).collect();
    let status = status_of(&states);
    if states.iter().all(|state| TERMINAL.contains(state)) && row.status != status {
        let what = format!("its status is {} and its jobs' states {states:?} make it {status}", row.status);
        verdict.violate(Promise::I2, &id, what, vec![]);
    }
}

/// What jobs that have ended make of their deployment; none of the workload's is optional.
fn status_of(states: &[&str]) -> &'static str {
    match states {
        states if states.contains(&"FAILED") => "FAILED",
        states if states.contains(&"CANCELLED") => "CANCELLED",
        _ => "SUCCESS",
    }
}
