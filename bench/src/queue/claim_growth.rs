//! `queue claim-growth`: how long a claim takes while more and more jobs are queued, and behind many that cannot run, beside
//! the same claim from a thousand, in a database of its own on the same server.

use super::hand::Hand;
use crate::clock::Moment;
use crate::comparison::{Comparison, Goal, Unit};
use crate::report::{Curve, Table};
use crate::rounds::{Rounds, Row, interleave};
use crate::stage::{Access, Stage};
use crate::statistics::{Spread, percentile};
use anyhow::{Context, ensure};
use clap::Args;
use tendril_broker::baseline::queue::{Queued, Shape};

/// Beside which sizes are held, and from which on.
const SMALL: u64 = 1_000;
/// Jobs of a claim: one, and as many as a runner has slots at most by default.
const BATCHES: [usize; 2] = [1, 10];
/// What a claim may take longer.
const MOST: f64 = 1.1;

/// Settings of the row.
#[derive(Clone, Debug, Args)]
pub struct ClaimGrowth {
    /// Jobs in the queue, one step after the other; ten million take half an hour and 20 GB of disk
    #[arg(long, value_delimiter = ',', default_values_t = [10_000, 100_000, 1_000_000], num_args = 1..)]
    queued: Vec<u64>,
    /// Jobs that cannot run and stand before the others, in a step of its own; 0 leaves it out
    #[arg(long, default_value_t = 100_000)]
    blocked: u64,
    /// Rounds at each step
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Claims of each size in a round; a figure is their median
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=90))]
    claims: u32,
}

impl Default for ClaimGrowth {
    fn default() -> Self {
        Self { queued: vec![10_000, 100_000, 1_000_000], blocked: 100_000, rounds: 5, claims: 50 }
    }
}

/// A database with a queue and a runner that claims from it.
struct Field {
    stage: Stage,
    queued: Queued,
    access: Access,
    hand: Hand,
    claims: u32,
}

impl Field {
    async fn plough(claims: u32) -> anyhow::Result<Self> {
        let stage = Stage::set().await?;
        let queued = Queued::open(&stage.operator_url()).await?;
        let access = stage.add_cluster("field").await;
        let hand = Hand::hire(&access, 2, 10).await?;
        Ok(Self { stage, queued, access, hand, claims })
    }

    async fn fill(&self, shape: Shape, jobs: u64) -> anyhow::Result<()> {
        Ok(self.queued.fill(self.access.cluster, shape, jobs.div_ceil(shape.jobs())).await?)
    }

    /// Milliseconds of a claim, the median for each size; what was claimed is queued again, as new jobs.
    async fn claims(&mut self) -> anyhow::Result<Vec<f64>> {
        let mut medians = Vec::new();
        let mut taken = 0;
        for size in BATCHES {
            let mut times = Vec::new();
            for _ in 0..self.claims {
                let begun = Moment::now();
                let claimed = self.hand.claim(size).await?;
                times.push(Moment::now().ms_since(begun));
                ensure!(claimed.len() == size, "{} of {size} jobs were claimed", claimed.len());
                taken += size as u64;
            }
            medians.push(percentile(&times, 50.0).context("no claims")?);
        }
        self.fill(Shape::Ten, taken).await?;
        Ok(medians)
    }
}

/// The large queue and the small one.
struct Pair {
    large: Field,
    small: Field,
}

impl Row for Pair {
    type Figures = Vec<f64>;

    async fn ours(&mut self) -> anyhow::Result<Vec<f64>> {
        self.large.claims().await
    }

    async fn bare(&mut self) -> anyhow::Result<Vec<f64>> {
        self.small.claims().await
    }
}

impl Pair {
    async fn set(claims: u32) -> anyhow::Result<Self> {
        let (large, small) = (Field::plough(claims).await?, Field::plough(claims).await?);
        small.fill(Shape::Ten, SMALL).await?;
        Ok(Self { large, small })
    }

