//! Reads what a command prints: into its log, into the hands of its job, or both.
//!
//! A command waits for its log, so that nothing is missing from it, but never for long and never when it is to stop: an
//! engine that hangs in a write can neither obey its one interrupt nor save its state.

use crate::attempt_log::AttemptLog;
use crate::command::{STDERR_HEAD_BYTES, Stdout};
use crate::holdings::Held;
use crate::logs::Stream;
use std::cell::RefCell;
use std::io;
use std::num::NonZero;
use std::sync::LazyLock;
use tokio::net::unix::pipe;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

const READ_BYTES: usize = 64 * 1024;
/// The largest pipe that the kernel gives to whoever asks.
const MAX_PIPE_BYTES: usize = 1024 * 1024;

/// What the readers of a command's output go by.
#[derive(Clone, Copy)]
pub struct Output<'a> {
    /// Where it goes.
    pub log: &'a AttemptLog,
    /// Whether the attempt is to stop.
    pub held: &'a Held,
    /// Nothing of the command is left.
    pub over: &'a CancellationToken,
}

/// The beginning of a stream, as far as somebody wanted it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Its first bytes.
    pub bytes: Vec<u8>,
    /// There was more.
    pub cut: bool,
}

impl Head {
    fn take(&mut self, bytes: &[u8], limit: usize) {
        let count = bytes.len().min(limit - self.bytes.len());
        self.bytes.extend_from_slice(&bytes[..count]);
        self.cut |= count < bytes.len();
    }
}

impl Output<'_> {
    /// Reads standard output to its end.
    pub async fn stdout(self, pipe: pipe::Receiver, to: Stdout) -> Head {
        match to {
            Stdout::Capture(limit) => self.read(pipe, None, limit).await,
            Stdout::Both(limit) => self.read(pipe, Some(Stream::Stdout), limit).await,
            Stdout::Log | Stdout::Events => self.read(pipe, Some(Stream::Stdout), 0).await,
        }
    }

    /// Reads standard error to its end.
    pub async fn stderr(self, pipe: pipe::Receiver) -> Head {
        self.read(pipe, Some(Stream::Stderr), STDERR_HEAD_BYTES).await
    }

    async fn read(self, pipe: pipe::Receiver, stream: Option<Stream>, limit: usize) -> Head {
        let mut head = Head::default();
        let mut after_the_end = 0;
        while after_the_end < MAX_PIPE_BYTES {
            let over = self.readable(&pipe).await;
            if stream.is_some() && !self.log.has_room() {
                self.room().await;
            }
            let take = |bytes: &[u8]| {
                head.take(bytes, limit);
                if let Some(stream) = stream {
                    self.log.push(stream, bytes);
                }
            };
            let read = {
                let _turn = TURNS.acquire().await;
                read_once(&pipe, over, take)
            };
            let count = match read {
                Ok(Some(0)) => break,
                Ok(Some(count)) => count,
                Ok(None) => continue,
                Err(error) => {
                    tracing::warn!(%error, ?stream, "a command's output cannot be read any more");
                    break;
                }
            };
            after_the_end += if over { count } else { 0 };
        }
        if let Some(stream) = stream {
            self.log.end(stream);
        }
        head
    }

    async fn room(self) {
        tokio::select! {
            () = self.log.room() => {}
            _ = self.held.stopped() => {}
            () = self.over.cancelled() => {}
        }
    }

    /// Waits for something to read; true when nothing of the command is left. Then all that it has printed lies in the
    /// pipe, and whoever still holds that open is a stranger, for whom nobody waits.
    async fn readable(self, pipe: &pipe::Receiver) -> bool {
        tokio::select! {
            biased;
            // An error is for whoever reads.
            _ = pipe.readable() => self.over.is_cancelled(),
            () = self.over.cancelled() => true,
        }
    }
}

/// Who reads works through what it has read at once, and loud commands would keep all cores at that: one is left to
/// whatever sends logs and keeps leases, and on a small machine to the database beside.
static TURNS: LazyLock<Semaphore> =
    LazyLock::new(|| Semaphore::new(turns(std::thread::available_parallelism().map_or(1, NonZero::get))));

const fn turns(cores: usize) -> usize {
    if cores > 1 { cores - 1 } else { 1 }
}

thread_local! {
    /// Thousands of pipes are read through few buffers: one for each thread, never held while something is waited for.
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into_boxed_slice());
}

/// Hands on what lies in the pipe; how much it was, 0 at the end, and `None` when there is nothing now.
fn read_once(pipe: &pipe::Receiver, over: bool, take: impl FnOnce(&[u8])) -> io::Result<Option<usize>> {
    BUFFER.with_borrow_mut(|buffer| {
        let read = match over {
            false => pipe.try_read(buffer),
            // Past the runtime, which may not have heard yet that there is something to read.
            true => nix::unistd::read(pipe, buffer).map_err(io::Error::from),
        };
        match read {
            Ok(count) => {
                take(&buffer[..count]);
                Ok(Some(count))
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(over.then_some(0)),
            Err(error) => Err(error),
        }
    })
}
