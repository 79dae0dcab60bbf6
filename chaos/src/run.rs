//! A run from its seed to its history.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use sqlx::postgres::PgConnection;
use tendril_broker::portal::deployments;
use tendril_broker::testing::history::{self as database, DoubtedRow, Dump, KeyRow};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::facts::What;
use crate::history::{Act, History, RunnerEnd, RunnerLife};
use crate::options::{Engine, Options};
use crate::perform::{drain, lives, perform};
use crate::portal::{Asked, Portal};
use crate::processes;
use crate::schedule::{self, Step};
use crate::snapshot::Stage;
use crate::watch::Watch;
use crate::workload::Workload;
use crate::world::{STATES, World};

/// Without any transition for so long, nothing more will happen: longer than the longest deadline and a lease.
const REST_PATIENCE: Duration = Duration::from_secs(45);
/// Rows of finished attempts arrive by then.
const LOG_PATIENCE: Duration = Duration::from_secs(20);
/// When no child has started or ended for so long, the next operation does not wait for more starts.
const IDLE: Duration = Duration::from_secs(4);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A run that is to be.
pub struct Plan {
    /// What it comes from.
    pub seed: u64,
    /// Its sizes.
    pub options: Options,
    /// The engine of this machine.
    pub engine: Option<Engine>,
    /// The work.
    pub workload: Workload,
    /// What is broken.
    pub schedule: Vec<Step>,
}

impl Plan {
    /// All of a run that its seed decides.
    pub fn of(seed: u64, options: &Options, engine: Option<Engine>) -> Self {
        let workload = Workload::of(seed, options, engine.is_some());
        let schedule = schedule::of(seed, options, workload.children());
        Self { seed, options: options.clone(), engine, workload, schedule }
    }
}

/// What was seen until everything had ended.
struct Seen {
    asked: Asked,
    acts: Vec<Act>,
    ended: Ended,
}

/// How it came to an end.
struct Ended {
    released_keys: Vec<String>,
    decisions: BTreeMap<String, bool>,
    came_to_rest: bool,
}

/// Carries a plan out in a folder that is empty.
///
/// # Errors
/// The world cannot be built or does not do as it is told; what the programs under test do wrong is in the history.
pub async fn carry_out(plan: Plan, folder: &Path) -> anyhow::Result<History> {
    // Whatever a killed runner leaves behind becomes ours: that is how we see it.
    prctl::set_child_subreaper(true)?;
    let stage = Stage {
        program: std::env::current_exe()?,
        facts: folder.join("facts"),
        locks: folder.join("locks"),
        engine: plan.engine.clone(),
    };
    std::fs::create_dir_all(&stage.locks)?;
    let watch = Watch::new(stage.facts.clone());
    let world = Arc::new(World::start(folder, &plan.options, plan.engine.as_ref()).await?);
    let driven = tokio::select! {
        driven = drive(&world, &plan, stage, watch.clone()) => driven,
        stopped = asked_to_stop() => stopped.and_then(|()| Err(anyhow::anyhow!("interrupted"))),
    };
    let history = driven.and_then(|(seen, ends, survivors, dump)| {
        Ok(History {
            seed: plan.seed,
            options: plan.options,
            engine: plan.engine,
            workload: plan.workload,
            schedule: plan.schedule,
            acknowledged: seen.asked.submits.iter().map(|(.., at)| *at).collect(),
            submits: seen.asked.submits.into_iter().map(|(_, submit, _)| submit).collect(),
            cancels: seen.asked.cancels,
            acts: seen.acts,
            facts: watch.facts()?,
            runners: ends,
            survivors,
            released_keys: seen.ended.released_keys,
            decisions: seen.ended.decisions,
            states: states(folder),
            came_to_rest: seen.ended.came_to_rest,
            dump,
        })
    });
    world.stop().await;
    history
}

/// Waits for SIGINT or SIGTERM, which both mean: leave nothing running.
///
/// # Errors
/// The system's error.
pub async fn asked_to_stop() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        _ = terminate.recv() => {}
    }
    Ok(())
}

async fn drive(
    world: &Arc<World>,
    plan: &Plan,
    stage: Stage,
    watch: Watch,
) -> anyhow::Result<(Seen, Vec<RunnerLife>, Vec<String>, Dump)> {
    let seen = until_rest(world, plan, stage, watch).await?;
    await_logs(world, seen.acts.iter().any(|act| act.forgot_until.is_some())).await?;
    let ends = drain_runners(world).await;
    for seat in &world.serves {
        let mut process = seat.process.lock().await;
        process.signal(Signal::SIGTERM);
        process.wait(Duration::from_secs(5)).await.context("serve did not end within 5 s of SIGTERM")?;
    }
    let survivors = survivors().await;
    let dump = database::dump(&mut world.operator_session().await?).await?;
    Ok((seen, ends, survivors, dump))
}

async fn until_rest(world: &Arc<World>, plan: &Plan, stage: Stage, watch: Watch) -> anyhow::Result<Seen> {
    let portal = Portal { address: world.portal()?, cluster: world.cluster, stage, watch: watch.clone() };
    let workload = Arc::new(plan.workload.clone());
    let portal = tokio::spawn(async move { portal.submit_all(&workload).await });
    let mut breaking = JoinSet::new();
    for step in &plan.schedule {
        watch.starts(step.after_starts, IDLE).await?;
        tokio::time::sleep(Duration::from_millis(step.then_ms)).await;
        eprintln!("seed {}: {}", plan.seed, step.op);
        let (world, op, watch) = (world.clone(), step.op.clone(), watch.clone());
        breaking.spawn(async move { perform(&world, &op, &watch).await });
    }
    let asked = portal.await??;
    let acts = breaking.join_all().await.into_iter().collect::<anyhow::Result<Vec<Vec<Act>>>>()?;
    let mut acts = acts.concat();
    acts.sort_by_key(|act| act.began);
    let ended = rest(world, &watch).await?;
    Ok(Seen { asked, acts, ended })
}

