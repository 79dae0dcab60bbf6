//! What happens to the database server, to its sessions and to `serve`.

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sqlx::postgres::PgConnection;
use tendril_broker::testing::history::{self, Session};

use super::{DEATH_PATIENCE, Hit, pause};
use crate::clock;
use crate::history::Act;
use crate::op::{Op, SessionOf};
use crate::world::{Place, World};

/// Carries out what hits all runners.
pub async fn hit(world: &World, op: &Op) -> anyhow::Result<Hit> {
    match *op {
        Op::RestartPostgresImmediate { down_ms } => restart_postgres(world, down_ms).await,
        Op::Failover { after_ms, elsewhere } => {
            fail_over(world, after_ms, if elsewhere { Place::Own } else { Place::Same }).await
        }
        Op::FailoverSplit { silent_ms, back_after_ms, astray_ms } => {
            split(world, silent_ms, (back_after_ms, astray_ms)).await
        }
        Op::DiskFull { for_ms } => fill_disk(world, for_ms).await,
        Op::KillBackend { of, nth } => kill_backend(world, of, nth).await,
        Op::EndSession { of, nth } => end_session(world, of, nth).await,
        Op::SigkillServe { serve, back_after_ms } => sigkill_serve(world, serve, back_after_ms).await,
        _ => bail!("{op} hits no server"),
    }
}

async fn restart_postgres(world: &World, down_ms: u64) -> anyhow::Result<Hit> {
    let server = world.server.lock().await;
    let began = clock::now();
    server.crash().await?;
    pause(down_ms).await;
    server.resume().await?;
    drop(world.operator_session().await?);
    Ok(("postgres".to_owned(), began))
}

/// A standby that has everything takes over.
async fn fail_over(world: &World, after_ms: u64, place: Place) -> anyhow::Result<Hit> {
    let mut server = world.server.lock().await;
    server.is_followed().await?;
    pause(after_ms).await;
    let began = clock::now();
    server.crash().await?;
    server.take_over(place).await?;
    drop(world.operator_session().await?);
    Ok(("postgres".to_owned(), began))
}

/// A standby takes over from a server that only says nothing, and that comes back later and takes writes, too: no commit of it is
/// answered, since nobody follows it any more.
async fn split(world: &World, silent_ms: u64, (back_after_ms, astray_ms): (u64, u64)) -> anyhow::Result<Hit> {
    let mut server = world.server.lock().await;
    server.is_followed().await?;
    let began = clock::now();
    server.freeze()?;
    pause(silent_ms).await;
    let astray = server.take_over_from_the_silent().await?;
    pause(back_after_ms).await;
    server.goes_on(&astray)?;
    pause(astray_ms).await;
    server.is_fenced(astray).await?;
    drop(world.operator_session().await?);
    Ok(("postgres".to_owned(), began))
}

/// A standby that has not got the last of it takes over.
///
/// # Errors
/// The machine does not do as it is told.
pub async fn forget(world: &World, op: &Op, (lag_ms, told): (u64, bool)) -> anyhow::Result<Vec<Act>> {
    let mut server = world.server.lock().await;
    server.is_followed().await?;
    // What was answered before has waited for the standby.
    let began = clock::now();
    server.cut_off_standby().await?;
    pause(lag_ms).await;
    server.crash().await?;
    let forgot_until = Some(clock::now());
    server.take_over(Place::Own).await?;
    if told {
        world.operate(&["after-restore", "--reason", "chaos"]).await?;
    }
    drop(world.operator_session().await?);
    Ok(vec![Act { what: op.to_string(), hit: "postgres".to_owned(), began, ended: clock::now(), forgot_until }])
}

async fn fill_disk(world: &World, for_ms: u64) -> anyhow::Result<Hit> {
    let (_alone, began) = (world.server.lock().await, clock::now());
    // Where nothing can be mounted, and where a copy of the server would need the same folder.
    let Some(room) = &world.room else { return Ok(("nobody: the disk is not ours".to_owned(), began)) };
    room.take()?;
    pause(for_ms).await;
    room.give()?;
    Ok(("postgres".to_owned(), began))
}

async fn kill_backend(world: &World, of: SessionOf, nth: usize) -> anyhow::Result<Hit> {
    let _alone = world.server.lock().await;
    let mut operator = world.operator_session().await?;
    let victim = victim(&mut operator, of, nth).await?;
    let began = clock::now();
    kill(Pid::from_raw(victim.pid), Signal::SIGKILL).context("cannot kill a backend; is the server another user's?")?;
    // Our own session goes with all the others; a new one proves that the server has recovered.
    drop(operator);
    pause(50).await;
    drop(world.operator_session().await?);
    Ok((format!("postgres ({})", victim.application), began))
}

async fn end_session(world: &World, of: SessionOf, nth: usize) -> anyhow::Result<Hit> {
    let _alone = world.server.lock().await;
    let mut operator = world.operator_session().await?;
    let victim = victim(&mut operator, of, nth).await?;
    let began = clock::now();
    history::end_session(&mut operator, victim.pid).await?;
    Ok((victim.application, began))
}

/// The one that is meant, or another if there is none of that sort; waits for whoever is just connecting again.
async fn victim(operator: &mut PgConnection, of: SessionOf, nth: usize) -> anyhow::Result<Session> {
    for _ in 0..100 {
        let sessions = history::sessions(operator).await?;
        let meant = sessions.iter().filter(|session| session.application.starts_with(of.application()));
        let meant: Vec<&Session> = meant.collect();
        let among = if meant.is_empty() { sessions.iter().collect() } else { meant };
        if !among.is_empty() {
            return Ok(among[nth % among.len()].clone());
        }
        pause(100).await;
    }
    bail!("nobody has a session for 10 s: are the runners up?");
}

async fn sigkill_serve(world: &World, serve: usize, back_after_ms: u64) -> anyhow::Result<Hit> {
    let seat = world.serves.get(serve).context("the schedule names a serve that is not there")?;
    let mut process = seat.process.lock().await;
    let began = clock::now();
    process.signal(Signal::SIGKILL);
    process.wait(DEATH_PATIENCE).await.context("a serve survived SIGKILL")?;
    pause(back_after_ms).await;
    *process = seat.again()?;
    Ok((process.name().to_owned(), began))
}
