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
mod done;
mod door;
mod evidence;
mod figures;
mod journal;
mod op;
mod options;
mod outage;
mod perform;
mod pieces;
mod printer;
mod reading;
pub(crate) mod room;
mod run;
mod script;
mod settings;
mod shelf;
mod slow;
#[cfg(test)]
mod tests;
mod witness;
mod world;

use std::path::Path;

use crate::world::dev_script;
pub use op::LogOp;
pub use options::Options;
pub use printer::Task;
pub use printer::run as print;

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
