//! Many quiet streams through one runner: how soon a line is in the database, and what that costs.

use crate::comparison::{Comparison, Goal, Unit};
use crate::log_program::{self, Load, Outcome};
use crate::report::{Curve, Table};
use crate::stage::Stage;
use anyhow::Context;
use clap::Args;

/// Settings of the row.
#[derive(Clone, Debug, Args)]
pub struct LogStreams {
    /// Streams at once; each number is a table of its own
    #[arg(long, value_delimiter = ',', default_values_t = [100, 1000, 10_000],
          value_parser = clap::value_parser!(u32).range(1..=18_000))]
    streams: Vec<u32>,
    /// Lines that each stream prints in a second
    #[arg(long, default_value_t = 1.0)]
    pace: f64,
    /// Lines that each stream prints
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u64).range(1..))]
    lines: u64,
    /// Rounds
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

impl Default for LogStreams {
    fn default() -> Self {
        Self { streams: vec![100, 1000, 10_000], pace: 1.0, lines: 40, rounds: 3 }
    }
}

/// Measures the row.
///
/// # Errors
/// A program or the database failed.
pub async fn measure(options: &LogStreams) -> anyhow::Result<Vec<Table>> {
    let mut tables = Vec::new();
    for &streams in &options.streams {
        let stage = Stage::set().await?;
        let load = Load { streams, lines: options.lines, pace: options.pace, line_bytes: 200, text: None };
        let mut rounds = Vec::new();
        for round in 1..=options.rounds {
            eprintln!("log-streams: {streams} streams, round {round} of {}", options.rounds);
            rounds.push(log_program::run(&stage, &format!("streams-{round}"), &load).await?);
        }
        stage.strike().await?;
        tables.push(table(options, streams, &rounds)?);
    }
    Ok(tables)
}

fn table(options: &LogStreams, streams: u32, rounds: &[Outcome]) -> anyhow::Result<Table> {
    let printed = f64::from(streams) * options.lines as f64;
    let mebibytes = printed * 200.0 / 1_048_576.0;
    let line = |what: &str, unit, pick: &dyn Fn(&Outcome) -> f64| {
        let figures: Vec<f64> = rounds.iter().map(pick).collect();
        Comparison::of(what, unit, &figures, &[]).context("no rounds")
    };
    let curve = |name, line: &Comparison, goal| {
        let (chart, over, points) =
            ("from a line's print to its commit, ms", "streams at once", vec![(f64::from(streams), line.ours)]);
        Curve { chart, over, name, points, goal: Some(goal) }
    };
    let goal = |line: Comparison, goal| if streams == 10_000 { line.with_goal(goal) } else { line };
    let lines = vec![
        goal(line("print -> commit, p50", Unit::Milliseconds, &|o| o.stored.commit_ms[0])?, Goal::Most(350.0)),
        goal(line("print -> commit, p99", Unit::Milliseconds, &|o| o.stored.commit_ms[1])?, Goal::Most(800.0)),
        line("lines stored", Unit::LinesPerSecond, &|o| o.stored.lines as f64 / o.said.stored_ms * 1e3)?,
        goal(line("peak memory", Unit::Mebibytes, &|o| o.said.peak_kib / 1024.0)?, Goal::Most(256.0)),
        line("processor for a MiB of text", Unit::Milliseconds, &|o| o.said.processor_ms / mebibytes)?,
        line("lines lost or stored twice", Unit::Count, &|o| {
            (printed - o.stored.distinct as f64).abs() + (o.stored.lines - o.stored.distinct) as f64
        })?
        .with_goal(Goal::Most(0.0)),
    ];
    Ok(Table {
        row: "log-streams",
        setting: format!(
            "{streams} streams through one runner process, {} lines of 200 bytes each, {} a second",
            options.lines, options.pace
        ),
        baseline: "nothing: the wait for the flush decides".to_owned(),
        rounds: rounds.len(),
        curves: vec![curve("p50", &lines[0], 350.0), curve("p99", &lines[1], 800.0)],
        lines,
    })
}
