//! Open files: the spool has one for each of its segments, every command its pipes. The usual soft limit of 1,024 is not
//! enough for thousands of logs; commands keep it, since programs that use select() need it.

use std::io;
use std::sync::OnceLock;

use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};

/// What this process was started with: soft and hard.
static USUAL: OnceLock<(rlim_t, rlim_t)> = OnceLock::new();

/// Raises this process's limit as far as it may; returns it.
///
/// # Errors
/// The kernel refuses, which none does.
pub fn raise() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    USUAL.get_or_init(|| (soft, hard));
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard)
}

/// What commands are to have; none when nothing was raised.
pub fn usual() -> Option<(u64, u64)> {
    USUAL.get().copied()
}

/// Gives this process such a limit. Allocates and locks nothing.
///
/// # Errors
/// It is higher than what the process may have.
pub fn limit((soft, hard): (u64, u64)) -> io::Result<()> {
    Ok(setrlimit(Resource::RLIMIT_NOFILE, soft, hard)?)
}

/// Whether an error says that there is none left, for this process or for the machine.
pub fn are_used_up(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(nix::libc::EMFILE | nix::libc::ENFILE))
}
