//! The runner's side of the launcher, and the supervisors that it gets from there.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, recv, sendmsg, setsockopt, socketpair, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{Pid, setsid};
use tokio::signal::unix::{SignalKind, signal};

use crate::descriptors;

use super::entry::SUBCOMMAND;
use super::error::SuperviseError;
use super::lost;

/// A fork takes well below a millisecond: whoever does not answer for so long is stopped, or something else.
const LONGEST_ANSWER_S: i64 = 10;

/// Where supervisors come from. Its process is started when the first one is asked for.
#[derive(Debug)]
pub struct Launcher {
    binary: PathBuf,
    process: Mutex<Option<Process>>,
}

impl Launcher {
    /// Of `binary`, a `tendril-runner`: [`super::OWN_BINARY`], except in tests.
    #[must_use]
    pub fn of(binary: impl AsRef<Path>) -> Arc<Self> {
        Arc::new(Self { binary: binary.as_ref().to_owned(), process: Mutex::new(None) })
    }

    /// Its process id, if it runs. For people: it is no address for signals.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        self.process().as_ref().and_then(|process| pid_of(&process.child))
    }

    pub(super) fn binary(&self) -> &Path {
        &self.binary
    }

    /// A new supervisor, and our end of its control socket. Blocks for as long as a fork takes.
    ///
    /// # Errors
    /// [`SuperviseError::Launch`], [`SuperviseError::Unopened`].
    pub(super) fn launch(&self) -> Result<(Supervisor, UnixStream), SuperviseError> {
        let failed = |source| SuperviseError::Launch { binary: self.binary.clone(), source };
        let mut kept = self.process();
        loop {
            let is_new = kept.is_none();
            let process = match kept.take() {
                Some(process) => process,
                None => Process::start(&self.binary).map_err(failed)?,
            };
            match process.ask_for_one() {
                Ok(answer) => {
                    *kept = Some(process);
                    return answer.map_err(failed);
                }
                // One that was killed is replaced. A new one that does not answer is no launcher.
                Err(_) if !is_new => {}
                Err(error) => {
                    let status = process.end(&error);
                    return Err(SuperviseError::Unopened { binary: self.binary.clone(), status });
                }
            }
        }
    }

    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The launcher's process. Dropped, it is ended; its supervisors go on.
#[derive(Debug)]
struct Process {
    child: Child,
    socket: OwnedFd,
}

impl Process {
    #[expect(unsafe_code, reason = "the standard library cannot start a process in a session of its own")]
    fn start(binary: &Path) -> io::Result<Self> {
        let (socket, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(LONGEST_ANSWER_S))?;
        let mut command = Command::new(binary);
        command
            .arg0("tendril-runner")
            .arg(SUBCOMMAND)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let files = descriptors::usual();
        // A session of its own from the first moment: no Ctrl-C meant for the runner reaches it.
        // SAFETY: setsid and setrlimit are async-signal-safe, and the closure allocates and locks nothing.
        unsafe {
            command.pre_exec(move || {
                setsid()?;
                files.map_or(Ok(()), descriptors::limit)
            })
        };
        let child = lost::register(|| command.spawn(), pid_of)?;
        Ok(Self { child, socket })
    }

    /// Within: the system refused the fork.
    fn ask_for_one(&self) -> io::Result<io::Result<(Supervisor, UnixStream)>> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let asked = lost::register(|| self.forked(&theirs), |answer| answer.as_ref().ok().copied())?;
        Ok(asked.map(|pid| (Supervisor { pid, ended: None }, ours)))
    }

    fn forked(&self, control: &UnixStream) -> io::Result<io::Result<i32>> {
        let fds = [control.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&fds)];
        sendmsg::<()>(self.socket.as_raw_fd(), &[IoSlice::new(&[1])], &rights, MsgFlags::MSG_NOSIGNAL, None)?;
        let mut number = [0; 4];
        let received = loop {
            match recv(self.socket.as_raw_fd(), &mut number, MsgFlags::empty()) {
                // The end of some child: with a time-out on the socket the kernel does not go on by itself.
                Err(Errno::EINTR) => {}
                received => break received?,
            }
        };
        if received != number.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(match i32::from_ne_bytes(number) {
            pid if pid > 0 => Ok(pid),
            errno => Err(io::Error::from_raw_os_error(-errno)),
        })
    }

    /// Ends it, and says how it had ended before that, or what else is wrong.
    fn end(mut self, error: &io::Error) -> String {
        match self.child.try_wait() {
            Ok(Some(status)) => status.to_string(),
            // It hung up, and is about to end.
            _ if error.kind() == io::ErrorKind::UnexpectedEof => {
                self.child.wait().map_or_else(|e| e.to_string(), |status| status.to_string())
            }
            _ => format!("it does not answer: {error}"),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It holds nothing that could be lost.
        let _ = self.child.kill();
        let _ = self.child.wait();
        pid_of(&self.child).into_iter().for_each(lost::forget);
    }
}

