//! A history, arranged by job.

use std::collections::BTreeMap;

use tendril_broker::testing::history::{AttemptRow, DeploymentRow, JobRow, LogChunk, Transition};
use uuid::Uuid;

use crate::facts::{Fact, How, What};
use crate::history::{Act, Cancelled, History, RunnerEnd, RunnerLife};
use crate::op::Op;
use crate::workload::{Deployment, Job};

/// What the server had said before it was gone is heard by then.
const HEARD_US: i64 = 1_000_000;
/// A child whose claim or start it had acknowledged has begun by then, on a busy machine.
const BEGUN_US: i64 = 4_000_000;
/// The rows of what ended before, and what else a runner had on its way.
const SHIPPED_US: i64 = 3_000_000;
/// After a server is gone, or a runner stopped, all runners have said by then what they know.
const TOLD_US: i64 = 15_000_000;
/// States that nothing follows.
pub const TERMINAL: [&str; 4] = ["SUCCESS", "FAILED", "CANCELLED", "SKIPPED"];

/// When a server claimed the attempt that a child tells of, by the attempt's id, to the millisecond.
pub fn claimed_us(fact: &Fact) -> Option<i64> {
    let (seconds, nanos) = fact.attempt?.get_timestamp()?.to_unix();
    Some(i64::try_from(seconds).ok()? * 1_000_000 + i64::from(nanos / 1000))
}

/// A history, arranged.
pub struct Case<'a> {
    /// All of it.
    pub history: &'a History,
    /// Jobs that are in the workload and in the database.
    pub jobs: Vec<JobCase<'a>>,
}

/// A job with all that is known of it.
pub struct JobCase<'a> {
    /// `<deployment>/<name>`.
    pub label: String,
    /// What was asked for.
    pub spec: &'a Job,
    /// What the database says.
    pub row: &'a JobRow,
    /// Its deployment, as the database says.
    pub deployment: &'a DeploymentRow,
    /// Its attempts, by fence.
    pub attempts: Vec<AttemptCase<'a>>,
    /// What its children said.
    pub facts: Vec<&'a Fact>,
    /// What the witness saw.
    pub transitions: Vec<&'a Transition>,
}

/// An attempt with all that is known of it.
pub struct AttemptCase<'a> {
    /// What the database says.
    pub row: &'a AttemptRow,
    /// The runner process that claimed it.
    pub runner: &'a str,
    /// Its child's start.
    pub start: Option<&'a Fact>,
    /// Its child's end, which a child that is killed does not tell.
    pub end: Option<&'a Fact>,
    /// Its log, by number.
    pub logs: Vec<&'a LogChunk>,
}

impl<'a> Case<'a> {
    /// Arranges a history.
    pub fn of(history: &'a History) -> Self {
        let deployments: BTreeMap<Uuid, &DeploymentRow> =
            history.dump.deployments.iter().map(|row| (row.id, row)).collect();
        let mut logs: BTreeMap<Uuid, Vec<&LogChunk>> = BTreeMap::new();
        for chunk in &history.dump.logs {
            logs.entry(chunk.attempt_id).or_default().push(chunk);
        }
        let find = |deployment: &Deployment, name: &str| {
            history.dump.jobs.iter().find(|row| row.deployment_id == deployment.id && row.name == name)
        };
        let mut jobs = Vec::new();
        for deployment in &history.workload.deployments {
            for spec in &deployment.jobs {
                let (Some(row), Some(of)) = (find(deployment, &spec.name), deployments.get(&deployment.id)) else {
                    continue;
                };
                let label = deployment.label(&spec.name);
                let facts: Vec<&Fact> = history.facts.iter().filter(|fact| fact.job == label).collect();
                let transitions = history.dump.transitions.iter().filter(|seen| seen.job_id == row.id).collect();
                let attempts = history.dump.attempts.iter().filter(|attempt| attempt.job_id == row.id);
                let attempts = attempts.map(|row| attempt(history, row, &facts, &logs)).collect();
                jobs.push(JobCase { label, spec, row, deployment: of, attempts, facts, transitions });
            }
        }
        Self { history, jobs }
    }

