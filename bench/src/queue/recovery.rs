//! `queue recovery`: what becomes of a job whose runner was killed: how long until one that only reads runs again, in the same
//! place or elsewhere, and until the end of one that changes the world is reported.

use crate::clock::{Moment, new_id};
use crate::comparison::{Comparison, Goal, Unit};
use crate::report::Table;
use crate::stage::{Access, RunnerPlan, Stage};
use crate::start_latency::Starts;
use anyhow::{Context, bail};
use clap::Args;
use std::time::Duration;
use tendril_broker::Address;
use tendril_broker::portal::deployments;
use tendril_broker::portal::submission::{Submission, insert};
use uuid::Uuid;

/// How long anything may take before the row gives up.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at a deployment.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How long the command takes that goes on while its runner is away; and how long that is.
const GOES_ON_S: u64 = 1;
const AWAY: Duration = Duration::from_secs(3);
/// A lease and what comes after it.
const ELSEWHERE_MS: f64 = 32_000.0;

/// Settings of the row.
#[derive(Clone, Debug, Args)]
pub struct Recovery {
    /// Rounds; each takes about 40 seconds, a lease and a bit
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

impl Default for Recovery {
    fn default() -> Self {
        Self { rounds: 3 }
    }
}

struct Ward {
    stage: Stage,
    access: Access,
    starts: Starts,
    round: u32,
}

/// Milliseconds.
struct Recovered {
    in_place: f64,
    elsewhere: f64,
    reported: f64,
}

impl Ward {
    async fn open() -> anyhow::Result<Self> {
        let stage = Stage::set().await?;
        let access = stage.add_cluster("ward").await;
        let starts = Starts::open(&stage.folder().join("starts"))?;
        Ok(Self { stage, access, starts, round: 0 })
    }

    async fn round(&mut self) -> anyhow::Result<Recovered> {
        self.round += 1;
        let first = plan(&format!("first-{}", self.round));
        self.start(&first).await?;
        let (in_place, reading) = self.begins_again_in_its_place(&first).await?;
        self.cancel(reading).await?;
        let reported = self.is_reported(&first).await?;
        let second = plan(&format!("second-{}", self.round));
        let elsewhere = self.begins_again_elsewhere(&first, &second).await?;
        self.stage.stop_runner(&second.name, self.access.cluster).await?;
        Ok(Recovered { in_place, elsewhere, reported })
    }

    async fn start(&mut self, plan: &RunnerPlan) -> anyhow::Result<()> {
        self.stage.start_runner(plan, &self.access).await?;
        self.stage.at_rest().await
    }

    /// A job that only reads, whose runner is killed and started again at once.
    async fn begins_again_in_its_place(&mut self, runner: &RunnerPlan) -> anyhow::Result<(f64, Uuid)> {
        let deployment = self.run("sleep 3600", true).await?;
        let killed = Moment::now();
        self.stage.kill_runner(&runner.name).await?;
        self.stage.start_runner(runner, &self.access).await?;
        Ok((self.began().await?.ms_since(killed), deployment))
    }

    /// A job that only reads, whose runner is killed while another one of the cluster is idle.
    async fn begins_again_elsewhere(&mut self, first: &RunnerPlan, second: &RunnerPlan) -> anyhow::Result<f64> {
        let deployment = self.run("sleep 3600", true).await?;
        self.stage.start_runner(second, &self.access).await?;
        self.stage.at_rest().await?;
        let killed = Moment::now();
        self.stage.kill_runner(&first.name).await?;
        let again = self.began().await?.ms_since(killed);
        self.cancel(deployment).await?;
        Ok(again)
    }

    /// A job that changes the world and ends while its runner is away: from the start of the next process to the end's report.
    async fn is_reported(&mut self, runner: &RunnerPlan) -> anyhow::Result<f64> {
        let deployment = self.run(&format!("sleep {GOES_ON_S}"), false).await?;
        self.stage.kill_runner(&runner.name).await?;
        tokio::time::sleep(AWAY).await;
        let started = Moment::now();
        self.stage.start_runner(runner, &self.access).await?;
        self.ended(deployment, "SUCCESS").await?;
        Ok(Moment::now().ms_since(started))
    }

