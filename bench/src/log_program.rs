//! The runner's log pipeline as a program that prints to itself: what the rows about logs start.

use crate::program;
use crate::stage::{Access, Stage};
use anyhow::Context;
use serde::Deserialize;
use std::path::Path;
use tendril_broker::baseline::logs::{self, Stored};
use tokio::process::Command;

/// An example of the runner's, built with it.
const PROGRAM: &str = "examples/log_streams";

/// What is printed, and how fast.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Pipes at once.
    pub streams: u32,
    /// Lines of each.
    pub lines: u64,
    /// Lines of each in a second; 0 for as fast as they are taken.
    pub pace: f64,
    /// Bytes of a line.
    pub line_bytes: usize,
}

/// What the program says of itself.
#[derive(Clone, Debug, Deserialize)]
pub struct Said {
    /// Milliseconds until everything was stored.
    pub stored_ms: f64,
    /// Milliseconds of processor that the pipeline took.
    pub processor_ms: f64,
    /// The most memory that it had, KiB.
    pub peak_kib: f64,
}

/// What it said, and what is in the database.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// By the program.
    pub said: Said,
    /// By the database.
    pub stored: Stored,
}

/// Runs a load through the pipeline, in a cluster of its own.
///
/// # Errors
/// A program or the database failed.
pub async fn run(stage: &Stage, name: &str, load: Load) -> anyhow::Result<Outcome> {
    let access = stage.add_cluster(name).await;
    logs::wait_for_logs(&stage.operator_url(), access.cluster, load.streams).await?;
    let said = program(&access, &stage.folder().join(name), load).await?;
    let stored = logs::stored(&stage.operator_url(), access.cluster).await?;
    Ok(Outcome { said, stored })
}

async fn program(access: &Access, spool: &Path, load: Load) -> anyhow::Result<Said> {
    let mut command = Command::new(program::beside(PROGRAM)?);
    command.env("TENDRIL_DATABASE_URL", &access.url).env("TENDRIL_AGENT_TOKEN", &access.token);
    command.arg("--spool").arg(spool);
    command.args(["--streams", &load.streams.to_string(), "--lines", &load.lines.to_string()]);
    command.args(["--pace", &load.pace.to_string(), "--line-bytes", &load.line_bytes.to_string()]);
    let done = command.stdin(std::process::Stdio::null()).kill_on_drop(true).output().await?;
    let said = String::from_utf8_lossy(&done.stdout);
    let complaint = String::from_utf8_lossy(&done.stderr);
    serde_json::from_str(&said).with_context(|| format!("{PROGRAM} failed ({}): {}", done.status, complaint.trim()))
}
