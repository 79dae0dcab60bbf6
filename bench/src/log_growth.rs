//! What both sorts of growth have in common: settings, and lines about reading.

use crate::comparison::{Comparison, Goal, Unit};
use crate::log_probe::ReadCost;
use crate::rounds::Rounds;
use anyhow::Context;
use clap::{Args, ValueEnum};

/// What grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Grows {
    /// The number of streams at once.
    Streams,
    /// The table of logs.
    Table,
    /// Both, one after the other.
    Both,
}

/// How streams print whose number grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Voice {
    /// The same lines, as fast as they are taken.
    Loud,
    /// Ten thousand lines a second, whoever prints them.
    Quiet,
    /// A line a second each: more streams print more lines.
    Steady,
}

/// Settings of the row.
#[derive(Clone, Debug, Args)]
pub struct LogGrowth {
    /// What grows
    #[arg(long, value_enum, default_value = "both")]
    pub grows: Grows,
    /// Streams at once; the first number is what the others are compared with
    #[arg(long, value_delimiter = ',', default_values_t = [1, 100, 1000, 10_000], num_args = 1..,
          value_parser = clap::value_parser!(u32).range(1..=18_000))]
    pub streams: Vec<u32>,
    /// How they print
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["loud", "quiet", "steady"], num_args = 1..)]
    pub voices: Vec<Voice>,
    /// Steady streams at once, a line a second each
    #[arg(long, value_delimiter = ',', default_values_t = [1, 10, 100, 1000, 10_000], num_args = 1..,
          value_parser = clap::value_parser!(u32).range(1..=18_000))]
    pub steady: Vec<u32>,
    /// Lines that each steady stream prints
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    pub seconds: u32,
    /// Lines that are printed for each figure, by all streams together
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(20_000..))]
    pub work: u64,
    /// Lines in the table, one step after the other; a hundred million are 20 GB of text and take 14 GB of disk
    #[arg(long, value_delimiter = ',', default_values_t = [2_000_000], num_args = 1..)]
    pub lines: Vec<u64>,
    /// Rounds of either side
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
}

impl Default for LogGrowth {
    fn default() -> Self {
        Self {
            grows: Grows::Both,
            streams: vec![1, 100, 1000, 10_000],
            voices: vec![Voice::Loud, Voice::Quiet, Voice::Steady],
            steady: vec![1, 10, 100, 1000, 10_000],
            seconds: 20,
            work: 1_000_000,
            lines: vec![2_000_000],
            rounds: 3,
        }
    }
}

/// Lines about reading, in the grown state beside the small one.
///
/// # Errors
/// There were no rounds.
pub fn lines_of_reading<T>(rounds: &Rounds<T>, pick: fn(&T) -> ReadCost) -> anyhow::Result<Vec<Comparison>> {
    let line = |what: &str, of: fn(ReadCost) -> f64| {
        let (grown, small) = rounds.figures(|round| of(pick(round)));
        let line = Comparison::of(what, Unit::Milliseconds, &grown, &small).context("no rounds")?;
        anyhow::Ok(line.with_goal(Goal::MostTimesBare(1.1)))
    };
    Ok(vec![
        line("tendril.tail of 100 logs, nothing new", |cost| cost.poll_ms)?,
        line("tendril.tail of 100 logs, a page of 1 MiB", |cost| cost.page_ms)?,
        line("tendril.logs_after of 10 logs, 400 KB", |cost| cost.after_ms)?,
    ])
}
