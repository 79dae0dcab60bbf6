//! Hand-made histories: a sound one, and for each promise one that breaks it.

use std::collections::BTreeMap;

use clap::Parser;
use serde_json::json;
use tendril_broker::testing::history::{AttemptRow, DeploymentRow, Dump, JobRow, LogChunk, RunnerRow, Transition};
use uuid::Uuid;

use super::*;
use crate::clock::Moment;
use crate::facts::{Fact, How, What};
use crate::history::{Act, Cancelled, RunnerLife, Submit};
use crate::options::Options;
use crate::print;
use crate::processes::Identity;
use crate::workload::{Child, Deployment, Job, Manner, Work, Workload};

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    options: Options,
}

/// Places of the sound history's jobs, attempts and facts.
const CHANGE: usize = 0;
const LOOK: usize = 1;
const VERIFY: usize = 2;
const APPLY: [usize; 2] = [3, 4];
const CANCELLED: usize = 5;
/// The deployment that was taken back.
const TAKEN_BACK: usize = 5;
/// Of job LOOK: its first attempt was lost, its second was accepted.
const LOST: usize = 1;
const AGAIN: usize = 2;

fn id(number: usize) -> Uuid {
    Uuid::from_u128(number as u128)
}

fn at(us: i64) -> Moment {
    Moment { boot_us: us, wall_us: us }
}

fn exec(name: &str, reading: bool, needs: &[&str]) -> Job {
    let needs = needs.iter().map(|need| (*need).to_owned()).collect();
    let work = Work::Exec { reading, child: Child { ms: 1, exit: 0, lines: 10 } };
    Job { name: name.into(), work, needs, timeout_s: 10, max_attempts: None }
}

fn apply() -> Job {
    let child = Child { ms: 1, exit: 0, lines: 10 };
    Job { work: Work::Apply { path: "p".into(), child }, ..exec("apply", false, &[]) }
}

/// Makes a history row by row; times are microseconds, which only their order matters of.
struct Maker(History);

impl Maker {
    fn new() -> Self {
        Self(History {
            seed: 1,
            options: Line::parse_from(["x"]).options,
            engine: None,
            workload: Workload { deployments: Vec::new() },
            schedule: Vec::new(),
            submits: Vec::new(),
            cancels: Vec::new(),
            acts: Vec::new(),
            facts: Vec::new(),
            runners: Vec::new(),
            survivors: Vec::new(),
            released_keys: Vec::new(),
            acknowledged: Vec::new(),
            decisions: BTreeMap::new(),
            states: [("p".to_owned(), format!("the state of {}", id(103)))].into(),
            came_to_rest: true,
            dump: Dump::default(),
        })
    }

    fn deployment(&mut self, status: &str, jobs: Vec<Job>) -> usize {
        let number = self.0.workload.deployments.len();
        let manner = if status.is_empty() { Manner::TakenBack } else { Manner::Once };
        self.0.submits.push(if status.is_empty() { Submit::TakenBack } else { Submit::Committed });
        self.0.workload.deployments.push(Deployment { id: id(100 + number), manner, cancel: None, pause_ms: 0, jobs });
        if !status.is_empty() {
            self.0.dump.deployments.push(DeploymentRow {
                id: id(100 + number),
                status: status.into(),
                error_message: None,
                cancel_requested: status == "CANCELLED",
                ended_us: Some(1),
            });
        }
        number
    }

    fn job(&mut self, deployment: usize, name: &str, state: &str) -> usize {
        let spec = &self.0.workload.deployments[deployment];
        let spec = spec.jobs.iter().find(|job| job.name == name).expect("a job of the deployment");
        let number = self.0.dump.jobs.len();
        self.0.dump.jobs.push(JobRow {
            id: id(200 + number),
            deployment_id: id(100 + deployment),
            name: name.into(),
            kind: "exec".into(),
            mutating: spec.is_mutating(),
            state: state.into(),
            reason: None,
            attempts: 0,
            max_attempts: 3,
            attempt_id: None,
            fence: None,
            state_key: matches!(spec.work, Work::Apply { .. }).then(|| "local://chaos/p#default".into()),
            result: None,
            ended_us: Some(1),
            deadline_us: None,
        });
        self.step(number, None, "QUEUED", None);
        number
    }

    fn step(&mut self, job: usize, was: Option<&str>, became: &str, attempt: Option<Uuid>) {
        let n = self.0.dump.transitions.len() as i64;
        let was = was.map(str::to_owned);
        let (job_id, became) = (id(200 + job), became.to_owned());
        self.0.dump.transitions.push(Transition { n, job_id, was, became, attempt_id: attempt, at_us: n });
    }

