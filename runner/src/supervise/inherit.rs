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
    /// No supervisor has taken it up. One that still does begins nothing, since its runner is gone.
    NeverBegun,
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
            Err(Errno::ENOENT) => return Ok(Inherited::NeverBegun),
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

#[cfg(test)]
mod tests {
    use super::super::record::{EXIT_FILE, RecordFolder};
    use super::*;

    #[test]
    fn how_things_stand_is_told_by_folder_lock_and_record() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("03-apply");
        let orphan = Orphan::of(&path);
        let look = || orphan.look();
        assert!(matches!(look(), Ok(Inherited::NeverBegun)));
        assert_eq!(orphan.interrupt(StopReason::Cancelled).unwrap_err().kind(), io::ErrorKind::NotFound);
        let folder = RecordFolder::claim(&path).expect("claimed");
        assert!(matches!(look(), Ok(Inherited::Running)));
        let mut control = folder.control().expect("a pipe");
        orphan.interrupt(StopReason::Cancelled).expect("asked");
        let mut request = [0; 64];
        let count = control.read(&mut request).expect("a request");
        assert_eq!(&request[..count], b"{\"interrupt\":\"cancelled\"}\n");
        drop((folder, control));
        assert!(matches!(look(), Ok(Inherited::Lost)));
        // Tried: half a record, a file in the pipe's place.
        std::fs::write(path.join(EXIT_FILE), "{").expect("written");
        assert!(look().is_err());
        std::fs::remove_file(path.join(CONTROL_FILE)).expect("removed");
        std::fs::write(path.join(CONTROL_FILE), "").expect("written");
        assert!(orphan.interrupt(StopReason::Cancelled).is_err());
    }

    #[test]
    fn output_is_read_once_and_from_where_it_was_left() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut orphan = Orphan::of(dir.path());
        let mut buffer = [0; 4];
        let mut read = |orphan: &mut Orphan| {
            let mut all = [String::new(), String::new()];
            let take = |stream: usize, bytes: &[u8]| all[stream].push_str(str::from_utf8(bytes).expect("text"));
            let count = orphan.output(&mut buffer, take).expect("read");
            (count, all)
        };
        assert_eq!(read(&mut orphan).0, 0, "it has printed nothing");
        std::fs::write(dir.path().join(STDOUT_FILE), "abcdef").expect("written");
        std::fs::write(dir.path().join(STDERR_FILE), "x").expect("written");
        assert_eq!(read(&mut orphan), (5, ["abcd".into(), "x".into()]));
        assert_eq!(read(&mut orphan), (2, ["ef".into(), String::new()]));
        assert_eq!(read(&mut orphan).0, 0);
    }
}
