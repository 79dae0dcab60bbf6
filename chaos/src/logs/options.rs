//! What is asked for.

use std::path::PathBuf;

use clap::Args;

use super::op::LogOp;
use crate::seeds::Seeds;

/// What `./dev chaos logs` takes.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Operations, one after the other
    #[arg(long, value_delimiter = ',', value_name = "OP,...", default_values_t = LogOp::all(), value_enum)]
    pub ops: Vec<LogOp>,
    /// Seeds of each, both ends included: 1..100
    #[arg(long, value_name = "A..B", default_value = "1..1")]
    pub seeds: Seeds,
    /// Crash Postgres so many times under full load instead
    #[arg(long, value_name = "COUNT", conflicts_with_all = ["ops", "seeds"])]
    pub crashes: Option<u32>,
    /// Take the database away for so many minutes instead, while quiet streams print
    #[arg(long, value_name = "MINUTES", conflicts_with_all = ["ops", "seeds", "crashes"])]
    pub outage: Option<f64>,
    /// Streams of the outage
    #[arg(long, default_value_t = 1000, requires = "outage", value_parser = clap::value_parser!(u32).range(1..=2500))]
    pub streams: u32,
    /// Lines of 200 bytes that each of them prints in a second
    #[arg(long, default_value_t = 10.0, requires = "outage")]
    pub rate: f64,
    /// Where everything is left; it is emptied first [default: .state/chaos/logs]
    #[arg(long, value_name = "FOLDER")]
    pub into: Option<PathBuf>,
    /// Print a JSON object for each seed
    #[arg(long)]
    pub json: bool,
    /// Judge again what a run has left, and do nothing else
    #[arg(long, value_name = "FILE")]
    pub check: Option<PathBuf>,
}
