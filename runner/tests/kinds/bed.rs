//! A runner without its broker: jobs go in, results and logs come out.

use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tendril_broker::runner::{BrokerError, Claimed, Lease, Report, StoredArtifact};
use tendril_runner::attempt_log::{AttemptLog, Look};
use tendril_runner::clock::BootTime;
use tendril_runner::command::{Command, Finished};
use tendril_runner::config::Config;
use tendril_runner::desk::Desk;
use tendril_runner::holdings::{Held, Holdings};
use tendril_runner::intake::Intake;
use tendril_runner::logs::Chunk;
use tendril_runner::metrics::Metrics;
use tendril_runner::prepare::secrets::Keyring;
use tendril_runner::run::{Means, Run};
use tendril_runner::sandbox::Ports;
use tendril_runner::seal::ArtifactKey;
use tendril_runner::stop::Stop;
use tendril_runner::supervise::{ExitRecord, StopReason, Supervisors};
use tendril_runner::toolbox::Toolbox;
use tendril_runner::whose::Whose;
use tendril_runner::work::Work;
use tendril_runner::{job, kinds};
use uuid::Uuid;

/// Longer than any test takes.
pub const PATIENCE: Duration = Duration::from_secs(120);
pub const DEPLOYMENT: Uuid = Uuid::from_u128(0xdeb);
pub const PLACE: &str = "testplace";
const CLUSTER: Uuid = Uuid::from_u128(0xc1);

/// What the broker keeps of attempts, and what it says to them.
#[derive(Default)]
pub struct MemoryDesk {
    pub artifacts: Mutex<BTreeMap<(Uuid, String), StoredArtifact>>,
    pub started: Mutex<Vec<Uuid>>,
    /// Answers to the next starts, before it agrees.
    pub refusals: Mutex<VecDeque<BrokerError>>,
    /// What happens elsewhere while the next starts are under way.
    pub meanwhile: Mutex<VecDeque<Box<dyn FnOnce() + Send>>>,
    /// Answers to the next artifacts, before it takes one.
    pub put_refusals: Mutex<VecDeque<BrokerError>>,
    /// Progress that was shown.
    pub progress: Mutex<Vec<Value>>,
}

impl Desk for MemoryDesk {
    fn start<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<(), BrokerError>> {
        Box::pin(async {
            if let Some(happens) = self.meanwhile.lock().unwrap().pop_front() {
                happens();
            }
            if let Some(refusal) = self.refusals.lock().unwrap().pop_front() {
                return Err(refusal);
            }
            self.started.lock().unwrap().push(lease.attempt_id);
            Ok(())
        })
    }

    fn put<'a>(
        &'a self,
        lease: &'a Lease,
        name: &'a str,
        media_type: &'a str,
        data: &'a [u8],
    ) -> BoxFuture<'a, Result<(), BrokerError>> {
        Box::pin(async move {
            if let Some(refusal) = self.put_refusals.lock().unwrap().pop_front() {
                return Err(refusal);
            }
            let stored = StoredArtifact { media_type: media_type.to_owned(), data: data.to_vec() };
            self.artifacts.lock().unwrap().insert((lease.attempt_id, name.to_owned()), stored);
            Ok(())
        })
    }

    fn get<'a>(&'a self, attempt: Uuid, name: &'a str) -> BoxFuture<'a, Result<StoredArtifact, BrokerError>> {
        Box::pin(async move {
            let stored = self.artifacts.lock().unwrap().get(&(attempt, name.to_owned())).cloned();
            stored.ok_or_else(|| BrokerError::Refused { code: "TD002".into(), message: "no such".into(), detail: None })
        })
    }

    fn progress<'a>(&'a self, _: &'a Lease, progress: &'a Value) -> BoxFuture<'a, Result<(), BrokerError>> {
        self.progress.lock().unwrap().push(progress.clone());
        Box::pin(async { Ok(()) })
    }
}

/// One runner's machine. Several share a desk and a key, as the runners of a cluster do.
pub struct Bed {
    dir: TempDir,
    pub desk: Arc<MemoryDesk>,
    pub metrics: Arc<Metrics>,
    pub config: Config,
    key: ArtifactKey,
    /// The runner's own environment.
    pub own_env: BTreeMap<String, String>,
}

/// What became of a job.
#[derive(Debug)]
pub struct Outcome {
    pub attempt: Uuid,
    pub verdict: Result<Value, Stop>,
    /// As it would reach the broker.
    pub report: Report,
    pub log: Vec<(String, String)>,
    /// The same as it would be stored.
    pub chunks: Vec<Chunk>,
    pub records: Vec<ExitRecord>,
    pub work: PathBuf,
    /// What is known beside the reason why it stopped.
    pub known: Value,
    /// The work folder is to stay.
    pub keeps_folder: bool,
}

/// A job on its way: to be run, and to be stopped.
pub struct Open {
    run: Run,
    log: Arc<AttemptLog>,
    kind: Arc<dyn kinds::Kind>,
    pub stopper: Stopper,
}

