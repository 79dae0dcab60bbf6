//! A runner process from its settings to its last report.
//!
//! Shutdown has two levels. *Soft* (the first SIGTERM or SIGINT): nothing is claimed any more, what has not started is
//! handed back, what runs may finish within `shutdown.finish_within_s`. *Hard* (that time is over, or a second signal):
//! every command gets its one SIGINT, later SIGKILL; results and logs have `shutdown.report_within_s` to arrive. With
//! `shutdown.hand_over` what changes the world is left to the next process of the place instead.

use crate::adopt::{self, Left};
use crate::clock::BootTime;
use crate::config::Config;
use crate::descriptors;
use crate::holdings::Holdings;
use crate::kinds::{self, Kind};
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::pipeline::{self, Pipeline};
use crate::prepare::secrets::Keyring;
use crate::runner::{Runner, Signals};
use crate::sandbox::{self, Confinement, Kernel, Layer, Mode};
use crate::seal::ArtifactKey;
use crate::spool::Spool;
use crate::supervise::{self, StopReason, Supervisors};
use crate::{chance, claim, doorbell, heartbeat, http, variables, witness};
use anyhow::Context;
use futures_util::FutureExt;
use nix::fcntl::{Flock, FlockArg};
use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;
use tendril_broker::connect::Connector;
use tendril_broker::runner::{Broker, BrokerError, Registered, Registration};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

/// Sessions that calls share; heartbeat, logs and the doorbell have one each beside them.
const CALL_SESSIONS: usize = 4;
/// Two sessions are open by then, also at the second of two hosts.
const REACHED_WITHIN: Duration = Duration::from_secs(15);

/// Runs until a signal, or until the broker refuses this runner for good.
///
/// # Errors
/// Settings that cannot work, a credential that is refused, a folder that another runner uses.
pub async fn run(config: Config) -> anyhow::Result<()> {
    set_apart()?;
    let open_files = descriptors::raise()?;
    config.check_files()?;
    let _place = lock_place(&config)?;
    let key = ArtifactKey::read(&config.artifact_key_file)?;
    let connector = config.address()?.connector(&config.token()?)?;
    let (soft, end) = (CancellationToken::new(), CancellationToken::new());
    let (jobs, loops) = (TaskTracker::new(), TaskTracker::new());
    let known = open_status(&config, &loops, &end).await?;
    let mut stop = Stops::new()?;
    let kinds = kinds::available(&config).await?;
    let config = Arc::new(config);
    let keyring = Arc::new(Keyring::new(&config, &variables::own()));

    let runner_id = chance::id();
    let (spool, left, memory) = open_place(&config, runner_id)?;
    let broker = Broker::new(connector.clone(), runner_id, CALL_SESSIONS)?;
    let registration = registration(&config, &kinds, spool.writer());
    let holdings = Arc::new(Holdings::default());
    let registered = tokio::select! {
        registered = register((&connector, &broker), &registration, &holdings) => registered?,
        () = stop.next() => return Ok(()),
    };
    tracing::info!(
        runner.id = %runner_id, cluster = registered.cluster_name, labels = ?registration.labels, open_files, "registered"
    );
    let metrics = Arc::new(Metrics::default());
    tell_sandbox(&config, &metrics);
    let logs = Pipeline::start(&config.logs, spool, metrics.clone(), connector.clone());
    let runner = Arc::new(Runner {
        collector: logs.collector(),
        kinds: kinds.into_iter().map(|kind| (kind.name(), kind)).collect::<BTreeMap<_, _>>(),
        holdings,
        signals: Signals::default(),
        config,
        broker,
        registered,
        registration,
        memory,
        metrics,
        supervisors: Supervisors::of(supervise::OWN_BINARY),
        key,
        keyring,
    });
    drop(known.set(runner.clone()));
    runner.supervisors.call();
    adopt::all(&runner, left, &jobs);
    let heartbeats = loops.spawn(heartbeat::run(runner.clone(), connector.clone(), end.clone()));
    loops.spawn(witness::run(runner.clone(), end.clone()));
    loops.spawn(doorbell::run(runner.clone(), connector, soft.clone()));
    let claims = loops.spawn(claim::run(runner.clone(), jobs.clone(), soft.clone()));

    stop.next().await;
    soft.cancel();
    // What it is just taking is asked to stop like all else, and waited for; after that nothing is taken.
    drop(claims.await);
    jobs.close();
    wind_down(&runner, &jobs, &mut stop).await;
    logs.end(Duration::from_secs(runner.config.shutdown.report_within_s)).await;
    end.cancel();
    // The last one gives back what a claim brought that nobody took.
    drop(heartbeats.await);
    if let Err(error) = tokio::time::timeout(Duration::from_secs(5), runner.broker.leave()).await.unwrap_or(Ok(())) {
        tracing::warn!(%error, "left without a goodbye");
    }
    tracing::info!("ended");
    Ok(())
}

