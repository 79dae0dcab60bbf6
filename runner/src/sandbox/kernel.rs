//! What this machine can do, asked once per command: a handful of system calls.

use super::calls::Processor;
use nix::libc;
use nix::sys::utsname::uname;
use nix::unistd::geteuid;
use std::sync::OnceLock;

/// What the kernel and the rights of this process allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// As it names itself, for people.
    pub release: String,
    /// Landlock's ABI; 0 without Landlock.
    pub landlock: u32,
    /// Whether it takes filters of system calls.
    pub seccomp: bool,
    /// The processor, if its filter is known.
    pub processor: Option<Processor>,
    /// Whether this process is root, whose number of processes is not limited.
    pub root: bool,
}

impl Kernel {
    /// What is here.
    #[must_use]
    pub fn detect() -> Self {
        static RELEASE: OnceLock<String> = OnceLock::new();
        let release = RELEASE.get_or_init(|| {
            uname().map_or_else(|_| "unknown".to_owned(), |name| name.release().to_string_lossy().into_owned())
        });
        Self {
            release: release.clone(),
            landlock: landlock_abi(),
            seccomp: takes_filters(),
            processor: Processor::here(),
            root: geteuid().is_root(),
        }
    }
}

#[expect(unsafe_code, reason = "the crate keeps the number to itself")]
fn landlock_abi() -> u32 {
    const VERSION: libc::c_uint = 1;
    let nothing: *const libc::c_void = std::ptr::null();
    // SAFETY: with this flag and no attributes the kernel reads no memory and only answers with a number.
    let abi = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, nothing, 0usize, VERSION) };
    u32::try_from(abi).unwrap_or(0)
}

#[expect(unsafe_code, reason = "nix has no wrapper for this system call")]
fn takes_filters() -> bool {
    const GET_ACTION_AVAIL: libc::c_uint = 2;
    let action: u32 = libc::SECCOMP_RET_ERRNO;
    // SAFETY: the kernel reads the four bytes that are pointed to, and changes nothing.
    unsafe { libc::syscall(libc::SYS_seccomp, GET_ACTION_AVAIL, 0, &raw const action) == 0 }
}
