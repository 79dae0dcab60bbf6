//! Signals that cannot hit a stranger: a pid may be reused between looking and sending, a pidfd cannot.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// A handle to the process that has this pid now.
#[expect(unsafe_code, reason = "nix has no wrapper for this system call")]
pub(super) fn open(pid: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: takes two integers and touches no memory of ours.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    let fd = RawFd::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just made this descriptor for us, with close-on-exec, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends a signal to exactly the process behind the handle; ESRCH when it is gone.
#[expect(unsafe_code, reason = "nix has no wrapper for this system call")]
pub(super) fn send(process: &OwnedFd, signal: libc::c_int) -> Result<(), Errno> {
    let no_info: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: the descriptor is open as long as the borrow lives, and a null siginfo asks for the plain one of kill(2).
    let done = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), signal, no_info, 0) };
    Errno::result(done).map(drop)
}

/// Whether the process has ended, be it reaped or not.
pub(super) fn is_dead(process: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}
