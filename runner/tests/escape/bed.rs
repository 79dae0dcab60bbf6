//! What the attacks aim at: a victim process, a neighbour's folder, a credential, listeners; and how they are run.

use crate::attacks::{Attack, Outcome, PRELUDE};
use nix::libc;
use std::collections::BTreeMap;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tendril_runner::sandbox::{Access, Confinement, Folders, Mode, Ports, Profile, Settings};
use tendril_runner::supervise::{Class, ExitRecord, Launched, Launcher, Running, Step};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

const BINARY: &str = env!("CARGO_BIN_EXE_tendril-runner");
const PERL: &str = "/usr/bin/perl";
const LIMIT: u64 = 4 * 1024 * 1024;
/// Nothing here takes a second on an idle machine; a busy one gets this long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Perl's own needs: libraries, and its modules.
const PERLS: [&str; 6] = ["/usr/lib", "/lib", "/lib64", "/usr/share/perl", "/usr/share/perl5", "/etc/perl"];

pub struct Bed {
    folder: TempDir,
    launcher: Arc<Launcher>,
    victim: Option<Running>,
    broker: TcpListener,
    allowed: TcpListener,
    _abstract: UnixListener,
    _socket: UnixListener,
    turn: AtomicU32,
}

impl Bed {
    pub async fn new() -> Self {
        // Not under /tmp: its own folder would be one that the attacks reach as theirs.
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        for name in ["work", "tmp", "home", "neighbour", "mount"] {
            std::fs::create_dir(path(name)).expect("a folder");
        }
        for name in ["neighbour/file", "credential"] {
            std::fs::write(path(name), "secret\n").expect("a file");
        }
        let abstract_name = SocketAddr::from_abstract_name(abstract_name(&folder)).expect("a name");
        let mut bed = Self {
            launcher: Launcher::of(BINARY),
            victim: None,
            broker: TcpListener::bind("127.0.0.1:0").await.expect("a port"),
            allowed: TcpListener::bind("127.0.0.1:0").await.expect("a port"),
            _abstract: UnixListener::bind_addr(&abstract_name).expect("an abstract socket"),
            _socket: UnixListener::bind(path("socket")).expect("a socket"),
            turn: AtomicU32::new(0),
            folder,
        };
        // A process of the same user with the same rights, as a runner is: beside one of root's with all of them the attacks would
        // fail by themselves.
        let mut step = bed.step("print \"runs\\n\"; sleep 600;", Profile::Exec, 0);
        step.env.insert("TENDRIL_AGENT_TOKEN".to_owned(), "secret".to_owned());
        let mut victim = bed.spawn(step).await;
        victim.stdout.read_exact(&mut [0; 4]).await.expect("it runs");
        bed.victim = Some(victim);
        bed
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The program in a profile, as if the kernel's Landlock were no newer than this.
    pub fn step(&self, script: &str, profile: Profile, abi: u32) -> Step {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        std::fs::write(self.path(&format!("neighbour/victim-{turn}")), "").expect("a file to remove");
        let allowed = self.allowed.local_addr().expect("an address").port();
        let settings = Settings {
            mode: Mode::BestEffort,
            connect: Ports::Only(vec![allowed]),
            max_file_bytes: LIMIT,
            ..Settings::default()
        };
        let env = self.env(turn, allowed);
        let own = [self.path("tmp"), self.path("home")];
        let work = self.path("work");
        let folders = Folders { program: Path::new(PERL), cwd: &work, own: &own };
        let access = Access { read: PERLS.map(PathBuf::from).to_vec(), ..Access::of(profile) };
        let sandbox = Confinement::new(&settings, &access, folders, &env);
        Step {
            name: "attack".to_owned(),
            argv: [PERL, "-e", &format!("{PRELUDE}{script}")].map(str::to_owned).to_vec(),
            env,
            cwd: work.clone(),
            class: Class::Reading,
            timeout_ms: 60_000,
            kill_grace_ms: 1_000,
            record_dir: self.path(&format!("records/{turn}")),
            secrets: Default::default(),
            umask: 0o077,
            orphan_limit_bytes: 1 << 20,
            sandbox: Confinement { landlock_at_most: Some(abi), ..sandbox },
        }
    }

    fn env(&self, turn: u32, allowed: u16) -> BTreeMap<String, String> {
        let path = |name: &str| self.path(name).display().to_string();
        let numbers: Vec<_> = numbers().iter().map(|(name, number)| format!("{name}={number}")).collect();
        [
            ("SECRET", path("credential")),
            ("NEIGHBOUR", path("neighbour")),
            ("RECORDS", path("records")),
            ("MOUNT", path("mount")),
            ("SOCKET", path("socket")),
            ("TMPDIR", path("tmp")),
            ("ABSTRACT", abstract_name(&self.folder)),
            ("VICTIM", self.victim.as_ref().and_then(|victim| victim.control.pid()).unwrap_or(0).to_string()),
            ("BROKER", self.broker.local_addr().expect("an address").port().to_string()),
            ("ALLOWED", allowed.to_string()),
            ("SAMPLE", PERL.to_owned()),
            ("LIMIT", LIMIT.to_string()),
            ("TURN", turn.to_string()),
            ("NUMBERS", numbers.join(" ")),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    pub async fn attack(&self, attack: &Attack, profile: Profile, abi: u32) -> Outcome {
        let (said, _) = self.run(self.step(attack.script, profile, abi)).await;
        Outcome::read(&said)
    }

    pub async fn unconfined(&self, attack: &Attack) -> Outcome {
        let mut step = self.step(attack.script, Profile::Exec, 7);
        step.sandbox = Confinement::off();
        Outcome::read(&self.run(step).await.0)
    }

    async fn spawn(&self, step: Step) -> Running {
        let launched = Launched::off_loop_by(&self.launcher).await.expect("a supervisor");
        launched.start(step).await.expect("a command")
    }

    /// What it said, and its record.
    pub async fn run(&self, step: Step) -> (String, ExitRecord) {
        let running = async {
            let Running { mut stdout, mut stderr, mut control } = self.spawn(step).await;
            let (mut out, mut err) = (String::new(), String::new());
            let both = tokio::join!(stdout.read_to_string(&mut out), stderr.read_to_string(&mut err));
            both.0.and(both.1).expect("text");
            let record = control.wait().await.expect("a record");
            if out.is_empty() {
                out = err;
            }
            (out, record)
        };
        tokio::time::timeout(PATIENCE, running).await.expect("it ends in time")
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let _ = nix::mount::umount(&self.path("mount"));
    }
}

fn abstract_name(folder: &TempDir) -> String {
    folder.path().display().to_string().replace('/', "-")
}

fn numbers() -> Vec<(&'static str, libc::c_long)> {
    macro_rules! list {
        ($($name:ident)*) => { vec![$((stringify!($name).trim_start_matches("SYS_"), libc::$name)),*] };
    }
    list!(SYS_ptrace SYS_process_vm_readv SYS_pidfd_open SYS_pidfd_getfd SYS_inotify_init1 SYS_inotify_add_watch
        SYS_memfd_create SYS_unshare SYS_clone SYS_clone3 SYS_mount SYS_setns SYS_pivot_root SYS_open_tree
        SYS_io_uring_setup SYS_userfaultfd SYS_keyctl SYS_bpf SYS_perf_event_open SYS_open_by_handle_at SYS_mq_open
        SYS_mq_unlink SYS_fcntl)
}

/// Whether this test has the rights of a machine's root, and not only those of a container's.
pub fn has_all_rights() -> bool {
    const SYS_ADMIN: u32 = 21;
    let status = std::fs::read_to_string("/proc/self/status").expect("the process table");
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).expect("capabilities");
    u64::from_str_radix(effective.trim(), 16).is_ok_and(|all| all & (1 << SYS_ADMIN) != 0)
}
