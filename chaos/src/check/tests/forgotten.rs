//! What a failover that lost commits may cost, and that nothing else is excused by it.

use tendril_broker::testing::history::{LogChunk, Transition};
use uuid::{Timestamp, Uuid};

use super::made::*;
use crate::check::Promise;
use crate::facts::{Fact, How, What};
use crate::history::{Act, Cancelled, History};
use crate::op::Op;
use crate::processes::Identity;
use crate::schedule::Step;

/// All of the sound history happens in this time; long before the second one, and long after the third.
const MEANWHILE: (i64, i64) = (0, 30_000);
const LATER: (i64, i64) = (60_000_000, 61_000_000);
const BEFORE: (i64, i64) = (-61_000_000, -60_000_000);

/// The server was replaced by one that lacked what had been acknowledged in this time.
fn forgets(h: &mut History, (from, to): (i64, i64)) {
    let (what, hit) = ("failover".into(), "postgres".into());
    h.acts.push(Act { what, hit, began: at(from), ended: at(to), forgot_until: Some(at(to)) });
}

/// What is found when it was forgotten meanwhile; it has to be found as this at any other time, and if nothing was forgotten.
fn forged(otherwise: &[Promise], forge: impl Fn(&mut History)) -> Vec<Promise> {
    assert_eq!(found(&forge), otherwise, "nothing was forgotten");
    for time in [BEFORE, LATER] {
        let forged = found(|h| {
            forge(h);
            forgets(h, time);
        });
        assert_eq!(forged, otherwise, "forgotten was what happened from {} to {}", time.0, time.1);
    }
    found(|h| {
        forge(h);
        forgets(h, MEANWHILE);
    })
}

fn without_job(h: &mut History, deployment: usize, job: usize) {
    let row = h.dump.jobs.iter().position(|row| row.id == id(200 + job)).expect("it is there");
    h.dump.jobs.remove(row);
    h.dump.deployments.retain(|row| row.id != id(100 + deployment));
    let gone: Vec<_> = h.dump.attempts.iter().filter(|row| row.job_id == id(200 + job)).map(|row| row.id).collect();
    h.dump.attempts.retain(|row| !gone.contains(&row.id));
    h.dump.logs.retain(|chunk| !gone.contains(&chunk.attempt_id));
    h.dump.transitions.retain(|seen| seen.job_id != id(200 + job));
}

fn child(h: &mut History, deployment: usize, name: &str, (from, to): (i64, i64)) {
    let job = format!("{}/{name}", id(100 + deployment));
    let process = Identity { pid: 77, birth: from.unsigned_abs() };
    let fact = |what, us| Fact { what, job: job.clone(), attempt: Some(id(377)), process, at: at(us) };
    h.facts.extend([fact(What::Start, from), fact(What::End(How::Exit(0), 10), to)]);
}

#[test]
fn a_submit_may_be_gone_that_was_heard_of_in_the_forgotten_time() {
    let gone = |h: &mut History| {
        h.acknowledged = vec![Some(at(500)); h.submits.len()];
        without_job(h, 0, CHANGE);
    };
    assert_eq!(forged(&[Promise::I2], gone), []);
    let child_later = |h: &mut History| {
        gone(h);
        child(h, 0, "only", (20_000_000, 20_000_001));
    };
    assert_eq!(
        forged(&[Promise::I1, Promise::I2], child_later),
        [Promise::I1, Promise::I2],
        "started 20 s later, and twice"
    );
}

#[test]
fn a_cancel_may_be_gone_that_was_heard_of_in_the_forgotten_time() {
    let gone = |h: &mut History| {
        h.cancels[0].at = Some(at(600));
        h.dump.deployments[4].cancel_requested = false;
    };
    assert_eq!(forged(&[Promise::I2, Promise::End], gone), [], "what was heard of it is obeyed");
    let unknown_when = |h: &mut History| {
        gone(h);
        h.cancels[0].at = None;
    };
    assert_eq!(forged(&[Promise::I2, Promise::End], unknown_when), [Promise::I2, Promise::End]);
}

