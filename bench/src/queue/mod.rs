//! The rows about the queue: how fast it is worked off beside other queues, and what it costs when it grows, waits or is
//! disturbed.

mod claim_growth;
mod hand;
mod idle_runners;
mod peers;
mod pinned_xmin;
mod recovery;
mod submit_latency;
mod throughput;

use crate::report::Table;
use claim_growth::ClaimGrowth;
use clap::{Args, Subcommand};
use idle_runners::IdleRunners;
use pinned_xmin::PinnedXmin;
use recovery::Recovery;
use submit_latency::SubmitLatency;
use throughput::Throughput;

/// Settings of the rows.
#[derive(Clone, Debug, Default, Args)]
pub struct Queue {
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Clone, Debug, Subcommand)]
enum Part {
    /// Claim, start and end of single jobs and of whole deployments, beside other queues on the same Postgres
    Throughput(Throughput),
    /// How long a claim takes, over the number of queued jobs, and behind many that cannot run
    ClaimGrowth(ClaimGrowth),
    /// From a submit to the answered claim of a runner that waits for the doorbell
    SubmitLatency(SubmitLatency),
    /// A thousand idle runners: submits beside them, what they take of the server, what one process is
    IdleRunners(IdleRunners),
    /// Jobs that pass through the queue beside a transaction that somebody has left open
    PinnedXmin(PinnedXmin),
    /// How soon a job goes on whose runner was killed
    Recovery(Recovery),
}

impl Part {
    /// As they run when none is named.
    fn all() -> Vec<Self> {
        vec![
            Self::Throughput(Throughput::default()),
            Self::ClaimGrowth(ClaimGrowth::default()),
            Self::SubmitLatency(SubmitLatency::default()),
            Self::IdleRunners(IdleRunners::default()),
            Self::PinnedXmin(PinnedXmin::default()),
            Self::Recovery(Recovery::default()),
        ]
    }

    async fn measure(&self) -> anyhow::Result<Vec<Table>> {
        match self {
            Self::Throughput(options) => throughput::measure(options).await,
            Self::ClaimGrowth(options) => claim_growth::measure(options).await,
            Self::SubmitLatency(options) => submit_latency::measure(options).await,
            Self::IdleRunners(options) => idle_runners::measure(options).await,
            Self::PinnedXmin(options) => pinned_xmin::measure(options).await,
            Self::Recovery(options) => recovery::measure(options).await,
        }
    }
}

/// Measures one row or all.
///
/// # Errors
/// A program or the database failed.
pub async fn measure(options: &Queue) -> anyhow::Result<Vec<Table>> {
    let parts = options.part.clone().map_or_else(Part::all, |part| vec![part]);
    let mut tables = Vec::new();
    for part in parts {
        tables.extend(part.measure().await?);
    }
    Ok(tables)
}
