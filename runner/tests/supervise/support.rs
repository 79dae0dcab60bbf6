//! A folder, a step in it, and ways to wait for things that happen in other processes.

use std::fs;
use std::future::Future;
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::stat::Mode;
use tempfile::TempDir;
use tendril_runner::sandbox::Confinement;
use tendril_runner::supervise::{
    Class, EXIT_FILE, ExitRecord, Launched, Launcher, Running, Step, SuperviseError, read_record,
};
use tokio::io::{AsyncBufReadExt, AsyncReadExt};
use tokio::net::unix::pipe;

pub const BINARY: &str = env!("CARGO_BIN_EXE_tendril-runner");
const STAND_IN: &str = "TENDRIL_TEST_STAND_IN";
/// Nothing here takes a second on an idle machine; a busy one gets this long.
const PATIENCE: Duration = Duration::from_secs(60);

/// A folder of its own for one test.
pub struct Bed {
    folder: TempDir,
}

impl Bed {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("work")).expect("a work folder");
        Self { folder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A reading step that runs this program; its working folder is `work`, its record folder `record`.
    pub fn step<A: AsRef<str>>(&self, argv: &[A]) -> Step {
        Step {
            name: "test".to_owned(),
            argv: argv.iter().map(|arg| arg.as_ref().to_owned()).collect(),
            env: [("PATH".to_owned(), "/usr/bin:/bin".to_owned())].into(),
            cwd: self.path("work"),
            class: Class::Reading,
            timeout_ms: 120_000,
            kill_grace_ms: 60_000,
            record_dir: self.path("record"),
            secrets: Default::default(),
            umask: 0o077,
            orphan_limit_bytes: 64 << 20,
            sandbox: Confinement::off(),
        }
    }

    pub fn bash(&self, script: &str) -> Step {
        self.step(&["/bin/bash", "-c", script])
    }

    pub fn perl(&self, script: &str) -> Step {
        self.step(&["/usr/bin/perl", "-e", script])
    }

    /// A named pipe in the work folder, at which a command waits for [`Bed::release`].
    pub fn gate(&self, name: &str) {
        nix::unistd::mkfifo(&self.path("work").join(name), Mode::from_bits_truncate(0o600)).expect("a named pipe");
    }

    /// Lets the command pass the gate. Returns when it has opened it: it has come that far.
    pub async fn release(&self, name: &str) {
        let gate = self.path("work").join(name);
        apart(move || fs::write(gate, "go\n").expect("the command reads the gate")).await;
    }

    pub fn record(&self) -> Option<ExitRecord> {
        read_record(&self.path("record")).expect("a readable record")
    }

    /// Waits until the supervisor of this bed's step, which runs already, has ended.
    pub async fn supervisor_gone(&self) {
        let folder: OwnedFd = fs::File::open(self.path("record")).expect("a folder").into();
        let lock = move || Flock::lock(folder, FlockArg::LockExclusive).expect("the supervisor's lock");
        drop(apart(lock).await);
    }

    /// Waits until the step's record is kept.
    pub async fn recorded(&self) -> ExitRecord {
        appears(self.path("record").join(EXIT_FILE)).await;
        self.record().expect("it is there")
    }
}

/// The future's result, or a failed test.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it happens in time")
}

/// Does what may block for ever in a thread of its own, which no failed test waits for.
pub async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || done.send(work()).ok());
    within(result).await.expect("no panic")
}

/// Waits until this file is in its folder, which exists.
pub async fn appears(file: PathBuf) {
    let watch = Inotify::init(InitFlags::IN_CLOEXEC).expect("a watch");
    let folder = file.parent().expect("a folder");
    watch.add_watch(folder, AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO).expect("a watch");
    let come = move || {
        while !file.exists() {
            watch.read_events().expect("news");
        }
    };
    apart(come).await;
}

pub async fn spawn(step: Step) -> Running {
    within(spawn_by(BINARY, step)).await.expect("a supervisor")
}