#[test]
fn a_broker_that_knows_nothing_of_what_is_to_be_cancelled_has_forgotten_it_or_been_replaced() {
    let unknown = |h: &mut History| {
        h.acknowledged = vec![Some(at(500)); h.submits.len()];
        h.cancels.push(Cancelled { deployment: id(100), accepted: false, unknown: true, at: Some(at(600)) });
    };
    assert_eq!(forged(&[Promise::I2], unknown), [Promise::I2], "it is there, and its submit is not forgotten");
    let gone = |h: &mut History| {
        unknown(h);
        without_job(h, 0, CHANGE);
    };
    assert_eq!(forged(&[Promise::I2], gone), []);
    // The old primary came back after its standby had taken over.
    let astray = |(from, to): (i64, i64)| {
        move |h: &mut History| {
            unknown(h);
            let op = Op::FailoverSplit { silent_ms: 1, back_after_ms: 1, astray_ms: 1 };
            let (what, hit) = (op.to_string(), "postgres".into());
            h.acts.push(Act { what, hit, began: at(from), ended: at(to), forgot_until: None });
            h.schedule.push(Step { after_starts: 0, then_ms: 0, op });
        }
    };
    assert_eq!(found(astray(MEANWHILE)), []);
    assert_eq!(found(astray(LATER)), [Promise::I2]);
}

#[test]
fn a_claim_may_be_gone_whose_child_began_in_the_forgotten_time() {
    let claim = |h: &mut History| {
        without_attempt(h, LOST);
        h.dump.attempts.iter_mut().filter(|row| row.job_id == id(200 + LOOK)).for_each(|row| row.ordinal = 1);
        h.dump.jobs[LOOK].attempts = 1;
    };
    assert_eq!(forged(&[Promise::I3], claim), []);
}

#[test]
fn what_the_next_server_claimed_it_has_not_forgotten() {
    // Its child began soon after the crash, and so did those of what was claimed before.
    let unknown = |claimed_ms: u64, h: &mut History| {
        let claimed = Uuid::new_v7(Timestamp::from_unix_time(0, u32::try_from(claimed_ms * 1_000_000).unwrap(), 0, 0));
        h.facts.iter_mut().filter(|fact| fact.attempt == Some(id(300))).for_each(|fact| fact.attempt = Some(claimed));
    };
    let is_wrong = |claimed_ms, forgotten: (i64, i64)| {
        let wrong = found(|h| {
            unknown(claimed_ms, h);
            forgets(h, forgotten);
        });
        wrong.contains(&Promise::I3)
    };
    assert!(!is_wrong(29, MEANWHILE), "by the server that was to crash");
    assert!(is_wrong(31, MEANWHILE), "by the next");
    assert!(is_wrong(29, LATER) && is_wrong(29, BEFORE), "nothing of that time was forgotten");
    // Of a claim that is known: only its start can have been lost, and only with the server that had made it.
    let without_start = |h: &mut History| attempt_of(h, CHANGE).started_us = None;
    for (crash_us, otherwise) in [(1000, &[][..]), (999, &[Promise::I1][..])] {
        let wrong = found(|h| {
            without_start(h);
            forgets(h, (0, crash_us));
        });
        assert_eq!(wrong, otherwise, "claimed at 1000, begun at 1001, crashed at {crash_us}");
    }
}

fn without_attempt(h: &mut History, number: usize) {
    h.dump.attempts.retain(|row| row.id != id(300 + number));
    let of_it = |seen: &Transition| seen.attempt_id == Some(id(300 + number));
    let first = h.dump.transitions.iter().position(of_it).expect("its claim");
    // With it goes what became of it.
    h.dump.transitions.drain(first..first + 2);
}

#[test]
fn a_start_may_be_gone_whose_child_began_in_the_forgotten_time() {
    let start = |h: &mut History| {
        attempt_of(h, CHANGE).started_us = None;
        h.dump.transitions.retain(|seen| seen.job_id != id(200 + CHANGE) || seen.became != "STARTED");
        let end = h.dump.transitions.iter_mut().find(|seen| seen.became == "SUCCESS").expect("an end");
        end.was = Some("CLAIMED".into());
    };
    assert_eq!(forged(&[Promise::I1, Promise::I4], start), []);
    // It is remembered, and the job ended as if it were not.
    let remembered = |h: &mut History| {
        start(h);
        attempt_of(h, CHANGE).started_us = Some(1000);
    };
    assert_eq!(forged(&[Promise::I4], remembered), [Promise::I4]);
}

#[test]
fn a_start_that_was_forgotten_is_heard_of_later() {
    let later = |h: &mut History| attempt_of(h, CHANGE).started_us = Some(1500);
    assert_eq!(forged(&[Promise::I1], later), []);
}

