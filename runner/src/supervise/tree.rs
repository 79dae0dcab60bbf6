//! Everything that descends from the command: interrupting, killing and reaping it.
//!
//! The supervisor is a subreaper, so whatever a descendant does (double fork, own session, own group), it ends up
//! as a child of the supervisor once those between have died. "No children left" from the kernel is
//! therefore the proof that nothing is left.

use std::collections::BTreeSet;

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use super::exit::Ended;
use super::flow::Event;
use super::{pidfd, procs};

/// Passes of SIGSTOP within one round. Each pass stops all that the one before did not see; a tree that
/// grows faster than this is killed piece by piece over several rounds.
const FREEZE_PASSES: usize = 8;
/// Pause between two rounds that met the same processes: one that hangs in the kernel costs no CPU.
const LONGEST_PAUSE_MS: u64 = 250;

/// The processes below this one.
#[derive(Debug)]
pub(super) struct Tree {
    own: i32,
    main: Pid,
    killed: u32,
    met: BTreeSet<i32>,
    pause_ms: u64,
    next_round_ms: u64,
}

impl Tree {
    /// The tree of the command that was just started as `main`, in a process group of its own.
    pub(super) fn new(main: Pid) -> Self {
        Self { own: Pid::this().as_raw(), main, killed: 0, met: BTreeSet::new(), pause_ms: 0, next_round_ms: 0 }
    }

    /// Descendants, other than the main process, that were alive when the killing began.
    pub(super) fn killed(&self) -> u32 {
        self.killed
    }

    /// Boot time at which the next round is due.
    pub(super) fn next_round_ms(&self) -> u64 {
        self.next_round_ms
    }

    /// Whether the main process has ended. It is not reaped yet, so that its pid and its group stay ours; strays
    /// that have died are.
    pub(super) fn watch(&self) -> Vec<Event> {
        let peek = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        if let Ok(Some((_, ended))) = wait(Some(self.main), peek) {
            return vec![Event::MainEnded(ended)];
        }
        while let Ok(Some((pid, _))) = wait(None, peek) {
            if pid == self.main || wait(Some(pid), libc::WEXITED | libc::WNOHANG).is_err() {
                break;
            }
        }
        Vec::new()
    }

    /// Reaps all who are dead.
    pub(super) fn reap(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            match wait(None, libc::WEXITED | libc::WNOHANG) {
                Ok(Some((pid, ended))) if pid == self.main => events.push(Event::MainEnded(ended)),
                Ok(Some((_, Ended::Signal { signal: libc::SIGKILL }))) => self.killed += 1,
                Ok(Some(_)) | Err(Errno::EINTR) => {}
                Err(Errno::ECHILD) => {
                    events.push(Event::TreeEmpty);
                    return events;
                }
                Ok(None) | Err(_) => return events,
            }
        }
    }

    /// Sends the one SIGINT, to the main process alone: terraform tells its plugins itself, and would take one
    /// that a wrapper passes on for the second.
    pub(super) fn interrupt(&self) {
        // It can fail only when the process is dead, which the next look will tell.
        let _ = kill(self.main, Signal::SIGINT);
    }

    /// Kills the main process's whole group in one stroke, which no fork outruns. Only while the main
    /// process is not reaped is the group's number certain to be ours.
    pub(super) fn kill_group(&self) {
        let _ = killpg(self.main, Signal::SIGKILL);
    }

    /// One round of ending all: stop from the top down until nobody new appears, then kill. Stopping first keeps
    /// those not yet reached from taking the places of the dead. Who died is reaped all along, or the
    /// zombies of a tree that flees by forking would use up every pid of the machine.
    pub(super) fn kill_round(&mut self, now_ms: u64) -> Vec<Event> {
        let mut events = Vec::new();
        let mut stopped = BTreeSet::new();
        for _ in 0..FREEZE_PASSES {
            events.extend(self.reap());
            let before = stopped.len();
            self.visit(|pid| stopped.insert(pid), libc::SIGSTOP);
            if stopped.len() == before {
                break;
            }
        }
        self.visit(|_| true, libc::SIGKILL);
        events.extend(self.reap());

        let progress = stopped.iter().any(|pid| !self.met.contains(pid));
        self.pause_ms = match progress {
            true => 1,
            false => (self.pause_ms * 2).clamp(1, LONGEST_PAUSE_MS),
        };
        self.met = stopped;
        self.next_round_ms = now_ms + self.pause_ms;
        events
    }

    /// Walks the tree from the top and signals each process that `choose` takes, before its children are listed.
    /// The dead are signalled too: a process whose first thread has left looks dead and is not.
    fn visit(&self, mut choose: impl FnMut(i32) -> bool, signal: libc::c_int) {
        let below = |parent: i32| procs::children(parent).into_iter().map(move |pid| (parent, pid));
        let mut queue: Vec<(i32, i32)> = below(self.own).collect();
        while let Some((parent, pid)) = queue.pop() {
            if choose(pid) {
                self.send(parent, pid, signal);
            }
            queue.extend(below(pid));
        }
    }

    /// Signals `pid` if it is still the child of `parent`, or ours since that one died.
    fn send(&self, parent: i32, pid: i32, signal: libc::c_int) {
        match pidfd::open(pid) {
            Ok(process) => {
                let still = procs::read(pid).map(|found| found.parent);
                if still == Some(parent) || still == Some(self.own) {
                    let _ = pidfd::send(&process, signal);
                }
            }
            Err(Errno::ESRCH | Errno::EINVAL) => {}
            // Where the system call is filtered away the plain one has to do.
            Err(_) => {
                if let Ok(signal) = Signal::try_from(signal) {
                    let _ = kill(Pid::from_raw(pid), signal);
                }
            }
        }
    }
}

/// waitid(2) for one child or any. nix's own cannot say how a child ended that a real-time signal killed.
#[expect(unsafe_code, reason = "nix refuses real-time signals")]
fn wait(child: Option<Pid>, options: libc::c_int) -> Result<Option<(Pid, Ended)>, Errno> {
    let (kind, id) = match child {
        Some(pid) => (libc::P_PID, libc::id_t::try_from(pid.as_raw()).unwrap_or(0)),
        None => (libc::P_ALL, 0),
    };
    // SAFETY: siginfo_t is plain data for which all zeroes is a valid value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes at most one siginfo_t to the valid, exclusive reference.
    Errno::result(unsafe { libc::waitid(kind, id, &raw mut info, options) })?;
    // SAFETY: waitid succeeded, so these fields are the ones it filled in, or the zeroes of before.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    let ended = match info.si_code {
        libc::CLD_EXITED => Ended::Code { code: status },
        _ => Ended::Signal { signal: status },
    };
    Ok((pid != 0).then(|| (Pid::from_raw(pid), ended)))
}
