//! `log-growth` over streams: the same lines by one stream and by ten thousand, and readers beside them.

use crate::comparison::{Comparison, Goal, Unit};
use crate::log_cost::{self, Cost};
use crate::log_fill::Filler;
use crate::log_growth::{LogGrowth, lines_of_reading};
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
/// Rows that each of the many logs has which readers do not look at.
const ROW_LINES: usize = 20;

/// Loud: as fast as they are taken. Quiet: ten thousand lines a second, whoever prints them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Voice {
    Loud,
    Quiet,
}

/// Measures it.
///
/// # Errors
/// A program or the database failed.
pub async fn measure(options: &LogGrowth, text: &LogText) -> anyhow::Result<Vec<Table>> {
    let mut tables = vec![];
    for voice in [Voice::Loud, Voice::Quiet] {
        tables.push(of_voice(options, text, voice).await?);
    }
    tables.push(reading(options, text).await?);
    Ok(tables)
}

async fn of_voice(options: &LogGrowth, text: &LogText, voice: Voice) -> anyhow::Result<Table> {
    let stage = Stage::set().await?;
    let server = Server::find(&stage.operator_url()).await?;
    LogTable::open(&stage.operator_url()).await?.lift_quotas().await?;
    let file = text.write_to(stage.folder())?;
    let mut costs: Vec<Vec<Cost>> = options.streams.iter().map(|_| Vec::new()).collect();
    for round in 1..=options.rounds {
        for (at, &streams) in options.streams.iter().enumerate() {
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
        }
    }

    fn load(self, options: &LogGrowth, streams: u32, text: PathBuf) -> Load {
        let pace = f64::from(QUIET_PER_S) / f64::from(streams);
        let (lines, pace) = match self {
            Self::Loud => (options.work / u64::from(streams), 0.0),
            Self::Quiet => (u64::from(QUIET_PER_S * QUIET_S / streams).max(1), pace),
        };
        Load { streams, lines, pace, line_bytes: LINE_BYTES, text: Some(text) }
    }

    fn setting(self, options: &LogGrowth) -> String {
        match self {
            Self::Loud => {
                format!("{} {} from loud streams, each as fast as it is taken", options.work, LogText::about())
            }
            Self::Quiet => format!("{QUIET_PER_S} {} a second from quiet streams, {QUIET_S} s", LogText::about()),
        }
    }
}

fn table(options: &LogGrowth, voice: Voice, costs: &[Vec<Cost>]) -> anyhow::Result<Table> {
    let first = costs.first().context("no streams")?;
    let pick = |costs: &[Cost], of: fn(&Cost) -> f64| -> Vec<f64> { costs.iter().map(of).collect() };
    let (mut lines, mut points, mut server) = (Vec::new(), Vec::new(), Vec::new());
    for (streams, costs) in options.streams.iter().zip(costs) {
        let line = |what: &str, unit, of: fn(&Cost) -> f64| {
            let what = format!("{streams} streams: {what}");
            Comparison::of(what, unit, &pick(costs, of), &pick(first, of)).context("no rounds")
        };
        let cost = line("processor for a line", Unit::Microseconds, |cost| cost.line_us)?;
        points.push((f64::from(*streams), cost.ours));
        server.push((f64::from(*streams), Spread::of(&pick(costs, |cost| cost.server_us)).context("no rounds")?));
        lines.push(cost.with_goal(Goal::MostTimesBare(1.3)));
        lines.push(line("of it Postgres", Unit::Microseconds, |cost| cost.server_us)?);
        lines.push(line("stored", Unit::LinesPerSecond, |cost| cost.lines_per_s)?);
        lines.push(line("rows for 1000 lines", Unit::Count, |cost| cost.rows)?);
    }
    let chart = match voice {
        Voice::Loud => "loud streams: processor for a line, us",
        Voice::Quiet => "10,000 lines/s by quiet streams: processor for a line, us",
    };
    let curve = |name, points| Curve { chart, over: OVER, name, points, goal: None };
    Ok(Table {
        row: "log-growth",
        setting: voice.setting(options),
        baseline: format!("the same lines by {}", options.streams.first().context("no streams")?),
        rounds: options.rounds as usize,
        lines,
        curves: vec![curve("runner and Postgres", points), curve("Postgres", server)],
    })
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
