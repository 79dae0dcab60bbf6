//! The supervisor's end of the control socket.

use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{ControlMessage, MsgFlags, recv, sendmsg};

use super::message::{Garbled, Lines, Reply, Request, line};

/// Speaks with the runner for as long as there is one.
pub(super) struct Channel {
    stream: UnixStream,
    lines: Lines,
    gone: bool,
}

impl Channel {
    /// Takes over the socket that the runner has passed.
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self { stream: UnixStream::from(socket), lines: Lines::default(), gone: false }
    }

    /// Sends `Opened` with the read ends of the two pipes.
    pub(super) fn open(&mut self, outputs: [BorrowedFd<'_>; 2]) -> io::Result<()> {
        let bytes = line(&Reply::Opened).map_err(io::Error::other)?;
        let fds = outputs.map(|fd| fd.as_raw_fd());
        let rights = [ControlMessage::ScmRights(&fds)];
        let data = [IoSlice::new(&bytes)];
        // A socket with an empty buffer takes so small a message whole.
        sendmsg::<()>(self.stream.as_raw_fd(), &data, &rights, MsgFlags::MSG_NOSIGNAL, None)?;
        Ok(())
    }

    /// Waits for the first message; `None` when the runner went without a word.
    pub(super) fn first(&mut self) -> Result<Option<Request>, Garbled> {
        loop {
            if let Some(request) = self.lines.next()? {
                return Ok(Some(request));
            }
            if self.gone {
                return Ok(None);
            }
            self.fill();
        }
    }

    /// Whether the runner has hung up, seen without taking a message.
    pub(super) fn is_hung_up(&self) -> bool {
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        recv(self.stream.as_raw_fd(), &mut [0], flags) == Ok(0)
    }

    /// From here on reading never blocks.
    pub(super) fn set_nonblocking(&mut self) -> io::Result<()> {
        self.stream.set_nonblocking(true)
    }

    /// The next request that has arrived. Garbage means that whoever speaks there is not our runner.
    pub(super) fn next(&mut self) -> Option<Request> {
        loop {
            match self.lines.next() {
                Ok(Some(request)) => return Some(request),
                Ok(None) => {}
                Err(_) => self.gone = true,
            }
            if self.gone || !self.fill() {
                return None;
            }
        }
    }

    /// Reads once; false when nothing is there.
    fn fill(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(0) => self.gone = true,
            Ok(count) => self.lines.push(&buffer[..count]),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return false,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => self.gone = true,
        }
        true
    }

    /// Tells the runner. The few small messages of a step always fit the socket's buffer, so a runner
    /// that is stopped cannot hold up its supervisor here; one that is gone is noticed by reading.
    pub(super) fn tell(&mut self, reply: &Reply) {
        let Ok(bytes) = line(reply) else { return };
        if self.stream.write_all(&bytes).is_err() {
            self.gone = true;
        }
    }

    /// Whether the runner has closed its end, or died.
    pub(super) fn is_gone(&self) -> bool {
        self.gone
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
