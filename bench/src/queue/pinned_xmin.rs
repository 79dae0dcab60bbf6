//! `queue pinned-xmin`: how fast jobs pass through the queue while a transaction that somebody has left open keeps dead rows
//! from being tidied up, beside the same without it.

use super::hand::{Hand, Shift};
use crate::clock::Moment;
use crate::comparison::{Comparison, Goal, Unit};
use crate::report::Table;
use crate::rounds::{Row, interleave};
use crate::stage::Stage;
use anyhow::{Context, ensure};
use clap::Args;
use std::sync::Arc;
use std::time::Duration;
use tendril_broker::baseline::queue::{Pinned, Queued, Shape};
use uuid::Uuid;

/// Jobs that are queued at least, so that the runner never waits.
const BACKLOG: i64 = 500;
/// Between two looks whether there are so many.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const LEAST: f64 = 0.9;

/// Settings of the row.
#[derive(Clone, Debug, Args)]
pub struct PinnedXmin {
    /// Seconds of a round; what was promised holds for 600
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(4..))]
    seconds: u64,
    /// Rounds of either side
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

impl Default for PinnedXmin {
    fn default() -> Self {
        Self { seconds: 60, rounds: 2 }
    }
}

struct Road {
    stage: Stage,
    lasts: Duration,
    crews: u32,
}

/// Jobs a second.
struct Flow {
    whole: f64,
    /// In the last quarter of the round, when most is left behind.
    last: f64,
}

impl Road {
    async fn flow(&mut self) -> anyhow::Result<Flow> {
        self.crews += 1;
        let access = self.stage.add_cluster(&format!("crew-{}", self.crews)).await;
        let feeder = Queued::open(&self.stage.operator_url()).await?;
        let mut hand = Hand::hire(&access, 8, 32).await?;
        let shift = Arc::new(Shift::until_ended());
        let working = tokio::spawn({
            let shift = shift.clone();
            async move { hand.work(32, &shift).await }
        });
        let feeding = tokio::spawn(feed(feeder, access.cluster, shift.clone()));
        let begun = Moment::now();
        tokio::time::sleep(self.lasts * 3 / 4).await;
        let (late, before) = (Moment::now(), shift.done());
        tokio::time::sleep(self.lasts / 4).await;
        let (end, done) = (Moment::now(), shift.done());
        shift.end();
        working.await??;
        feeding.await??;
        self.stage.require_alive()?;
        ensure!(done > before, "nothing was done in the last quarter of the round");
        let rate = |jobs: u64, since: Moment| jobs as f64 / end.ms_since(since) * 1e3;
        Ok(Flow { whole: rate(done, begun), last: rate(done - before, late) })
    }

    async fn tidy(&self) -> anyhow::Result<()> {
        Ok(Queued::open(&self.stage.operator_url()).await?.settle().await?)
    }
}

/// Submits what is missing until the shift ends.
async fn feed(queued: Queued, cluster: Uuid, shift: Arc<Shift>) -> anyhow::Result<()> {
    while !shift.is_over() {
        let missing = BACKLOG - queued.waiting(cluster).await?;
        if missing > 0 {
            queued.fill(cluster, Shape::Single, missing.unsigned_abs()).await?;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

impl Row for Road {
    type Figures = Flow;

    async fn ours(&mut self) -> anyhow::Result<Flow> {
        self.tidy().await?;
        let pinned = Pinned::open(&self.stage.operator_url()).await?;
        let flow = self.flow().await;
        drop(pinned);
        flow
    }

    async fn bare(&mut self) -> anyhow::Result<Flow> {
        self.tidy().await?;
        self.flow().await
    }
}

/// Measures the row.
///
/// # Errors
/// A program or the database failed.
pub async fn measure(options: &PinnedXmin) -> anyhow::Result<Vec<Table>> {
    let mut road = Road { stage: Stage::set().await?, lasts: Duration::from_secs(options.seconds), crews: 0 };
    let rounds = interleave(&mut road, "queue pinned-xmin", options.rounds as usize).await?;
    road.stage.strike().await?;
    let mut lines = Vec::new();
    for (what, pick) in [
        ("submitted, claimed, started and ended", (|flow| flow.whole) as fn(&Flow) -> f64),
        ("the same in the last quarter", |flow| flow.last),
    ] {
        let (ours, bare) = rounds.figures(pick);
        let line = Comparison::of(what, Unit::JobsPerSecond, &ours, &bare).context("no rounds")?;
        lines.push(line.with_goal(Goal::LeastTimesBare(LEAST)));
    }
    Ok(vec![Table {
        row: "queue-pinned-xmin",
        setting: format!(
            "one runner's calls and a submitter for {} s, beside a transaction left open",
            options.seconds
        ),
        baseline: "the same without that transaction".into(),
        rounds: rounds.ours.len(),
        lines,
        curves: Vec::new(),
    }])
}