/// Says once how far jobs are confined on this machine, and what is missing.
fn tell_sandbox(config: &Config, metrics: &Metrics) {
    let level = sandbox::plan(&Confinement::of_settings(&config.sandbox), &Kernel::detect()).level;
    metrics.confined(&level);
    let (kernel, landlock_abi) = (&level.kernel, level.landlock_abi);
    for missing in &level.missing {
        tracing::warn!(layer = missing.layer.name(), why = missing.why, "a layer of the sandbox is missing");
    }
    if config.egress.is_enforced() {
        let (allowed, held) = (config.egress.allow.len(), level.held.contains(&Layer::Tcp));
        tracing::info!(allowed, held, "jobs reach what egress.allow lists, through a proxy");
        if !held {
            tracing::warn!("egress: programs that pass the proxy by are not held back: the sandbox has no tcp here");
        }
    }
    for (key, path) in sandbox::within_reach(config) {
        let path = path.display();
        tracing::warn!(key, %path, "jobs may read it, where they may read all around it; keep it elsewhere");
    }
    match (level.refusal(), level.mode) {
        (Some(reason), _) => tracing::error!(reason, "jobs will not be started; see sandbox.mode"),
        (None, Mode::Off) => tracing::warn!("jobs are not confined: sandbox.mode is off"),
        (None, mode) => tracing::info!(?mode, kernel, landlock_abi, "jobs are confined"),
    }
}

async fn wind_down(runner: &Runner, jobs: &TaskTracker, stop: &mut Stops) {
    tracing::info!(
        running = runner.holdings.count(),
        "shutting down: nothing is claimed any more; a second signal interrupts what runs"
    );
    runner.holdings.stop_unstarted(StopReason::Shutdown);
    tokio::select! {
        () = jobs.wait() => return,
        () = tokio::time::sleep(Duration::from_secs(runner.config.shutdown.finish_within_s)) => {}
        () = stop.next() => {}
    }
    let ended = match runner.config.shutdown.hand_over {
        true => {
            tracing::warn!(
                running = runner.holdings.count(),
                "leaving what changes the world to the next process of this place"
            );
            runner.holdings.stop_what_cannot_be_handed_over(StopReason::Shutdown);
            runner.holdings.only_handed_over_left().boxed()
        }
        false => {
            tracing::warn!(running = runner.holdings.count(), "interrupting what runs");
            runner.holdings.stop_all(StopReason::Shutdown);
            jobs.wait().boxed()
        }
    };
    // Each job bounds its own end by its kill grace; reporting has its own time after that.
    let most = runner.holdings.longest_grace() + Duration::from_secs(runner.config.shutdown.report_within_s);
    tokio::select! {
        () = ended => {}
        () = tokio::time::sleep(most) => tracing::error!(running = runner.holdings.count(), "leaving with work unreported"),
        () = stop.next() => tracing::error!(running = runner.holdings.count(), "a third signal: leaving with work unreported"),
    }
}

