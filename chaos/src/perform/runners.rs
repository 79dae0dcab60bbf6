//! What happens to runners and to their children.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{DEATH_PATIENCE, Hit, pause};
use crate::clock;
use crate::facts::{Fact, What};
use crate::history::{Act, RunnerEnd};
use crate::op::Op;
use crate::processes;
use crate::watch::Watch;
use crate::world::{Program, RunnerSeat, World};

/// How long a drain may take: the longest child, its grace, and the reports.
const DRAIN_PATIENCE: Duration = Duration::from_secs(60);

/// Carries out what hits one runner.
pub async fn hit(world: &World, op: &Op) -> anyhow::Result<Hit> {
    match *op {
        Op::SigkillRunner { runner, back_after_ms } => sigkill(seat(world, runner)?, back_after_ms).await,
        Op::SigstopRunner { runner, for_ms } => sigstop(seat(world, runner)?, for_ms).await,
        Op::SigtermRunner { runner } => sigterm(seat(world, runner)?).await,
        Op::EvictRunner { runner, grace_ms, back_after_ms } => {
            evict(seat(world, runner)?, grace_ms, back_after_ms).await
        }
        _ => bail!("{op} hits no runner"),
    }
}

/// The one that is meant.
pub fn seat(world: &World, runner: usize) -> anyhow::Result<&RunnerSeat> {
    world.runners.get(runner).context("the schedule names a runner that is not there")
}

async fn sigkill(seat: &RunnerSeat, back_after_ms: u64) -> anyhow::Result<Hit> {
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

async fn sigstop(seat: &RunnerSeat, for_ms: u64) -> anyhow::Result<Hit> {
    let process = seat.process.lock().await;
    let (name, began) = (process.name().to_owned(), clock::now());
    process.signal(Signal::SIGSTOP);
    pause(for_ms).await;
    process.signal(Signal::SIGCONT);
    Ok((name, began))
}

async fn sigterm(seat: &RunnerSeat) -> anyhow::Result<Hit> {
    let mut process = seat.process.lock().await;
    let (name, began) = (process.name().to_owned(), clock::now());
    drain(seat, &mut process).await;
    *process = seat.again()?;
    Ok((name, began))
}

/// Asks a runner to leave, and notes how it did.
pub async fn drain(seat: &RunnerSeat, process: &mut Program) {
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

/// SIGTERM, and SIGKILL when the grace is over: a node that is drained with a shorter grace than a job takes.
async fn evict(seat: &RunnerSeat, grace_ms: u64, back_after_ms: u64) -> anyhow::Result<Hit> {
    let mut process = seat.process.lock().await;
    let (name, began) = (process.name().to_owned(), clock::now());
    process.signal(Signal::SIGTERM);
    let left = process.wait(Duration::from_millis(grace_ms)).await;
    let status = match left {
        Some(status) => status,
        None => {
            process.signal(Signal::SIGKILL);
            process.wait(DEATH_PATIENCE).await.context("a runner survived SIGKILL")?
        }
    };
    let end = match (status.code(), status.signal()) {
        (Some(0), _) => RunnerEnd::Drained,
        (_, Some(signal)) if signal == Signal::SIGKILL as i32 => RunnerEnd::Killed,
        (_, Some(signal)) if signal == Signal::SIGTERM as i32 => RunnerEnd::Unready,
        _ => RunnerEnd::Other(format!("after SIGTERM: {status}")),
    };
    seat.note_end(&name, end);
    pause(back_after_ms).await;
    *process = seat.again()?;
    Ok((name, began))
}

/// Stops some one after the other, and lets them go on in another order.
pub async fn swizzle(
    world: &World,
    (stopped, freed): (&[usize], &[usize]),
    (every_ms, for_ms): (u64, u64),
) -> anyhow::Result<Vec<Act>> {
    // All are taken first, and in their own order: two of these at once must not wait for each other.
    let mut sorted = stopped.to_vec();
    sorted.sort_unstable();
    let mut taken = Vec::new();
    for runner in sorted {
        taken.push((runner, seat(world, runner)?.process.lock().await));
    }
    let of = |runner: &usize| taken.iter().find(|(number, _)| number == runner).map(|(_, process)| process);
    let mut acts = Vec::new();
    for process in stopped.iter().filter_map(of) {
        process.signal(Signal::SIGSTOP);
        let began = clock::now();
        let what = format!("SIGSTOP {} of {}", process.name(), stopped.len());
        acts.push(Act { what, hit: process.name().to_owned(), began, ended: began, forgot_until: None });
        pause(every_ms).await;
    }
    pause(for_ms).await;
    for process in freed.iter().filter_map(of) {
        process.signal(Signal::SIGCONT);
        let now = clock::now();
        acts.iter_mut().filter(|act| act.hit == process.name()).for_each(|act| act.ended = now);
        pause(every_ms).await;
    }
    Ok(acts)
}

/// Kills one of the children that run now.
pub async fn kill_child(watch: &Watch, nth: usize) -> anyhow::Result<Hit> {
    for _ in 0..100 {
        let facts = watch.facts()?;
        let running: Vec<&Fact> = facts.iter().filter(|fact| fact.what == What::Start && lives(fact)).collect();
        if let Some(child) = running.get(nth % running.len().max(1)) {
            let began = clock::now();
            // It may have left just now: then nothing was hit, and nothing is expected.
            let _ = kill(Pid::from_raw(child.process.pid), Signal::SIGKILL);
            return Ok((format!("child {}", child.job), began));
        }
        pause(50).await;
    }
    // Nothing runs any more.
    Ok(("nobody".to_owned(), clock::now()))
}

/// Whether the child of a fact is still there.
pub fn lives(fact: &Fact) -> bool {
    processes::read(fact.process.pid).is_some_and(|process| process.identity == fact.process && !process.dead)
}
