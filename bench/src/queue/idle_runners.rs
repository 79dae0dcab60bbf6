//! `queue idle-runners`: what many idle runners cost: how fast others submit meanwhile, what they take of the server's
//! processor, how soon one of them starts a job, and what one process is.

use super::hand::Hand;
use crate::clock::{Moment, new_id};
use crate::comparison::{Comparison, Goal, Unit};
use crate::processor::{Memory, Server, memory_mib};
use crate::report::Table;
use crate::rounds::{Rounds, Row, interleave};
use crate::stage::{Access, RunnerPlan, Stage};
use crate::start_latency::Starts;
use crate::statistics::percentile;
use anyhow::Context;
use clap::Args;
use serde_json::json;
use std::time::Duration;
use tendril_broker::Address;
use tendril_broker::baseline::queue::Sessions;
use tendril_broker::portal::submission::{Submission, insert};
use tokio::task::JoinSet;
use uuid::Uuid;

/// Who submits at the same time.
const PORTALS: usize = 8;
/// Runners that connect at the same time.
const AT_ONCE: usize = 20;
/// How long nothing is done before the first job: longer than a heartbeat, so that who was rung is at rest again.
const IDLE: Duration = Duration::from_secs(15);
/// Jobs after each other, on a cluster that has just had one. Each may have to wait for a heartbeat.
const RECENT: usize = 9;
const REST: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(60);

/// Settings of the row.
#[derive(Clone, Debug, Args)]
pub struct IdleRunners {
    /// Idle runners, each of a cluster of its own; the server is to take so many connections and 100 more
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    runners: u32,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Rounds of either side
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

impl Default for IdleRunners {
    fn default() -> Self {
        Self { runners: 1000, seconds: 20, rounds: 3 }
    }
}

struct House {
    stage: Stage,
    idle: Vec<Access>,
    lone: Uuid,
    busy: Uuid,
    starts: Starts,
    server: Server,
    lasts: Duration,
}

/// What was seen in a round.
struct Seen {
    submits: f64,
    /// Percent of one core, while nobody does anything.
    processor: f64,
    first_ms: f64,
    recent_ms: Vec<f64>,
}

impl House {
    async fn build(options: &IdleRunners) -> anyhow::Result<Self> {
        let mut stage = Stage::set().await?;
        let mut idle = Vec::new();
        for number in 1..=options.runners {
            idle.push(stage.add_cluster(&format!("idle-{number}")).await);
        }
        let busy = stage.add_cluster("busy").await.cluster;
        let lone = stage.add_runner(&RunnerPlan { name: LONE.into(), slots: 4, engine: None }).await?;
        let starts = Starts::open(&stage.folder().join("starts"))?;
        let server = Server::find(&stage.operator_url()).await?;
        stage.at_rest().await?;
        Ok(Self { stage, idle, lone, busy, starts, server, lasts: Duration::from_secs(options.seconds) })
    }

    async fn look(&mut self) -> anyhow::Result<Seen> {
        tokio::time::sleep(IDLE).await;
        let (begun, before) = (Moment::now(), self.server.processor_ms()?);
        tokio::time::sleep(self.lasts).await;
        let taken = self.server.processor_ms()? - before;
        let processor = taken / Moment::now().ms_since(begun) * 100.0;
        let first_ms = self.start().await?;
        let mut recent_ms = Vec::new();
        for _ in 0..RECENT {
            tokio::time::sleep(REST).await;
            recent_ms.push(self.start().await?);
        }
        let submits = self.submits().await?;
        self.stage.require_alive()?;
        Ok(Seen { submits, processor, first_ms, recent_ms })
    }

    /// Milliseconds from a submit to the first line of its process, on the one real runner.
    async fn start(&mut self) -> anyhow::Result<f64> {
        let address: Address = self.stage.portal_url().parse()?;
        let mut portal = address.connect("tendril-bench").await?;
        let submission = Submission { id: new_id(), cluster: self.lone, snapshot: self.starts.snapshot() };
        let before = Moment::now();
        insert(&mut portal, &submission).await?;
        let began = tokio::time::timeout(PATIENCE, self.starts.next()).await;
        Ok(began.context("no process began")??.ms_since(before))
    }

    /// Submits a second by several portals at once, to a cluster without a runner.
    async fn submits(&self) -> anyhow::Result<f64> {
        let address: Address = self.stage.portal_url().parse()?;
        let (cluster, lasts, mut submitting) = (self.busy, self.lasts, JoinSet::new());
        let begun = Moment::now();
        for _ in 0..PORTALS {
            let mut portal = address.connect("tendril-bench").await?;
            submitting.spawn(async move {
                let snapshot = json!({"jobs": [{"name": "only", "kind": "exec", "argv": ["true"]}]});
                let mut submits = 0_u64;
                while Moment::now().ms_since(begun) < lasts.as_secs_f64() * 1e3 {
                    insert(&mut portal, &Submission { id: new_id(), cluster, snapshot: snapshot.clone() }).await?;
                    submits += 1;
                }
                anyhow::Ok(submits)
            });
        }
        let mut submits = 0;
        while let Some(done) = submitting.join_next().await {
            submits += done??;
        }
        Ok(submits as f64 / Moment::now().ms_since(begun) * 1e3)
    }

