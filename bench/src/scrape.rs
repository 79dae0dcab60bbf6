//! `scrape`: what it costs the database to be read for Prometheus, over the number of queued jobs.

use crate::clock::Moment;
use crate::comparison::{Comparison, Goal, Unit};
use crate::report::Table;
use crate::stage::Stage;
use crate::statistics::percentile;
use anyhow::{Context, ensure};
use clap::Args;
use tendril_broker::Address;
use tendril_broker::baseline::scrape::{JOBS, Scrape};
use uuid::Uuid;

/// Looks of each round; a figure is their median.
const LOOKS: usize = 20;
/// Deployments of one submit.
const AT_ONCE: u64 = 500;
/// What one reading may cost the database.
const MOST_MS: f64 = 20.0;

/// Settings of the row.
#[derive(Clone, Debug, Args)]
pub struct ScrapeCost {
    /// Unfinished jobs in the queue, one step after the other; ten million take half an hour and 20 GB of disk
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 100_000, 1_000_000], num_args = 1..)]
    jobs: Vec<u64>,
    /// Clusters that they belong to
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    clusters: u32,
    /// Rounds at each step
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

impl Default for ScrapeCost {
    fn default() -> Self {
        Self { jobs: vec![1_000, 100_000, 1_000_000], clusters: 100, rounds: 3 }
    }
}

#[derive(Default)]
struct Step {
    work_ms: Vec<f64>,
    room_ms: Vec<f64>,
    count_ms: Vec<f64>,
}

/// Measures the row.
///
/// # Errors
/// The database failed.
pub async fn measure(options: &ScrapeCost) -> anyhow::Result<Vec<Table>> {
    let stage = Stage::set().await?;
    let address: Address = stage.operator_url().parse()?;
    let scrape = Scrape::open(&address).await?;
    let mut clusters = Vec::new();
    for number in 0..options.clusters {
        clusters.push(stage.add_cluster(&format!("scrape-{number}")).await.cluster);
    }
    let (mut sizes, mut filled, mut lines) = (options.jobs.clone(), 0, Vec::new());
    sizes.sort_unstable();
    let mut first: Option<Vec<f64>> = None;
    for size in sizes {
        fill(&scrape, &clusters, filled, size).await?;
        filled = filled.max(size);
        scrape.settle().await?;
        let step = look(&scrape, options.rounds).await?;
        let there = scrape.count().await?;
        ensure!(there.unsigned_abs() >= size, "there are {there} jobs, not {size}");
        let line = |what: String, ours: &[f64], bare: &[f64]| {
            Comparison::of(what, Unit::Milliseconds, ours, bare).context("no rounds")
        };
        let smallest = first.get_or_insert_with(|| step.work_ms.clone());
        lines.push(
            line(format!("{there} jobs: one scrape, beside a real count"), &step.work_ms, &step.count_ms)?
                .with_goal(Goal::Most(MOST_MS)),
        );
        lines.push(line(format!("{there} jobs: one scrape, beside the first size"), &step.work_ms, smallest)?);
        lines.push(line(format!("{there} jobs: size and bloat of tables, once a minute"), &step.room_ms, &[])?);
    }
    stage.strike().await?;
    Ok(vec![Table {
        row: "scrape",
        setting: format!(
            "{} clusters, each with jobs of three priorities and states; time of the statements on the loopback, the median of {LOOKS} looks a round",
            options.clusters
        ),
        baseline: "a statement that counts the jobs by cluster, kind, state and priority".into(),
        rounds: options.rounds as usize,
        lines,
        curves: Vec::new(),
    }])
}

/// Submits what is missing, to all clusters in turn.
async fn fill(scrape: &Scrape, clusters: &[Uuid], mut there: u64, wanted: u64) -> anyhow::Result<()> {
    eprintln!("scrape: filling the queue up to {wanted} jobs");
    for cluster in clusters.iter().cycle() {
        if there >= wanted {
            break;
        }
        let share = (wanted.div_ceil(JOBS * clusters.len() as u64)).clamp(1, AT_ONCE);
        let deployments = (wanted - there).div_ceil(JOBS).min(share);
        scrape.submit(*cluster, deployments).await?;
        there += deployments * JOBS;
    }
    Ok(())
}

async fn look(scrape: &Scrape, rounds: u32) -> anyhow::Result<Step> {
    let mut step = Step::default();
    for _ in 0..rounds {
        let (mut work, mut room) = (Vec::new(), Vec::new());
        for _ in 0..LOOKS {
            let begun = Moment::now();
            scrape.read_work().await?;
            work.push(Moment::now().ms_since(begun));
            let begun = Moment::now();
            scrape.read_room().await?;
            room.push(Moment::now().ms_since(begun));
        }
        let begun = Moment::now();
        scrape.count().await?;
        step.count_ms.push(Moment::now().ms_since(begun));
        step.work_ms.push(percentile(&work, 50.0).context("no looks")?);
        step.room_ms.push(percentile(&room, 50.0).context("no looks")?);
    }
    Ok(step)
}
