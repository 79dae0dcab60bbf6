//! `queue submit-latency`: from a submit to the answered claim of a runner that waits for the doorbell, by the typed client,
//! beside a bare LISTEN/NOTIFY round trip with one answering commit.

use super::hand::{Hand, perform};
use crate::clock::{Moment, new_id};
use crate::comparison::{Comparison, Goal, Unit};
use crate::report::Table;
use crate::rounds::{Row, interleave};
use crate::stage::Stage;
use crate::statistics::percentile;
use anyhow::{Context, ensure};
use clap::Args;
use serde_json::json;
use std::time::Duration;
use tendril_broker::Address;
use tendril_broker::baseline::RoundTrip;
use tendril_broker::portal::submission::{Submission, insert};
use tendril_broker::runner::Doorbell;
use uuid::Uuid;

/// How long one submit may take to be claimed before the row gives up.
const PATIENCE: Duration = Duration::from_secs(10);

/// Settings of the row.
#[derive(Clone, Debug, Args)]
pub struct SubmitLatency {
    /// Submits of a round
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..))]
    submits: u32,
    /// Rounds of either side
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Milliseconds of rest before each submit; at least 60, since the broker leaves 50 between two rings
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(60..))]
    rest_ms: u64,
}

impl Default for SubmitLatency {
    fn default() -> Self {
        Self { submits: 300, rounds: 5, rest_ms: 100 }
    }
}

struct Door {
    stage: Stage,
    cluster: Uuid,
    hand: Hand,
    bell: Doorbell,
    bare: RoundTrip,
    options: SubmitLatency,
}

/// Milliseconds of each submit.
#[derive(Default)]
struct Latencies {
    /// Until the submit's own answer.
    submitted: Vec<f64>,
    /// Until the claim's answer, or the bare round trip's end.
    claimed: Vec<f64>,
}

impl Row for Door {
    type Figures = Latencies;

    async fn ours(&mut self) -> anyhow::Result<Latencies> {
        let address: Address = self.stage.portal_url().parse()?;
        let mut portal = address.connect("tendril-bench").await?;
        let mut latencies = Latencies::default();
        for _ in 0..self.options.submits {
            self.hand.broker().wait().await?;
            self.rest().await?;
            let snapshot = json!({"jobs": [{"name": "only", "kind": "exec", "argv": ["true"]}]});
            let submission = Submission { id: new_id(), cluster: self.cluster, snapshot };
            let before = Moment::now();
            let submit = async {
                insert(&mut portal, &submission).await?;
                anyhow::Ok(Moment::now().ms_since(before))
            };
            let claim = async {
                self.bell.ring().await?;
                let claimed = self.hand.claim(4).await?;
                anyhow::Ok((claimed, Moment::now().ms_since(before)))
            };
            let both = tokio::time::timeout(PATIENCE, async { tokio::try_join!(submit, claim) }).await;
            let (submitted, (claimed, at)) = both.context("a submit did not ring")??;
            ensure!(claimed.len() == 1, "{} jobs were claimed where one was submitted", claimed.len());
            latencies.submitted.push(submitted);
            latencies.claimed.push(at);
            for job in claimed {
                perform(self.hand.broker().clone(), job).await?;
            }
        }
        Ok(latencies)
    }

    async fn bare(&mut self) -> anyhow::Result<Latencies> {
        let mut latencies = Latencies::default();
        for _ in 0..self.options.submits {
            self.rest().await?;
            let before = Moment::now();
            self.bare.turn(1, |_| latencies.claimed.push(Moment::now().ms_since(before))).await?;
            latencies.submitted.push(f64::NAN);
        }
        Ok(latencies)
    }
}

impl Door {
    async fn rest(&mut self) -> anyhow::Result<()> {
        tokio::time::sleep(Duration::from_millis(self.options.rest_ms)).await;
        self.stage.require_alive()
    }
}

/// Measures the row.
///
/// # Errors
/// A program or the database failed.
pub async fn measure(options: &SubmitLatency) -> anyhow::Result<Vec<Table>> {
    let stage = Stage::set().await?;
    let access = stage.add_cluster("door").await;
    let hand = Hand::hire(&access, 4, 4).await?;
    let bell = Doorbell::listen(hand.connector(), &hand.registered().channel).await?;
    let bare = RoundTrip::open(&stage.operator_url()).await?;
    let mut door = Door { stage, cluster: access.cluster, hand, bell, bare, options: options.clone() };
    let rounds = interleave(&mut door, "queue submit-latency", options.rounds as usize).await?;
    drop(door.hand);
    door.stage.strike().await?;
    let mut lines = Vec::new();
    for (percent, most) in [(50.0, Some(1.5)), (90.0, None), (99.0, Some(5.0))] {
        let (ours, bare) = rounds.figures(|l| percentile(&l.claimed, percent).unwrap_or(f64::NAN));
        let what = format!("submit -> claimed, p{percent}");
        let line = Comparison::of(what, Unit::Milliseconds, &ours, &bare).context("no rounds")?;
        lines.push(most.map(Goal::Most).into_iter().fold(line, Comparison::with_goal));
    }
    let (submitted, _) = rounds.figures(|l| percentile(&l.submitted, 50.0).unwrap_or(f64::NAN));
    lines.push(
        Comparison::of("of it: the submit's own answer, p50", Unit::Milliseconds, &submitted, &[])
            .context("no rounds")?,
    );
    Ok(vec![Table {
        row: "queue-submit-latency",
        setting: format!(
            "one runner's calls by the typed client, doorbell and claim; {} submits a round, {} ms of rest before each",
            options.submits, options.rest_ms
        ),
        baseline: "LISTEN/NOTIFY between two sessions, one answering commit".into(),
        rounds: rounds.ours.len(),
        lines,
        curves: Vec::new(),
    }])
}