/// Starts the step's command under a supervisor of a launcher of its own.
pub async fn spawn_by(binary: &str, step: Step) -> Result<Running, SuperviseError> {
    Launched::off_loop_by(&Launcher::of(binary)).await?.start(step).await
}

pub fn launched() -> Launched {
    Launched::by(&Launcher::of(BINARY)).expect("a supervisor")
}

/// Everything that a command said, and its record.
pub struct Outcome {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub record: ExitRecord,
}

impl Outcome {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).expect("text")
    }
}

pub async fn finish(running: Running) -> Outcome {
    let Running { mut stdout, mut stderr, mut control } = running;
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let read = async {
        let both = tokio::join!(stdout.read_to_end(&mut out), stderr.read_to_end(&mut err));
        both.0.and(both.1).expect("pipes can be read");
    };
    within(read).await;
    let record = within(control.wait()).await.expect("a record");
    Outcome { stdout: out, stderr: err, record }
}

pub async fn run(step: Step) -> Outcome {
    finish(spawn(step).await).await
}

/// Reads one line, byte by byte, so that nothing behind it is taken.
pub async fn line(stream: &mut pipe::Receiver) -> String {
    let mut bytes = Vec::new();
    let mut reader = tokio::io::BufReader::with_capacity(1, stream);
    within(reader.read_until(b'\n', &mut bytes)).await.expect("a line");
    String::from_utf8(bytes).expect("text").trim_end().to_owned()
}

/// Processes whose command line contains the marker.
pub fn alive(marker: &str) -> Vec<String> {
    let entries = fs::read_dir("/proc").expect("a process table");
    entries
        .filter_map(|entry| {
            let pid = entry.ok()?.file_name().into_string().ok()?;
            pid.parse::<i32>().ok()?;
            let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            String::from_utf8_lossy(&command).contains(marker).then_some(pid)
        })
        .collect()
}

/// A word that stands in no other process's command line.
pub fn marker() -> String {
    format!("mark-{}", tempfile::Builder::new().rand_bytes(16).tempdir().expect("a name").path().display())
        .replace('/', "-")
}

pub fn exists(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// A process of its own that starts a step and then does nothing: a runner to be killed.
pub struct StandIn {
    process: Child,
    pub command: i32,
}

impl StandIn {
    /// Returns when the command executes. `group` is a memory control group that the runner joins before.
    pub fn start(bed: &Bed, step: &Step, group: Option<&Path>) -> Self {
        let order = bed.path("order.json");
        let content = serde_json::to_vec(&(step, group)).expect("a step is JSON");
        fs::write(&order, content).expect("an order");
        let mut process = Command::new(std::env::current_exe().expect("this binary"))
            .args(["--exact", "support::stand_in", "--nocapture"])
            .env(STAND_IN, &order)
            .stdout(Stdio::piped())
            .spawn()
            .expect("a stand-in");
        let output = BufReader::new(process.stdout.take().expect("a pipe"));
        let command = output
            .lines()
            .map_while(Result::ok)
            .find_map(|line| line.split("started ").nth(1)?.parse().ok())
            .expect("the command starts");
        Self { process, command }
    }

    /// SIGSTOP: it lives and does nothing.
    pub fn stop(&self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.process.id()).expect("a pid"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).expect("it lives");
    }

    /// SIGKILL, and it is dead when this returns.
    pub fn kill(mut self) {
        self.process.kill().expect("it lives");
        self.process.wait().expect("it is dead");
    }
}

/// No test of its own: it is the other process of [`StandIn`].
#[tokio::test]
async fn stand_in() {
    let Some(order) = std::env::var_os(STAND_IN) else {
        return;
    };
    let content = fs::read(order).expect("an order");
    let (step, group): (Step, Option<PathBuf>) = serde_json::from_slice(&content).expect("JSON");
    if let Some(group) = group {
        fs::write(group.join("cgroup.procs"), std::process::id().to_string()).expect("a group");
    }
    let running = spawn(step).await;
    println!("started {}", running.control.pid().expect("it runs"));
    std::future::pending::<()>().await;
    drop(running);
}
