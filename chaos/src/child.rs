//! The child: what jobs run. It tells the facts file that it starts and ends, and prints in between.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::os::fd::AsFd;
use uuid::Uuid;

use crate::clock;
use crate::facts::{Fact, How, What};
use crate::print::{Stream, line, stream_of};
use crate::processes;

/// Pieces that the output comes in, spread over the child's time.
const BURSTS: u32 = 20;

/// What the child is to do.
#[derive(Args, Debug)]
pub struct Task {
    /// Where facts are told
    #[arg(long)]
    facts: PathBuf,
    /// The job, as it is to be called there
    #[arg(long)]
    job: String,
    /// How long to run, in milliseconds
    #[arg(long)]
    ms: u64,
    /// The exit code
    #[arg(long)]
    exit: u8,
    /// Lines to print meanwhile
    #[arg(long)]
    lines: u32,
    /// File to lock while running; somebody else's lock is a clash
    #[arg(long)]
    lock: Vec<PathBuf>,
}

/// Runs; returns the exit code.
///
/// # Errors
/// The facts file cannot be written: then nothing that follows could be believed.
pub fn run(task: &Task) -> io::Result<u8> {
    let signals = take_signals()?;
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let process = processes::read(own).ok_or_else(|| io::Error::other("/proc is not mounted"))?.identity;
    let attempt = attempt_of_folder();
    let tell = |what| Fact { what, job: task.job.clone(), attempt, process, at: clock::now() }.append(&task.facts);

    // Locked before the start is told, and let go by the kernel whatever way this process ends.
    let mut locks = Vec::new();
    for path in &task.lock {
        match lock(path)? {
            Some(lock) => locks.push(lock),
            None => tell(What::Clash(path.file_name().unwrap_or_default().to_string_lossy().into_owned()))?,
        }
    }
    tell(What::Start)?;
    let (printed, signal) = print(task, &signals);
    let (how, code) = match signal {
        Some(number) => (How::Signal(number), 130),
        None => (How::Exit(i32::from(task.exit)), task.exit),
    };
    tell(What::End(how, printed))?;
    Ok(code)
}

fn take_signals() -> io::Result<SignalFd> {
    let mut wanted = SigSet::empty();
    wanted.add(Signal::SIGINT);
    wanted.add(Signal::SIGTERM);
    wanted.thread_block()?;
    Ok(SignalFd::with_flags(&wanted, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

fn lock(path: &Path) -> io::Result<Option<Flock<File>>> {
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(errno.into()),
    }
}

/// Prints in bursts until the time is over or a signal comes; returns lines printed, and the signal.
fn print(task: &Task, signals: &SignalFd) -> (u32, Option<i32>) {
    let begun = clock::now().boot_us;
    let bursts = task.lines.clamp(1, BURSTS);
    let mut printed = 0;
    for burst in 1..=bursts {
        let upto = task.lines * burst / bursts;
        for stream in [Stream::Stdout, Stream::Stderr] {
            let numbers = (printed..upto).filter(|number| stream_of(*number) == stream);
            let text: String = numbers.map(|number| line(&task.job, number)).collect();
            // Nobody may be reading any more; the work goes on.
            let _ = match stream {
                Stream::Stdout => io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()),
                Stream::Stderr => io::stderr().write_all(text.as_bytes()),
            };
        }
        printed = upto;
        let due = begun + i64::try_from(task.ms * 1000 * u64::from(burst) / u64::from(bursts)).unwrap_or(0);
        if let Some(signal) = wait(signals, due) {
            return (printed, Some(signal));
        }
    }
    (printed, None)
}

fn wait(signals: &SignalFd, due: i64) -> Option<i32> {
    loop {
        if let Ok(Some(signal)) = signals.read_signal() {
            return i32::try_from(signal.ssi_signo).ok();
        }
        let left_ms = (due - clock::now().boot_us + 999) / 1000;
        if left_ms <= 0 {
            return None;
        }
        let mut fds = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, PollTimeout::try_from(left_ms).unwrap_or(PollTimeout::MAX));
    }
}

/// The work folder's name is the attempt's id, in 32 hex digits; every command of an attempt runs somewhere below it.
pub fn attempt_of_folder() -> Option<Uuid> {
    attempt_in(&std::env::current_dir().ok()?)
}

fn attempt_in(path: &Path) -> Option<Uuid> {
    let parts = path.components().filter_map(|part| part.as_os_str().to_str());
    parts.rev().filter(|part| part.len() == 32).find_map(|part| Uuid::try_parse(part).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_attempt_is_read_from_the_work_folder() {
        let id = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001);
        let path = format!("/var/x/work/{}/tree/sub", id.simple());
        assert_eq!(attempt_in(Path::new(&path)), Some(id));
        assert_eq!(attempt_in(Path::new("/home/somebody")), None);
    }
}