    /// Connects all, each as a runner is when it waits: registered, asked for a ring, with a heartbeat.
    async fn connect_all(&self) -> anyhow::Result<Vec<Hand>> {
        let (mut hands, mut coming) = (Vec::new(), JoinSet::new());
        for access in &self.idle {
            if coming.len() >= AT_ONCE {
                hands.push(coming.join_next().await.context("somebody is coming")???);
            }
            let access = access.clone();
            coming.spawn(async move {
                let mut hand = Hand::hire(&access, 1, 4).await?;
                hand.claim(4).await?;
                hand.rest().await?;
                anyhow::Ok(hand)
            });
        }
        while let Some(hand) = coming.join_next().await {
            hands.push(hand??);
        }
        Ok(hands)
    }
}

impl Row for House {
    type Figures = Seen;

    async fn ours(&mut self) -> anyhow::Result<Seen> {
        let hands = self.connect_all().await?;
        let seen = self.look().await;
        for hand in hands {
            hand.dismiss().await?;
        }
        seen
    }

    async fn bare(&mut self) -> anyhow::Result<Seen> {
        self.look().await
    }
}

/// The real runner among them.
const LONE: &str = "lone";

/// Measures the row.
///
/// # Errors
/// A program or the database failed.
pub async fn measure(options: &IdleRunners) -> anyhow::Result<Vec<Table>> {
    let mut house = House::build(options).await?;
    let rounds = interleave(&mut house, "queue idle-runners", options.rounds as usize).await?;
    let alone = alone(&mut house).await?;
    house.stage.strike().await?;
    let mut lines = crowd(&rounds)?;
    lines.extend(alone);
    Ok(vec![Table {
        row: "queue-idle-runners",
        setting: format!(
            "{} idle runners of as many clusters, by the typed client: registered, waiting, a session each for its heartbeat; beside them one real runner; {} s a measurement",
            options.runners, options.seconds
        ),
        baseline: "the same with the one real runner alone".into(),
        rounds: rounds.ours.len(),
        lines,
        curves: Vec::new(),
    }])
}

fn crowd(rounds: &Rounds<Seen>) -> anyhow::Result<Vec<Comparison>> {
    let line = |what: &str, unit, pick: &dyn Fn(&Seen) -> f64| {
        let (ours, bare) = rounds.figures(pick);
        Comparison::of(what, unit, &ours, &bare).context("no rounds")
    };
    let recent = |seen: &Seen| percentile(&seen.recent_ms, 50.0).unwrap_or(f64::NAN);
    Ok(vec![
        line("submits by 8 portals at once", Unit::JobsPerSecond, &|seen| seen.submits)?
            .with_goal(Goal::LeastTimesBare(0.9)),
        line("processor of Postgres while nothing happens, percent of a core", Unit::Count, &|seen| seen.processor)?
            .with_goal(Goal::Most(20.0)),
        line("submit -> process runs, on a cluster that was idle", Unit::Milliseconds, &|seen| seen.first_ms)?
            .with_goal(Goal::Most(10_000.0)),
        line("submit -> process runs, p50, on a cluster that just had a job", Unit::Milliseconds, &recent)?
            .with_goal(Goal::Most(5.0)),
    ])
}

/// What the one real runner is, when nothing happens.
async fn alone(house: &mut House) -> anyhow::Result<Vec<Comparison>> {
    tokio::time::sleep(IDLE).await;
    let pid = house.stage.runner_pid(LONE)?;
    let mut sessions = Sessions::open(&house.stage.operator_url(), house.lone).await?;
    let seen = sessions.watch(Duration::from_secs(30)).await?;
    let resident = memory_mib(pid, Memory::Resident).context("the runner is gone")?;
    let one = |what: &str, unit, figure: f64, most: f64| {
        let line = Comparison::of(what, unit, &[figure], &[]).context("no figure")?;
        anyhow::Ok(line.with_goal(Goal::Most(most)))
    };
    Ok(vec![
        one("one idle runner: resident memory", Unit::Mebibytes, resident, 12.0)?,
        one("one idle runner: connections, the listening one aside", Unit::Count, seen.deaf as f64, 1.0)?,
        one("one idle runner: statements in 5 s", Unit::Ratio, seen.statements as f64 / 6.0, 1.0)?,
    ])
}
