//! For each promise histories that break it.

use serde_json::json;
use tendril_broker::testing::history::{DeploymentRow, JobRow, LogChunk, Transition};

use super::made::*;
use crate::check::Promise;
use crate::facts::{How, What};
use crate::history::{Act, History, RunnerEnd, Submit};
use crate::perform::NOT_ENDED;

#[test]
fn two_current_attempts_are_found() {
    assert_eq!(found(|h| h.dump.attempts[AGAIN].claimed_us = 4000), [Promise::I1], "claimed before the first was over");
    assert_eq!(found(|h| h.dump.attempts[AGAIN].fence = 1), [Promise::I1], "a fence given twice");
    assert!(found(|h| h.dump.attempts[AGAIN].ordinal = 1).contains(&Promise::I1), "an ordinal given twice");
}

#[test]
fn a_change_that_ran_twice_is_found_by_the_children_alone() {
    assert_eq!(found(|h| another_fact(h, CHANGE, What::Start)), [Promise::I1], "two starts of one attempt");
    assert_eq!(found(|h| another_fact(h, CHANGE, What::Clash("job-x".into()))), [Promise::I1], "two at the same time");
    let early = |h: &mut History| attempt_of(h, CHANGE).started_us = Some(1500);
    assert_eq!(found(early), [Promise::I1], "a child before the committed start");
}

#[test]
fn a_submit_that_is_lost_or_comes_back_is_found() {
    assert_eq!(found(|h| drop(h.dump.deployments.remove(0))), [Promise::I2], "committed and gone");
    let back = |h: &mut History| {
        h.dump.deployments.push(DeploymentRow { id: id(100 + TAKEN_BACK), ..h.dump.deployments[0].clone() })
    };
    assert_eq!(found(back), [Promise::I2], "rolled back and there");
    let twice = |h: &mut History| h.dump.jobs.push(JobRow { id: id(999), ..h.dump.jobs[CHANGE].clone() });
    assert_eq!(found(twice), [Promise::I2], "queued twice");
    let foreign =
        |h: &mut History| h.dump.deployments.push(DeploymentRow { id: id(998), ..h.dump.deployments[0].clone() });
    assert_eq!(found(foreign), [Promise::I2], "submitted by nobody");
    assert_eq!(found(|h| h.submits[0] = Submit::Refused("no".into())), [Promise::I2]);
    assert_eq!(
        found(|h| h.dump.deployments[0].status = "FAILED".into()),
        [Promise::I2],
        "a status that is not its jobs'"
    );
    let forgotten = |h: &mut History| h.cancels[0].deployment = id(100);
    assert_eq!(found(forgotten), [Promise::I2], "an accepted cancel that nobody knows of");
}

#[test]
fn a_job_that_never_ends_is_found() {
    let stuck = |h: &mut History| {
        h.dump.jobs[CHANGE].state = "STARTED".into();
        h.dump.transitions.retain(|seen| seen.job_id != id(200) || seen.became != "SUCCESS");
        h.came_to_rest = false;
    };
    assert_eq!(found(stuck), [Promise::I2, Promise::I8]);
}

#[test]
fn a_superseded_attempt_that_decides_is_found() {
    let by_the_lost = |h: &mut History| {
        h.dump.transitions.iter_mut().for_each(|seen| {
            if seen.job_id == id(200 + LOOK) && seen.became == "SUCCESS" {
                seen.attempt_id = Some(id(300 + LOST));
            }
        })
    };
    assert_eq!(found(by_the_lost), [Promise::I3]);
    assert_eq!(found(|h| h.dump.jobs[LOOK].result = Some(json!({"attempt": LOST}))), [Promise::I3], "another's result");
    assert!(
        found(|h| h.dump.attempts[AGAIN].superseded_us = Some(7050)).contains(&Promise::I3),
        "superseded and accepted"
    );
    let too_late = |h: &mut History| attempt_of(h, CHANGE).superseded_us = Some(900);
    assert!(found(too_late).contains(&Promise::I3), "a child that started after the job had gone on");
    let unknown = |h: &mut History| h.facts[0].attempt = Some(id(997));
    assert!(found(unknown).contains(&Promise::I3), "a child of an attempt that is none");
}