    /// The job of that name beside this one.
    pub fn beside(&self, job: &JobCase<'_>, name: &str) -> Option<&JobCase<'a>> {
        self.jobs.iter().find(|other| other.row.deployment_id == job.row.deployment_id && other.row.name == name)
    }

    /// When a runner process was killed or ended by itself, by the wall clock.
    pub fn death_of(&self, runner: &str) -> Option<i64> {
        let life = self.history.runners.iter().find(|life| life.name == runner)?;
        (life.end != RunnerEnd::Drained).then_some(life.at.wall_us)
    }

    /// Whether a process of the runner's place was killed or ended by itself in this time: what it held is the next one's.
    pub fn place_was_lost(&self, runner: &str, (from_us, to_us): (i64, i64)) -> bool {
        let place = |name: &str| name.split('.').next().map(str::to_owned);
        let lost = |life: &&RunnerLife| life.end != RunnerEnd::Drained && place(&life.name) == place(runner);
        self.history.runners.iter().filter(lost).any(|life| (from_us..=to_us).contains(&life.at.wall_us))
    }

    /// Whether the database may have forgotten what somebody heard it acknowledge at that moment.
    pub fn is_forgotten(&self, heard_us: i64) -> bool {
        self.forgotten_times().any(|(_, from, to)| (from..=to + HEARD_US).contains(&heard_us))
    }

    /// Whether a child that began at that moment may follow a claim or a start that the database has forgotten. The server that has
    /// forgotten heard of neither after it was gone: what was claimed later, the one that is knows.
    pub fn may_follow_the_forgotten(&self, began_us: i64, claimed_us: Option<i64>) -> bool {
        let may_be_its = |to| claimed_us.is_none_or(|claimed| claimed <= to);
        self.forgotten_times().any(|(_, from, to)| (from..=to + BEGUN_US).contains(&began_us) && may_be_its(to))
    }

    /// Whether the database may have forgotten log rows of an attempt that was claimed and ended at these moments.
    pub fn may_lack_rows(&self, claimed_us: i64, ended_us: Option<i64>) -> bool {
        let lacks = |from, to| claimed_us <= to && ended_us.is_none_or(|ended| ended + SHIPPED_US >= from);
        self.forgotten_times().any(|(_, from, to)| lacks(from, to))
    }

    /// Whether runners may have been telling then what a database that was set back has forgotten: what waits is left to people.
    pub fn is_in_doubt(&self, at_us: i64) -> bool {
        self.forgotten_times().any(|(act, from, _)| (from..=self.all_told_by(act)).contains(&at_us))
    }

    /// Each act after which the database had forgotten, and from when to when it had acknowledged that.
    fn forgotten_times(&self) -> impl Iterator<Item = (&'a Act, i64, i64)> {
        let acts = self.history.acts.iter();
        acts.filter_map(|act| Some((act, act.began.wall_us, act.forgot_until?.wall_us)))
    }

    /// Runners that were stopped meanwhile, or cut off, tell late.
    fn all_told_by(&self, act: &Act) -> i64 {
        let meanwhile = |other: &&Act| other.began.wall_us <= act.ended.wall_us + TOLD_US;
        let ends = self.history.acts.iter().filter(meanwhile).map(|other| other.ended.wall_us);
        ends.max().unwrap_or(act.ended.wall_us) + TOLD_US
    }

    /// Whether what was heard at that moment may be the word of a primary that had been replaced and did not know.
    pub fn may_be_led_astray(&self, heard_us: i64) -> bool {
        let is_split = |op: &Op| matches!(op, Op::FailoverSplit { .. });
        let splits = self.history.schedule.iter().filter(|step| is_split(&step.op)).map(|step| step.op.to_string());
        let splits: Vec<String> = splits.collect();
        let meanwhile = |act: &&Act| (act.began.wall_us..=act.ended.wall_us + HEARD_US).contains(&heard_us);
        self.history.acts.iter().filter(meanwhile).any(|act| splits.contains(&act.what))
    }

    /// Whether the database may have forgotten that it took the cancel of this deployment.
    pub fn cancel_is_forgotten(&self, deployment: Uuid) -> bool {
        let forgotten =
            |cancel: &Cancelled| cancel.accepted && cancel.at.is_some_and(|at| self.is_forgotten(at.wall_us));
        self.history.cancels.iter().any(|cancel| cancel.deployment == deployment && forgotten(cancel))
    }

    /// Whether a child of the job was killed for itself.
    pub fn child_was_killed(&self, job: &JobCase<'_>) -> bool {
        self.history.acts.iter().any(|act| act.hit.strip_prefix("child ") == Some(job.label.as_str()))
    }

    /// What hit this runner, or everybody, and was not over `slack_us` before the span.
    pub fn acts_within(&self, runner: &str, (from_us, to_us): (i64, i64), slack_us: i64) -> Vec<&'a Act> {
        let hits = |act: &&Act| concerns(act, runner) || concerns_all(act);
        let dead = |act: &Act| act.hit == runner && self.death_of(runner).is_some();
        let within = |act: &&Act| act.began.wall_us <= to_us && (dead(act) || act.ended.wall_us + slack_us >= from_us);
        self.history.acts.iter().filter(hits).filter(within).collect()
    }
}

