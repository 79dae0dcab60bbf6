//! `queue throughput`: how many jobs a second are claimed, started and ended, each by commits that were answered, beside other
//! queues in the same run.

use super::hand::{Hand, Shift};
use super::peers::{Mode, Peer};
use crate::clock::Moment;
use crate::comparison::{Comparison, Goal, Unit};
use crate::report::Table;
use crate::rounds::{Rounds, Row, interleave};
use crate::stage::Stage;
use anyhow::{Context, ensure};
use clap::Args;
use tendril_broker::baseline::queue::{Queued, Shape};
use tokio::task::JoinSet;

/// What is to be reached beside the best durable peer.
const LEAST: f64 = 1.5;
/// So many times the jobs for who works by the hundreds: their rounds are to last, too.
const BUFFERED_TIMES: u64 = 5;

/// Settings of the row.
#[derive(Clone, Debug, Args)]
pub struct Throughput {
    /// Jobs of a round; five times as many where they are worked off by the hundreds
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(10..))]
    jobs: u64,
    /// Rounds of each
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Runners, each of a cluster of its own
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=50))]
    runners: u32,
    /// Sessions of a runner for its calls
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=14))]
    sessions: u32,
    /// Jobs of a runner at once
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1000))]
    slots: u32,
    /// What stands beside it; all unless said
    #[arg(long, value_enum, value_delimiter = ',')]
    peers: Vec<Peer>,
}

impl Default for Throughput {
    fn default() -> Self {
        Self { jobs: 10_000, rounds: 3, runners: 2, sessions: 8, slots: 32, peers: Vec::new() }
    }
}

/// What of ours is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// As a runner does it: starts and ends that come together go together.
    Gathered(Shape),
    /// With a session for each slot, whose calls are for one job.
    Apart,
}

const WAYS: [Way; 4] =
    [Way::Gathered(Shape::Single), Way::Gathered(Shape::Reading), Way::Gathered(Shape::Diamond), Way::Apart];

struct Race {
    stage: Stage,
    queued: Queued,
    options: Throughput,
    peers: Vec<(Peer, Mode)>,
    crews: u32,
}

impl Row for Race {
    /// Jobs a second, in the order of [`WAYS`] or of the peers.
    type Figures = Vec<f64>;

    async fn ours(&mut self) -> anyhow::Result<Vec<f64>> {
        let mut rates = Vec::new();
        for way in WAYS {
            rates.push(self.rate(way).await?);
        }
        Ok(rates)
    }

    async fn bare(&mut self) -> anyhow::Result<Vec<f64>> {
        let mut rates = Vec::new();
        for (peer, mode) in &self.peers {
            let times = if *mode == Mode::Buffered { BUFFERED_TIMES } else { 1 };
            let rate = peer.rate(*mode, self.options.jobs * times).await;
            rates.push(rate.with_context(|| peer.name(*mode))?);
        }
        Ok(rates)
    }
}

impl Race {
    async fn rate(&mut self, way: Way) -> anyhow::Result<f64> {
        let shape = if let Way::Gathered(shape) = way { shape } else { Shape::Single };
        let each = (self.options.jobs / u64::from(self.options.runners) / shape.jobs()).max(1);
        let sessions = self.options.sessions as usize;
        let slots = if way == Way::Apart { sessions } else { self.options.slots as usize };
        let mut crews = Vec::new();
        for _ in 0..self.options.runners {
            self.crews += 1;
            let access = self.stage.add_cluster(&format!("crew-{}", self.crews)).await;
            self.queued.fill(access.cluster, shape, each).await?;
            let mut hand = Hand::hire(&access, sessions, slots).await?;
            if way == Way::Apart {
                hand.part(sessions)?;
            }
            crews.push((access, hand));
        }
        self.queued.settle().await?;
        let (begun, mut working, mut clusters) = (Moment::now(), JoinSet::new(), Vec::new());
        for (access, mut hand) in crews {
            clusters.push(access.cluster);
            working.spawn(async move { hand.work(slots, &Shift::until_nothing_is_left()).await });
        }
        let mut done = 0;
        while let Some(worked) = working.join_next().await {
            done += worked??;
        }
        let seconds = Moment::now().ms_since(begun) / 1e3;
        let wanted = each * shape.jobs() * u64::from(self.options.runners);
        ensure!(done == wanted, "{done} of {wanted} jobs were worked off");
        for cluster in clusters {
            let (well, all) = self.queued.ended(cluster).await?;
            ensure!(well == all, "{well} of {all} jobs of a cluster succeeded at their first attempt");
        }
        Ok(done as f64 / seconds)
    }
}

