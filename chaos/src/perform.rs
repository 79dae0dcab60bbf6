//! Carries an operation out on the world, and undoes what is to be undone.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sqlx::postgres::PgConnection;
use tendril_broker::testing::history::{self, Session};

use crate::clock::{self, Moment};
use crate::history::{Act, RunnerEnd};
use crate::op::{Op, SessionOf};
use crate::world::{RunnerSeat, Standby, World};

/// How long a drain may take: the longest child, its grace, and the reports.
const DRAIN_PATIENCE: Duration = Duration::from_secs(60);
const DEATH_PATIENCE: Duration = Duration::from_secs(5);

/// Carries it out.
///
/// # Errors
/// The machine does not do as it is told; never what the programs under test do.
pub async fn perform(world: &World, op: Op) -> anyhow::Result<Act> {
    match op {
        Op::SigkillRunner { runner, back_after_ms } => sigkill_runner(seat(world, runner)?, back_after_ms).await,
        Op::SigstopRunner { runner, for_ms } => sigstop_runner(seat(world, runner)?, for_ms).await,
        Op::SigtermRunner { runner } => sigterm_runner(seat(world, runner)?).await,
        Op::RestartPostgresImmediate { down_ms } => restart_postgres(world, down_ms).await,
        Op::Failover { after_ms } => fail_over(world, after_ms).await,
        Op::KillBackend { of, nth } => kill_backend(world, of, nth).await,
        Op::EndSession { of, nth } => end_session(world, of, nth).await,
        Op::SigkillServe { serve, back_after_ms } => sigkill_serve(world, serve, back_after_ms).await,
    }
    .map(|(hit, began)| Act { what: op.to_string(), hit, began, ended: clock::now() })
}

fn seat(world: &World, runner: usize) -> anyhow::Result<&RunnerSeat> {
    world.runners.get(runner).context("the schedule names a runner that is not there")
}

async fn pause(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

async fn sigkill_runner(seat: &RunnerSeat, back_after_ms: u64) -> anyhow::Result<(String, Moment)> {
    let mut process = seat.process.lock().await;
    let (name, began) = (process.name().to_owned(), clock::now());
    process.signal(Signal::SIGKILL);
    let ended = process.wait(DEATH_PATIENCE).await.context("a runner survived SIGKILL")?;
    // Had it ended by itself a moment before, that is what has to be told.
    let end = match ended.code() {
        None => RunnerEnd::Killed,
        Some(code) => RunnerEnd::Other(format!("exit code {code}")),
    };
    seat.note_end(&name, end);
    pause(back_after_ms).await;
    *process = seat.again()?;
    Ok((name, began))
}

async fn sigstop_runner(seat: &RunnerSeat, for_ms: u64) -> anyhow::Result<(String, Moment)> {
    let process = seat.process.lock().await;
    let (name, began) = (process.name().to_owned(), clock::now());
    process.signal(Signal::SIGSTOP);
    pause(for_ms).await;
    process.signal(Signal::SIGCONT);
    Ok((name, began))
}

async fn sigterm_runner(seat: &RunnerSeat) -> anyhow::Result<(String, Moment)> {
    let mut process = seat.process.lock().await;
    let (name, began) = (process.name().to_owned(), clock::now());
    drain(seat, &mut process).await;
    *process = seat.again()?;
    Ok((name, began))
}

/// Asks a runner to leave, and notes how it did.
pub async fn drain(seat: &RunnerSeat, process: &mut crate::world::Program) {
    process.signal(Signal::SIGTERM);
    let end = match process.wait(DRAIN_PATIENCE).await {
        Some(status) if status.success() => RunnerEnd::Drained,
        Some(status) if status.signal() == Some(Signal::SIGTERM as i32) => RunnerEnd::Unready,
        Some(status) => RunnerEnd::Other(format!("after SIGTERM: {status}")),
        None => {
            process.signal(Signal::SIGKILL);
            process.wait(DEATH_PATIENCE).await;
            RunnerEnd::Other(format!("after SIGTERM: still there {} s later", DRAIN_PATIENCE.as_secs()))
        }
    };
    seat.note_end(process.name(), end);
}

async fn restart_postgres(world: &World, down_ms: u64) -> anyhow::Result<(String, Moment)> {
    let server = world.server.lock().await;
    let began = clock::now();
    server.crash().await?;
    pause(down_ms).await;
    server.resume().await?;
    drop(world.operator_session().await?);
    Ok(("postgres".to_owned(), began))
}

async fn fail_over(world: &World, after_ms: u64) -> anyhow::Result<(String, Moment)> {
    let server = world.server.lock().await;
    let standby = match world.standby.lock().await.take() {
        Some(standby) => standby,
        // The second failover of a run.
        None => Standby::of(&server).await?,
    };
    pause(after_ms).await;
    let began = clock::now();
    server.crash().await?;
    standby.takes_over(&server).await?;
    drop(world.operator_session().await?);
    Ok(("postgres".to_owned(), began))
}

async fn kill_backend(world: &World, of: SessionOf, nth: usize) -> anyhow::Result<(String, Moment)> {
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

async fn end_session(world: &World, of: SessionOf, nth: usize) -> anyhow::Result<(String, Moment)> {
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

async fn sigkill_serve(world: &World, serve: usize, back_after_ms: u64) -> anyhow::Result<(String, Moment)> {
    let seat = world.serves.get(serve).context("the schedule names a serve that is not there")?;
    let mut process = seat.process.lock().await;
    let began = clock::now();
    process.signal(Signal::SIGKILL);
    process.wait(DEATH_PATIENCE).await.context("a serve survived SIGKILL")?;
    pause(back_after_ms).await;
    *process = seat.again()?;
    Ok((process.name().to_owned(), began))
}
