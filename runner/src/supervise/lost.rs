//! What the runner does when a supervisor was killed under it.
//!
//! The command's kin is found by its session, which was the supervisor's, and, when the runner is a subreaper, among its
//! own new children. Whoever left the session escapes when the runner is no subreaper.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::libc;
use nix::sys::prctl;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getsid};
use tokio::time::{Instant, sleep};

use super::procs::Process;
use super::step::{Class, Step};
use super::{pidfd, procs};

/// Rounds of killing before giving up, with pauses that sum up to about ten seconds.
const ROUNDS: u32 = 200;
const PAUSE: Duration = Duration::from_millis(50);

/// Supervisors that this process has started and not yet seen dead, and their launcher: they and theirs are nobody's leftovers.
static SUPERVISORS: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());
/// Those of them that nobody waits for any more.
static LEFT: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// Makes this process the parent of what a killed supervisor leaves behind, so that also those who left its session are
/// found. For the runner's `main`. From then on a direct child in a session other than the runner's
/// own is taken for such a leftover, so start nothing with `setsid` but through a supervisor.
///
/// What still escapes: a tree whose supervisor *and* runner were both killed. A reading command itself dies even
/// then (its parent's death is its SIGKILL), a mutating one at its next line of output.
///
/// # Errors
/// The kernel refuses, which none since 3.4 does.
pub fn adopt_orphans() -> io::Result<()> {
    Ok(prctl::set_child_subreaper(true)?)
}

/// What was left of a tree whose supervisor was killed, after the runner had tried to end it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Left {
    /// Nothing of it was found any more. That is no proof that nothing is left.
    NothingFound,
    /// These processes live on.
    Alive(Vec<i32>),
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NothingFound => f.write_str("nothing of its command was found any more"),
            Self::Alive(pids) => write!(f, "processes {pids:?} could not be ended; look at them by hand"),
        }
    }
}

/// The command's main process, as the runner knows it.
#[derive(Debug)]
pub(super) struct Main {
    pid: i32,
    process: Option<OwnedFd>,
    class: Class,
    grace: Duration,
    interrupted: bool,
    gentle_until: Option<Instant>,
}

impl Main {
    /// The process that the supervisor reports as started.
    pub(super) fn new(pid: i32, session: i32, step: &Step) -> Self {
        // It may be dead already and its pid another's: only one of the right session is ours.
        let process = pidfd::open(pid).ok();
        let ours = procs::read(pid).is_some_and(|found| found.session == session);
        Self {
            pid,
            process: process.filter(|_| ours),
            class: step.class,
            grace: Duration::from_millis(step.kill_grace_ms),
            interrupted: false,
            gentle_until: None,
        }
    }

    pub(super) fn pid(&self) -> i32 {
        self.pid
    }

    pub(super) fn note_interrupt(&mut self) {
        self.interrupted = true;
    }

    /// Nobody wants to wait any more.
    pub(super) fn note_kill(&mut self) {
        self.interrupted = true;
        self.grace = Duration::ZERO;
    }

    /// Gives a mutating command the chance to save its state: one SIGINT if it has had none, and the grace. May be
    /// dropped and called again: the first grace goes on.
    async fn end_gently(&mut self) {
        let Some(process) = self.process.as_ref().filter(|_| self.class == Class::Mutating) else {
            return;
        };
        if !self.interrupted {
            // An error says that it is dead, which shows below.
            let _ = pidfd::send(process, libc::SIGINT);
            self.interrupted = true;
        }
        let until = *self.gentle_until.get_or_insert_with(|| Instant::now() + self.grace);
        while Instant::now() < until && !pidfd::is_dead(process) {
            sleep(PAUSE).await;
        }
    }
}

/// Starts a process of ours such that no search takes it for a leftover in between.
pub(super) fn register<T>(
    launch: impl FnOnce() -> io::Result<T>,
    pid: impl FnOnce(&T) -> Option<i32>,
) -> io::Result<T> {
    let mut supervisors = supervisors();
    let launched = launch()?;
    supervisors.extend(pid(&launched));
    drop(supervisors);
    reap_left();
    Ok(launched)
}

/// The process is dead and reaped.
pub(super) fn forget(pid: i32) {
    supervisors().remove(&pid);
}

/// Nobody waits for this supervisor any more. It is still no leftover.
pub(super) fn leave(supervisor: i32) {
    LEFT.lock().unwrap_or_else(PoisonError::into_inner).insert(supervisor);
}

fn reap_left() {
    let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
    left.retain(|pid| match reaped(*pid) {
        true => {
            forget(*pid);
            false
        }
        false => true,
    });
}

/// Reaps the supervisor if it is dead; whether it is gone.
fn reaped(pid: i32) -> bool {
    !matches!(waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG)), Ok(WaitStatus::StillAlive))
}

fn supervisors() -> MutexGuard<'static, BTreeSet<i32>> {
    SUPERVISORS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends what the dead supervisor's session and this process's own children hold of the tree.
pub(super) async fn end_rest(session: i32, main: Option<&mut Main>) -> Left {
    if let Some(main) = main {
        main.end_gently().await;
    }
    for _ in 0..ROUNDS {
        if kill_round(session).is_empty() {
            return Left::NothingFound;
        }
        sleep(PAUSE).await;
    }
    match kill_round(session) {
        left if left.is_empty() => Left::NothingFound,
        left => Left::Alive(left),
    }
}

/// Kills all that are found, reaps those that are ours, and says who they were.
fn kill_round(session: i32) -> Vec<i32> {
    let supervisors = supervisors();
    let found = kin(&procs::all(), session, &supervisors);
    for seen in &found {
        let Ok(process) = pidfd::open(seen.pid) else {
            continue;
        };
        let still = procs::read(seen.pid);
        if still.is_some_and(|now| now.session == seen.session && now.parent == seen.parent) {
            let _ = pidfd::send(&process, libc::SIGKILL);
            // Only succeeds for a child of this process that is dead.
            let _ = waitpid(Pid::from_raw(seen.pid), Some(WaitPidFlag::WNOHANG));
        }
    }
    found.iter().filter(|seen| !seen.zombie).map(|seen| seen.pid).collect()
}

/// Members of the session, strays among this process's children, and all that descends from either.
fn kin(all: &[Process], session: i32, supervisors: &BTreeSet<i32>) -> Vec<Process> {
    let own = Pid::this().as_raw();
    let own_session = getsid(None).map_or(0, Pid::as_raw);
    let adopts = prctl::get_child_subreaper().unwrap_or(false);
    let stray = |p: &Process| {
        adopts
            && p.parent == own
            && p.session != own_session
            && !supervisors.contains(&p.pid)
            && !supervisors.contains(&p.session)
    };
    let roots = all.iter().filter(|p| p.session == session || stray(p));
    let mut kin: Vec<Process> = roots.copied().collect();
    let mut met: BTreeSet<i32> = kin.iter().map(|p| p.pid).collect();
    let mut next = 0;
    while let Some(parent) = kin.get(next).map(|p| p.pid) {
        next += 1;
        kin.extend(all.iter().filter(|p| p.parent == parent && met.insert(p.pid)));
    }
    kin
}
