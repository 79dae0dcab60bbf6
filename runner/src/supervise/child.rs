//! From fork to exec: an ordered checklist, each entry with its reason.

use std::ffi::{CString, NulError};
use std::fs;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::libc;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, execve, fork};
use nix::unistd::{getppid, setpgid};

use crate::sandbox::Armed;
use zeroize::Zeroize;

use super::start::StartFailure;
use super::step::{Class, Step};

/// How much sooner than its supervisor the command is chosen when memory runs out.
const OOM_SCORE_ABOVE: i32 = 300;

/// What the new process does to itself, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// A process group of its own, which can be killed in one stroke.
    Group,
    /// A reading command dies with its supervisor. A mutating one does not: half an apply is worse than
    /// one that the runner, which sees the loss, interrupts in order.
    DeathSignal,
    /// Standard input is empty; output goes to the two pipes.
    Streams,
    /// The supervisor's blocked signals, and Rust's ignored SIGPIPE, are not the command's.
    Signals,
    /// When memory runs out, the command goes before its supervisor and the runner.
    OomScore,
    /// Modes of the files that the command makes.
    Umask,
    /// The working folder, while it can still be entered.
    Folder,
    /// Nothing else of ours is open in the command.
    Descriptors,
    /// Rights are taken away, in the order of `sandbox`: after all that may need what it takes away.
    Sandbox,
    /// The word that it may run, when nothing but its exec can fail any more. Without it, because the supervisor or the
    /// runner is gone, it ends here.
    Word,
    /// The command itself, with exactly the environment of the step.
    Execute,
}

const CHECKLIST: [Stage; 11] = [
    Stage::Group,
    Stage::DeathSignal,
    Stage::Streams,
    Stage::Signals,
    Stage::OomScore,
    Stage::Umask,
    Stage::Folder,
    Stage::Descriptors,
    Stage::Sandbox,
    Stage::Word,
    Stage::Execute,
];

/// All that the stages need, made before the fork.
struct Launch {
    argv: Vec<CString>,
    env: Vec<CString>,
    cwd: CString,
    umask: Mode,
    class: Class,
    supervisor: Pid,
    streams: [OwnedFd; 3],
    word: PipeReader,
    sandbox: Armed,
}

impl Launch {
    fn new(step: &Step, sandbox: Armed, streams: [OwnedFd; 3], word: PipeReader) -> Result<Self, NulError> {
        let env = step.env.iter().map(|(k, v)| format!("{k}={v}"));
        let secrets = step.secrets.iter().map(|(k, v)| format!("{k}={}", v.expose()));
        Ok(Self {
            argv: step.argv.iter().map(|arg| CString::new(arg.as_str())).collect::<Result<_, _>>()?,
            env: env.chain(secrets).map(CString::new).collect::<Result<_, _>>()?,
            cwd: CString::new(step.cwd.as_os_str().as_bytes())?,
            umask: Mode::from_bits_truncate(step.umask),
            class: step.class,
            supervisor: Pid::this(),
            streams,
            word,
            sandbox,
        })
    }

    fn perform(&self, stage: Stage) -> Result<(), Errno> {
        match stage {
            Stage::Group => setpgid(Pid::from_raw(0), Pid::from_raw(0)),
            Stage::DeathSignal => self.die_with_supervisor(),
            Stage::Streams => {
                let [stdin, stdout, stderr] = &self.streams;
                dup2_stdin(stdin)?;
                dup2_stdout(stdout)?;
                dup2_stderr(stderr)
            }
            Stage::Signals => restore_signals(),
            Stage::OomScore => {
                raise_oom_score();
                Ok(())
            }
            Stage::Umask => {
                umask(self.umask);
                Ok(())
            }
            Stage::Folder => chdir(self.cwd.as_c_str()),
            Stage::Descriptors => {
                close_on_exec_from(3);
                Ok(())
            }
            Stage::Word => match (&self.word).read_exact(&mut [0]) {
                Ok(()) => Ok(()),
                Err(_) => Err(Errno::ECANCELED),
            },
            Stage::Sandbox => self.sandbox.apply(),
            Stage::Execute => {
                let program = self.argv.first().ok_or(Errno::EINVAL)?;
                execve(program, &self.argv, &self.env).map(|never| match never {})
            }
        }
    }

