//! Many quiet streams through one runner: how soon a line is in the database, and what that costs.

use crate::comparison::{Comparison, Goal, Unit};
use crate::log_program::{self, Load, Outcome};
use crate::report::{Curve, Table};
use crate::rounds::{Rounds, Row, interleave};
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
        let load =
            Load { streams, lines: options.lines, pace: options.pace, line_bytes: 200, text: None, flush_bytes: None };
        let mut site = Site { stage: Stage::set().await?, load, round: 0 };
        let rounds = interleave(&mut site, &format!("log-streams, {streams}"), options.rounds as usize).await?;
        site.stage.strike().await?;
        tables.push(table(options, streams, &rounds)?);
    }
    Ok(tables)
}

struct Site {
    stage: Stage,
    load: Load,
    round: u32,
}

/// Of one round of either side.
struct Figures {
    /// Milliseconds from a line's print to its commit, or to its being read: median, and of one in a hundred.
    arrives_ms: [f64; 2],
    lines_per_s: f64,
    peak_mib: f64,
    processor_ms: f64,
    /// Lines lost or there twice.
    wrong: f64,
}

impl Row for Site {
    type Figures = Figures;

    async fn ours(&mut self) -> anyhow::Result<Figures> {
        self.round += 1;
        let Outcome { said, stored } =
            log_program::run(&self.stage, &format!("streams-{}", self.round), &self.load).await?;
        Ok(Figures {
            arrives_ms: stored.commit_ms,
            lines_per_s: stored.lines as f64 / said.stored_ms * 1e3,
            peak_mib: said.peak_kib / 1024.0,
            processor_ms: said.processor_ms,
            wrong: (self.printed() - stored.distinct as f64).abs() + (stored.lines - stored.distinct) as f64,
        })
    }

    async fn bare(&mut self) -> anyhow::Result<Figures> {
        let said = log_program::run_bare(&self.load).await?;
        Ok(Figures {
            arrives_ms: [said.p50_ms, said.p99_ms],
            lines_per_s: said.lines / said.read_ms * 1e3,
            peak_mib: said.peak_kib / 1024.0,
            processor_ms: said.processor_ms,
            wrong: (self.printed() - said.lines).abs(),
        })
    }
}

impl Site {
    fn printed(&self) -> f64 {
        f64::from(self.load.streams) * self.load.lines as f64
    }
}

fn table(options: &LogStreams, streams: u32, rounds: &Rounds<Figures>) -> anyhow::Result<Table> {
    let mebibytes = f64::from(streams) * options.lines as f64 * 200.0 / 1_048_576.0;
    let both = |what: &str, unit, pick: &dyn Fn(&Figures) -> f64| {
        let (ours, bare) = rounds.figures(pick);
        Comparison::of(what, unit, &ours, &bare).context("no rounds")
    };
    let alone = |what: &str, unit, pick: &dyn Fn(&Figures) -> f64| {
        Comparison::of(what, unit, &rounds.figures(pick).0, &[]).context("no rounds")
    };
    let bare = |what: &str, unit, pick: &dyn Fn(&Figures) -> f64| {
        Comparison::of(what, unit, &rounds.figures(pick).1, &[]).context("no rounds")
    };
    let curve = |name, line: &Comparison, goal| {
        let (chart, over, points) =
            ("from a line's print to its commit, ms", "streams at once", vec![(f64::from(streams), line.ours)]);
        Curve { chart, over, name, points, goal: Some(goal) }
    };
    let goal = |line: Comparison, goal| if streams == 10_000 { line.with_goal(goal) } else { line };
    let lines = vec![
        goal(alone("print -> commit, p50", Unit::Milliseconds, &|f| f.arrives_ms[0])?, Goal::Most(350.0)),
        goal(alone("print -> commit, p99", Unit::Milliseconds, &|f| f.arrives_ms[1])?, Goal::Most(800.0)),
        bare("print -> read by the bare reader, p99", Unit::Milliseconds, &|f| f.arrives_ms[1])?,
        both("lines stored (bare: read)", Unit::LinesPerSecond, &|f| f.lines_per_s)?,
        goal(both("peak memory", Unit::Mebibytes, &|f| f.peak_mib)?, Goal::Most(256.0)),
        both("processor for a MiB of text", Unit::Milliseconds, &|f| f.processor_ms / mebibytes)?,
        alone("lines lost or stored twice", Unit::Count, &|f| f.wrong)?.with_goal(Goal::Most(0.0)),
    ];
    Ok(Table {
        row: "log-streams",
        setting: format!(
            "{streams} streams through one runner process, {} lines of 200 bytes each, {} a second",
            options.lines, options.pace
        ),
        baseline: "the same pipes, read by a process that keeps nothing".to_owned(),
        rounds: rounds.ours.len(),
        curves: vec![curve("p50", &lines[0], 350.0), curve("p99", &lines[1], 800.0)],
        lines,
    })
}