#[test]
fn a_second_end_is_found() {
    let twice = |h: &mut History| {
        let seen = h.dump.transitions.iter().find(|seen| seen.became == "SUCCESS").expect("an end").clone();
        h.dump.transitions.push(Transition { n: 999, was: Some("SUCCESS".into()), became: "FAILED".into(), ..seen });
        h.dump.jobs[CHANGE].state = "FAILED".into();
        h.dump.deployments[0].status = "FAILED".into();
    };
    assert!(found(twice).contains(&Promise::I4));
    let backwards = |h: &mut History| {
        let lost =
            h.dump.transitions.iter_mut().find(|seen| seen.became == "QUEUED" && seen.was.is_some()).expect("a loss");
        lost.became = "BLOCKED".into();
    };
    assert_eq!(found(backwards), [Promise::I4], "along no arrow");
}

#[test]
fn holes_repeats_and_inventions_in_logs_are_found() {
    let of_change = |h: &History| h.dump.logs.iter().position(|chunk| chunk.attempt_id == id(300)).expect("a row");
    let missing = |h: &mut History| {
        let at = of_change(h);
        h.dump.logs.remove(at);
    };
    assert_eq!(found(missing), [Promise::I5], "the first row is missing");
    let twice = |h: &mut History| {
        let at = of_change(h);
        h.dump.logs.insert(at, h.dump.logs[at].clone());
    };
    assert_eq!(found(twice), [Promise::I5], "a row twice");
    let invented = |h: &mut History| {
        let at = of_change(h);
        h.dump.logs[at].text = h.dump.logs[at].text.replacen("says 3", "said 3", 1);
    };
    assert_eq!(found(invented), [Promise::I5], "text that nobody printed");
    let short = |h: &mut History| {
        let at = of_change(h);
        h.dump.logs[at].text = h.dump.logs[at].text.lines().take(2).map(|line| format!("{line}\n")).collect();
    };
    assert_eq!(found(short), [Promise::I5], "the end is missing although the log is whole");
    assert_eq!(found(|h| attempt_of(h, CHANGE).log_end = Some(0)), [Promise::I5], "rows beyond the end");
    assert_eq!(found(|h| attempt_of(h, CHANGE).log_end = Some(7)), [Promise::I5], "rows that a living runner owes");
    let orphan = |h: &mut History| h.dump.logs.push(LogChunk { attempt_id: id(996), ..h.dump.logs[0].clone() });
    assert_eq!(found(orphan), [Promise::I5], "rows of no attempt");
}

#[test]
fn a_loss_that_is_noticed_too_late_is_found() {
    let late = |h: &mut History| {
        h.runners[0].end = RunnerEnd::Killed;
        h.runners[0].at = at(1800);
        h.acts[0].ended = at(1800);
        h.dump.attempts[LOST].superseded_us = Some(60_000_000);
        h.dump.attempts[AGAIN].claimed_us = 60_000_001;
    };
    assert!(found(late).contains(&Promise::I8));
}

#[test]
fn a_process_that_is_left_over_is_found() {
    assert_eq!(found(|h| h.survivors.push("7:1 (sleep)".into())), [Promise::I9]);
}

#[test]
fn two_runs_on_one_state_are_found() {
    let overlap = |h: &mut History| {
        let second = attempt_of(h, APPLY[1]).id;
        attempt_of(h, APPLY[1]).claimed_us = 13_000;
        attempt_of(h, APPLY[1]).started_us = Some(13_000);
        let start = h.facts.iter_mut().find(|fact| fact.attempt == Some(second)).expect("a start");
        start.at = at(13_001);
    };
    assert_eq!(found(overlap), [Promise::I10]);
    assert_eq!(
        found(|h| another_fact(h, 4, What::Clash("state-key-p".into()))),
        [Promise::I10],
        "by the kernel's word"
    );
    let early = |h: &mut History| {
        let (first, second) = (h.dump.jobs[APPLY[0]].id, h.dump.jobs[APPLY[1]].id);
        let end = h.dump.transitions.iter().rfind(|seen| seen.job_id == first).expect("an end").n;
        let claim = h.dump.transitions.iter_mut().find(|seen| seen.job_id == second && seen.became == "CLAIMED");
        claim.expect("a claim").n = end - 1;
    };
    assert_eq!(found(early), [Promise::I10], "by the witness");
}

