//! The exit record, and the folder that keeps it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, openat, posix_fallocate, renameat};
use nix::sys::stat::Mode;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::exit::{Ended, Exit, StopReason};
use super::oom::OomKills;
use super::start::StartFailure;
use crate::egress::Traffic;
use crate::sandbox::Level;

/// Name of the record in the record folder. It appears whole, and after everything else.
pub const EXIT_FILE: &str = "exit.json";
const DRAFT_FILE: &str = "exit.json.draft";
/// Requests to an orphaned command's supervisor, as the runner's own are written.
pub(super) const CONTROL_FILE: &str = "control";
/// Set aside at the start, so that a full disk does not cost the record: more than any record needs.
const DRAFT_BYTES: i64 = 8192;

/// What happened to one command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// The step's name.
    pub name: String,
    /// What the end means.
    pub exit: Exit,
    /// How the main process ended, whatever was asked of it; none if it never ran.
    pub ended: Option<Ended>,
    /// The first reason for which it was to stop; none if it ended unasked.
    pub requested: Option<StopReason>,
    /// The one SIGINT was sent.
    pub interrupted: bool,
    /// SIGKILL came before the main process had ended: a state lock of its may be left.
    pub forced: bool,
    /// By the wall clock.
    #[serde(with = "time::serde::rfc3339")]
    pub started_at: OffsetDateTime,
    /// By the wall clock, when nothing of the tree was left.
    #[serde(with = "time::serde::rfc3339")]
    pub ended_at: OffsetDateTime,
    /// Between the two, by the boot clock, in milliseconds.
    pub duration_ms: u64,
    /// Largest sum of resident memory of all its processes, in bytes; sampled, shared pages counted for each.
    pub peak_memory_bytes: u64,
    /// OOM kills that the kernel counted meanwhile.
    pub oom_kills: OomKills,
    /// Processes that outlived the main one, or were killed with it.
    pub killed_descendants: u32,
    /// No process of the command is left. Always true in a record: it is written only then.
    pub child_dead: bool,
    /// What was kept of the output after the runner had vanished; none while it was there.
    pub orphan_output: Option<OrphanOutput>,
    /// How far it was confined; none if it came not so far, or an older version wrote the record.
    #[serde(default)]
    pub sandbox: Option<Level>,
    /// What went through its proxy; none if it had none, or an older version wrote the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Traffic>,
}

/// The two files of an orphaned command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrphanOutput {
    /// `orphan.stdout`.
    pub stdout: Kept,
    /// `orphan.stderr`.
    pub stderr: Kept,
}

/// Size of an orphaned stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Bytes in the file: the beginning of what the runner had not read.
    pub bytes: u64,
    /// Bytes after those, lost to the bound or to a full disk.
    pub dropped_bytes: u64,
}

/// Reads the record of a step; none while the command runs, or when its supervisor was lost.
///
/// # Errors
/// The file cannot be read, or is no record.
pub fn read_record(record_dir: &Path) -> io::Result<Option<ExitRecord>> {
    match fs::read(record_dir.join(EXIT_FILE)) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// The record folder, locked for one supervisor.
///
/// The lock is on the folder itself (flock) and ends with the process: a later process of the same place
/// that finds it free, and no `exit.json`, knows that the supervisor was lost; see `Orphan`.
#[derive(Debug)]
pub(super) struct RecordFolder {
    folder: Flock<OwnedFd>,
}

impl RecordFolder {
    /// Makes and locks the folder and sets space aside for the record. A folder that was used before is refused.
    pub(super) fn claim(path: &Path) -> Result<Self, StartFailure> {
        Self::open(path).map_err(|e| StartFailure::RecordFolder { path: path.to_owned(), detail: e.to_string() })
    }

    fn open(path: &Path) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let folder: OwnedFd = nix::fcntl::open(path, flags, Mode::empty())?;
        let folder = Flock::lock(folder, FlockArg::LockExclusiveNonblock)
            .map_err(|(_, _)| io::Error::other("another supervisor uses it"))?;
        let claimed = Self { folder };
        for name in [EXIT_FILE, DRAFT_FILE] {
            match openat(claimed.folder.as_fd(), name, OFlag::O_PATH | OFlag::O_NOFOLLOW, Mode::empty()) {
                Err(Errno::ENOENT) => {}
                Err(e) => return Err(e.into()),
                Ok(_) => {
                    return Err(io::Error::other(format!("it holds {name} of an earlier step")));
                }
            }
        }
        let draft = claimed.create(DRAFT_FILE)?;
        match posix_fallocate(&draft, 0, DRAFT_BYTES) {
            // Filesystems that cannot set space aside.
            Ok(()) | Err(Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EINVAL) => Ok(claimed),
            Err(e) => Err(e.into()),
        }
    }

    /// Makes a new file in the folder; one that is there already, a link included, is refused.
    pub(super) fn create(&self, name: &str) -> io::Result<File> {
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        let file = openat(self.folder.as_fd(), name, flags, Mode::from_bits_truncate(0o600))?;
        Ok(File::from(file))
    }

    /// Makes the pipe on which whoever adopts the command may ask for its end, and opens both ends: nobody else coming is
    /// no end of file.
    pub(super) fn control(&self) -> io::Result<File> {
        nix::unistd::mkfifoat(self.folder.as_fd(), CONTROL_FILE, Mode::from_bits_truncate(0o600))?;
        let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(File::from(openat(self.folder.as_fd(), CONTROL_FILE, flags, Mode::empty())?))
    }

    /// Writes `exit.json`: whole or not at all; if it is to be `durable`, on the disk when this returns.
    pub(super) fn keep(&self, record: &ExitRecord, durable: bool) -> io::Result<()> {
        let mut bytes = serde_json::to_vec_pretty(record)?;
        bytes.push(b'\n');
        let flags = OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let draft = match openat(self.folder.as_fd(), DRAFT_FILE, flags, Mode::empty()) {
            Ok(draft) => File::from(draft),
            // Used up by an earlier record of this same step.
            Err(Errno::ENOENT) => self.create(DRAFT_FILE)?,
            Err(e) => return Err(e.into()),
        };
        (&draft).write_all(&bytes)?;
        draft.set_len(bytes.len() as u64)?;
        if durable {
            draft.sync_all()?;
        }
        renameat(self.folder.as_fd(), DRAFT_FILE, self.folder.as_fd(), EXIT_FILE)?;
        if durable {
            nix::unistd::fsync(self.folder.as_fd())?;
        }
        Ok(())
    }
}