/// Measures the row.
///
/// # Errors
/// A program or the database failed.
pub async fn measure(options: &Throughput) -> anyhow::Result<Vec<Table>> {
    let chosen = if options.peers.is_empty() { Peer::ALL.to_vec() } else { options.peers.clone() };
    let mut peers = Vec::new();
    for peer in chosen {
        peer.build().await?;
        peers.extend([(peer, Mode::Durable), (peer, Mode::Buffered)]);
    }
    let stage = Stage::set().await?;
    let queued = Queued::open(&stage.operator_url()).await?;
    let mut race = Race { stage, queued, options: options.clone(), peers, crews: 0 };
    let rounds = interleave(&mut race, "queue throughput", options.rounds as usize).await?;
    race.stage.strike().await?;
    Ok(vec![table(options, &race.peers, &rounds)?])
}

fn table(options: &Throughput, peers: &[(Peer, Mode)], rounds: &Rounds<Vec<f64>>) -> anyhow::Result<Table> {
    let ours = |way: Way| -> Vec<f64> {
        let at = WAYS.iter().position(|other| *other == way).unwrap_or_default();
        rounds.ours.iter().map(|round| round[at]).collect()
    };
    let single = ours(Way::Gathered(Shape::Single));
    let line = |what: String, ours: &[f64], bare: &[f64]| {
        Comparison::of(what, Unit::JobsPerSecond, ours, bare).context("no rounds")
    };
    let mut lines = Vec::new();
    for (at, (peer, mode)) in peers.iter().enumerate() {
        let theirs: Vec<f64> = rounds.bare.iter().map(|round| round[at]).collect();
        lines.push((*mode, line(format!("single jobs, beside {}", peer.name(*mode)), &single, &theirs)?));
    }
    let median = |line: &Comparison| line.bare.map_or(0.0, |bare| bare.median);
    let durable = lines.iter_mut().filter(|(mode, _)| *mode == Mode::Durable).map(|(_, line)| line);
    if let Some(best) = durable.max_by(|a, b| median(a).total_cmp(&median(b))) {
        *best = best.clone().with_goal(Goal::LeastTimesBare(LEAST));
    }
    let mut lines: Vec<Comparison> = lines.into_iter().map(|(_, line)| line).collect();
    for (what, way) in [
        ("single jobs that only read, beside those that change the world", Way::Gathered(Shape::Reading)),
        (
            "jobs of deployments of five, one before and one behind three, beside single ones",
            Way::Gathered(Shape::Diamond),
        ),
        ("the same, each started and ended by calls of its own, as many at once as sessions", Way::Apart),
    ] {
        lines.push(line(what.to_owned(), &ours(way), &single)?);
    }
    Ok(Table {
        row: "queue-throughput",
        setting: format!(
            "{} jobs a round that are claimed, started and ended, without running anything; {} runners of as many clusters, each with {} sessions and {} slots",
            options.jobs, options.runners, options.sessions, options.slots
        ),
        baseline: "other queues on the same Postgres, their jobs queued beforehand, too".into(),
        rounds: rounds.ours.len(),
        lines,
        curves: Vec::new(),
    })
}
