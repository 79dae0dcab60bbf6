//! What is allowed and looks like something broken.

use tendril_broker::testing::history::AttemptRow;

use super::made::*;
use crate::check::{Promise, check};
use crate::facts::What;
use crate::history::{Act, History, RunnerEnd};

#[test]
fn what_is_allowed_is_not_called_broken() {
    // A change that was claimed, lost before its start, and claimed again.
    let before_start = |h: &mut History| {
        let attempt = AttemptRow {
            id: id(399),
            fence: -1,
            claimed_us: 100,
            started_us: None,
            ended_us: None,
            superseded_us: Some(900),
            outcome: Some("lost".into()),
            report: None,
            log_end: None,
            ..h.dump.attempts[CHANGE].clone()
        };
        h.dump.attempts[CHANGE].ordinal = 2;
        h.dump.attempts.insert(0, attempt);
        h.dump.jobs[CHANGE].attempts = 2;
    };
    assert_eq!(found(before_start), []);
    // A log whose runner was killed before it had sent all.
    let cut = |h: &mut History| {
        let of_verify = h.dump.jobs[VERIFY].id;
        let attempt = h.dump.attempts.iter().find(|attempt| attempt.job_id == of_verify).expect("an attempt").id;
        h.dump.logs.retain(|chunk| chunk.attempt_id != attempt || chunk.seq == 0);
        h.runners[0].end = RunnerEnd::Killed;
    };
    assert_eq!(found(cut), []);
    assert_eq!(found(|h| h.dump.jobs[CANCELLED].reason = Some("cancelled: chaos".into())), []);
}

#[test]
fn what_people_have_rejected_is_cancelled_and_nothing_else() {
    let job = |h: &History| format!("{}/only", h.workload.deployments[0].id);
    let rejected = |h: &mut History| {
        let label = job(h);
        h.decisions.insert(label, false);
    };
    assert_eq!(found(rejected), [Promise::End], "it succeeded all the same");
}

#[test]
fn a_child_that_was_killed_for_itself_is_a_failure() {
    let killed = |h: &mut History| {
        let label = format!("{}/only", h.workload.deployments[0].id);
        h.facts.retain(|fact| fact.job != label || fact.what == What::Start);
        h.dump.jobs[CHANGE].state = "FAILED".into();
        h.dump.jobs[CHANGE].result = None;
        h.dump.deployments[0].status = "FAILED".into();
        attempt_of(h, CHANGE).outcome = Some("failure".into());
        let end = h.dump.transitions.iter_mut().find(|seen| seen.became == "SUCCESS").expect("an end");
        end.became = "FAILED".into();
    };
    assert_eq!(found(killed), [Promise::End], "nobody killed it");
    let by_us = |h: &mut History| {
        killed(h);
        let hit = format!("child {}/only", h.workload.deployments[0].id);
        h.acts.push(Act { what: "SIGKILL".into(), hit, began: at(1500), ended: at(1500), forgot_until: None });
    };
    assert_eq!(found(by_us), []);
}

#[test]
fn what_hits_a_place_hits_each_of_its_processes_and_no_other_place() {
    let lost = |hit: &'static str| {
        move |h: &mut History| {
            h.acts[0].hit = hit.into();
        }
    };
    let notes = |hit| {
        let mut history = sound();
        lost(hit)(&mut history);
        check(&history).notes.len()
    };
    assert_eq!(notes("runner-0"), 0, "the loss has its cause");
    assert_eq!(notes("runner-1"), 1, "another place");
    assert_eq!(notes("runner"), 1, "no place");
}