#[test]
fn what_waits_to_change_the_world_is_left_to_people_soon_after_and_nothing_else_is() {
    let left = |job: usize| {
        move |h: &mut History| {
            let (job_id, first) = (id(200 + job), h.dump.transitions[0].clone());
            let at = h.dump.transitions.iter().position(|seen| seen.job_id == job_id).expect("it was queued") + 1;
            let step = |was: &str, became: &str| Transition {
                job_id,
                was: Some(was.into()),
                became: became.into(),
                ..first.clone()
            };
            let steps = [step("QUEUED", "AWAITING_APPROVAL"), step("AWAITING_APPROVAL", "QUEUED")];
            h.dump.transitions.splice(at..at, steps);
        }
    };
    assert_eq!(forged(&[Promise::I4], left(CHANGE)), []);
    assert_eq!(forged(&[Promise::I4], left(LOOK)), [Promise::I4], "it only reads");
}

#[test]
fn rows_may_be_gone_of_what_ran_in_the_forgotten_time_and_a_gap_stand_for_them() {
    let of_change = |h: &History| h.dump.logs.iter().position(|chunk| chunk.attempt_id == id(300)).expect("a row");
    let end = |h: &mut History| drop(h.dump.logs.remove(of_change(h) + 1));
    assert_eq!(forged(&[Promise::I5], end), []);
    let gap = |h: &mut History| {
        let at = of_change(h);
        let (gap_kind, text) = (Some("lost".into()), String::new());
        h.dump.logs[at] = LogChunk { gap_kind, text, ..h.dump.logs[at].clone() };
    };
    assert_eq!(forged(&[Promise::I5], gap), []);
    // No failover makes up text, or lets numbers be missing.
    let invented = |h: &mut History| {
        gap(h);
        let at = of_change(h) + 1;
        h.dump.logs[at].text = h.dump.logs[at].text.replacen("says 4", "said 4", 1);
    };
    assert_eq!(forged(&[Promise::I5], invented), [Promise::I5]);
    let hole = |h: &mut History| drop(h.dump.logs.remove(of_change(h)));
    assert_eq!(forged(&[Promise::I5], hole), [Promise::I5]);
}

#[test]
fn the_last_apply_shows_in_its_state_also_when_the_database_has_forgotten_it() {
    let shows =
        |number: usize| move |h: &mut History| drop(h.states.insert("p".into(), format!("{}", id(100 + number))));
    assert_eq!(forged(&[Promise::I12], shows(2)), [Promise::I12], "the state of the apply before");
    let forgotten = |number: usize| {
        move |h: &mut History| {
            h.acknowledged = vec![Some(at(500)); h.submits.len()];
            without_job(h, 3, APPLY[1]);
            shows(number)(h);
        }
    };
    assert_eq!(forged(&[Promise::I2], forgotten(3)), []);
    assert_eq!(forged(&[Promise::I2, Promise::I12], forgotten(2)), [Promise::I12], "it had ended well");
}

#[test]
fn a_run_whose_start_was_heard_of_late_counts_from_when_its_child_began() {
    // Of the first apply, when the second was over.
    let taken_on = |h: &mut History| attempt_of(h, APPLY[0]).started_us = Some(29_000);
    assert_eq!(forged(&[Promise::I1], taken_on), []);
}

#[test]
fn a_change_that_ran_in_a_forgotten_time_does_not_run_again() {
    let twice = |h: &mut History| another_fact(h, CHANGE, What::Start);
    assert_eq!(forged(&[Promise::I1], twice), [Promise::I1]);
    let forgotten = |h: &mut History| {
        h.acknowledged = vec![Some(at(500)); h.submits.len()];
        without_job(h, 0, CHANGE);
        twice(h);
    };
    assert_eq!(forged(&[Promise::I1, Promise::I2], forgotten), [Promise::I1], "and its submit is forgotten");
}

#[test]
fn a_run_that_is_forgotten_shares_its_state_with_nobody() {
    let forgotten = |h: &mut History| {
        h.acknowledged = vec![Some(at(500)); h.submits.len()];
        without_job(h, 3, APPLY[1]);
    };
    let beside = |h: &mut History| {
        forgotten(h);
        h.facts.iter_mut().filter(|fact| fact.attempt == Some(id(305)) && fact.what == What::Start).for_each(|start| {
            start.at = at(12_000);
        });
    };
    assert_eq!(forged(&[Promise::I2, Promise::I10], beside), [Promise::I10]);
    let clash = |h: &mut History| {
        forgotten(h);
        another_fact(h, 5, What::Clash("state-key-p".into()));
    };
    assert_eq!(forged(&[Promise::I2, Promise::I10], clash), [Promise::I10], "by the kernel's word");
}