    /// A claim by `runner-0.0`, at `from`, of a child that runs until `to`; what becomes of both is added.
    fn attempt(&mut self, job: usize, (from, to): (i64, i64)) -> usize {
        let number = self.0.dump.attempts.len();
        let row = &mut self.0.dump.jobs[job];
        row.attempts += 1;
        (row.attempt_id, row.fence) = (Some(id(300 + number)), Some(number as i64));
        let (ordinal, mutating) = (row.attempts, row.mutating);
        self.0.dump.attempts.push(AttemptRow {
            id: id(300 + number),
            fence: number as i64,
            job_id: id(200 + job),
            ordinal,
            runner_id: id(1),
            claimed_us: from,
            started_us: Some(from),
            ended_us: None,
            superseded_us: None,
            log_end: None,
            log_state: "open".into(),
            outcome: None,
            report: None,
        });
        self.fact(number, What::Start, from + 1);
        if to > 0 {
            self.fact(number, What::End(How::Exit(0), 10), to);
        }
        let claimed = if mutating { "CLAIMED" } else { "STARTED" };
        self.step(job, Some("QUEUED"), claimed, Some(id(300 + number)));
        if mutating {
            self.step(job, Some("CLAIMED"), "STARTED", Some(id(300 + number)));
        }
        number
    }

    fn label(&self, attempt: usize) -> String {
        let job = self.0.dump.jobs.iter().find(|job| job.id == self.0.dump.attempts[attempt].job_id).expect("a job");
        format!("{}/{}", job.deployment_id, job.name)
    }

    fn fact(&mut self, attempt: usize, what: What, us: i64) {
        let process = Identity { pid: attempt as i32, birth: 1 };
        let job = self.label(attempt);
        self.0.facts.push(Fact { what, job, attempt: Some(id(300 + attempt)), process, at: at(us) });
    }

    fn succeed(&mut self, job: usize, attempt: usize, us: i64) {
        let label = self.label(attempt);
        for (seq, (name, stream)) in
            [("stdout", print::Stream::Stdout), ("stderr", print::Stream::Stderr)].into_iter().enumerate()
        {
            self.0.dump.logs.push(LogChunk {
                attempt_id: id(300 + attempt),
                seq: seq as i64,
                seq_to: seq as i64,
                stream: name.into(),
                text: print::text(&label, 10, stream),
                gap_kind: None,
            });
        }
        let row = &mut self.0.dump.attempts[attempt];
        (row.ended_us, row.outcome, row.log_end) = (Some(us), Some("success".into()), Some(1));
        row.report = Some(json!({"outcome": "success", "result": {"attempt": attempt}}));
        self.0.dump.jobs[job].result = Some(json!({"attempt": attempt}));
        self.step(job, Some("STARTED"), "SUCCESS", Some(id(300 + attempt)));
    }
}

/// A change, a look that was lost once, what needs it, two applies of one state, a cancel, a submit that was taken back.
fn sound() -> History {
    let mut make = Maker::new();
    let change = make.deployment("SUCCESS", vec![exec("only", false, &[])]);
    let chain = make.deployment("SUCCESS", vec![exec("look", true, &[]), exec("verify", true, &["look"])]);
    let applies = [0, 1].map(|_| make.deployment("SUCCESS", vec![apply()]));
    let cancelled = make.deployment("CANCELLED", vec![exec("only", false, &[])]);
    make.deployment("", vec![exec("only", false, &[])]);

    let job = make.job(change, "only", "SUCCESS");
    let attempt = make.attempt(job, (1000, 2000));
    make.succeed(job, attempt, 3000);

    let look = make.job(chain, "look", "SUCCESS");
    let lost = make.attempt(look, (1000, 1900));
    make.0.dump.attempts[lost].superseded_us = Some(5000);
    make.0.dump.attempts[lost].outcome = Some("lost".into());
    make.step(look, Some("STARTED"), "QUEUED", None);
    let again = make.attempt(look, (6000, 7000));
    make.succeed(look, again, 7100);
    let verify = make.job(chain, "verify", "SUCCESS");
    let attempt = make.attempt(verify, (8000, 8500));
    make.succeed(verify, attempt, 8600);

    for (deployment, from) in applies.into_iter().zip([10_000, 20_000]) {
        let job = make.job(deployment, "apply", "SUCCESS");
        let attempt = make.attempt(job, (from, from + 5000));
        make.succeed(job, attempt, from + 6000);
    }
    let job = make.job(cancelled, "only", "CANCELLED");
    make.step(job, Some("QUEUED"), "CANCELLED", None);
    make.0.cancels.push(Cancelled { deployment: id(100 + cancelled), accepted: true });
    make.0.dump.runners.push(RunnerRow { id: id(1), name: "runner-0.0".into() });
    make.0.runners.push(RunnerLife { name: "runner-0.0".into(), end: RunnerEnd::Drained, at: at(90_000) });
    let hit = "runner-0.0".to_owned();
    make.0.acts.push(Act { what: "SIGSTOP".into(), hit, began: at(1500), ended: at(5500), forgets: false });
    make.0
}

