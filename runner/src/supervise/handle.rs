//! The runner's side of a supervisor.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::cmsg_space;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

use super::clock::boot_ms;
use super::error::SuperviseError;
use super::exit::StopReason;
use super::launch::{Launcher, Supervisor};
use super::lost::{self, Main};
use super::message::{Final, Garbled, Lines, Reply, Request, line};
use super::record::ExitRecord;
use super::step::Step;
use crate::egress::Refusal;

/// A command under its supervisor. Its parts are used side by side: read both streams to their end, then
/// [`Control::wait`]. Dropping the control means to the supervisor that the runner has vanished.
#[derive(Debug)]
pub struct Running {
    /// The command's standard output. A reader that pauses for long stalls the command.
    pub stdout: pipe::Receiver,
    /// The command's standard error, likewise.
    pub stderr: pipe::Receiver,
    /// Requests to the supervisor, and its answer.
    pub control: Control,
}

/// The way to talk to the supervisor of one command.
#[derive(Debug)]
pub struct Control {
    name: String,
    stream: UnixStream,
    lines: Lines,
    supervisor: Supervisor,
    main: Option<Main>,
    last: Option<Final>,
    refusals: Option<mpsc::Sender<Refusal>>,
}

/// More than a supervisor tells.
const MAX_REFUSALS: usize = 64;

/// This process's own binary, also after the file it was started from has been replaced.
pub const OWN_BINARY: &str = "/proc/self/exe";

/// A supervisor that has been given nothing to do: it comes before it is known what the command will be, or whether it may
/// start. Dropped, it goes without having done anything.
#[derive(Debug)]
pub struct Launched {
    binary: PathBuf,
    process: Option<(Supervisor, UnixStream)>,
}

impl Launched {
    /// A new supervisor. Blocks for as long as a fork takes.
    ///
    /// # Errors
    /// [`SuperviseError::Launch`], [`SuperviseError::Unopened`].
    pub fn by(launcher: &Launcher) -> Result<Self, SuperviseError> {
        let binary = launcher.binary().to_owned();
        let (supervisor, ours) = launcher.launch()?;
        match UnixStream::from_std(ours) {
            Ok(ours) => Ok(Self { binary, process: Some((supervisor, ours)) }),
            Err(source) => Err(SuperviseError::Launch { binary, source }),
        }
    }

    /// As [`Launched::by`], off the runtime's threads.
    ///
    /// # Errors
    /// As there.
    pub async fn off_loop_by(launcher: &Arc<Launcher>) -> Result<Self, SuperviseError> {
        let binary = launcher.binary().to_owned();
        let launcher = launcher.clone();
        let launched = tokio::task::spawn_blocking(move || Self::by(&launcher)).await;
        launched.map_err(|e| SuperviseError::Launch { binary, source: io::Error::other(e) })?
    }

    /// Its process id; none once it has been used. For people: it is no address for signals.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        self.process.as_ref().map(|(supervisor, _)| supervisor.pid())
    }

    /// Whether it has not ended meanwhile, killed by somebody.
    pub(super) fn is_alive(&self) -> bool {
        self.process.as_ref().is_some_and(|(supervisor, _)| supervisor.is_alive())
    }

    /// Starts the step's command under it.
    ///
    /// # Errors
    /// See [`SuperviseError`]; a command that could not be started is no error but a record that says so.
    pub async fn start(self, step: Step) -> Result<Running, SuperviseError> {
        self.prepare(step).await?.run().await
    }

    /// Has all made ready for the step's command, up to its exec: see [`Prepared`].
    ///
    /// # Errors
    /// There is no supervisor, or the step cannot be sent to it.
    pub async fn prepare(mut self, step: Step) -> Result<Prepared, SuperviseError> {
        let unsendable = |e: Garbled| SuperviseError::Unsendable { name: step.name.clone(), detail: e.to_string() };
        let prepare = line(&Request::Prepare(Box::new(step.clone()))).map_err(unsendable)?;
        let Some((supervisor, stream)) = self.process.take() else {
            let source = io::Error::other("it has been used before");
            return Err(SuperviseError::Launch { binary: self.binary.clone(), source });
        };
        let control = Control {
            name: step.name.clone(),
            stream,
            lines: Lines::default(),
            supervisor,
            main: None,
            last: None,
            refusals: None,
        };
        // A supervisor that does not listen is one that has ended, which is noticed when the word is given.
        let _ = control.send(&prepare).await;
        Ok(Prepared { binary: self.binary.clone(), step, since_ms: boot_ms(), control: Some(control) })
    }
}

