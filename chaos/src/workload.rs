//! The work of a run: deployments and their jobs, from a seed.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::chance::Chance;
use crate::options::Options;

/// How long a job's command may run in general; short, since a lost job that changes the world ends only after it.
const EXEC_TIMEOUT_S: u64 = 10;
/// Plans and applies take a second or two of a busy machine.
const TERRAFORM_TIMEOUT_S: u64 = 25;

/// All that is submitted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Workload {
    /// In the order of their submits.
    pub deployments: Vec<Deployment>,
}

/// One submit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Deployment {
    /// Made by the client.
    pub id: Uuid,
    /// How it is submitted.
    pub manner: Manner,
    /// Whether and when it is cancelled.
    pub cancel: Option<Cancel>,
    /// Pause of the portal before it.
    pub pause_ms: u64,
    /// Its jobs. Those of Terraform are what the broker makes of a template.
    pub jobs: Vec<Job>,
}

/// How a portal submits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Manner {
    /// Once, and again only while the reply is not clear.
    Once,
    /// From two sessions at the same time, with the same id.
    Twice,
    /// In a transaction that is rolled back.
    TakenBack,
}

/// When a portal cancels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cancel {
    /// Right after the submit.
    AtOnce,
    /// When a child of the deployment has started.
    AfterStart,
}

/// One job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Unique within the deployment.
    pub name: String,
    /// What it does.
    pub work: Work,
    /// Jobs that have to succeed before.
    pub needs: Vec<String>,
    /// Longest run of its command.
    pub timeout_s: u64,
    /// Given only for jobs whose failures are to be tried again.
    pub max_attempts: Option<i16>,
}

/// What a job does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Work {
    /// Runs a child.
    Exec {
        /// It changes nothing.
        reading: bool,
        /// The child.
        child: Child,
    },
    /// Plans with terraform or tofu.
    Plan {
        /// The configuration has a fault that the plan finds.
        fails: bool,
    },
    /// Applies that plan; the resource's provisioner is a child.
    Apply {
        /// The state.
        path: String,
        /// The child.
        child: Child,
    },
}

/// What a child does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Child {
    /// How long it runs.
    pub ms: u64,
    /// How it leaves.
    pub exit: u8,
    /// What it prints.
    pub lines: u32,
}

impl Deployment {
    /// The job's name in facts.
    pub fn label(&self, job: &str) -> String {
        format!("{}/{job}", self.id)
    }
}

impl Job {
    /// The child that it runs, directly or as a provisioner.
    pub fn child(&self) -> Option<&Child> {
        match &self.work {
            Work::Exec { child, .. } | Work::Apply { child, .. } => Some(child),
            Work::Plan { .. } => None,
        }
    }

    /// Whether it changes the world.
    pub fn is_mutating(&self) -> bool {
        match self.work {
            Work::Exec { reading, .. } => !reading,
            Work::Plan { .. } => false,
            Work::Apply { .. } => true,
        }
    }

    /// Whether its child would run for longer than it may.
    pub fn overruns(&self) -> bool {
        self.child().is_some_and(|child| child.ms >= self.timeout_s * 1000)
    }
}

impl Workload {
    /// The workload of a seed; plans and applies only where there is an engine.
    pub fn of(seed: u64, options: &Options, engine: bool) -> Self {
        let mut maker = Maker {
            chance: Chance::new(seed, "workload"),
            engine: engine && !options.no_terraform,
            states: options.states.into(),
            number: 0,
        };
        let mut deployments = Vec::new();
        let mut jobs = 0;
        while jobs < options.jobs as usize {
            let deployment = maker.deployment(options.jobs as usize - jobs);
            if deployment.manner != Manner::TakenBack {
                jobs += deployment.jobs.len();
            }
            deployments.push(deployment);
        }
        Self { deployments }
    }

    /// Children that would start if nothing were cancelled and everything that is needed succeeded.
    pub fn children(&self) -> usize {
        let submitted = self.deployments.iter().filter(|deployment| deployment.manner != Manner::TakenBack);
        submitted.flat_map(|deployment| &deployment.jobs).filter(|job| job.child().is_some()).count()
    }
}

struct Maker {
    chance: Chance,
    engine: bool,
    states: u64,
    number: u64,
}

impl Maker {
    fn deployment(&mut self, room: usize) -> Deployment {
        self.number += 1;
        let jobs = match self.chance.between(0, 99) {
            0..18 if self.engine && room >= 2 => self.terraform(),
            0..40 if room >= 3 => self.chain(),
            _ => vec![self.single()],
        };
        let cancel = match self.chance.between(0, 99) {
            0..5 => Some(Cancel::AtOnce),
            5..12 => Some(Cancel::AfterStart),
            _ => None,
        };
        let manner = match self.chance.between(0, 99) {
            0..8 => Manner::Twice,
            8..16 => Manner::TakenBack,
            _ => Manner::Once,
        };
        let pause_ms = if self.chance.percent(30) { self.chance.between(1, 60) } else { 0 };
        Deployment { id: self.chance.id(self.number), manner, cancel, pause_ms, jobs }
    }