async fn open_status(config: &Config, loops: &TaskTracker, end: &CancellationToken) -> anyhow::Result<http::Known> {
    let listener = http::bind(&config.http.listen)
        .await
        .with_context(|| format!("http.listen: cannot listen on {}", config.http.listen))?;
    let known = http::Known::default();
    if let Some(listener) = listener {
        // With port 0 the system has chosen one.
        tracing::info!(address = %listener.local_addr()?, "answers /metrics, /healthz and /readyz");
        loops.spawn(http::serve(listener, known.clone(), end.clone()));
    }
    Ok(known)
}

/// What this process is to its jobs: closed, and the heir of what their supervisors lose.
fn set_apart() -> anyhow::Result<()> {
    supervise::keep_from_jobs().context("cannot keep the environment from jobs")?;
    supervise::adopt_orphans().context("cannot become a subreaper")
}

/// What earlier processes of this place have left: log text, attempts to go on with, and what the broker had acknowledged.
fn open_place(config: &Config, runner: Uuid) -> anyhow::Result<(Arc<Spool>, Vec<Left>, Arc<Memory>)> {
    let spool = pipeline::open_spool(config)?;
    let left = adopt::find(config);
    left.iter().for_each(|left| left.tell(&spool));
    let memory = Memory::open(&config.state_dir, config.token()?.cluster(), runner)
        .with_context(|| format!("state_dir: cannot read or write `ended` in {}", config.state_dir.display()))?;
    Ok((spool, left, Arc::new(memory)))
}

/// Registers, with patience for an outage and none for a refusal.
async fn register(
    (connector, broker): (&Connector, &Broker),
    registration: &Registration,
    lease: &Holdings,
) -> anyhow::Result<Registered> {
    let mut wait = Duration::from_millis(500);
    loop {
        // Through a pooler in transaction mode it would go well at first.
        let reached = tokio::time::timeout(REACHED_WITHIN, connector.require_sessions()).await;
        let sent = BootTime::now();
        let registered = match reached {
            Ok(Ok(())) => broker.register(registration).await,
            Ok(Err(error)) => Err(error.into()),
            // A host that takes connections and says nothing.
            Err(_) => Err(BrokerError::Unavailable(format!("no session within {} s", REACHED_WITHIN.as_secs()))),
        };
        let error = match registered {
            Ok(registered) => {
                lease.renew(sent, Duration::from_millis(registered.lease_ttl_ms));
                return Ok(registered);
            }
            Err(error) => error,
        };
        if !error.is_passing() {
            return Err(error).context("the broker does not take this runner");
        }
        tracing::warn!(%error, wait_ms = wait.as_millis(), "cannot register yet");
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(Duration::from_secs(15));
    }
}

fn registration(config: &Config, kinds: &[Arc<dyn Kind>], log_writer: Uuid) -> Registration {
    let mut labels = config.labels.clone();
    labels.extend(kinds.iter().flat_map(|kind| kind.labels()));
    labels.extend(config.place.iter().map(|place| format!("place={place}")));
    labels.sort();
    labels.dedup();
    Registration {
        name: config.name.clone().unwrap_or_else(host_name),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        place: config.place.clone(),
        labels,
        slots: config.slots,
        log_writer,
    }
}

fn host_name() -> String {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_else(|| "runner".to_owned())
}

/// One process per folder: two would not know of each other's work.
fn lock_place(config: &Config) -> anyhow::Result<Flock<File>> {
    let dir = &config.state_dir;
    std::fs::create_dir_all(dir).with_context(|| format!("state_dir: cannot make {}", dir.display()))?;
    let file =
        File::create(dir.join("lock")).with_context(|| format!("state_dir: cannot write to {}", dir.display()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|(_, errno)| errno)
        .with_context(|| format!("state_dir: another runner uses {}; give each its own", dir.display()))
}

/// SIGTERM and SIGINT, one after the other.
struct Stops {
    term: Signal,
    int: Signal,
}

impl Stops {
    fn new() -> anyhow::Result<Self> {
        Ok(Self { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}
