//! Carries an operation out while children print.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use sqlx::Connection;
use sqlx::postgres::PgConnection;
use tendril_broker::testing::history;
use uuid::Uuid;

use super::archive;
use super::corrupt;
use super::done::Done;
use super::evidence::Capped;
use super::journal;
use super::op::LogOp;
use super::settings::Settings;
use super::slow;
use super::witness;
use super::world::LogWorld;
use crate::chance::Chance;
use crate::line::Cut;
use crate::op::SessionOf;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What is captured is in the spool by then, on a busy machine too; the flush interval is a tenth of it.
const SPOOLED_BY: Duration = Duration::from_secs(2);
/// The longest wait for something that is to happen to the logs.
const PATIENCE: Duration = Duration::from_secs(12);
/// The longest that children take to fill the spool.
const FILL_PATIENCE: Duration = Duration::from_secs(60);
/// From so many seconds of `stall_s` on nothing is dropped in the time of a run.
const PAUSES: u64 = 60;

/// What has to be so before the children start.
#[derive(Default)]
pub struct Before {
    /// Nothing can be stored while this session lives.
    pub hold: Option<PgConnection>,
}

/// Prepares an operation.
///
/// # Errors
/// What the database refuses.
pub async fn before(world: &LogWorld, op: LogOp) -> anyhow::Result<Before> {
    let holds =
        matches!(op, LogOp::KillRunnerFullSpool | LogOp::CorruptSpool | LogOp::SpoolFull | LogOp::RunnerDiskFull);
    if !holds {
        return Ok(Before::default());
    }
    let mut session = world.desk.operator().await?;
    // A runner that has just started comes to hold its row first.
    let held = async {
        while !history::hold_log_writers(&mut session).await? {
            pause(50).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(FILL_PATIENCE, held).await.context("no runner stores logs; runner.log says why")??;
    Ok(Before { hold: Some(session) })
}

/// Performs it; all children have started.
///
/// # Errors
/// The machine does not do as it is told; never what the programs under test do.
pub async fn perform(world: &mut LogWorld, op: LogOp, seed: u64, before: Before) -> anyhow::Result<Done> {
    let mut chance = Chance::new(seed, "operation");
    let mut done = Done::default();
    if op == LogOp::EndLogSessionAtTheCap {
        let Settings { cap_bytes, cap_tail_bytes: tail_bytes, .. } = op.settings(seed);
        done.allowed.capped = Some(Capped { cap_bytes, tail_bytes });
    }
    pause(chance.between(0, 700)).await;
    match op {
        LogOp::None => {}
        LogOp::CrashPostgres => crash_postgres(world, &mut chance, &mut done).await?,
        LogOp::EndLogSession | LogOp::EndLogSessionAtTheCap => end_log_session(world, &mut chance, &mut done).await?,
        LogOp::KillLogBackend => {
            let mut operator = world.desk.operator().await?;
            if let Some(pid) = log_session(&mut operator).await? {
                // The kernel's word for a backend of a server that is ours; another of that number cannot be meanwhile.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                done.act(format!("SIGKILL to the log session's backend {pid}"));
            }
        }
        LogOp::CutAtCommit | LogOp::CutInCopy => cut(world, op, &mut chance, &mut done).await?,
        LogOp::SlowLine => slow::slow_line(world, seed, &mut chance, &mut done).await?,
        LogOp::KillRunner => kill_runner(world, &mut chance, &mut done, Before::default(), false).await?,
        LogOp::KillRunnerFullSpool if op.fills_spool(seed) => {
            fill_spool(world, op.settings(seed), &mut chance, &mut done).await?;
            kill_runner(world, &mut chance, &mut done, before, false).await?;
            // What was printed may have been in memory still, for want of room.
            done.owed.clear();
            done.allowed.unspooled = true;
        }
        LogOp::KillRunnerFullSpool => kill_runner(world, &mut chance, &mut done, before, false).await?,
        LogOp::CorruptSpool => kill_runner(world, &mut chance, &mut done, before, true).await?,
        LogOp::SpoolFull => {
            fill_spool(world, op.settings(seed), &mut chance, &mut done).await?;
            release(before).await?;
        }
        LogOp::RunnerDiskFull => {
            let settings = op.settings(seed);
            pause(chance.between(1500, 4000)).await;
            done.act(format!("a disk of {:?} bytes, {} bytes of memory", settings.disk_bytes, settings.memory_bytes));
            // Half of the disk at least held text when it was full.
            done.allowed.overflow = settings.disk_bytes.filter(|_| settings.stall_s == 0).map(|bytes| bytes / 2);
            release(before).await?;
        }
        LogOp::PostgresWalFull => {
            let journal = world.journal.as_ref().context("the journal is on no disk of its own")?;
            done.act(journal::fill(journal, &world.server, &world.superuser()?, &mut chance).await?);
        }
        LogOp::S3Down => archive::take_away(world, seed, &mut chance, &mut done).await?,
        LogOp::PostgresDiskFull => {
            let ms = chance.between(1500, 4000);
            pause(ms).await;
            if let Some(room) = &world.room {
                room.give()?;
            }
            done.act(format!("the disk of the database's logs had no room for {ms} ms"));
        }
    }
    Ok(done)
}

pub(super) async fn pause(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

async fn release(before: Before) -> anyhow::Result<()> {
    if let Some(session) = before.hold {
        session.close().await?;
    }
    Ok(())
}

async fn crash_postgres(world: &LogWorld, chance: &mut Chance, done: &mut Done) -> anyhow::Result<()> {
    for _ in 0..chance.between(1, 2) {
        let away_ms = chance.between(0, 1500);
        world.server.crash().await?;
        pause(away_ms).await;
        world.server.resume().await?;
        done.act(format!("Postgres stopped at once and was away for {away_ms} ms"));
        pause(chance.between(100, 700)).await;
    }
    Ok(())
}

async fn end_log_session(world: &LogWorld, chance: &mut Chance, done: &mut Done) -> anyhow::Result<()> {
    for _ in 0..chance.between(1, 5) {
        let mut operator = world.desk.operator().await?;
        if let Some(pid) = log_session(&mut operator).await? {
            history::end_session(&mut operator, pid).await?;
            done.act(format!("the log session {pid} was ended"));
        }
        pause(chance.between(50, 400)).await;
    }
    Ok(())
}

pub(super) async fn log_session(operator: &mut PgConnection) -> anyhow::Result<Option<i32>> {
    let sessions = history::sessions(operator).await?;
    let log = sessions.iter().find(|session| session.application.starts_with(SessionOf::Logs.application()));
    Ok(log.map(|session| session.pid))
}

async fn cut(world: &LogWorld, op: LogOp, chance: &mut Chance, done: &mut Done) -> anyhow::Result<()> {
    let cuts: Vec<Cut> = (0..chance.between(1, 4))
        .map(|_| match op {
            LogOp::CutInCopy => Cut::InCopy(chance.between(0, 60_000)),
            _ => [Cut::BeforeCommit, Cut::AfterCommit, Cut::AtReply][chance.index(3)],
        })
        .collect();
    let before = world.line.cuts_made();
    world.line.cut(cuts.clone());
    world.line.all_cut(PATIENCE / 3).await;
    let made = world.line.cuts_made() - before;
    ensure!(made > 0, "the line was not cut at all, to be: {cuts:?}");
    done.act(format!("the line was cut {made} times, to be: {cuts:?}"));
    Ok(())
}

async fn kill_runner(
    world: &mut LogWorld,
    chance: &mut Chance,
    done: &mut Done,
    before: Before,
    corrupted: bool,
) -> anyhow::Result<()> {
    if before.hold.is_some() {
        done.owed = witness::lengths(&world.desk.witness)?;
        tokio::time::sleep(SPOOLED_BY).await;
    } else {
        done.owed = printed_long_before(&world.desk.witness, chance.between(0, 3000)).await?;
    }
    let settings = world.kill_runner().await?;
    done.allowed.cut_off = true;
    done.act(format!("SIGKILL to the runner, {} bytes in its spool", corrupt::size(&world.spool())?));
    if corrupted {
        let damage = corrupt::damage(&world.spool(), chance)?;
        done.acts.extend(damage.what);
        done.destroyed = damage.done;
    }
    release(before).await?;
    pause(chance.between(0, 500)).await;
    world.start_runner(settings)
}

/// Waits for so many milliseconds; returns what had been printed long enough before their end to be in the spool.
async fn printed_long_before(witness: &Path, ms: u64) -> anyhow::Result<Vec<(Uuid, u64, u64)>> {
    let before = ms.saturating_sub(u64::try_from(SPOOLED_BY.as_millis()).unwrap_or(u64::MAX));
    pause(before).await;
    let printed = if before > 0 { witness::lengths(witness)? } else { Vec::new() };
    pause(ms - before).await;
    Ok(printed)
}

/// Waits until there is no room: output is dropped, or pipes are not read any more, as the runner says itself.
async fn fill_spool(world: &LogWorld, settings: Settings, chance: &mut Chance, done: &mut Done) -> anyhow::Result<()> {
    let before = world.figures().await?;
    let full = async {
        loop {
            let now = world.figures().await?;
            let drops = now.dropped_bytes > before.dropped_bytes;
            let pauses = settings.stall_s >= PAUSES && now.paused_s > before.paused_s + 1.0;
            // Pipes also wait for a moment where the machine is busy.
            if drops || pauses && corrupt::size(&world.spool())? > settings.spool_bytes / 3 {
                return anyhow::Ok(());
            }
            pause(50).await;
        }
    };
    let full = tokio::time::timeout(FILL_PATIENCE, full).await;
    let bytes = corrupt::size(&world.spool())?;
    let Ok(full) = full else {
        // Some children are done soon.
        done.act(format!("the spool has room for all that is printed, {bytes} bytes"));
        done.allowed.overflow = (settings.stall_s < PAUSES).then_some(0);
        return Ok(());
    };
    full?;
    pause(chance.between(500, 3000)).await;
    done.act(format!("the spool holds {bytes} bytes, stall_s is {}", settings.stall_s));
    // What is on disk is stored in the end; a part of it is heads of records.
    done.allowed.overflow = (settings.stall_s < PAUSES).then_some(bytes * 3 / 4);
    Ok(())
}
