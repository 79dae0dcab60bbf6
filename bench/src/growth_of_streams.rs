//! `log-growth` over streams: the same lines by one stream and by ten thousand, and readers beside them.

use crate::comparison::{Comparison, Goal, Unit};
use crate::log_cost::{self, Cost};
use crate::log_fill::Filler;
use crate::log_growth::{LogGrowth, Voice, lines_of_reading};
use crate::log_probe::{Probe, ReadCost};
use crate::log_program::Load;
use crate::log_text::{LINE_BYTES, LogText};
use crate::processor::Server;
use crate::report::{Curve, Table};
use crate::rounds::{Row, interleave};
use crate::stage::Stage;
use crate::statistics::Spread;
use anyhow::Context;
use std::path::PathBuf;
use tendril_broker::baseline::log_tables::LogTable;

const OVER: &str = "streams at once";
/// Lines that all quiet streams print together in a second, and for so many seconds.
const QUIET_PER_S: u32 = 10_000;
const QUIET_S: u32 = 10;
/// Steady streams print so many lines at least before a further one is judged.
const STEP_LINES: f64 = 1000.0;
/// Rows that each of the many logs has which readers do not look at.
const ROW_LINES: usize = 20;

/// Measures it.
///
/// # Errors
/// A program or the database failed.
pub async fn measure(options: &LogGrowth, text: &LogText) -> anyhow::Result<Vec<Table>> {
    let mut tables = vec![];
    for voice in &options.voices {
        tables.push(of_voice(options, text, *voice).await?);
    }
    tables.push(reading(options, text).await?);
    Ok(tables)
}

async fn of_voice(options: &LogGrowth, text: &LogText, voice: Voice) -> anyhow::Result<Table> {
    let stage = Stage::set().await?;
    let server = Server::find(&stage.operator_url()).await?;
    LogTable::open(&stage.operator_url()).await?.lift_quotas().await?;
    let file = text.write_to(stage.folder())?;
    let numbers = voice.streams(options);
    let mut costs: Vec<Vec<Cost>> = numbers.iter().map(|_| Vec::new()).collect();
    for round in 1..=options.rounds {
        for (at, &streams) in numbers.iter().enumerate() {
            eprintln!("log-growth: round {round} of {}, {streams} {} streams", options.rounds, voice.name());
            let name = format!("streams-{round}-{at}");
            costs[at].push(log_cost::of(&stage, &server, &name, &voice.load(options, streams, file.clone())).await?);
        }
    }
    drop(server);
    stage.strike().await?;
    table(options, voice, &costs)
}

impl Voice {
    fn name(self) -> &'static str {
        match self {
            Self::Loud => "loud",
            Self::Quiet => "quiet",
            Self::Steady => "steady",
        }
    }

    fn streams(self, options: &LogGrowth) -> &[u32] {
        match self {
            Self::Loud | Self::Quiet => &options.streams,
            Self::Steady => &options.steady,
        }
    }

    fn chart(self) -> &'static str {
        match self {
            Self::Loud => "loud streams: processor for a line, us",
            Self::Quiet => "10,000 lines/s by quiet streams: processor for a line, us",
            Self::Steady => "a line a second from each stream: processor for a line, us",
        }
    }

    fn load(self, options: &LogGrowth, streams: u32, text: PathBuf) -> Load {
        let pace = f64::from(QUIET_PER_S) / f64::from(streams);
        let (lines, pace) = match self {
            Self::Loud => (options.work / u64::from(streams), 0.0),
            Self::Quiet => (u64::from(QUIET_PER_S * QUIET_S / streams).max(1), pace),
            Self::Steady => (u64::from(options.seconds), 1.0),
        };
        Load { streams, lines, pace, line_bytes: LINE_BYTES, text: Some(text), flush_bytes: None }
    }

    fn setting(self, options: &LogGrowth) -> String {
        match self {
            Self::Loud => {
                format!("{} {} from loud streams, each as fast as it is taken", options.work, LogText::about())
            }
            Self::Quiet => format!("{QUIET_PER_S} {} a second from quiet streams, {QUIET_S} s", LogText::about()),
            Self::Steady => {
                format!("a line a second from each of so many streams, {} {}", options.seconds, LogText::about())
            }
        }
    }
}

