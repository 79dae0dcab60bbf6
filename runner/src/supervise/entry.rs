//! Becoming the supervisor process: one thread and no runtime, unless the command has a proxy, which gets a thread of its own.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Pid, pipe2};

use crate::clock::wall;
use crate::sandbox::{Armed, Kernel};

use super::channel::Channel;
use super::child;
use super::clock::boot_ms;
use super::egress::{self, Egress};
use super::launcher;
use super::message::Request;
use super::oom::OomKills;
use super::orphan::Drain;
use super::record::RecordFolder;
use super::start::StartFailure;
use super::step::Step;
use super::watch::{Assignment, Watch};

/// First argument of the binary when it is to be the launcher, and the supervisors that fork from it.
pub const SUBCOMMAND: &str = "supervise";

/// Is the launcher, or a supervisor, if this process was started for that; to be called first in `main`, before there is any thread.
#[must_use]
pub fn entry() -> Option<ExitCode> {
    let first = std::env::args_os().nth(1)?;
    (first == SUBCOMMAND).then(|| match launcher::serve().and_then(|asked| asked.map_or(Ok(()), supervise)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("tendril-runner {SUBCOMMAND}: {e}");
            ExitCode::from(2)
        }
    })
}

/// Keeps the memory and the environment of this process, the agent's token in it, from the commands of the same user, and
/// out of core dumps. For the runner's `main`. (Whoever is root, or holds CAP_SYS_PTRACE, sees them all the same.)
///
/// # Errors
/// The kernel refuses, which none does.
pub fn keep_from_jobs() -> io::Result<()> {
    Ok(prctl::set_dumpable(false)?)
}

fn supervise(control: OwnedFd) -> io::Result<()> {
    become_supervisor()?;
    let mut channel = Channel::new(control);
    let signals = child_signals()?;
    let (stdout, stdout_writer) = output_pipe()?;
    let (stderr, stderr_writer) = output_pipe()?;
    channel.open([stdout.as_fd(), stderr.as_fd()])?;
    let step = match channel.first() {
        Ok(Some(Request::Prepare(step))) => *step,
        // The runner changed its mind, or died, before there was anything to do.
        Ok(_) => return Ok(()),
        Err(e) => return Err(io::Error::other(e)),
    };
    let claimed = RecordFolder::claim(&step.record_dir);
    let mut assignment = Assignment {
        drains: [stdout, stderr].map(|pipe| Drain::new(pipe, step.orphan_limit_bytes)),
        started_at: wall(),
        started_ms: boot_ms(),
        oom: OomKills::now(),
        channel,
        folder: None,
        control: None,
        sandbox: None,
        egress: None,
        step,
    };
    let started = claimed.and_then(|folder| {
        assignment.folder = Some(folder);
        start(&mut assignment, [stdout_writer, stderr_writer])
    });
    assignment.channel.set_nonblocking()?;
    // From here on a command may run, and nothing may end this process before it has.
    match started {
        Ok(main) => Watch::new(assignment, main, signals).run(),
        Err(failure) => assignment.conclude_unstarted(failure),
    }
    Ok(())
}

/// Makes the command ready, waits for the word, and lets it run.
fn start(assignment: &mut Assignment, outputs: [OwnedFd; 2]) -> Result<Pid, StartFailure> {
    assignment.step.check()?;
    let door = egress::open(&mut assignment.step)?;
    let step: &Step = &assignment.step;
    let armed = Armed::new(&step.sandbox, &Kernel::detect());
    let armed = armed.map_err(|e| StartFailure::Sandbox { detail: e.to_string() })?;
    assignment.sandbox = Some(armed.level().clone());
    let ready = child::prepare(step, armed, outputs)?;
    // The last fork is done: from here on there may be more than one thread.
    assignment.step.secrets.clear();
    assignment.egress = door.map(Egress::begin).transpose()?;
    let word = assignment.channel.first();
    let (Ok(Some(Request::Go(timeout_ms))), false) = (word, assignment.channel.is_hung_up()) else {
        return Err(StartFailure::RunnerGone);
    };
    assignment.step.timeout_ms = timeout_ms;
    assignment.started_at = wall();
    assignment.started_ms = boot_ms();
    ready.run(&assignment.step)
}

/// What the launcher is not, and its copy has to become.
fn become_supervisor() -> io::Result<()> {
    // Everything that a descendant leaves behind becomes a child of this process.
    prctl::set_child_subreaper(true)?;
    Ok(prctl::set_name(c"tendril-superv")?)
}

fn child_signals() -> io::Result<SignalFd> {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    Ok(SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

/// A pipe whose read end does not block; the command's write end does.
fn output_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
    fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((reader, writer))
}
