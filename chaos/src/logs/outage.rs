//! A long outage of the database under many quiet streams: nothing is lost, nobody who prints waits, and how long it takes
//! to catch up. The streams are pipes through the runner's own pipeline, in a process of their own.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Deserialize;
use tendril_broker::baseline::logs::wait_for_logs;
use tendril_broker::testing::history;
use tokio::process::Command;
use tokio::time::Instant;

use super::corrupt;
use super::world::LogWorld;
use crate::world::beside_this_one;

/// An example of the runner's, built with it.
const PROGRAM: &str = "examples/log_streams";
const LINE_BYTES: u64 = 200;
/// The streams print for so long before and after the outage; after it no longer than it took.
const BEFORE: Duration = Duration::from_secs(10);
const AFTER: Duration = Duration::from_secs(50);
/// It catches up within so long, or not at all.
const PATIENCE: Duration = Duration::from_secs(900);
/// With the database there the spool holds no more than that.
const CAUGHT_UP_BYTES: u64 = 24 << 20;
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// A pipe holds 64 KiB, which is half a minute of a stream; who waits for longer than this was made to wait.
const STALL: Duration = Duration::from_secs(1);

/// What prints.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Streams.
    pub streams: u32,
    /// Lines of 200 bytes that each prints in a second.
    pub rate: f64,
}

/// What the program says of itself.
#[derive(Debug, Deserialize)]
struct Said {
    printed_ms: u64,
    stored_ms: u64,
    processor_ms: u64,
    peak_kib: u64,
    blocked_us: u64,
    paused_s: f64,
}

/// What was seen of the outage from outside.
struct Seen {
    away: Duration,
    spool_bytes: u64,
    caught_up: Duration,
}

/// Takes the database away for so long; whether nothing was lost and nobody waited.
///
/// # Errors
/// The world cannot be built or does not do as it is told.
pub async fn carry_out(folder: &Path, minutes: f64, load: Load) -> anyhow::Result<bool> {
    let world = LogWorld::start(folder).await?;
    let held = tokio::select! {
        held = all(&world, folder, (Duration::from_secs_f64(60.0 * minutes), load)) => held,
        stopped = crate::run::asked_to_stop() => stopped.and_then(|()| bail!("interrupted")),
    };
    world.stop().await;
    held
}

async fn all(world: &LogWorld, folder: &Path, (away, load): (Duration, Load)) -> anyhow::Result<bool> {
    let spool = folder.join("outage.spool");
    let url = world.operator_url();
    wait_for_logs(&url, world.desk.cluster, load.streams).await?;
    let lines = ((BEFORE + away + AFTER.min(away)).as_secs_f64() * load.rate) as u64;
    let mut command = Command::new(beside_this_one(PROGRAM)?);
    command.envs(world.access()).arg("--spool").arg(&spool);
    command.args(["--streams", &load.streams.to_string(), "--lines", &lines.to_string()]);
    command.args(["--pace", &load.rate.to_string(), "--line-bytes", &LINE_BYTES.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    let program = command.spawn()?;
    let (said, seen) = tokio::join!(program.wait_with_output(), take_away(world, spool, away));
    let (said, seen) = (said?, seen?);
    if !said.status.success() {
        bail!("{PROGRAM}: {}", said.status);
    }
    let said: Said = serde_json::from_slice(&said.stdout).context("what log_streams says of itself")?;
    let stored = history::numbered(&mut world.desk.operator().await?, world.desk.cluster).await?;

    let printed = lines * u64::from(load.streams);
    let blocked = Duration::from_micros(said.blocked_us);
    println!(
        "{} streams x {} lines/s of {LINE_BYTES} bytes for {} s, the database away for {:.0} s of them\n\
         lines printed {printed}, stored {}, in another place {}, gaps {}\n\
         longest write of a printer {:.1} ms, pipes not read for want of room {:.1} s\n\
         spool at most {:.1} MiB, caught up {:.1} s after the database was back, all stored {:.1} s after the last line\n\
         runner's processor {:.1} s, memory at most {:.0} MiB",
        load.streams,
        load.rate,
        said.printed_ms / 1000,
        seen.away.as_secs_f64(),
        stored.lines,
        stored.misplaced,
        stored.gaps,
        blocked.as_secs_f64() * 1e3,
        said.paused_s,
        seen.spool_bytes as f64 / 1_048_576.0,
        seen.caught_up.as_secs_f64(),
        (said.stored_ms - said.printed_ms) as f64 / 1e3,
        said.processor_ms as f64 / 1e3,
        said.peak_kib as f64 / 1024.0,
    );
    let whole = i64::try_from(printed).is_ok_and(|printed| stored.lines == printed)
        && i64::try_from(printed * LINE_BYTES).is_ok_and(|bytes| stored.bytes == bytes);
    // A pipe holds half a minute of a stream, so that a short outage makes no printer wait: that none was left unread says as much.
    let stalled = blocked >= STALL || said.paused_s > 0.0;
    Ok(whole && stored.logs == i64::from(load.streams) && stored.misplaced == 0 && stored.gaps == 0 && !stalled)
}

async fn take_away(world: &LogWorld, spool: PathBuf, away: Duration) -> anyhow::Result<Seen> {
    tokio::time::sleep(BEFORE).await;
    let begun = Instant::now();
    world.server.crash().await?;
    let mut spool_bytes = 0;
    while begun.elapsed() < away {
        tokio::time::sleep(LOOK_EVERY).await;
        spool_bytes = spool_bytes.max(corrupt::size(&spool)?);
    }
    world.server.resume().await?;
    let (away, back) = (begun.elapsed(), Instant::now());
    let mut now = corrupt::size(&spool)?;
    while now > CAUGHT_UP_BYTES && back.elapsed() < PATIENCE {
        tokio::time::sleep(LOOK_EVERY).await;
        now = corrupt::size(&spool)?;
        spool_bytes = spool_bytes.max(now);
    }
    Ok(Seen { away, spool_bytes, caught_up: back.elapsed() })
}
