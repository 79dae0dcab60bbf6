//! Crashes of Postgres under full load, one after the other, while every log is compared to its last byte.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::bail;
use tokio::task::JoinSet;
use tokio::time::Instant;
use uuid::Uuid;

use super::check::check;
use super::done::Done;
use super::op::LogOp;
use super::script::Script;
use super::settings::Settings;
use super::witness;
use super::world::{Desk, LogWorld, SLOTS};
use crate::chance::Chance;

/// What each child prints, as fast as it is taken. Slots are never empty: of each lane one child prints or waits for its slot while the one
/// before is looked at.
/// An unoptimised checker would take ten times as long for them as the pipeline.
const BYTES: u64 = if cfg!(debug_assertions) { 2_000_000 } else { 20_000_000 };
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
         {:.1} MB/s, {} logs that are not byte for byte what was printed",
        begun.elapsed().as_secs(),
        sum.logs,
        sum.lines,
        sum.bytes,
        sum.bytes as f64 / begun.elapsed().as_secs_f64() / 1e6,
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

async fn work(desk: Desk, lane: u64, over: Arc<AtomicBool>, folder: PathBuf) -> anyhow::Result<Sum> {
    let mut sum = Sum::default();
    let mut ids = Chance::new(SEED, &format!("lane {lane}"));
    let mut before = None;
    for turn in 0.. {
        let is_over = over.load(Ordering::Relaxed);
        let next = if is_over { None } else { Some(begin(&desk, &mut ids, turn * u64::from(SLOTS) + lane).await?) };
        match std::mem::replace(&mut before, next) {
            Some(child) => judge(&desk, child, &folder, &mut sum).await?,
            None if is_over => break,
            None => {}
        }
    }
    Ok(sum)
}

/// Another script each time: the number is the seed.
async fn begin(desk: &Desk, ids: &mut Chance, number: u64) -> anyhow::Result<(Uuid, Script)> {
    let script = Script { seed: SEED, number, bytes: BYTES, ms: 0, noise: false };
    let id = ids.id(number);
    desk.submit(id, &[script], LogOp::CrashPostgres).await?;
    Ok((id, script))
}

async fn judge(desk: &Desk, (id, script): (Uuid, Script), folder: &Path, sum: &mut Sum) -> anyhow::Result<()> {
    let evidence = desk.evidence(id, &[script], (LogOp::CrashPostgres, script.number), Done::default()).await?;
    let (evidence, verdict) = tokio::task::spawn_blocking(move || {
        let verdict = check(&evidence);
        (evidence, verdict)
    })
    .await?;
    for violation in &verdict.violations {
        eprintln!("VIOLATION {violation}");
    }
    if !verdict.violations.is_empty() {
        evidence.write(&folder.join(format!("crashes-{}.json", script.number)))?;
    }
    sum.logs += 1;
    sum.lines += verdict.lines;
    sum.bytes += verdict.bytes;
    sum.violations += u64::from(!verdict.violations.is_empty());
    for attempt in &evidence.attempts {
        witness::forget(&desk.witness, attempt.id);
    }
    Ok(())
}
