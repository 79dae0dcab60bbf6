//! `log-growth` over the table: the cost of a line and of a look, beside a large table and beside an empty one.

use crate::comparison::{Comparison, Goal, Unit};
use crate::log_cost::{self, Cost};
use crate::log_fill::Filler;
use crate::log_growth::{LogGrowth, lines_of_reading};
use crate::log_probe::{Probe, ReadCost};
use crate::log_program::Load;
use crate::log_text::{LINE_BYTES, LogText};
use crate::processor::Server;
use crate::report::{Curve, Table};
use crate::rounds::{Rounds, Row, interleave};
use crate::stage::Stage;
use crate::statistics::Spread;
use anyhow::Context;
use std::path::PathBuf;
use tendril_broker::baseline::log_tables::{LogTable, checkpoint};

/// How a superuser of the server connects, who may ask for a checkpoint.
const SUPERUSER: &str = "TENDRIL_TEST_SUPERUSER_URL";
const OVER: &str = "lines in the table";
/// Streams that print while the cost of a line is taken.
const STREAMS: u32 = 100;
/// Logs of each of the two sessions that fill the table, and lines of one of their rows.
const FILLED_LOGS: u32 = 5000;
const ROW_LINES: usize = 40;

/// Measures it, at each size in turn.
///
/// # Errors
/// A program or the database failed.
pub async fn measure(options: &LogGrowth, text: &LogText) -> anyhow::Result<Vec<Table>> {
    let mut pair = Pair { large: Side::set(text).await?, small: Side::set(text).await?, work: options.work, round: 0 };
    let stage = &pair.large.stage;
    let (mut one, mut other) =
        (Filler::open(stage, "fill-1", FILLED_LOGS).await?, Filler::open(stage, "fill-2", FILLED_LOGS).await?);
    let (mut tables, mut filled) = (Vec::new(), 0);
    let mut sizes = options.lines.clone();
    sizes.sort_unstable();
    for size in sizes {
        eprintln!("log-growth: filling the table up to {size} lines");
        while filled < size {
            let some = (size - filled).min(5_000_000).div_ceil(2);
            let (a, b) = tokio::join!(one.store(text, some, ROW_LINES), other.store(text, some, ROW_LINES));
            filled += a? + b?;
            eprintln!("log-growth: {filled} lines");
        }
        pair.settle().await?;
        let rounds = interleave(&mut pair, &format!("log-growth, {size} lines"), options.rounds as usize).await?;
        tables.push(table(options, size, &pair.about().await?, &rounds)?);
    }
    for side in [pair.large, pair.small] {
        drop(side.server);
        side.stage.strike().await?;
    }
    Ok(tables)
}

struct Side {
    stage: Stage,
    server: Server,
    table: LogTable,
    probe: Probe,
    file: PathBuf,
}

impl Side {
    async fn set(text: &LogText) -> anyhow::Result<Self> {
        let stage = Stage::set().await?;
        let table = LogTable::open(&stage.operator_url()).await?;
        table.lift_quotas().await?;
        let (server, probe) = (Server::find(&stage.operator_url()).await?, Probe::store(&stage, text).await?);
        let file = text.write_to(stage.folder())?;
        Ok(Self { stage, server, table, probe, file })
    }

    async fn look(&self, name: &str, work: u64) -> anyhow::Result<Figures> {
        let read = self.probe.read().await?;
        let (lines, text) = (work / u64::from(STREAMS), Some(self.file.clone()));
        let load = Load { streams: STREAMS, lines, pace: 0.0, line_bytes: LINE_BYTES, text, flush_bytes: None };
        let cost = log_cost::of(&self.stage, &self.server, name, &load).await?;
        Ok(Figures { read, cost })
    }
}

struct Figures {
    cost: Cost,
    read: ReadCost,
}

/// Two databases of one server: a large one and a small one.
struct Pair {
    large: Side,
    small: Side,
    work: u64,
    round: u32,
}

impl Pair {
    /// What filling has left to do is done now.
    async fn settle(&self) -> anyhow::Result<()> {
        self.large.table.settle().await?;
        self.small.table.settle().await?;
        if let Ok(url) = std::env::var(SUPERUSER) {
            checkpoint(&url).await?;
        }
        Ok(())
    }

    async fn about(&self) -> anyhow::Result<String> {
        let size = self.large.table.size(false).await?;
        let gib = |bytes: i64| bytes as f64 / f64::from(1 << 30);
        Ok(format!(
            "{:.1} GiB on disk, {:.1} GiB of them index",
            gib(size.table_bytes + size.index_bytes),
            gib(size.index_bytes)
        ))
    }
}

impl Row for Pair {
    type Figures = Figures;

    async fn ours(&mut self) -> anyhow::Result<Figures> {
        self.round += 1;
        self.large.look(&format!("large-{}", self.round), self.work).await
    }

    async fn bare(&mut self) -> anyhow::Result<Figures> {
        self.small.look(&format!("small-{}", self.round), self.work).await
    }
}

fn table(options: &LogGrowth, size: u64, about: &str, rounds: &Rounds<Figures>) -> anyhow::Result<Table> {
    let line = |what: &str, unit, pick: &dyn Fn(&Figures) -> f64| {
        let (large, small) = rounds.figures(pick);
        Comparison::of(what, unit, &large, &small).context("no rounds")
    };
    let cost = line("processor for a line", Unit::Microseconds, &|f| f.cost.line_us)?;
    let mut lines = vec![
        cost.clone().with_goal(Goal::MostTimesBare(1.3)),
        line("of it Postgres", Unit::Microseconds, &|f| f.cost.server_us)?,
        line("stored", Unit::LinesPerSecond, &|f| f.cost.lines_per_s)?,
    ];
    lines.extend(lines_of_reading(rounds, |f| f.read)?);
    let point = |spread: Spread| vec![(size as f64, spread)];
    let costs = "processor for a line, us";
    let mut curves = vec![curve(costs, "beside so many lines", point(cost.ours))];
    curves.extend(cost.bare.map(|bare| curve(costs, "beside an empty table", point(bare))));
    let reads = "a page of 1 MiB by tendril.tail, ms";
    let (large, small) = rounds.figures(|f| f.read.page_ms);
    curves.push(curve(reads, "beside so many lines", point(Spread::of(&large).context("no rounds")?)));
    curves.push(curve(reads, "beside an empty table", point(Spread::of(&small).context("no rounds")?)));
    Ok(Table {
        row: "log-growth",
        setting: format!(
            "{} {} from {STREAMS} loud streams, and what readers wait for, in a table with {size} lines in rows of 8 KB \
             of one day ({about})",
            options.work,
            LogText::about()
        ),
        baseline: "the same in a database of the same server that holds what the rounds stored and no more".to_owned(),
        rounds: rounds.ours.len(),
        lines,
        curves,
    })
}

fn curve(chart: &'static str, name: &'static str, points: Vec<(f64, Spread)>) -> Curve {
    Curve { chart, over: OVER, name, points, goal: None }
}