    async fn step(&mut self, name: &str, rounds: u32) -> anyhow::Result<Rounds<Vec<f64>>> {
        self.large.queued.settle().await?;
        self.small.queued.settle().await?;
        // The plans of both sessions are made, and what they read is in memory.
        self.large.claims().await?;
        self.small.claims().await?;
        interleave(self, name, rounds as usize).await
    }

    async fn strike(self) -> anyhow::Result<()> {
        let (large, small) = (self.large, self.small);
        drop(large.hand);
        drop(small.hand);
        large.stage.strike().await?;
        small.stage.strike().await
    }
}

/// Measures the row.
///
/// # Errors
/// A program or the database failed.
pub async fn measure(options: &ClaimGrowth) -> anyhow::Result<Vec<Table>> {
    let mut harvest = Harvest::default();
    let mut pair = Pair::set(options.claims).await?;
    let (mut sizes, mut there) = (options.queued.clone(), 0);
    sizes.sort_unstable();
    for size in sizes {
        eprintln!("queue claim-growth: filling the queue up to {size} jobs");
        pair.large.fill(Shape::Ten, size.saturating_sub(there)).await?;
        there = there.max(size);
        let rounds = pair.step(&format!("queue claim-growth, {size} queued"), options.rounds).await?;
        harvest.bring(&format!("{size} queued"), Some(size), &rounds)?;
    }
    pair.strike().await?;
    if options.blocked > 0 {
        let rounds = behind_blocked(options).await?;
        harvest.bring(&format!("behind {} that cannot run", options.blocked), None, &rounds)?;
    }
    Ok(vec![Table {
        row: "queue-claim-growth",
        setting: format!("one cluster, one runner; medians of {} claims of each size in a round", options.claims),
        baseline: format!("the same claims from {SMALL} queued jobs in a database of its own"),
        rounds: options.rounds as usize,
        lines: harvest.lines,
        curves: harvest.curves,
    }])
}

/// A queue of the small size behind jobs that need a label, a turn or an approval, a third each.
async fn behind_blocked(options: &ClaimGrowth) -> anyhow::Result<Rounds<Vec<f64>>> {
    let mut pair = Pair::set(options.claims).await?;
    for shape in [Shape::OneByOne, Shape::Elsewhere, Shape::Unapproved] {
        pair.large.fill(shape, options.blocked / 3).await?;
    }
    // The one that may run is held from now on, and its like wait for it.
    let first = pair.large.hand.claim(10).await?;
    ensure!(first.len() == 1, "{} of the jobs that are to be blocked could be claimed", first.len());
    pair.large.fill(Shape::Ten, SMALL).await?;
    let rounds = pair.step("queue claim-growth, blocked", options.rounds).await?;
    pair.strike().await?;
    Ok(rounds)
}

#[derive(Default)]
struct Harvest {
    lines: Vec<Comparison>,
    curves: Vec<Curve>,
}

impl Harvest {
    fn bring(&mut self, what: &str, size: Option<u64>, rounds: &Rounds<Vec<f64>>) -> anyhow::Result<()> {
        for (at, batch) in BATCHES.iter().enumerate() {
            let (ours, bare) = rounds.figures(|medians| medians[at]);
            let name = format!("claim of {batch}, {what}");
            let line = Comparison::of(name, Unit::Milliseconds, &ours, &bare).context("no rounds")?;
            self.lines.push(line.with_goal(Goal::MostTimesBare(MOST)));
            let Some(size) = size else { continue };
            for (name, figures, x) in [(CURVES[at], &ours, size), (CURVES[at], &bare, SMALL)] {
                // The small queue's point is drawn once, by the first step.
                let drawn = self.curves.iter().any(|curve| curve.name == name && curve.points[0].0 == x as f64);
                let spread = Spread::of(figures).context("no rounds")?;
                if !drawn {
                    self.curves.push(Curve {
                        chart: "time of a claim, ms",
                        over: "queued jobs",
                        name,
                        points: vec![(x as f64, spread)],
                        goal: None,
                    });
                }
            }
        }
        Ok(())
    }
}

const CURVES: [&str; 2] = ["of one job", "of ten jobs"];