fn table(options: &LogGrowth, voice: Voice, costs: &[Vec<Cost>]) -> anyhow::Result<Table> {
    let first = costs.first().context("no streams")?;
    let pick = |costs: &[Cost], of: fn(&Cost) -> f64| -> Vec<f64> { costs.iter().map(of).collect() };
    let (mut lines, mut points, mut server) = (Vec::new(), Vec::new(), Vec::new());
    let (mut former, mut further): (&[Cost], Vec<f64>) = (&[], Vec::new());
    for (streams, costs) in voice.streams(options).iter().zip(costs) {
        let line = |what: &str, unit, of: fn(&Cost) -> f64| {
            let what = format!("{streams} streams: {what}");
            Comparison::of(what, unit, &pick(costs, of), &pick(first, of)).context("no rounds")
        };
        let cost = line("processor for a line", Unit::Microseconds, |cost| cost.line_us)?;
        points.push((f64::from(*streams), cost.ours));
        server.push((f64::from(*streams), Spread::of(&pick(costs, |cost| cost.server_us)).context("no rounds")?));
        lines.push(cost.with_goal(Goal::MostTimesBare(1.3)));
        lines.push(line("of it Postgres", Unit::Microseconds, |cost| cost.server_us)?);
        lines.push(line("database time for a line", Unit::Microseconds, |cost| cost.database_us)?);
        if voice == Voice::Steady {
            let more = further_us(former, costs);
            lines.extend(further_line(*streams, &more, &further));
            // Too few lines say little beside what an idle server takes, and nothing is judged by them.
            let many = costs.iter().all(|cost| cost.lines >= STEP_LINES);
            further = if many { more } else { Vec::new() };
        }
        former = costs;
        lines.push(line("stored", Unit::LinesPerSecond, |cost| cost.lines_per_s)?);
        lines.push(line("rows for 1000 lines", Unit::Count, |cost| cost.rows)?);
    }
    let chart = voice.chart();
    let curve = |name, points| Curve { chart, over: OVER, name, points, goal: None };
    Ok(Table {
        row: "log-growth",
        setting: voice.setting(options),
        baseline: format!("the same lines by {}", voice.streams(options).first().context("no streams")?),
        rounds: options.rounds as usize,
        lines,
        curves: vec![curve("runner and Postgres", points), curve("Postgres", server)],
    })
}

/// What a further line costs, in which nothing is that is there with the first stream already, such as the turns of an idle
/// server; beside it what one cost in the step before.
fn further_line(streams: u32, more: &[f64], before: &[f64]) -> Option<Comparison> {
    let what = format!("{streams} streams: processor for a further line (beside: for one of the step before)");
    let line = Comparison::of(what, Unit::Microseconds, more, before)?;
    Some(if before.is_empty() { line } else { line.with_goal(Goal::MostTimesBare(1.3)) })
}

/// Microseconds of processor for each line that these rounds have more than those.
fn further_us(former: &[Cost], costs: &[Cost]) -> Vec<f64> {
    let further = |(fewer, more): (&Cost, &Cost)| {
        let lines = more.lines - fewer.lines;
        (lines > 0.0).then(|| (more.line_us * more.lines - fewer.line_us * fewer.lines) / lines)
    };
    former.iter().zip(costs).filter_map(further).collect()
}

/// Two databases: one with a probe and one other log, one with a probe and many.
struct Readers {
    many: (Stage, Probe),
    one: (Stage, Probe),
}

impl Row for Readers {
    type Figures = ReadCost;

    async fn ours(&mut self) -> anyhow::Result<ReadCost> {
        self.many.1.read().await
    }

    async fn bare(&mut self) -> anyhow::Result<ReadCost> {
        self.one.1.read().await
    }
}

async fn reading(options: &LogGrowth, text: &LogText) -> anyhow::Result<Table> {
    let most = options.streams.iter().copied().max().context("no streams")?;
    let mut readers = Readers { many: beside(most, text).await?, one: beside(1, text).await? };
    let rounds = interleave(&mut readers, "log-growth, readers", options.rounds as usize).await?;
    readers.many.0.strike().await?;
    readers.one.0.strike().await?;
    Ok(Table {
        row: "log-growth",
        setting: format!("what readers wait for, in a database with {most} other open logs"),
        baseline: "the same in a database with one".to_owned(),
        rounds: rounds.ours.len(),
        lines: lines_of_reading(&rounds, |cost| *cost)?,
        curves: Vec::new(),
    })
}

/// A probe, and so many other open logs of which each has a few rows.
async fn beside(streams: u32, text: &LogText) -> anyhow::Result<(Stage, Probe)> {
    let stage = Stage::set().await?;
    let mut others = Filler::open(&stage, "others", streams).await?;
    others.store(text, u64::from(streams) * 2 * ROW_LINES as u64 * 16, ROW_LINES).await?;
    let probe = Probe::store(&stage, text).await?;
    LogTable::open(&stage.operator_url()).await?.settle().await?;
    Ok((stage, probe))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_further_line_costs_what_is_added_and_nothing_of_what_was_there() {
        let cost =
            |line_us, lines| Cost { line_us, server_us: 0.0, lines_per_s: 0.0, rows: 0.0, database_us: 0.0, lines };
        // One line beside a turn that costs 1,000; ten lines of 20 beside it.
        assert_eq!(further_us(&[cost(1020.0, 1.0)], &[cost(120.0, 10.0)]), [20.0]);
        assert!(further_us(&[], &[cost(1.0, 1.0)]).is_empty());
        assert!(further_us(&[cost(1.0, 5.0)], &[cost(1.0, 5.0)]).is_empty(), "no line more");
    }
}
