//! What a line takes on disk, by the size of rows and the way their text is kept, and what that costs who stores and who
//! reads: in the real table, through the same check as a runner's rows.

use crate::clock::Moment;
use crate::comparison::{Comparison, Unit};
use crate::log_fill::Filler;
use crate::log_text::{LINE_BYTES, LogText};
use crate::report::Table;
use crate::stage::Stage;
use crate::statistics::percentile;
use anyhow::{Context, ensure};
use clap::Args;
use serde_json::json;
use tendril_broker::baseline::log_tables::{Compression, LogReading, LogTable};

/// Attempts that store in turn; ten of a deployment.
const ATTEMPTS: u32 = 100;
const READS: usize = 15;
/// As runners and migrations have it: at most 32 KiB, by LZ4.
const PRESENT: Variant = Variant { row_lines: 163, compression: Compression::Lz4 };

/// Settings of the row.
#[derive(Clone, Debug, Args)]
pub struct LogStorage {
    /// Lines that are stored of each variant
    #[arg(long, default_value_t = 300_000, value_parser = clap::value_parser!(u64).range(10_000..))]
    lines: u64,
    /// Rounds of all variants
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

impl Default for LogStorage {
    fn default() -> Self {
        Self { lines: 300_000, rounds: 3 }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Variant {
    row_lines: usize,
    compression: Compression,
}

impl Variant {
    fn all() -> Vec<Self> {
        let ways = [Compression::Pglz, Compression::Lz4, Compression::None];
        let sizes = [327, 163, 81, 20, 5, 1];
        sizes.into_iter().flat_map(|row_lines| ways.map(|compression| Self { row_lines, compression })).collect()
    }

    fn name(self) -> String {
        let size = match self.row_lines {
            1 => "a line a row".to_owned(),
            lines => format!("rows of {} KiB", (lines * LINE_BYTES).div_ceil(1024)),
        };
        let kept = match self.compression {
            Compression::Pglz => "pglz",
            Compression::Lz4 => "lz4",
            Compression::None => "not compressed",
        };
        format!("{size}, {kept}")
    }
}

/// What a variant came to in a round.
struct Figures {
    table_bytes: f64,
    index_bytes: f64,
    kept: f64,
    lines_per_s: f64,
    read_ms: f64,
}

/// Measures the row.
///
/// # Errors
/// The database failed, or has no LZ4.
pub async fn measure(options: &LogStorage) -> anyhow::Result<Vec<Table>> {
    let stage = Stage::set().await?;
    let (table, text) = (LogTable::open(&stage.operator_url()).await?, LogText::stock());
    let variants = Variant::all();
    let mut figures: Vec<Vec<Figures>> = variants.iter().map(|_| Vec::new()).collect();
    for round in 1..=options.rounds {
        for (at, variant) in variants.iter().enumerate() {
            eprintln!("log-storage: round {round} of {}, {}", options.rounds, variant.name());
            table.empty(variant.compression).await?;
            let filler = Filler::open(&stage, &format!("storage-{round}-{at}"), ATTEMPTS).await?;
            figures[at].push(store_and_read(&stage, &table, filler, (&text, options.lines, variant.row_lines)).await?);
        }
    }
    stage.strike().await?;
    tables(options, &variants, &figures)
}

async fn store_and_read(
    stage: &Stage,
    table: &LogTable,
    mut filler: Filler,
    (text, lines, row_lines): (&LogText, u64, usize),
) -> anyhow::Result<Figures> {
    let begun = Moment::now();
    let stored = filler.store(text, lines, row_lines).await? as f64;
    let seconds = Moment::now().ms_since(begun) / 1e3;
    table.settle().await?;
    let size = table.size(true).await?;
    let (reading, deployments) = (LogReading::open(stage.portal_url()).await?, filler.deployments());
    let mut reads = Vec::new();
    for _ in 0..READS {
        let begun = Moment::now();
        let page = reading.tail(&deployments, &json!({})).await?;
        ensure!(page.chunks > 0, "nothing was read");
        reads.push(Moment::now().ms_since(begun) * 1_048_576.0 / page.bytes as f64);
    }
    Ok(Figures {
        table_bytes: size.table_bytes as f64 / stored,
        index_bytes: size.index_bytes as f64 / stored,
        kept: size.text_bytes as f64 / size.kept_bytes.max(1) as f64,
        lines_per_s: stored / seconds,
        read_ms: percentile(&reads, 50.0).context("nothing was read")?,
    })
}

/// A measure of all variants: what it is, in what it is counted, and which figure it is.
type Measure = (&'static str, Unit, fn(&Figures) -> f64);

fn tables(options: &LogStorage, variants: &[Variant], figures: &[Vec<Figures>]) -> anyhow::Result<Vec<Table>> {
    let present = variants.iter().position(|variant| *variant == PRESENT).context("the present variant is missing")?;
    let measures: [Measure; 5] = [
        ("on disk for a line, all together", Unit::Bytes, |f| f.table_bytes + f.index_bytes),
        ("of it for the index", Unit::Bytes, |f| f.index_bytes),
        ("text, for each byte that is kept of it", Unit::Ratio, |f| f.kept),
        ("stored through the check", Unit::LinesPerSecond, |f| f.lines_per_s),
        ("read by tail, for a MiB of text", Unit::Milliseconds, |f| f.read_ms),
    ];
    let mut tables = Vec::new();
    for (what, unit, pick) in measures {
        let of = |at: usize| -> Vec<f64> { figures[at].iter().map(pick).collect() };
        let mut lines = Vec::new();
        for (at, variant) in variants.iter().enumerate() {
            let line = Comparison::of(variant.name(), unit, &of(at), &of(present));
            lines.push(line.context("no rounds")?);
        }
        tables.push(Table {
            row: "log-storage",
            setting: format!(
                "{what}; {} lines of {LINE_BYTES} bytes of {ATTEMPTS} logs, a mebibyte for each commit",
                options.lines
            ),
            baseline: format!("the present choice, {}", PRESENT.name()),
            rounds: options.rounds as usize,
            lines,
            curves: Vec::new(),
        });
    }
    Ok(tables)
}
