//! A command whose runner has gone, as the next runner of the same place finds it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::libc::{O_NOFOLLOW, O_NONBLOCK};
use nix::sys::stat::Mode;

use super::exit::StopReason;
use super::message::{self, Request};
use super::record::{CONTROL_FILE, ExitRecord, read_record};
use super::step::{STDERR_FILE, STDOUT_FILE};

/// A command that was left behind, known by its record folder.
#[derive(Debug)]
pub struct Orphan {
    folder: PathBuf,
    /// Bytes of each output file that were read.
    read: [u64; 2],
}

/// How things stand with it.
#[derive(Debug)]
pub enum Inherited {
    /// Its supervisor is there.
    Running,
    /// It has ended, and nothing of it is left.
    Ended(Box<ExitRecord>),
    /// Its supervisor is gone without a record: nobody knows how it ended, or whether.
    Lost,
}

impl Orphan {
    /// The command that has this record folder.
    pub fn of(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), read: [0; 2] }
    }

    /// How things stand.
    ///
    /// # Errors
    /// The folder cannot be read, or what stands there is no record.
    pub fn look(&self) -> io::Result<Inherited> {
        let folder = match nix::fcntl::open(&self.folder, OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()) {
            Ok(folder) => folder,
            // The runner died before the supervisor had begun: it begins nothing without a runner.
            Err(Errno::ENOENT) => return Ok(Inherited::Lost),
            Err(error) => return Err(error.into()),
        };
        match Flock::<OwnedFd>::lock(folder, FlockArg::LockSharedNonblock) {
            // It keeps the folder until its last word is written.
            Err((_, Errno::EWOULDBLOCK)) => Ok(Inherited::Running),
            Err((_, error)) => Err(error.into()),
            Ok(_) => {
                Ok(read_record(&self.folder)?.map_or(Inherited::Lost, |record| Inherited::Ended(Box::new(record))))
            }
        }
    }

    /// Asks for one SIGINT, and the grace. Only the first request of all counts; without a supervisor there is nobody to ask.
    ///
    /// # Errors
    /// The system's error; `NotFound` when the supervisor does not listen, yet or any more.
    pub fn interrupt(&self, reason: StopReason) -> io::Result<()> {
        let flags = O_NONBLOCK | O_NOFOLLOW;
        let mut pipe = File::options().write(true).custom_flags(flags).open(self.folder.join(CONTROL_FILE))?;
        if !pipe.metadata()?.file_type().is_fifo() {
            return Err(io::Error::other("it is no pipe"));
        }
        // Shorter than PIPE_BUF: whole or not at all.
        pipe.write_all(&message::line(&Request::Interrupt(reason)).map_err(io::Error::other)?)
    }

    /// What it has printed since the last time and since its runner has gone, at most a buffer of each stream: standard
    /// output, then standard error. What the supervisor had no room for is not in it.
    ///
    /// # Errors
    /// The system's error.
    pub fn output(&mut self, buffer: &mut [u8], mut take: impl FnMut(usize, &[u8])) -> io::Result<usize> {
        let mut all = 0;
        for (index, name) in [STDOUT_FILE, STDERR_FILE].into_iter().enumerate() {
            let mut file = match File::options().read(true).custom_flags(O_NOFOLLOW).open(self.folder.join(name)) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            file.seek(SeekFrom::Start(self.read[index]))?;
            let count = file.read(buffer)?;
            take(index, &buffer[..count]);
            self.read[index] += count as u64;
            all += count;
        }
        Ok(all)
    }
}