#[test]
fn a_state_that_lost_the_last_apply_is_found() {
    assert_eq!(found(|h| h.states.clear()), [Promise::I12], "no state");
    let older = |h: &mut History| drop(h.states.insert("p".into(), format!("the state of {}", id(102))));
    assert_eq!(found(older), [Promise::I12], "the state of the apply before");
}

#[test]
fn a_wrong_end_is_found_by_the_childs_word() {
    let left = |how| {
        move |h: &mut History| {
            let end = h.facts.iter_mut().find(|fact| matches!(fact.what, What::End(..))).expect("an end");
            end.what = What::End(how, 10);
        }
    };
    assert_eq!(found(left(How::Exit(3))), [Promise::End], "success of a child that failed");
    assert_eq!(found(left(How::Signal(2))), [Promise::End], "success of a child that was interrupted");
    assert_eq!(
        found(|h| h.facts.retain(|fact| !matches!(fact.what, What::End(..)))),
        [Promise::End],
        "of one that never ended"
    );
    let skipped_need = |h: &mut History| h.dump.jobs[LOOK].state = "FAILED".into();
    assert!(found(skipped_need).contains(&Promise::End), "a job that ran although its need failed");
    let causeless = |h: &mut History| h.dump.deployments[4].cancel_requested = false;
    assert!(found(causeless).contains(&Promise::End), "cancelled, and nobody asked for it");
}

#[test]
fn an_unknown_outcome_needs_a_silent_holder() {
    let unknown = |h: &mut History| {
        h.dump.jobs[CHANGE].state = "FAILED".into();
        h.dump.jobs[CHANGE].result = None;
        h.dump.jobs[CHANGE].deadline_us = Some(60_000_000);
        h.dump.deployments[0].status = "FAILED".into();
        let attempt = attempt_of(h, CHANGE);
        (attempt.ended_us, attempt.superseded_us) = (None, Some(60_000_500));
        (attempt.outcome, attempt.report) = (Some("outcome unknown".into()), None);
        let end = h.dump.transitions.iter_mut().find(|seen| seen.became == "SUCCESS").expect("an end");
        end.became = "FAILED".into();
    };
    assert_eq!(found(unknown), [Promise::End], "the holder was well");
    let killed = |h: &mut History| {
        unknown(h);
        h.runners[0].end = RunnerEnd::Killed;
        h.runners[0].at = at(1800);
    };
    assert_eq!(found(killed), [], "the holder was killed");
    let again = |h: &mut History| {
        killed(h);
        attempt_of(h, CHANGE).superseded_us = Some(50_000_000);
    };
    assert_eq!(found(again), [Promise::End], "given up before the deadline");
}

#[test]
fn a_runner_that_ends_by_itself_is_found() {
    assert_eq!(found(|h| h.runners[0].end = RunnerEnd::Other("exit code 101".into())), [Promise::Process]);
    assert_eq!(found(|h| h.runners[0].end = RunnerEnd::Unready), [Promise::Process], "no handler, and registered");
}

#[test]
fn a_wrong_figure_is_found() {
    assert_eq!(found(|h| h.dump.wrong_figures.push("depth of exec QUEUED".into())), [Promise::Figures]);
}

#[test]
fn a_transaction_that_nobody_ends_is_found() {
    let held = |h: &mut History| {
        let what = format!("a tenant holds a transaction: {NOT_ENDED} within 16000 ms");
        let hit = "tendril-runner".to_owned();
        h.acts.push(Act { what, hit, began: at(1500), ended: at(1500), forgot_until: None });
    };
    assert_eq!(found(held), [Promise::I6]);
}
