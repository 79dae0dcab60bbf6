//! Output that the runner no longer reads.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::record::Kept;

/// Read at one go, so that one busy stream leaves time for all else.
const TURN_BYTES: usize = 1024 * 1024;

/// The read end of one of the command's pipes, and where its content goes.
#[derive(Debug)]
pub(super) struct Drain {
    pipe: Option<File>,
    file: Option<File>,
    limit_bytes: u64,
    kept: Kept,
}

impl Drain {
    /// Holds a pipe's read end without reading. It is non-blocking.
    pub(super) fn new(pipe: OwnedFd, limit_bytes: u64) -> Self {
        Self { pipe: Some(File::from(pipe)), file: None, limit_bytes, kept: Kept::default() }
    }

    /// From here on the content goes to this file, or is counted and dropped when there is none: the
    /// command must never stall because a disk is full.
    pub(super) fn keep_in(&mut self, file: Option<File>) {
        self.file = file;
    }

    /// The pipe, until its end was reached.
    pub(super) fn pipe(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// Whether something lies in the pipe that nobody has read.
    pub(super) fn holds_output(&self) -> bool {
        self.pipe().is_some_and(|pipe| {
            let mut fds = [PollFd::new(pipe, PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::ZERO).is_ok()
                && fds[0].revents().is_some_and(|now| now.contains(PollFlags::POLLIN))
        })
    }

    /// Moves what is there; false when nothing was.
    pub(super) fn turn(&mut self) -> bool {
        let mut buffer = vec![0; 64 * 1024];
        let mut moved = 0;
        while moved < TURN_BYTES {
            let Some(mut pipe) = self.pipe.as_ref() else {
                break;
            };
            match pipe.read(&mut buffer) {
                Ok(0) => self.pipe = None,
                Ok(count) => {
                    moved += count;
                    self.store(&buffer[..count]);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => self.pipe = None,
            }
        }
        moved > 0
    }

    /// Keeps the beginning, which joins on to what the runner had read, up to the bound.
    fn store(&mut self, bytes: &[u8]) {
        let room = self.limit_bytes.saturating_sub(self.kept.bytes);
        let fits = usize::try_from(room).map_or(bytes.len(), |room| room.min(bytes.len()));
        let mut written = 0;
        while let Some(file) = self.file.as_mut().filter(|_| written < fits) {
            match file.write(&bytes[written..fits]) {
                Ok(count) if count > 0 => written += count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // A full disk: without a hole in the middle there is nothing to explain later.
                Ok(_) | Err(_) => self.file = None,
            }
        }
        self.kept.bytes += written as u64;
        self.kept.dropped_bytes += (bytes.len() - written) as u64;
    }

    /// Takes what is still in the pipe and makes it durable.
    pub(super) fn finish(&mut self) -> Kept {
        while self.turn() {}
        self.pipe = None;
        if let Some(file) = &self.file {
            // What cannot be made durable is still there for all but a power cut.
            let _ = file.sync_all();
        }
        self.kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipe_with(content: &[u8]) -> OwnedFd {
        let (reader, mut writer) = io::pipe().expect("a pipe");
        writer.write_all(content).expect("it fits the pipe");
        reader.into()
    }

    fn kept(limit_bytes: u64, content: &[u8]) -> (Kept, Vec<u8>) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("out");
        let mut drain = Drain::new(pipe_with(content), limit_bytes);
        drain.keep_in(Some(File::create_new(&path).expect("a file")));
        let kept = drain.finish();
        (kept, std::fs::read(&path).expect("the file"))
    }

    #[test]
    fn output_is_kept_up_to_its_bound_and_the_rest_is_counted() {
        for (limit, bytes, dropped_bytes) in [(100, 10, 0), (10, 10, 0), (4, 4, 6), (0, 0, 10)] {
            let (kept, content) = kept(limit, b"0123456789");
            assert_eq!(kept, Kept { bytes, dropped_bytes });
            assert_eq!(content.len() as u64, bytes);
            assert!(b"0123456789".starts_with(&content));
        }
    }

    #[test]
    fn a_full_disk_never_stalls_the_command() {
        let mut drain = Drain::new(pipe_with(&[7; 5000]), u64::MAX);
        drain.keep_in(File::options().write(true).open("/dev/full").ok());
        let expected = Kept { bytes: 0, dropped_bytes: 5000 };
        assert_eq!(drain.finish(), expected);
    }
}