fn pid_of(child: &Child) -> Option<i32> {
    i32::try_from(child.id()).ok()
}

/// A supervisor's process, a child of this one. Dropped before it has ended, it is waited for when the next one is launched.
#[derive(Debug)]
pub(super) struct Supervisor {
    pid: i32,
    ended: Option<WaitStatus>,
}

impl Supervisor {
    pub(super) fn pid(&self) -> i32 {
        self.pid
    }

    /// Whether it has not ended. Looks without reaping.
    pub(super) fn is_alive(&self) -> bool {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        self.ended.is_none() && matches!(waitid(self.id(), flags), Ok(WaitStatus::StillAlive))
    }

    /// Waits for its end; says how it ended. Cancel-safe, and may be called again.
    ///
    /// # Errors
    /// The system's, which would mean that somebody else has reaped it.
    pub(super) async fn wait(&mut self) -> io::Result<String> {
        // Listened for before the look: no end falls in between.
        let mut children = signal(SignalKind::child())?;
        loop {
            let ended = match self.ended {
                Some(ended) => ended,
                None => waitid(self.id(), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG)?,
            };
            match ended {
                WaitStatus::StillAlive => children.recv().await,
                ended => {
                    self.ended = Some(ended);
                    return Ok(match ended {
                        WaitStatus::Exited(_, code) => format!("exit status: {code}"),
                        WaitStatus::Signaled(_, signal, _) => format!("signal: {signal}"),
                        other => format!("{other:?}"),
                    });
                }
            };
        }
    }

    fn id(&self) -> Id<'static> {
        Id::Pid(Pid::from_raw(self.pid))
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        match self.ended {
            Some(_) => lost::forget(self.pid),
            None => lost::leave(self.pid),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::libc;
    use nix::unistd::gettid;

    /// Waits until a thread sleeps that has gone to sleep more than so many times; how many times it has.
    fn sleeps(thread: i32, before: u64) -> u64 {
        loop {
            let status = std::fs::read_to_string(format!("/proc/self/task/{thread}/status")).expect("a thread");
            let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).expect("a field").trim();
            let times = field("voluntary_ctxt_switches:").parse().expect("a number");
            if field("State:").starts_with('S') && times > before {
                return times;
            }
            std::thread::yield_now();
        }
    }

    #[tokio::test]
    #[expect(unsafe_code, reason = "no wrapper sends a signal to one thread")]
    async fn the_end_of_a_child_while_the_launcher_is_asked_is_no_failure_of_it() {
        // The handler that the runner has for it.
        let _children = signal(SignalKind::child()).expect("a handler");
        let (socket, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).expect("a pair");
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(30)).expect("a time-out");
        let child = Command::new("/bin/sleep").arg("1000").spawn().expect("a child");
        let (process, asking) = (Process { child, socket }, gettid());
        let launcher = std::thread::spawn(move || {
            recv(theirs.as_raw_fd(), &mut [0; 1], MsgFlags::empty()).expect("a wish");
            // Then it waits for the answer, and again once the handler has run.
            let before = sleeps(asking.as_raw(), 0);
            // SAFETY: numbers only, and the thread lives until this one is joined.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), asking.as_raw(), libc::SIGCHLD) };
            sleeps(asking.as_raw(), before);
            sendmsg::<()>(theirs.as_raw_fd(), &[IoSlice::new(&7_i32.to_ne_bytes())], &[], MsgFlags::empty(), None)
                .expect("answered");
        });
        let (control, _ours) = UnixStream::pair().expect("a pair");
        let answer = process.forked(&control);
        launcher.join().expect("it answered");
        assert_eq!(answer.expect("an answer").expect("a process"), 7);
    }
}
