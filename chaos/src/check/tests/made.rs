//! A sound history, made by hand, and what is found when it is broken in one place.

use std::collections::BTreeMap;

use clap::Parser;
use serde_json::json;
use tendril_broker::testing::history::{AttemptRow, DeploymentRow, Dump, JobRow, LogChunk, RunnerRow, Transition};
use uuid::Uuid;

use crate::check::{Promise, check};
use crate::clock::Moment;
use crate::facts::{Fact, How, What};
use crate::history::{Act, Cancelled, History, RunnerEnd, RunnerLife, Submit};
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
pub const CHANGE: usize = 0;
pub const LOOK: usize = 1;
pub const VERIFY: usize = 2;
pub const APPLY: [usize; 2] = [3, 4];
pub const CANCELLED: usize = 5;
/// The deployment that was taken back.
pub const TAKEN_BACK: usize = 5;
/// Of job LOOK: its first attempt was lost, its second was accepted.
pub const LOST: usize = 1;
pub const AGAIN: usize = 2;

pub fn id(number: usize) -> Uuid {
    Uuid::from_u128(number as u128)
}

pub fn at(us: i64) -> Moment {
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
pub fn sound() -> History {
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
    make.0.cancels.push(Cancelled { deployment: id(100 + cancelled), accepted: true, unknown: false, at: None });
    make.0.dump.runners.push(RunnerRow { id: id(1), name: "runner-0.0".into() });
    make.0.runners.push(RunnerLife { name: "runner-0.0".into(), end: RunnerEnd::Drained, at: at(90_000) });
    let hit = "runner-0.0".to_owned();
    make.0.acts.push(Act { what: "SIGSTOP".into(), hit, began: at(1500), ended: at(5500), forgot_until: None });
    make.0
}

/// What is found when the sound history is broken in one place.
pub fn found(break_it: impl FnOnce(&mut History)) -> Vec<Promise> {
    let mut history = sound();
    break_it(&mut history);
    let mut promises: Vec<Promise> = check(&history).violations.iter().map(|violation| violation.promise).collect();
    promises.dedup();
    promises
}

pub fn attempt_of(history: &mut History, job: usize) -> &mut AttemptRow {
    let job = history.dump.jobs[job].id;
    history.dump.attempts.iter_mut().rfind(|attempt| attempt.job_id == job).expect("the job has attempts")
}

pub fn another_fact(history: &mut History, like: usize, what: What) {
    let fact = history.facts.iter().find(|fact| fact.attempt == Some(id(300 + like))).expect("a fact").clone();
    history.facts.push(Fact { what, ..fact });
}
