//! Crashes of Postgres under full load, one after the other, while every log is compared to its last byte.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::bail;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::check::check;
use super::done::Done;
use super::op::LogOp;
use super::script::Script;
use super::settings::Settings;
use super::witness;
use super::world::{Desk, LogWorld, SLOTS};
use crate::chance::Chance;

/// Of each child: bytes, and at least so many milliseconds for them. Eight of them print at once, and without a rest.
const BYTES: u64 = 2_000_000;
const MS: u64 = 2000;
const SEED: u64 = 1;

#[derive(Default)]
struct Sum {
    logs: u64,
    lines: u64,
    bytes: u64,
    violations: u64,
}

/// Crashes it so many times; whether nothing was lost.
///
/// # Errors
/// The world cannot be built or does not do as it is told.
pub async fn carry_out(folder: &Path, count: u32) -> anyhow::Result<bool> {
    let mut world = LogWorld::start(folder).await?;
    let held = tokio::select! {
        held = all(&mut world, folder, count) => held,
        stopped = crate::run::asked_to_stop() => stopped.and_then(|()| bail!("interrupted")),
    };
    world.stop().await;
    held
}

async fn all(world: &mut LogWorld, folder: &Path, count: u32) -> anyhow::Result<bool> {
    world.set(Settings::default()).await?;
    let (begun, over) = (Instant::now(), Arc::new(AtomicBool::new(false)));
    let mut lanes = JoinSet::new();
    for lane in 0..u64::from(SLOTS) {
        lanes.spawn(work(world.desk.clone(), lane, over.clone(), folder.to_owned()));
    }
    let crashed = crash(world, count).await;
    over.store(true, Ordering::Relaxed);
    let mut sum = Sum::default();
    for lane in lanes.join_all().await {
        let lane = lane?;
        sum.logs += lane.logs;
        sum.lines += lane.lines;
        sum.bytes += lane.bytes;
        sum.violations += lane.violations;
    }
    crashed?;
    world.drain().await?;
    let said = std::fs::read_to_string(folder.join("runner.log"))?;
    let takeovers = said.matches("taking the writer over anew").count();
    println!(
        "{count} crashes of Postgres in {} s under load, {takeovers} of them in the middle of a batch: {} logs, {} lines, {} bytes, \
         {} logs that are not byte for byte what was printed",
        begun.elapsed().as_secs(),
        sum.logs,
        sum.lines,
        sum.bytes,
        sum.violations
    );
    Ok(sum.violations == 0)
}

async fn crash(world: &LogWorld, count: u32) -> anyhow::Result<()> {
    let mut chance = Chance::new(SEED, "crashes");
    for number in 1..=count {
        tokio::time::sleep(Duration::from_millis(chance.between(500, 2500))).await;
        world.server.crash().await?;
        tokio::time::sleep(Duration::from_millis(chance.between(0, 500))).await;
        world.server.resume().await?;
        if number % 10 == 0 {
            eprintln!("{number} crashes");
        }
    }
    Ok(())
}

async fn work(desk: Desk, lane: u64, over: Arc<AtomicBool>, folder: std::path::PathBuf) -> anyhow::Result<Sum> {
    let mut sum = Sum::default();
    let mut ids = Chance::new(SEED, &format!("lane {lane}"));
    while !over.load(Ordering::Relaxed) {
        // Another script each time: the number is the seed.
        let number = sum.logs * u64::from(SLOTS) + lane;
        let script = Script { seed: SEED, number, bytes: BYTES, ms: MS, noise: false };
        let id = ids.id(number);
        desk.submit(id, &[script], LogOp::CrashPostgres).await?;
        let evidence = desk.evidence(id, &[script], (LogOp::CrashPostgres, number), Done::default()).await?;
        let verdict = check(&evidence);
        for violation in &verdict.violations {
            eprintln!("VIOLATION {violation}");
        }
        if !verdict.violations.is_empty() {
            evidence.write(&folder.join(format!("crashes-{number}.json")))?;
        }
        sum.logs += 1;
        sum.lines += verdict.lines;
        sum.bytes += verdict.bytes;
        sum.violations += u64::from(!verdict.violations.is_empty());
        for attempt in &evidence.attempts {
            witness::forget(&desk.witness, attempt.id);
        }
    }
    Ok(sum)
}