    fn die_with_supervisor(&self) -> Result<(), Errno> {
        if self.class == Class::Mutating {
            return Ok(());
        }
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        // Set too late if the supervisor has died since the fork.
        match getppid() == self.supervisor {
            true => Ok(()),
            false => Err(Errno::ESRCH),
        }
    }
}

/// What only the command needs to know stays nowhere in its supervisor.
impl Drop for Launch {
    fn drop(&mut self) {
        self.env.iter_mut().for_each(Zeroize::zeroize);
    }
}

/// A process that has gone through the checklist up to the word. Dropped, it ends without having run anything.
pub(super) struct Ready {
    /// None once the command runs.
    pid: Option<Pid>,
    word: Option<PipeWriter>,
    news: PipeReader,
}

/// Forks the step's command with these write ends as its output, and leaves it waiting for the word.
pub(super) fn prepare(step: &Step, sandbox: Armed, outputs: [OwnedFd; 2]) -> Result<Ready, StartFailure> {
    let system =
        |during: &str, e: std::io::Error| StartFailure::System { during: during.to_owned(), detail: e.to_string() };
    let null = fs::File::open("/dev/null").map_err(|e| system("open /dev/null", e))?;
    let [stdout, stderr] = outputs;
    let (waiter, word) = std::io::pipe().map_err(|e| system("make a pipe", e))?;
    let launch = Launch::new(step, sandbox, [null.into(), stdout, stderr], waiter)
        .map_err(|e| StartFailure::InvalidStep { detail: e.to_string() })?;
    let (news, teller) = std::io::pipe().map_err(|e| system("make a pipe", e))?;
    let (pid, word) = fork_into(&launch, teller, word).map_err(|e| system("start a process", e.into()))?;
    Ok(Ready { pid: Some(pid), word: Some(word), news })
}

impl Ready {
    /// Gives the word, and returns once the command executes.
    pub(super) fn run(mut self, step: &Step) -> Result<Pid, StartFailure> {
        // Who has ended before the word came has left news of why.
        let _ = self.word.take().map(|mut word| word.write_all(&[1]));
        match (hear(&mut self.news), self.pid) {
            (None, Some(pid)) => {
                self.pid = None;
                Ok(pid)
            }
            (None, None) => Err(failure(step, Stage::Word, Errno::ECANCELED)),
            (Some((stage, errno)), _) => Err(failure(step, stage, errno)),
        }
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        let Some(pid) = self.pid else { return };
        drop(self.word.take());
        let _ = waitpid(pid, None);
    }
}

#[expect(unsafe_code, reason = "fork and _exit are what a supervisor is made of")]
fn fork_into(launch: &Launch, teller: PipeWriter, word: PipeWriter) -> Result<(Pid, PipeWriter), Errno> {
    // SAFETY: the supervisor has one thread, so the copy holds no lock of another and may allocate.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok((child, word)),
        ForkResult::Child => {
            // While it held the other end itself it would wait for ever.
            drop(word);
            for (index, stage) in CHECKLIST.iter().enumerate() {
                if let Err(errno) = launch.perform(*stage) {
                    tell(teller, index, errno);
                    break;
                }
            }
            // SAFETY: ends the process at once; destructors and exit handlers are the supervisor's, not ours.
            unsafe { libc::_exit(127) }
        }
    }
}

fn tell(mut teller: PipeWriter, index: usize, errno: Errno) {
    let mut message = [0; 5];
    message[0] = u8::try_from(index).unwrap_or(u8::MAX);
    message[1..].copy_from_slice(&(errno as i32).to_ne_bytes());
    let _ = teller.write_all(&message);
}