#[derive(Clone)]
pub struct Stopper {
    holdings: Arc<Holdings>,
    attempt: Uuid,
}

impl Stopper {
    pub fn stop(&self, reason: StopReason) {
        self.holdings.stop(self.attempt, reason);
    }

    /// The first SIGTERM to the runner.
    pub fn begin_shutdown(&self) {
        self.holdings.stop_unstarted(StopReason::Shutdown);
    }

    /// The runner is cut off for longer than its lease.
    pub fn cut_off(&self) {
        self.holdings.renew(BootTime::now(), Duration::ZERO);
        self.holdings.stop_what_others_may_start();
    }

    /// The broker is told what is open.
    pub fn tell(&self) {
        assert_eq!(self.holdings.witnessed().iter().map(|open| open.started).collect::<Vec<_>>(), [false]);
    }

    /// A heartbeat is answered.
    pub fn heard(&self) {
        self.holdings.renew(BootTime::now(), PATIENCE);
    }
}

impl Bed {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key_file = dir.path().join("artifact-key");
        std::fs::write(&key_file, ArtifactKey::generate().unwrap()).unwrap();
        Self::with(dir, ArtifactKey::read(&key_file).unwrap(), Arc::default())
    }

    /// Another machine of the same cluster, with nothing on its disk.
    pub fn neighbour(&self) -> Self {
        Self::with(tempfile::tempdir().unwrap(), self.key.clone(), self.desk.clone())
    }

    fn with(dir: TempDir, key: ArtifactKey, desk: Arc<MemoryDesk>) -> Self {
        let state = dir.path().join("state");
        let settings = [
            ("TENDRIL_DATABASE_URL", "postgres://127.0.0.1/none"),
            ("TENDRIL_ARTIFACT_KEY_FILE", "/nowhere"),
            ("TENDRIL_STATE_DIR", state.to_str().unwrap()),
            ("TENDRIL_PLACE", PLACE),
        ];
        let find = |name: &str| settings.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        let mut config = Config::load(None, &find).unwrap();
        let outside = dir.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        // Where tests and jobs meet; what jobs may do elsewhere is the escape suite's.
        config.sandbox.write = vec![outside];
        config.sandbox.programs = ["/usr", "/bin"].map(PathBuf::from).to_vec();
        config.sandbox.connect = Ports::ANY;
        config.tools.tofu = Some(vec![]);
        config.tools.lock_timeout_s = 1;
        // Nobody takes it away while a job runs.
        config.logs.attempt_buffer_bytes = 64 << 20;
        let path = std::env::var("PATH").unwrap();
        Self { dir, desk, metrics: Arc::default(), config, key, own_env: [("PATH".to_owned(), path)].into() }
    }

    /// A folder beside the runner's own, which jobs may use too.
    pub fn dir(&self) -> PathBuf {
        self.dir.path().join("outside")
    }

    pub async fn run(&self, job: Claimed) -> Outcome {
        self.open(job).await.run().await
    }

    pub async fn open(&self, job: Claimed) -> Open {
        let toolbox = Arc::new(Toolbox::find(&self.config, &self.own_env).await);
        let kind = kinds::all(&toolbox).into_iter().find(|kind| kind.name() == job.kind).expect("a kind");
        kind.available().expect("available");
        let holdings = Arc::new(Holdings::default());
        holdings.renew(BootTime::now(), PATIENCE);
        let attempt = job.lease.attempt_id;
        let held: Held = holdings.hold(&job).expect("held once");
        let intake = Arc::new(Intake::new(usize::MAX, usize::MAX));
        let log = Arc::new(AttemptLog::new(Arc::new(Whose::of(&job)), 0, &self.config.logs, intake));
        let keyring = Arc::new(Keyring::new(&Arc::new(self.config.clone()), &self.own_env));
        keyring.guard(&log, &job.snapshot).unwrap();
        let work = Work::create(&self.config.state_dir, attempt).unwrap();
        let means = Means {
            config: Arc::new(self.config.clone()),
            cluster: CLUSTER,
            desk: self.desk.clone(),
            key: self.key.clone(),
            keyring,
            supervisors: Supervisors::of(env!("CARGO_BIN_EXE_tendril-runner")),
            metrics: self.metrics.clone(),
        };
        let run = Run::new(means, job, work, log.clone(), held);
        Open { run, log, kind, stopper: Stopper { holdings, attempt } }
    }

    /// Opens an artifact as another runner of the cluster would.
    pub fn artifact(&self, attempt: Uuid, name: &str) -> Option<Vec<u8>> {
        let stored = self.desk.artifacts.lock().unwrap().get(&(attempt, name.to_owned())).cloned()?;
        Some(self.key.open(attempt, name, &stored.data).unwrap())
    }

    /// Replaces an artifact by other bytes, sealed with the right key.
    pub fn replace_artifact(&self, attempt: Uuid, name: &str, content: &[u8]) {
        let data = self.key.seal(attempt, name, content).unwrap();
        self.desk.artifacts.lock().unwrap().get_mut(&(attempt, name.to_owned())).unwrap().data = data;
    }
}