    fn single(&mut self) -> Job {
        let reading = self.chance.percent(40);
        let (child, timeout_s) = match self.chance.between(0, 99) {
            0..15 => (Child { exit: 3, ..self.quick() }, EXEC_TIMEOUT_S),
            15..35 => (Child { ms: self.chance.between(1000, 2500), ..self.quick() }, EXEC_TIMEOUT_S),
            35..42 => (Child { lines: 3000, ms: self.chance.between(100, 600), exit: 0 }, EXEC_TIMEOUT_S),
            // It would run for much longer than it may.
            42..46 => (Child { ms: 8000, ..self.quick() }, 1),
            _ => (self.quick(), EXEC_TIMEOUT_S),
        };
        let max_attempts = (reading && child.exit != 0 && self.chance.percent(50)).then_some(2);
        Job { name: "only".into(), work: Work::Exec { reading, child }, needs: Vec::new(), timeout_s, max_attempts }
    }

    /// Reads, changes, reads again; a quarter of the first steps fail.
    fn chain(&mut self) -> Vec<Job> {
        let exit = if self.chance.percent(25) { 1 } else { 0 };
        let steps =
            [("look", true, exit, None), ("change", false, 0, Some("look")), ("verify", true, 0, Some("change"))];
        let job = |(name, reading, exit, need): (&str, bool, u8, Option<&str>)| Job {
            name: name.to_owned(),
            work: Work::Exec { reading, child: Child { exit, ..self.quick() } },
            needs: need.into_iter().map(str::to_owned).collect(),
            timeout_s: EXEC_TIMEOUT_S,
            max_attempts: None,
        };
        steps.map(job).into()
    }

    fn terraform(&mut self) -> Vec<Job> {
        let job = |name: &str, work, needs| Job {
            name: name.to_owned(),
            work,
            needs,
            timeout_s: TERRAFORM_TIMEOUT_S,
            max_attempts: None,
        };
        let fails = self.chance.percent(12);
        let exit = if self.chance.percent(12) { 1 } else { 0 };
        // A few states for all, so that applies meet at them.
        let path = format!("state-{}", self.chance.between(1, self.states));
        // Some outlive the lease of a runner that is not heard meanwhile.
        let ms = if self.chance.percent(25) { self.chance.between(4000, 7000) } else { self.chance.between(50, 700) };
        let child = Child { exit, ms, lines: 10 };
        vec![job("plan", Work::Plan { fails }, vec![]), job("apply", Work::Apply { path, child }, vec!["plan".into()])]
    }

    fn quick(&mut self) -> Child {
        let lines = u32::try_from(self.chance.between(0, 60)).unwrap_or(0);
        Child { ms: self.chance.between(10, 400), exit: 0, lines }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn options(jobs: u32) -> Options {
        Options { jobs, ..Line::parse_from(["x"]).options }
    }

    #[test]
    fn a_seed_gives_the_same_work_each_time_and_another_seed_other_work() {
        assert_eq!(Workload::of(5, &options(100), true), Workload::of(5, &options(100), true));
        assert_ne!(Workload::of(5, &options(100), true), Workload::of(6, &options(100), true));
    }

    #[test]
    fn two_hundred_jobs_have_some_of_everything() {
        let workload = Workload::of(1, &options(200), true);
        let submitted = || workload.deployments.iter().filter(|d| d.manner != Manner::TakenBack);
        let jobs: Vec<&Job> = submitted().flat_map(|d| &d.jobs).collect();
        assert_eq!(jobs.len(), 200);
        let count = |what: &dyn Fn(&Job) -> bool| jobs.iter().filter(|job| what(job)).count();
        assert!(count(&|job| matches!(job.work, Work::Plan { .. })) >= 10);
        assert!(count(&|job| job.is_mutating() && job.child().is_some_and(|child| child.exit != 0)) >= 5);
        assert!(count(&|job| !job.needs.is_empty()) >= 20);
        assert!(count(&|job| job.child().is_some_and(|child| child.ms >= 1000)) >= 5);
        assert!(count(&Job::overruns) >= 1);
        assert!(submitted().filter(|d| d.cancel.is_some()).count() >= 5);
        assert!(workload.deployments.iter().any(|d| d.manner == Manner::TakenBack));
        assert!(workload.deployments.iter().any(|d| d.manner == Manner::Twice));
    }
}
