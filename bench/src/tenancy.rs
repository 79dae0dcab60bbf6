//! The row about tenants: how soon one tenant's jobs are claimed and started while another one does its worst with its own
//! credential, beside the same with a quiet neighbour; and how much that one could do.

use crate::comparison::{Comparison, Goal, Unit};
use crate::report::Table;
use crate::rounds::{Rounds, Row, interleave};
use crate::stage::Stage;
use crate::statistics::percentile;
use anyhow::Context;
use clap::{Args, ValueEnum};
use std::time::Duration;
use tendril_broker::testing::hostile::{Done, Harm, Hostile};
use tendril_broker::testing::neighbour::Worked;

/// What the other tenant does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Worst {
    Locks,
    Rings,
    Logins,
    Transactions,
    Copies,
    Processor,
    Disk,
}

impl Worst {
    fn harm(self) -> Harm {
        match self {
            Self::Locks => Harm::Locks,
            Self::Rings => Harm::Rings,
            Self::Logins => Harm::Logins,
            Self::Transactions => Harm::Transactions,
            Self::Copies => Harm::Copies,
            Self::Processor => Harm::Processor,
            Self::Disk => Harm::Disk,
        }
    }
}

/// Settings of the row.
#[derive(Clone, Debug, Args)]
pub struct Tenancy {
    /// Seconds that a round lasts.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Rounds of either side.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Sessions that the other tenant tries to have; its credential allows 16.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=500))]
    sessions: u32,
    /// What it does, one after the other; all of it unless said.
    #[arg(long, value_enum, value_delimiter = ',')]
    harms: Vec<Worst>,
}

impl Default for Tenancy {
    fn default() -> Self {
        Self { seconds: 20, rounds: 3, sessions: 32, harms: Vec::new() }
    }
}

struct Street {
    stage: Stage,
    harm: Harm,
    sessions: usize,
    lasts: Duration,
    rounds: u32,
}

impl Street {
    async fn neighbour(&mut self) -> anyhow::Result<Worked> {
        self.rounds += 1;
        let neighbour = self.stage.neighbour(&format!("neighbour-{}", self.rounds)).await;
        tokio::time::sleep(self.lasts).await;
        self.stage.require_alive()?;
        Ok(neighbour.stop().await)
    }
}

impl Row for Street {
    type Figures = (Worked, Done);

    async fn ours(&mut self) -> anyhow::Result<(Worked, Done)> {
        let access = self.stage.add_cluster(&format!("hostile-{}", self.rounds)).await;
        let hostile = Hostile::begin(&self.stage.runner_url(&access.token), self.harm, self.sessions);
        let worked = self.neighbour().await?;
        Ok((worked, hostile.end().await))
    }

    async fn bare(&mut self) -> anyhow::Result<(Worked, Done)> {
        Ok((self.neighbour().await?, Done::default()))
    }
}

/// Measures the row for each harm.
///
/// # Errors
/// A program failed.
pub async fn measure(options: &Tenancy) -> anyhow::Result<Vec<Table>> {
    let named: Vec<Harm> = options.harms.iter().map(|worst| worst.harm()).collect();
    let harms = if named.is_empty() { Harm::ALL.to_vec() } else { named };
    let mut tables = Vec::new();
    for harm in harms {
        // A server's state outlives a harm: what it filled is emptied with the database.
        let mut street = Street {
            stage: Stage::set().await?,
            harm,
            sessions: options.sessions as usize,
            lasts: Duration::from_secs(options.seconds),
            rounds: 0,
        };
        let rounds = interleave(&mut street, &format!("tenancy, {}", harm.name()), options.rounds as usize).await?;
        street.stage.strike().await?;
        tables.push(table(options, harm, &rounds)?);
    }
    Ok(tables)
}

fn table(options: &Tenancy, harm: Harm, rounds: &Rounds<(Worked, Done)>) -> anyhow::Result<Table> {
    let mut lines = Vec::new();
    type Pick = fn(&Worked) -> &Vec<f64>;
    for (what, pick) in [
        ("submit -> claimed", (|worked| &worked.paces.claimed) as Pick),
        ("claimed -> started", |worked| &worked.paces.started),
    ] {
        for percent in [50.0, 99.0] {
            let (ours, bare) = rounds.figures(|(worked, _)| percentile(pick(worked), percent).unwrap_or(f64::NAN));
            let line = Comparison::of(format!("{what}, p{percent}"), Unit::Milliseconds, &ours, &bare);
            lines.push(line.context("no rounds")?);
        }
    }
    let seconds = options.seconds as f64;
    let (ours, bare) = rounds.figures(|(worked, _)| worked.jobs as f64 / seconds);
    lines.push(
        Comparison::of("jobs a second, one after the other", Unit::RunsPerSecond, &ours, &bare).context("no rounds")?,
    );
    let (lost, none) = rounds.figures(|(worked, _)| worked.losses.len() as f64);
    let lost = Comparison::of("kinds of loss", Unit::Count, &lost, &none).context("no rounds")?;
    lines.push(lost.with_goal(Goal::Most(0.0)));
    for (what, pick) in [
        ("the other one's logins a second", (|done| done.logins) as fn(&Done) -> u64),
        ("its refused logins a second", |done| done.refused),
        ("its statements a second", |done| done.statements),
    ] {
        let (did, _) = rounds.figures(|(_, done)| pick(done) as f64 / seconds);
        lines.push(Comparison::of(what, Unit::Count, &did, &[]).context("no rounds")?);
    }
    Ok(Table {
        row: "tenancy",
        setting: format!("{}, in up to {} sessions, {} s a round", harm.name(), options.sessions, options.seconds),
        baseline: "the same jobs while the other tenant does nothing".to_owned(),
        rounds: rounds.ours.len(),
        lines,
        curves: Vec::new(),
    })
}