    /// Submits a command and waits until it runs.
    async fn run(&mut self, then: &str, reading: bool) -> anyhow::Result<Uuid> {
        let submission =
            Submission { id: new_id(), cluster: self.access.cluster, snapshot: self.starts.job(then, reading) };
        let address: Address = self.stage.portal_url().parse()?;
        let mut portal = address.connect("tendril-bench").await?;
        insert(&mut portal, &submission).await?;
        if let Err(error) = self.began().await {
            let state = deployments::state(&mut portal, submission.id).await?;
            return Err(error.context(format!("the deployment is {}: {:?}", state.status, state.error_message)));
        }
        Ok(submission.id)
    }

    async fn began(&mut self) -> anyhow::Result<Moment> {
        let began = tokio::time::timeout(PATIENCE, self.starts.next()).await;
        began.with_context(|| format!("no process began within {} s", PATIENCE.as_secs()))?
    }

    async fn cancel(&mut self, deployment: Uuid) -> anyhow::Result<()> {
        let address: Address = self.stage.portal_url().parse()?;
        deployments::cancel(&mut address.connect("tendril-bench").await?, deployment, None).await?;
        self.ended(deployment, "CANCELLED").await
    }

    async fn ended(&mut self, deployment: Uuid, wanted: &str) -> anyhow::Result<()> {
        let address: Address = self.stage.portal_url().parse()?;
        let mut portal = address.connect("tendril-bench").await?;
        let ending = async {
            loop {
                let state = deployments::state(&mut portal, deployment).await?;
                match state.status.as_str() {
                    "QUEUED" | "PROCESSING" => tokio::time::sleep(LOOK_EVERY).await,
                    status if status == wanted => return Ok(()),
                    other => bail!("the deployment ended as {other}, not {wanted}: {:?}", state.error_message),
                }
            }
        };
        let ended = tokio::time::timeout(PATIENCE, ending).await;
        ended.with_context(|| format!("the deployment did not end within {} s", PATIENCE.as_secs()))?
    }
}

fn plan(name: &str) -> RunnerPlan {
    RunnerPlan { name: name.to_owned(), slots: 2, engine: None }
}

/// Measures the row.
///
/// # Errors
/// A program or the database failed.
pub async fn measure(options: &Recovery) -> anyhow::Result<Vec<Table>> {
    let mut ward = Ward::open().await?;
    let mut rounds = Vec::new();
    for round in 1..=options.rounds {
        eprintln!("queue recovery: round {round} of {}", options.rounds);
        rounds.push(ward.round().await.with_context(|| format!("queue recovery, round {round}"))?);
    }
    ward.stage.strike().await?;
    let mut lines = Vec::new();
    for (what, pick, goal) in [
        (
            "SIGKILL -> a job that only reads runs again, started in the same place at once",
            (|r| r.in_place) as Pick,
            None,
        ),
        ("SIGKILL -> it runs again on another runner, which was idle", |r| r.elsewhere, Some(Goal::Most(ELSEWHERE_MS))),
        (
            "start of the next process -> the end of a job that changes the world, meanwhile done, is reported",
            |r| r.reported,
            None,
        ),
    ] {
        let figures: Vec<f64> = rounds.iter().map(pick).collect();
        let line = Comparison::of(what, Unit::Milliseconds, &figures, &[]).context("no rounds")?;
        lines.push(goal.into_iter().fold(line, Comparison::with_goal));
    }
    Ok(vec![Table {
        row: "queue-recovery",
        setting: "real runners, ended by SIGKILL in the middle of a job; leases of 30 s".into(),
        baseline: "nothing".into(),
        rounds: rounds.len(),
        lines,
        curves: Vec::new(),
    }])
}

type Pick = fn(&Recovered) -> f64;