/// Waits until all jobs have ended; frees keys as an operator would who has seen that the holder is dead, and decides what the
/// database cannot know any more.
async fn rest(world: &World, watch: &Watch) -> anyhow::Result<Ended> {
    let mut operator = world.operator_session().await?;
    let (mut newest, mut quiet, mut released_keys, mut decisions) = (-1, Duration::ZERO, Vec::new(), BTreeMap::new());
    while quiet < REST_PATIENCE {
        let headway = database::headway(&mut operator).await?;
        if headway.unfinished == 0 {
            return Ok(Ended { released_keys, decisions, came_to_rest: true });
        }
        quiet = if headway.transitions == newest { quiet + LOOK_EVERY } else { Duration::ZERO };
        newest = headway.transitions;
        for key in database::held_keys(&mut operator).await? {
            if key.job_ended && nobody_works_for(&key) && world.release_key(&key.state_key).await.is_ok() {
                released_keys.push(key.state_key);
            }
        }
        for doubted in database::doubted(&mut operator).await? {
            if let Some((job, approved)) = decide(&mut operator, &doubted, watch).await? {
                decisions.insert(job, approved);
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(Ended { released_keys, decisions, came_to_rest: false })
}

/// Looks at the real thing: what was begun is not begun again. None while something of it may still be at work.
async fn decide(
    operator: &mut PgConnection,
    doubted: &DoubtedRow,
    watch: &Watch,
) -> anyhow::Result<Option<(String, bool)>> {
    let facts = watch.facts()?;
    if facts.iter().any(lives) {
        return Ok(None);
    }
    let job = format!("{}/{}", doubted.deployment_id, doubted.name);
    let begun = facts.iter().any(|fact| fact.what == What::Start && fact.job == job);
    let (deployment, name) = (doubted.deployment_id, Some(doubted.name.as_str()));
    let decided = match begun {
        true => deployments::reject(operator, deployment, name, Some("it was begun before")).await,
        false => deployments::approve(operator, deployment, name, Some("it was not begun")).await,
    };
    match decided {
        Ok(_) => Ok(Some((job, !begun))),
        // Somebody has cancelled it meanwhile.
        Err(tendril_broker::Error::Refused(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn nobody_works_for(key: &KeyRow) -> bool {
    !processes::anybody_in(&key.attempt_id.simple().to_string())
}

/// Waits until the rows of all finished attempts are there, but for those whose runner was killed with them.
async fn await_logs(world: &World, forgets: bool) -> anyhow::Result<()> {
    let mut operator = world.operator_session().await?;
    let killed: Vec<String> = world.runners.iter().flat_map(|seat| seat.lives()).map(|life| life.name).collect();
    // What was stored, acknowledged and then forgotten, nobody has any more.
    let patience = if forgets { LOG_PATIENCE / 4 } else { LOG_PATIENCE };
    let mut waited = Duration::ZERO;
    while waited < patience {
        let headway = database::headway(&mut operator).await?;
        if headway.logs_behind.iter().all(|(_, runner)| killed.contains(runner)) {
            return Ok(());
        }
        waited += LOOK_EVERY;
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

async fn drain_runners(world: &World) -> Vec<RunnerLife> {
    for seat in &world.runners {
        let mut process = seat.process.lock().await;
        match process.ended() {
            Some(status) => seat.note_end(process.name(), RunnerEnd::Other(format!("by itself: {status}"))),
            None => drain(seat, &mut process).await,
        }
    }
    world.runners.iter().flat_map(|seat| seat.lives()).collect()
}

/// What is alive although everything has ended; the last to leave get a moment for it.
async fn survivors() -> Vec<String> {
    for _ in 0..30 {
        if alive().is_empty() {
            break;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    alive()
}

fn alive() -> Vec<String> {
    let mut alive = Vec::new();
    for process in processes::descendants() {
        if process.dead {
            // Left to us by a runner that was killed. Those of our own starting have been waited for.
            let _ = waitpid(Pid::from_raw(process.identity.pid), Some(WaitPidFlag::WNOHANG));
        } else {
            alive.push(format!("{} ({})", process.identity, process.name));
        }
    }
    alive
}

/// The states of the place that all runners share.
fn states(folder: &Path) -> BTreeMap<String, String> {
    let Ok(states) = std::fs::read_dir(folder.join(STATES)) else { return BTreeMap::new() };
    let read = |state: std::fs::DirEntry| {
        let text = std::fs::read_to_string(state.path().join("default/terraform.tfstate")).ok()?;
        Some((state.file_name().to_string_lossy().into_owned(), text))
    };
    states.flatten().filter_map(read).collect()
}

/// The folder of a seed's run, emptied.
///
/// # Errors
/// The system's error.
pub fn fresh_folder(all: &Path, seed: u64) -> anyhow::Result<PathBuf> {
    let folder = all.join(format!("seed-{seed}"));
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(&folder)?;
    Ok(folder.canonicalize()?)
}