impl Open {
    /// The job's log.
    pub fn log(&self) -> Arc<AttemptLog> {
        self.log.clone()
    }

    /// The attempt.
    pub fn attempt(&self) -> Uuid {
        self.run.job.lease.attempt_id
    }

    /// Runs it when its end will not be certain: how it ended, whether all of it is dead, whether its folder stays.
    pub async fn doubtful(mut self) -> (Result<Value, Stop>, bool, bool) {
        let limited = tokio::time::timeout(PATIENCE, self.kind.clone().run(&mut self.run)).await;
        (limited.expect("the job ends in time"), self.run.children_dead(), self.run.keeps_folder())
    }

    /// Runs one command as a kind would.
    pub async fn command(&mut self, command: Command) -> Finished {
        tokio::time::timeout(PATIENCE, self.run.command(command)).await.expect("it ends in time").unwrap()
    }

    pub async fn run(mut self) -> Outcome {
        let limited = tokio::time::timeout(PATIENCE, self.kind.clone().run(&mut self.run)).await;
        let verdict = limited.expect("the job ends in time");
        if let Err(stop) = &verdict {
            self.log.say(stop.reason());
        }
        let report = job::report(&verdict, &self.log, Some(&self.run));
        let mut chunks = Vec::new();
        loop {
            let next = self.log.collect(1 << 20, Look::AtAll).chunks;
            if next.is_empty() {
                break;
            }
            chunks.extend(next);
        }
        let log = chunks.iter().map(|chunk| (chunk.stream.as_str().to_owned(), chunk.text.clone())).collect();
        assert!(self.run.children_dead());
        Outcome {
            attempt: self.run.job.lease.attempt_id,
            verdict,
            report,
            log,
            chunks,
            records: self.run.records().to_vec(),
            work: self.run.work.file(""),
            known: self.run.known().clone(),
            keeps_folder: self.run.keeps_folder(),
        }
    }
}

impl Outcome {
    pub fn result(&self) -> &Value {
        self.verdict.as_ref().unwrap_or_else(|stop| panic!("{stop:?}\n{}", self.text()))
    }

    pub fn stop(&self) -> &Stop {
        self.verdict.as_ref().expect_err("it stopped")
    }

    pub fn reason(&self) -> &str {
        self.stop().reason()
    }

    /// The whole log.
    pub fn text(&self) -> String {
        self.log.iter().map(|(_, text)| text.as_str()).collect()
    }

    /// One stream of the log.
    pub fn stream(&self, stream: &str) -> String {
        self.log.iter().filter(|(of, _)| of == stream).map(|(_, text)| text.as_str()).collect()
    }
}

/// A claimed job.
pub fn job(kind: &str, snapshot: Value, spec: Value) -> Claimed {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    Claimed {
        lease: Lease { attempt_id: Uuid::from_u128(u128::from(number)), fence: number.cast_signed() },
        ordinal: 1,
        claim_day: time::Date::MIN,
        job_id: Uuid::from_u128(u128::from(number) << 64),
        deployment_id: DEPLOYMENT,
        job: "job".into(),
        kind: kind.into(),
        mutating: !matches!(kind, "terraform.plan" | "terraform.lock" | "infracost.breakdown" | "policy"),
        timeout: PATIENCE,
        kill_grace: Duration::from_secs(30),
        state_key: None,
        spec,
        snapshot,
        plan_attempt: None,
    }
}

/// A plan of this snapshot.
pub fn plan(snapshot: &Value) -> Claimed {
    job("terraform.plan", snapshot.clone(), json!({}))
}

/// An apply of a plan.
pub fn apply(snapshot: &Value, plan: &Outcome) -> Claimed {
    Claimed { plan_attempt: Some(plan.attempt), ..job("terraform.apply", snapshot.clone(), json!({})) }
}

/// An inline template with a local state.
pub fn local(path: &str, main: &str) -> Value {
    json!({
        "template": {"inline": {"main.tf": main}},
        "backend": {"type": "local", "place": PLACE, "path": path},
    })
}

/// A point that a command passes on its way: it writes to the pipe, and waits until the test reads.
pub struct Gate(PathBuf);

impl Gate {
    pub fn new(dir: &Path, name: &str) -> Self {
        let path = dir.join(name);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        Self(path)
    }

    /// The pipe.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// What a shell is to do at the gate.
    pub fn pass(&self) -> String {
        format!("echo here > {}", self.0.display())
    }

    /// Waits until a command is at the gate, and lets it pass.
    pub async fn reached(&self) {
        let path = self.0.clone();
        let read = tokio::task::spawn_blocking(move || std::fs::read_to_string(path).unwrap());
        assert_eq!(tokio::time::timeout(PATIENCE, read).await.expect("somebody comes").unwrap(), "here\n");
    }
}

/// A program of its own.
pub fn script(path: &Path, body: &str) -> PathBuf {
    std::fs::write(path, format!("#!/bin/sh\n{body}\n")).unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(path, executable).unwrap();
    path.to_owned()
}