/// A command that waits for the word: its supervisor has all ready up to the exec, so that what may only run once a start is
/// committed loses no time then. Dropped, nothing has run.
#[derive(Debug)]
pub struct Prepared {
    binary: PathBuf,
    step: Step,
    /// When it was made ready: its time runs from then on.
    since_ms: u64,
    control: Option<Control>,
}

impl Prepared {
    /// Gives the word.
    ///
    /// # Errors
    /// See [`SuperviseError`]; a command that could not be started is no error but a record that says so.
    pub async fn run(mut self) -> Result<Running, SuperviseError> {
        let launch = |source| SuperviseError::Launch { binary: self.binary.clone(), source };
        let Some(mut control) = self.control.take() else {
            return Err(launch(io::Error::other("it has been used before")));
        };
        let waited_ms = boot_ms().saturating_sub(self.since_ms);
        control.ask(&Request::Go(self.step.timeout_ms.saturating_sub(waited_ms))).await?;
        let Some([stdout, stderr]) = control.outputs().await.map_err(launch)? else {
            return Err(control.unopened(&self.binary).await);
        };
        control.began(&self.step).await?;
        Ok(Running {
            stdout: pipe::Receiver::from_owned_fd(stdout).map_err(launch)?,
            stderr: pipe::Receiver::from_owned_fd(stderr).map_err(launch)?,
            control,
        })
    }

    /// Takes it back, and returns once its supervisor has gone: nothing has run.
    pub async fn call_off(mut self) {
        let Some(Control { stream, mut supervisor, .. }) = self.control.take() else { return };
        drop(stream);
        // However it ended, it is gone.
        let _ = supervisor.wait().await;
    }
}