/// What is found when the sound history is broken in one place.
fn found(break_it: impl FnOnce(&mut History)) -> Vec<Promise> {
    let mut history = sound();
    break_it(&mut history);
    let mut promises: Vec<Promise> = check(&history).violations.iter().map(|violation| violation.promise).collect();
    promises.dedup();
    promises
}

fn attempt_of(history: &mut History, job: usize) -> &mut AttemptRow {
    let job = history.dump.jobs[job].id;
    history.dump.attempts.iter_mut().rfind(|attempt| attempt.job_id == job).expect("the job has attempts")
}

fn another_fact(history: &mut History, like: usize, what: What) {
    let fact = history.facts.iter().find(|fact| fact.attempt == Some(id(300 + like))).expect("a fact").clone();
    history.facts.push(Fact { what, ..fact });
}

#[test]
fn a_sound_history_breaks_nothing() {
    let verdict = check(&sound());
    assert_eq!(verdict, Verdict::default());
}

#[test]
fn a_history_survives_being_written_and_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("history.json");
    sound().write(&file).unwrap();
    assert_eq!(check(&History::read(&file).unwrap()), Verdict::default());
}

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

/// The server was replaced by one that lacked what had been acknowledged in this time.
fn forgets(h: &mut History, from: i64, to: i64) {
    h.acknowledged = vec![Some(at(from)); h.submits.len()];
    h.acts.push(Act { what: "failover".into(), hit: "postgres".into(), began: at(from), ended: at(to), forgets: true });
}

#[test]
fn what_was_forgotten_may_be_gone_and_only_that() {
    let without_change = |h: &mut History| {
        h.dump.deployments.remove(0);
        h.dump.jobs.remove(CHANGE);
        let gone = h.dump.attempts.remove(CHANGE).id;
        h.dump.logs.retain(|chunk| chunk.attempt_id != gone);
        h.dump.transitions.retain(|seen| seen.job_id != id(200 + CHANGE));
    };
    assert_eq!(found(without_change), [Promise::I2], "nothing was forgotten");
    let forgotten = |h: &mut History| {
        without_change(h);
        forgets(h, 500, 4000);
    };
    assert_eq!(found(forgotten), []);
    let before = |h: &mut History| {
        forgotten(h);
        h.acknowledged[0] = Some(at(400));
    };
    assert_eq!(found(before), [Promise::I2], "acknowledged before the time that was forgotten");
    // A claim is gone, and its child ran.
    let claim = |h: &mut History| drop(h.dump.attempts.remove(LOST));
    assert!(found(claim).contains(&Promise::I3), "nothing was forgotten");
}

#[test]
fn a_start_that_was_forgotten_is_heard_of_later() {
    let later = |h: &mut History| {
        forgets(h, 500, 4000);
        attempt_of(h, CHANGE).started_us = Some(1500);
    };
    assert_eq!(found(later), []);
}

#[test]
fn a_change_that_ran_in_a_forgotten_time_does_not_run_again() {
    let twice = |h: &mut History| {
        forgets(h, 500, 4000);
        another_fact(h, CHANGE, What::Start);
    };
    assert!(found(twice).contains(&Promise::I1));
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
        h.acts.push(Act { what: "SIGKILL".into(), hit, began: at(1500), ended: at(1500), forgets: false });
    };
    assert_eq!(found(by_us), []);
}

#[test]
fn a_transaction_that_nobody_ends_is_found() {
    let held = |h: &mut History| {
        let what = format!("a tenant holds a transaction: {NOT_ENDED} within 16000 ms");
        let hit = "tendril-runner".to_owned();
        h.acts.push(Act { what, hit, began: at(1500), ended: at(1500), forgets: false });
    };
    assert_eq!(found(held), [Promise::I6]);
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
