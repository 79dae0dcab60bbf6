//! The launcher: a process that becomes supervisors by forking.
//!
//! To load the runner's binary takes longer than all that a supervisor does for a short command, and a fork of the runner
//! copies the page tables of all its threads' memory and makes it pay for each page that it touches afterwards. So the binary is loaded
//! once, into a process that has one thread and nearly no memory, and that one forks.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::prctl;
use nix::sys::signal::SigSet;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use nix::sys::stat::{Mode, SFlag, fstat, umask};
use nix::unistd::{dup2_stdin, setsid};

/// Serves the runner until it hangs up. Returns a second time in each new supervisor, with its control socket.
///
/// # Errors
/// This process was not started by a runner, or lost touch with it.
pub(super) fn serve() -> io::Result<Option<OwnedFd>> {
    let socket = become_launcher()?;
    while let Some(control) = asked_for_one(&socket)? {
        match fork_sibling() {
            Ok(Some(pid)) => answer(&socket, pid)?,
            Ok(None) => {
                // A session of its own from the first moment: its members are found by it should the supervisor be killed.
                setsid()?;
                return Ok(Some(control));
            }
            Err(errno) => answer(&socket, -(errno as i32))?,
        }
    }
    Ok(None)
}

/// Leaves the runner's world: no signal, descriptor or file mode of it reaches in here, nor into what is forked from here. Returns
/// the socket of the runner's wishes, which came as standard input.
fn become_launcher() -> io::Result<OwnedFd> {
    let kind = SFlag::from_bits_truncate(fstat(io::stdin())?.st_mode & SFlag::S_IFMT.bits());
    if kind != SFlag::S_IFSOCK {
        return Err(io::Error::other("only a runner starts its supervisors, see --help"));
    }
    SigSet::all().thread_set_mask()?;
    umask(Mode::from_bits_truncate(0o077));
    close_from(3);
    // Same user or not, no job reads this process's memory or descriptors.
    prctl::set_dumpable(false)?;
    prctl::set_name(c"tendril-launch")?;
    let raw = fcntl(io::stdin(), FcntlArg::F_DUPFD_CLOEXEC(3))?;
    dup2_stdin(File::open("/dev/null")?)?;
    Ok(own(raw))
}

/// Waits for the runner's next wish: the control socket for one supervisor. None when the runner has hung up.
fn asked_for_one(socket: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    let mut byte = [0];
    let mut space = cmsg_space!(RawFd);
    let mut data = [IoSliceMut::new(&mut byte)];
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut data, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let rights = message.cmsgs()?.find_map(|part| match part {
        ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
        _ => None,
    });
    Ok(rights.map(own))
}

fn answer(socket: &OwnedFd, number: i32) -> io::Result<()> {
    let bytes = number.to_ne_bytes();
    let sent = sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(&bytes)], &[], MsgFlags::MSG_NOSIGNAL, None);
    match sent {
        // The runner died meanwhile, which the next look tells; its new supervisor sees its socket closed too.
        Ok(_) | Err(Errno::EPIPE | Errno::ECONNRESET) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Forks a child of the *runner*, which is the one to wait for it; none in the child.
#[expect(unsafe_code, reason = "no wrapper forks a sibling")]
fn fork_sibling() -> Result<Option<i32>, Errno> {
    let flags = libc::c_long::from(libc::CLONE_PARENT | libc::SIGCHLD);
    // SAFETY: as fork(2): no shared memory, no new stack, no thread ids to be written. This process has one thread, so no
    // lock of the C library is held by another in the copy; that its fork handlers do not run harms nobody, there are none.
    // The arguments that differ in order between architectures are all null.
    let pid = Errno::result(unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) })?;
    Ok(i32::try_from(pid).ok().filter(|pid| *pid != 0))
}

#[expect(unsafe_code, reason = "descriptors arrive as bare numbers")]
fn own(raw: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for the caller, who passes it on to nobody else.
    unsafe { OwnedFd::from_raw_fd(raw) }
}

/// Closes what a library in the runner may have opened without close-on-exec.
#[expect(unsafe_code, reason = "nix has no wrapper for this system call")]
fn close_from(first: libc::c_uint) {
    // SAFETY: called before this process has opened anything, so no Rust value owns one of these descriptors.
    unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) };
}
