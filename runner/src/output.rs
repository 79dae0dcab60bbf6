//! Reads what a command prints: into its log, into the hands of its job, or both.
//!
//! A command waits for its log, so that nothing is missing from it, but never for long and never when it is to stop: an
//! engine that hangs in a write can neither obey its one interrupt nor save its state.

use crate::attempt_log::AttemptLog;
use crate::command::{STDERR_HEAD_BYTES, Stdout};
use crate::holdings::Held;
use crate::logs::Stream;
use nix::errno::Errno;
use std::io;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
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

    async fn read(self, mut pipe: pipe::Receiver, stream: Option<Stream>, limit: usize) -> Head {
        let mut head = Head::default();
        let mut buffer = vec![0; READ_BYTES];
        let mut after_the_end = 0;
        while after_the_end < MAX_PIPE_BYTES {
            if stream.is_some() {
                self.room().await;
            }
            let count = match self.next(&mut pipe, &mut buffer).await {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) => {
                    tracing::warn!(%error, ?stream, "a command's output cannot be read any more");
                    break;
                }
            };
            after_the_end += if self.over.is_cancelled() { count } else { 0 };
            head.take(&buffer[..count], limit);
            if let Some(stream) = stream {
                self.log.push(stream, &buffer[..count]);
            }
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

    /// The next bytes; none at the end. Once nothing of the command is left all that it has printed lies in the pipe, and
    /// whoever still holds that open is a stranger, for whom nobody waits.
    async fn next(self, pipe: &mut pipe::Receiver, buffer: &mut [u8]) -> io::Result<usize> {
        tokio::select! {
            biased;
            count = pipe.read(buffer) => return count,
            () = self.over.cancelled() => {}
        }
        // Past the runtime, which may not have heard yet that there is something to read.
        loop {
            match nix::unistd::read(&*pipe, buffer) {
                Ok(count) => return Ok(count),
                Err(Errno::EAGAIN) => return Ok(0),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}