/// The stage that failed; none when exec has closed the pipe.
fn hear(news: &mut PipeReader) -> Option<(Stage, Errno)> {
    let mut message = [0; 5];
    news.read_exact(&mut message).ok()?;
    let [index, errno @ ..] = message;
    let stage = CHECKLIST.get(usize::from(index))?;
    Some((*stage, Errno::from_raw(i32::from_ne_bytes(errno))))
}

fn failure(step: &Step, stage: Stage, errno: Errno) -> StartFailure {
    let program = step.program().to_owned();
    match (stage, errno) {
        (Stage::Folder, errno) => StartFailure::WorkFolder { path: step.cwd.clone(), detail: errno.desc().to_owned() },
        (Stage::Execute, Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => match Path::new(&program).exists() {
            true => StartFailure::InterpreterMissing { program },
            false => StartFailure::ProgramMissing { program },
        },
        (Stage::Execute, Errno::EACCES | Errno::EPERM | Errno::EISDIR) => StartFailure::NotExecutable { program },
        (Stage::Execute, Errno::ENOEXEC | Errno::EINVAL | Errno::ELIBBAD) => StartFailure::WrongFormat { program },
        (Stage::Execute, Errno::E2BIG) => StartFailure::TooLong { program },
        (Stage::Sandbox, errno) => StartFailure::Sandbox {
            detail: format!("the kernel refused to take rights away from {program}: {}", errno.desc()),
        },
        (stage, errno) => {
            StartFailure::System { during: format!("prepare {program} ({stage:?})"), detail: errno.desc().to_owned() }
        }
    }
}

/// Also the two signals that the C library keeps for itself and refuses to touch: an ancestor of the runner may have
/// ignored them, and a program with another C library would inherit that.
#[expect(unsafe_code, reason = "neither nix nor the C library sets all signals")]
fn restore_signals() -> Result<(), Errno> {
    const SET_BYTES: usize = 8;
    // The kernel's struct sigaction in any layout: a zero is SIG_DFL, no flags, an empty mask.
    let plain = [0u64; 8];
    let nothing: *mut u64 = std::ptr::null_mut();
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: the kernel reads no more than its struct, which is shorter than `plain`, and writes nothing. The
        // default disposition runs no code of ours. SIGKILL and SIGSTOP are refused, harmlessly.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, plain.as_ptr(), nothing, SET_BYTES) };
    }
    SigSet::empty().thread_set_mask()
}

/// As far as possible: in a container that forbids it, all of its processes are equal.
fn raise_oom_score() {
    const FILE: &str = "/proc/self/oom_score_adj";
    // The file belongs to root as long as the process is not dumpable, and exec makes it so anyway.
    let _ = prctl::set_dumpable(true);
    let now = fs::read_to_string(FILE).ok().and_then(|text| text.trim().parse::<i32>().ok());
    let wanted = now.map_or(OOM_SCORE_ABOVE, |now| now + OOM_SCORE_ABOVE).min(1000);
    let _ = fs::write(FILE, wanted.to_string());
}

/// Marks every descriptor from `first` on. Ours are marked from birth, so a kernel before 5.11, which has
/// no such call, loses nothing.
#[expect(unsafe_code, reason = "nix has no wrapper for this system call")]
fn close_on_exec_from(first: libc::c_uint) {
    // SAFETY: sets a flag on descriptors; none is closed or replaced before exec, where all Rust values end.
    unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checklist_takes_rights_away_last_and_executes_after_that() {
        use Stage::{Descriptors, Execute, Folder, Group, OomScore, Sandbox, Signals, Streams, Word};
        let at = |stage| CHECKLIST.iter().position(|s| *s == stage).expect("listed");
        for (index, stage) in CHECKLIST.iter().enumerate() {
            assert_eq!(at(*stage), index, "{stage:?} is listed twice");
        }
        for before in [Group, Streams, Signals, OomScore, Folder, Descriptors] {
            assert!(at(before) < at(Sandbox), "{before:?} may need what the sandbox takes");
        }
        assert_eq!((at(Sandbox) + 1, at(Word) + 1), (at(Word), at(Execute)));
        assert_eq!(at(Execute) + 1, CHECKLIST.len());
    }
}
