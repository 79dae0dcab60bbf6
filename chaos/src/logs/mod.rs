//! The log pipeline under faults, from what children print to what a portal reads.
//!
//! A run is shorter than those of the whole installation, and many share one world: children print what their seed says
//! (`script`, `printer`) and write it to a witness outside the database, something is broken (`op`, `perform`), and when
//! all logs have come to rest the checker compares rows with the witness (`evidence`, `check`).

mod archive;
mod bucket;
mod check;
mod corrupt;
mod crashes;
mod door;
mod evidence;
mod journal;
mod op;
mod outage;
mod perform;
mod pieces;
mod printer;
mod proxy;
mod room;
mod run;
mod script;
#[cfg(test)]
mod tests;
mod wire;
mod witness;
mod world;

use std::path::{Path, PathBuf};

use clap::Args;

use crate::seeds::Seeds;
use crate::world::dev_script;
pub use op::LogOp;
pub use printer::Task;
pub use printer::run as print;

/// What `./dev chaos logs` takes.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Operations, one after the other
    #[arg(long, value_delimiter = ',', value_name = "OP,...", default_values_t = LogOp::all(), value_enum)]
    ops: Vec<LogOp>,
    /// Seeds of each, both ends included: 1..100
    #[arg(long, value_name = "A..B", default_value = "1..1")]
    seeds: Seeds,
    /// Crash Postgres so many times under full load instead
    #[arg(long, value_name = "COUNT", conflicts_with_all = ["ops", "seeds"])]
    crashes: Option<u32>,
    /// Take the database away for so many minutes instead, while quiet streams print
    #[arg(long, value_name = "MINUTES", conflicts_with_all = ["ops", "seeds", "crashes"])]
    outage: Option<f64>,
    /// Streams of the outage
    #[arg(long, default_value_t = 1000, requires = "outage", value_parser = clap::value_parser!(u32).range(1..=2500))]
    streams: u32,
    /// Lines of 200 bytes that each of them prints in a second
    #[arg(long, default_value_t = 10.0, requires = "outage")]
    rate: f64,
    /// Where everything is left; it is emptied first [default: .state/chaos/logs]
    #[arg(long, value_name = "FOLDER")]
    into: Option<PathBuf>,
    /// Print a JSON object for each seed
    #[arg(long)]
    json: bool,
    /// Judge again what a run has left, and do nothing else
    #[arg(long, value_name = "FILE")]
    check: Option<PathBuf>,
}

/// Does it; whether everything held.
///
/// # Errors
/// There was no run.
pub fn main(options: &Options) -> anyhow::Result<bool> {
    if let Some(file) = &options.check {
        return judge(file);
    }
    let small_disk = |op: &LogOp| matches!(op, LogOp::PostgresDiskFull | LogOp::PostgresWalFull);
    if options.ops.iter().any(small_disk) && options.crashes.is_none() && options.outage.is_none() {
        room::go_where_it_can_be()?;
    }
    let usual = || dev_script().with_file_name(".state").join("chaos").join("logs");
    let folder = options.into.clone().unwrap_or_else(usual);
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(&folder)?;
    let folder = folder.canonicalize()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        match (options.crashes, options.outage) {
            (Some(count), _) => crashes::carry_out(&folder, count).await,
            (None, Some(minutes)) => {
                let load = outage::Load { streams: options.streams, rate: options.rate };
                outage::carry_out(&folder, minutes, load).await
            }
            (None, None) => run::carry_out(&folder, options).await,
        }
    })
}

fn judge(file: &Path) -> anyhow::Result<bool> {
    let evidence = evidence::Evidence::read(file)?;
    let verdict = check::check(&evidence);
    print!("{}", run::words(&evidence, &verdict));
    Ok(verdict.violations.is_empty())
}
