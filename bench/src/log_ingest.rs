//! Loud streams through one runner: from the pipe to committed rows, beside the same rows that are stored without being
//! read, sanitised, numbered or spooled, and beside what a portal would do without Tendril.

use crate::clock::{Moment, new_id};
use crate::comparison::{Comparison, Goal, Unit};
use crate::log_fill::{claim, log_row};
use crate::log_program::{self, Load};
use crate::log_text::{LINE_BYTES, LogText};
use crate::report::Table;
use crate::rounds::{Rounds, Row, interleave};
use crate::stage::Stage;
use anyhow::{Context, ensure};
use clap::Args;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;
use tendril_broker::baseline::logs::{self, BareLog, UncheckedInbox, Way};
use tendril_broker::runner::{Claimed, LogRow, Written};

/// Lines of one row, as many as the runner puts into one.
const ROW_LINES: usize = 32 * 1024 / LINE_BYTES;
const PATIENCE: Duration = Duration::from_secs(60);

/// Settings of the row.
#[derive(Clone, Debug, Args)]
pub struct LogIngest {
    /// Streams at once
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    streams: u32,
    /// Lines that each stream prints
    #[arg(long, default_value_t = 60_000, value_parser = clap::value_parser!(u64).range(1000..))]
    lines: u64,
    /// Rounds of either side
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Bytes of a batch, of ours and of the baseline's
    #[arg(long, default_value_t = 4 << 20, value_parser = clap::value_parser!(u64).range(65_536..))]
    batch_bytes: u64,
    /// Beside COPY of the same rows alone, in half of the time
    #[arg(long)]
    same_rows: bool,
}

impl Default for LogIngest {
    fn default() -> Self {
        Self { streams: 100, lines: 60_000, rounds: 3, batch_bytes: 4 << 20, same_rows: false }
    }
}

/// Lines per second of each way.
struct Rates {
    /// One figure on our side; on the other one for each of [`WAYS`].
    rates: Vec<f64>,
}

/// What a portal would do without Tendril, into a bare table, and with which part of the lines: the slow ways take long.
const WAYS_BY_LINE: [(Way, usize); 4] = [(Way::Copy, 4), (Way::Unnest, 8), (Way::MultiRow, 8), (Way::PerRow, 300)];

const WAYS: [&str; 6] = [
    "COPY of the same rows through the same check",
    "COPY of the same rows without the check",
    "COPY of a row per line into a bare table (a quarter of the lines)",
    "INSERT .. unnest of a row per line (an eighth)",
    "INSERT of 1000 rows, one per line (an eighth)",
    "an INSERT per line (one line of 300)",
];

/// Measures the row.
///
/// # Errors
/// A program or the database failed.
pub async fn measure(options: &LogIngest) -> anyhow::Result<Vec<Table>> {
    let (stage, text) = (Stage::set().await?, LogText::stock());
    let file = text.write_to(stage.folder())?;
    let mut site = Site { stage, text, file, options: options.clone(), round: 0 };
    let rounds = interleave(&mut site, "log-ingest", options.rounds as usize).await?;
    site.stage.strike().await?;
    Ok(vec![table(options, &rounds)?])
}

struct Site {
    stage: Stage,
    text: LogText,
    /// The same, for the processes that print it.
    file: PathBuf,
    options: LogIngest,
    round: u32,
}

impl Row for Site {
    type Figures = Rates;

    async fn ours(&mut self) -> anyhow::Result<Rates> {
        self.round += 1;
        let (streams, lines) = (self.options.streams, self.options.lines);
        let flush_bytes = Some(self.batch_bytes()?);
        let load =
            Load { streams, lines, pace: 0.0, line_bytes: LINE_BYTES, text: Some(self.file.clone()), flush_bytes };
        let name = format!("ours-{}", self.round);
        let done = log_program::run(&self.stage, &name, &load).await?;
        let printed = self.lines();
        ensure!(
            done.stored.distinct as u64 == printed && done.stored.lines as u64 == printed,
            "{printed} lines were printed, {} are stored, {} of them once",
            done.stored.lines,
            done.stored.distinct
        );
        Ok(Rates { rates: vec![printed as f64 / done.said.stored_ms * 1e3] })
    }

