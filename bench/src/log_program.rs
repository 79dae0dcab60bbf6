//! The runner's log pipeline as a program that prints to itself: what the rows about logs start.

use crate::program;
use crate::stage::Stage;
use anyhow::{Context, ensure};
use serde::Deserialize;
use std::path::PathBuf;
use std::process::Stdio;
use tendril_broker::baseline::logs::{self, Stored};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;
use uuid::Uuid;

/// An example of the runner's, built with it.
const PROGRAM: &str = "examples/log_streams";

/// What is printed, and how fast.
#[derive(Clone, Debug)]
pub struct Load {
    /// Pipes at once.
    pub streams: u32,
    /// Lines of each.
    pub lines: u64,
    /// Lines of each in a second; 0 for as fast as they are taken.
    pub pace: f64,
    /// Bytes of a line.
    pub line_bytes: usize,
    /// File with lines of that length that stand in each line behind its time and numbers; dots without one.
    pub text: Option<PathBuf>,
    /// Bytes that the runner sends at once; its default without one.
    pub flush_bytes: Option<usize>,
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

/// What the program says of pipes that it has read and of which it has kept nothing.
#[derive(Clone, Debug, Deserialize)]
pub struct SaidBare {
    /// Milliseconds until all was read.
    pub read_ms: f64,
    /// Milliseconds of processor that this took.
    pub processor_ms: f64,
    /// The most memory that it had, KiB.
    pub peak_kib: f64,
    /// Lines read.
    pub lines: f64,
    /// Milliseconds from a line's print to its being read, median.
    pub p50_ms: f64,
    /// And of one in a hundred.
    pub p99_ms: f64,
}

/// What it said, and what is in the database.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// By the program.
    pub said: Said,
    /// By the database.
    pub stored: Stored,
}

/// Runs a load through the pipeline, in a cluster of its own, and reads all that it stored.
///
/// # Errors
/// A program or the database failed.
pub async fn run(stage: &Stage, name: &str, load: &Load) -> anyhow::Result<Outcome> {
    let (said, cluster) = run_beside(stage, name, load, async || Ok(())).await?;
    let stored = logs::stored(&stage.operator_url(), cluster).await?;
    Ok(Outcome { said, stored })
}

/// Runs a load through the pipeline, in a cluster of its own, which it returns; `begins` is called when all is claimed
/// and nothing is printed yet.
///
/// # Errors
/// The program failed, or `begins` did.
pub async fn run_beside(
    stage: &Stage,
    name: &str,
    load: &Load,
    begins: impl AsyncFnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<(Said, Uuid)> {
    let access = stage.add_cluster(name).await;
    logs::wait_for_logs(&stage.operator_url(), access.cluster, load.streams).await?;
    let mut command = printing(load)?;
    command.env("TENDRIL_DATABASE_URL", &access.url).env("TENDRIL_AGENT_TOKEN", &access.token);
    command.arg("--spool").arg(stage.folder().join(name)).arg("--wait");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true);
    let mut child = command.spawn()?;
    let stdout = child.stdout.take().context("its standard output")?;
    let mut lines = BufReader::new(stdout).lines();
    lines.next_line().await?.with_context(|| format!("{PROGRAM} has claimed nothing"))?;
    begins().await?;
    child.stdin.take().context("its standard input")?.write_all(b"\n").await?;
    let said = lines.next_line().await?.with_context(|| format!("{PROGRAM} said nothing of itself"))?;
    let status = child.wait().await?;
    ensure!(status.success(), "{PROGRAM} failed ({status})");
    Ok((serde_json::from_str(&said)?, access.cluster))
}

/// Runs the same load through pipes that are read and of which nothing is kept.
///
/// # Errors
/// The program failed.
pub async fn run_bare(load: &Load) -> anyhow::Result<SaidBare> {
    let done = printing(load)?.arg("--bare").stdin(Stdio::null()).stderr(Stdio::inherit()).kill_on_drop(true).output();
    let done = done.await?;
    ensure!(done.status.success(), "{PROGRAM} failed ({})", done.status);
    serde_json::from_slice(&done.stdout).with_context(|| format!("{PROGRAM} said nothing of itself"))
}

fn printing(load: &Load) -> anyhow::Result<Command> {
    let mut command = Command::new(program::beside(PROGRAM)?);
    command.args(["--streams", &load.streams.to_string(), "--lines", &load.lines.to_string()]);
    command.args(["--pace", &load.pace.to_string(), "--line-bytes", &load.line_bytes.to_string()]);
    if let Some(text) = &load.text {
        command.arg("--text").arg(text);
    }
    if let Some(bytes) = load.flush_bytes {
        command.arg("--flush-bytes").arg(bytes.to_string());
    }
    Ok(command)
}