/// A runner process by its name, or all that come one after the other in one place: `runner-1` is also `runner-1.2`.
fn concerns(act: &Act, runner: &str) -> bool {
    runner.strip_prefix(act.hit.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The server, its sessions and the duties concern every runner.
fn concerns_all(act: &Act) -> bool {
    ["postgres", "serve", "tendril-"].iter().any(|begin| act.hit.starts_with(begin))
}

fn attempt<'a>(
    history: &'a History,
    row: &'a AttemptRow,
    facts: &[&'a Fact],
    logs: &BTreeMap<Uuid, Vec<&'a LogChunk>>,
) -> AttemptCase<'a> {
    let runner = history.dump.runners.iter().find(|runner| runner.id == row.runner_id);
    let own = || facts.iter().copied().filter(|fact| fact.attempt == Some(row.id));
    AttemptCase {
        row,
        runner: runner.map_or("", |runner| runner.name.as_str()),
        start: own().find(|fact| fact.what == What::Start),
        end: own().find(|fact| matches!(fact.what, What::End(..))),
        logs: logs.get(&row.id).cloned().unwrap_or_default(),
    }
}

impl JobCase<'_> {
    /// Whether the database calls it ended.
    pub fn is_terminal(&self) -> bool {
        TERMINAL.contains(&self.row.state.as_str())
    }

    /// The row in words.
    pub fn evidence(&self) -> Vec<String> {
        let row = self.row;
        let mut lines = vec![format!(
            "job {} is {} ({}), {} of {} attempts",
            row.id,
            row.state,
            row.reason.as_deref().unwrap_or("no reason"),
            row.attempts,
            row.max_attempts
        )];
        lines.extend(self.attempts.iter().map(AttemptCase::evidence));
        lines.extend(self.facts.iter().map(|fact| format!("fact: {fact}")));
        lines
    }
}

impl AttemptCase<'_> {
    /// How the child said that it left.
    pub fn how(&self) -> Option<How> {
        match self.end?.what {
            What::End(how, _) => Some(how),
            What::Start | What::Clash(_) => None,
        }
    }

    /// Lines that the child said it had printed.
    pub fn printed(&self) -> Option<u32> {
        match self.end?.what {
            What::End(_, lines) => Some(lines),
            What::Start | What::Clash(_) => None,
        }
    }

    /// The row in words.
    pub fn evidence(&self) -> String {
        let row = self.row;
        let report = row.report.as_ref().and_then(|report| report.get("error")).and_then(|error| error.as_str());
        format!(
            "attempt {} {} fence {} by {}: claimed {}, started {:?}, ended {:?}, superseded {:?}, outcome {} ({}), log_end {:?} {}",
            row.ordinal,
            row.id,
            row.fence,
            self.runner,
            row.claimed_us,
            row.started_us,
            row.ended_us,
            row.superseded_us,
            row.outcome.as_deref().unwrap_or("none"),
            report.unwrap_or("no error"),
            row.log_end,
            row.log_state
        )
    }
}