    async fn bare(&mut self) -> anyhow::Result<Rates> {
        let rows = usize::try_from(self.lines())? / ROW_LINES;
        let mut rates = self.same_rows(rows).await?.to_vec();
        let url = self.stage.operator_url();
        for (way, share) in WAYS_BY_LINE.into_iter().filter(|_| !self.options.same_rows) {
            let count = rows * ROW_LINES / share;
            let table = BareLog::open(&url).await?;
            let (attempt, per_batch) = (new_id(), self.batch_bytes()? / LINE_BYTES);
            let begun = Moment::now();
            for first in (0..count).step_by(per_batch) {
                let numbers = first..count.min(first + per_batch);
                let batch: Vec<&str> = numbers.map(|number| self.text.window(number, 1)).collect();
                table.store(way, attempt, i64::try_from(first)?, &batch).await?;
            }
            rates.push(count as f64 / Moment::now().ms_since(begun) * 1e3);
        }
        Ok(Rates { rates })
    }
}

impl Site {
    fn lines(&self) -> u64 {
        u64::from(self.options.streams) * self.options.lines
    }

    fn batch_bytes(&self) -> anyhow::Result<usize> {
        Ok(usize::try_from(self.options.batch_bytes)?)
    }

    /// The same rows of as many attempts, made beforehand: by the same role through the same check, and without it.
    async fn same_rows(&mut self, rows: usize) -> anyhow::Result<[f64; 2]> {
        let access = self.stage.add_cluster(&format!("bare-{}", self.round)).await;
        logs::wait_for_logs(&self.stage.operator_url(), access.cluster, self.options.streams).await?;
        let (mut writer, claimed) = claim(&access, self.options.streams).await?;
        let batch_rows = self.batch_bytes()? / (ROW_LINES * LINE_BYTES);
        let unchecked = UncheckedInbox::open(&self.stage.operator_url()).await?;
        let lines = (rows * ROW_LINES) as f64;
        let begun = Moment::now();
        for first in (0..rows).step_by(batch_rows) {
            let batch = batch(&self.text, &claimed, first..rows.min(first + batch_rows));
            let written = writer.write(&batch, PATIENCE).await?;
            ensure!(written == Written::Stored, "the baseline's rows were refused: {written:?}");
        }
        let checked = lines / Moment::now().ms_since(begun) * 1e3;
        let begun = Moment::now();
        for first in (0..rows).step_by(batch_rows) {
            unchecked.store(&batch(&self.text, &claimed, first..rows.min(first + batch_rows))).await?;
        }
        Ok([checked, lines / Moment::now().ms_since(begun) * 1e3])
    }
}

/// Rows of these numbers, in turn of each attempt.
fn batch<'a>(text: &'a LogText, claimed: &'a [Claimed], numbers: Range<usize>) -> Vec<LogRow<'a>> {
    numbers
        .map(|number| {
            let (stream, turn) = (number % claimed.len(), (number / claimed.len()) as i64);
            let from = turn * ROW_LINES as i64;
            log_row(&claimed[stream], (from, from + ROW_LINES as i64), text.window(number, ROW_LINES))
        })
        .collect()
}

fn table(options: &LogIngest, rounds: &Rounds<Rates>) -> anyhow::Result<Table> {
    let ours: Vec<f64> = rounds.ours.iter().map(|round| round.rates[0]).collect();
    let mut lines = Vec::new();
    let measured = rounds.bare.first().map_or(0, |round| round.rates.len());
    for (at, way) in WAYS.iter().enumerate().take(measured) {
        let bare: Vec<f64> = rounds.bare.iter().map(|round| round.rates[at]).collect();
        let what = format!("pipe -> committed, beside {way}");
        let line = Comparison::of(what, Unit::LinesPerSecond, &ours, &bare).context("no rounds")?;
        lines.push(if at == 0 { line.with_goal(Goal::LeastTimesBare(0.8)) } else { line });
    }
    let checked: Vec<f64> = rounds.bare.iter().map(|round| round.rates[0]).collect();
    let unchecked: Vec<f64> = rounds.bare.iter().map(|round| round.rates[1]).collect();
    let what = "what the check costs: the same rows with it, beside without";
    lines.push(Comparison::of(what, Unit::LinesPerSecond, &checked, &unchecked).context("no rounds")?);
    Ok(Table {
        row: "log-ingest",
        setting: format!(
            "{} streams through one runner process, {} {} each, as fast as they are taken",
            options.streams,
            options.lines,
            LogText::about()
        ),
        baseline: format!(
            "one session that stores text made beforehand, {} KiB for each commit",
            options.batch_bytes >> 10
        ),
        rounds: rounds.ours.len(),
        lines,
        curves: Vec::new(),
    })
}