impl Control {
    /// The command's process id; none when it was not started. For people: it is no address for signals.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        self.main.as_ref().map(Main::pid)
    }

    /// The supervisor's process id.
    #[must_use]
    pub fn supervisor_pid(&self) -> i32 {
        self.supervisor.pid()
    }

    /// Asks for the one SIGINT, and SIGKILL for the tree after the grace. Asking again changes nothing, and the first
    /// reason stays the reason.
    ///
    /// # Errors
    /// The socket failed. That the command is over already is no error: `wait` will tell.
    pub async fn interrupt(&mut self, reason: StopReason) -> Result<(), SuperviseError> {
        if let Some(main) = &mut self.main {
            main.note_interrupt();
        }
        self.ask(&Request::Interrupt(reason)).await
    }

    /// Asks for SIGKILL for the tree at once. A Terraform run loses what it had not yet written and leaves its lock.
    ///
    /// # Errors
    /// Like [`Control::interrupt`].
    pub async fn kill(&mut self, reason: StopReason) -> Result<(), SuperviseError> {
        if let Some(main) = &mut self.main {
            main.note_kill();
        }
        self.ask(&Request::Kill(reason)).await
    }

    /// Waits until nothing of the command is left and the supervisor has gone too. Cancel-safe, and may be called
    /// again. Read both streams to their end before: a command whose output nobody takes does not end, and what is
    /// still in the pipes when this returns is only in them.
    ///
    /// # Errors
    /// [`SuperviseError::Lost`] when the supervisor was killed, [`SuperviseError::Channel`] when it spoke nonsense.
    pub async fn wait(&mut self) -> Result<ExitRecord, SuperviseError> {
        let record = loop {
            if let Some(last) = &self.last {
                break last.record.clone();
            }
            match self.hear().await? {
                Some(Reply::Ended(last)) => self.last = Some(*last),
                Some(Reply::Opened | Reply::Started(_)) => {}
                Some(Reply::Refused(refusal)) => self.pass_on(refusal),
                None => return Err(self.lost().await),
            }
        };
        self.ask(&Request::Dismiss).await?;
        let ended = self.supervisor.wait().await;
        ended.map_err(|source| self.channel_error(source))?;
        if let Some(Final { unkept: Some(why), .. }) = &self.last {
            tracing::warn!(step = self.name, error = %why, "the exit record could not be kept on disk");
        }
        Ok(record)
    }

    /// What the command's proxy refuses from now on, heard while [`Control::wait`] waits. It ends with this control.
    pub fn refusals(&mut self) -> mpsc::Receiver<Refusal> {
        let (sender, receiver) = mpsc::channel(MAX_REFUSALS);
        self.refusals = Some(sender);
        receiver
    }

    fn pass_on(&self, refusal: Refusal) {
        // More than fit are not told of any command.
        drop(self.refusals.as_ref().map(|refusals| refusals.try_send(refusal)));
    }

    async fn ask(&mut self, request: &Request) -> Result<(), SuperviseError> {
        let bytes = line(request).map_err(|e| self.channel_error(io::Error::other(e)))?;
        match self.send(&bytes).await {
            Err(e) if matches!(e.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => Ok(()),
            other => other.map_err(|e| self.channel_error(e)),
        }
    }

    async fn send(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.stream.writable().await?;
            match self.stream.try_write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// The next reply; none when the supervisor has gone.
    async fn hear(&mut self) -> Result<Option<Reply>, SuperviseError> {
        loop {
            let heard = self.lines.next();
            if let Some(reply) = heard.map_err(|e: Garbled| self.channel_error(io::Error::other(e)))? {
                return Ok(Some(reply));
            }
            if let Err(e) = self.stream.readable().await {
                return Err(self.channel_error(e));
            }
            let mut buffer = [0; 4096];
            match self.stream.try_read(&mut buffer) {
                Ok(0) => return Ok(None),
                Ok(count) => self.lines.push(&buffer[..count]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(e) => return Err(self.channel_error(e)),
            }
        }
    }

    /// The read ends of the command's pipes; none when the supervisor has gone.
    async fn outputs(&mut self) -> io::Result<Option<[OwnedFd; 2]>> {
        loop {
            self.stream.readable().await?;
            match self.stream.try_io(Interest::READABLE, || receive(&self.stream)) {
                Ok((bytes, fds)) => {
                    self.lines.push(&bytes);
                    return Ok(<[OwnedFd; 2]>::try_from(fds).ok());
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(e) => return Err(e),
            }
        }
    }

    /// Waits until the command runs, or is known never to.
    async fn began(&mut self, step: &Step) -> Result<(), SuperviseError> {
        loop {
            match self.hear().await? {
                Some(Reply::Opened) => {}
                Some(Reply::Refused(refusal)) => self.pass_on(refusal),
                Some(Reply::Started(pid)) => {
                    self.main = Some(Main::new(pid, self.supervisor.pid(), step));
                    return Ok(());
                }
                Some(Reply::Ended(last)) => {
                    self.last = Some(*last);
                    return Ok(());
                }
                None => return Err(self.lost().await),
            }
        }
    }

    async fn unopened(&mut self, binary: &Path) -> SuperviseError {
        let ended = self.supervisor.wait().await;
        SuperviseError::Unopened { binary: binary.to_owned(), status: ended.unwrap_or_else(|e| e.to_string()) }
    }

    /// The supervisor is dead: ends what it was to end, as far as that can be found.
    async fn lost(&mut self) -> SuperviseError {
        if let Err(source) = self.supervisor.wait().await {
            return self.channel_error(source);
        }
        let left = lost::end_rest(self.supervisor.pid(), self.main.as_mut()).await;
        SuperviseError::Lost { name: self.name.clone(), left }
    }

    fn channel_error(&self, source: io::Error) -> SuperviseError {
        SuperviseError::Channel { name: self.name.clone(), source }
    }
}

/// One message with the descriptors that came along.
#[expect(unsafe_code, reason = "descriptors arrive as bare numbers")]
fn receive(stream: &UnixStream) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut buffer = [0; 4096];
    let mut space = cmsg_space!([std::os::fd::RawFd; 2]);
    let mut data = [IoSliceMut::new(&mut buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut data, Some(&mut space), flags)?;
    let count = message.bytes;
    let mut fds = Vec::new();
    for rights in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = rights {
            // SAFETY: the kernel has just installed these descriptors for this call, and nobody else knows them.
            fds.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    Ok((buffer[..count].to_vec(), fds))
}
