//! The system calls that no job needs: a table, for both processors.
//!
//! It refuses what is listed and lets all else through: a list of what programs may call would have to grow with every
//! engine, provider and C library. What a filter cannot see are paths and addresses, which are Landlock's.

/// A processor whose numbers are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Processor {
    /// x86-64, whose kernels may also take the calls of i386 and x32.
    X86_64,
    /// aarch64.
    Aarch64,
}

impl Processor {
    /// The one that this program was built for.
    pub(super) fn here() -> Option<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Some(Self::X86_64),
            "aarch64" => Some(Self::Aarch64),
            _ => None,
        }
    }
}

/// What an argument is compared with; all are `int`s to the kernel, or `unsigned int`s.
#[derive(Clone, Copy, Debug)]
pub(super) enum Test {
    /// Argument, value: they are equal.
    Is(u8, u32),
    /// Argument, value: they differ.
    IsNot(u8, u32),
    /// Argument, mask, value: they are equal as far as the mask goes.
    Masked(u8, u32, u32),
}

/// One call: its numbers on x86-64 and aarch64; -1 where there is none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) name: &'static str,
    pub(super) numbers: [i64; 2],
}

const fn call(name: &'static str, x86_64: i64, aarch64: i64) -> Call {
    Call { name, numbers: [x86_64, aarch64] }
}

/// Refused whatever their arguments: EPERM.
pub(super) const REFUSED: [Call; 58] = [
    // Other processes' memory and descriptors.
    call("ptrace", 101, 117),
    call("process_vm_readv", 310, 270),
    call("process_vm_writev", 311, 271),
    call("pidfd_getfd", 438, 438),
    call("kcmp", 312, 272),
    // File systems and roots.
    call("mount", 165, 40),
    call("umount2", 166, 39),
    call("pivot_root", 155, 41),
    call("chroot", 161, 51),
    call("open_tree", 428, 428),
    call("open_tree_attr", 467, 467),
    call("move_mount", 429, 429),
    call("fsopen", 430, 430),
    call("fsconfig", 431, 431),
    call("fsmount", 432, 432),
    call("fspick", 433, 433),
    call("mount_setattr", 442, 442),
    call("swapon", 167, 224),
    call("swapoff", 168, 225),
    call("quotactl", 179, 60),
    call("quotactl_fd", 443, 443),
    call("acct", 163, 89),
    // Files past their folders, and news of all files.
    call("open_by_handle_at", 304, 265),
    call("fanotify_init", 300, 262),
    // Other namespaces.
    call("setns", 308, 268),
    // Parts of the kernel where most holes were.
    call("bpf", 321, 280),
    call("perf_event_open", 298, 241),
    call("userfaultfd", 323, 282),
    call("io_uring_setup", 425, 425),
    call("io_uring_enter", 426, 426),
    call("io_uring_register", 427, 427),
    call("add_key", 248, 217),
    call("request_key", 249, 218),
    call("keyctl", 250, 219),
    call("memfd_secret", 447, 447),
    call("lookup_dcookie", 212, 18),
    // The kernel itself and the machine.
    call("init_module", 175, 105),
    call("finit_module", 313, 273),
    call("delete_module", 176, 106),
    call("kexec_load", 246, 104),
    call("kexec_file_load", 320, 294),
    call("reboot", 169, 142),
    call("settimeofday", 164, 170),
    call("clock_settime", 227, 112),
    call("sethostname", 170, 161),
    call("setdomainname", 171, 162),
    call("syslog", 103, 116),
    call("vhangup", 153, 58),
    call("iopl", 172, -1),
    call("ioperm", 173, -1),
    call("modify_ldt", 154, -1),
    call("uselib", 134, -1),
    // What outlives its maker, and is in no folder.
    call("shmget", 29, 194),
    call("shmat", 30, 196),
    call("semget", 64, 190),
    call("msgget", 68, 186),
    call("mq_open", 240, 180),
    call("personality", 135, 92),
];

/// Refused as if this kernel had none of them, since what they are to do is where a filter cannot look; programs know to do
/// without: ENOSYS.
pub(super) const ABSENT: [Call; 2] = [call("clone3", 435, 435), call("openat2", 437, 437)];

pub(super) const CLONE: Call = call("clone", 56, 220);
pub(super) const UNSHARE: Call = call("unshare", 272, 97);
pub(super) const SOCKET: Call = call("socket", 41, 198);
pub(super) const SENDTO: Call = call("sendto", 44, 206);
pub(super) const SENDMSG: Call = call("sendmsg", 46, 211);
pub(super) const SENDMMSG: Call = call("sendmmsg", 307, 269);
pub(super) const SETSOCKOPT: Call = call("setsockopt", 54, 208);
pub(super) const IOCTL: Call = call("ioctl", 16, 29);
pub(super) const MEMFD_CREATE: Call = call("memfd_create", 319, 279);
const CHMOD: Call = call("chmod", 90, -1);
const FCHMOD: Call = call("fchmod", 91, 52);
const FCHMODAT: Call = call("fchmodat", 268, 53);
const FCHMODAT2: Call = call("fchmodat2", 452, 452);
const CREAT: Call = call("creat", 85, -1);
const OPEN: Call = call("open", 2, -1);
const OPENAT: Call = call("openat", 257, 56);
const MKNOD: Call = call("mknod", 133, -1);
const MKNODAT: Call = call("mknodat", 259, 33);

const NAMESPACES: [u32; 7] =
    [0x0002_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000];
/// Only `unshare` takes it; to `clone` these bits are a signal.
const TIME_NAMESPACE: u32 = 0x80;

const UNIX: u32 = 1;
const INET: u32 = 2;
const INET6: u32 = 10;
const NETLINK: u32 = 16;
const NETLINK_ROUTE: u32 = 0;
const TCP: u32 = 6;
const UDP: u32 = 17;
const DATAGRAM: u32 = 2;
/// The kind of a socket without its flags.
const KIND: u32 = 0xf;
/// Raw, reliably delivered, sequenced packets, DCCP, packets.
const ODD_KINDS: [u32; 5] = [3, 4, 5, 6, 10];

const FASTOPEN: u32 = 0x2000_0000;
const FASTOPEN_OPTIONS: [u32; 2] = [23, 30];
const NEVER_EXECUTABLE: u32 = 8;
const SETUID: u32 = 0o4000;
const SETGID: u32 = 0o2000;
const O_CREAT: u32 = 0o100;
const TERMINAL_INPUT: [u32; 2] = [0x5412, 0x541c];

/// Refused with some arguments: each list of tests that all hold is one reason.
pub(super) fn refused_with(udp: bool) -> Vec<(Call, Vec<Vec<Test>>)> {
    use Test::{Is, IsNot, Masked};
    let flag = |argument, flag| vec![Masked(argument, flag, flag)];
    let bits = |argument| vec![flag(argument, SETUID), flag(argument, SETGID)];
    let made_with = |flags, mode| {
        [SETUID, SETGID].map(|bit| vec![Masked(flags, O_CREAT, O_CREAT), Masked(mode, bit, bit)]).to_vec()
    };
    let mut sockets = vec![
        [UNIX, INET, INET6, NETLINK].map(|family| IsNot(0, family)).to_vec(),
        // Without the others, such as raw sockets, MPTCP and SCTP, which no rule of ports covers.
        vec![Is(0, NETLINK), IsNot(2, NETLINK_ROUTE)],
    ];
    for family in [INET, INET6] {
        sockets.push(vec![Is(0, family), IsNot(2, 0), IsNot(2, TCP), IsNot(2, UDP)]);
        sockets.extend(ODD_KINDS.map(|kind| vec![Is(0, family), Masked(1, KIND, kind)]));
        if !udp {
            sockets.push(vec![Is(0, family), Masked(1, KIND, DATAGRAM)]);
        }
    }
    vec![
        (CLONE, NAMESPACES.map(|bit| flag(0, bit)).to_vec()),
        (UNSHARE, NAMESPACES.into_iter().chain([TIME_NAMESPACE]).map(|bit| flag(0, bit)).collect()),
        (SOCKET, sockets),
        (SENDTO, vec![flag(3, FASTOPEN)]),
        (SENDMSG, vec![flag(2, FASTOPEN)]),
        (SENDMMSG, vec![flag(3, FASTOPEN)]),
        (SETSOCKOPT, FASTOPEN_OPTIONS.map(|option| vec![Is(1, TCP), Is(2, option)]).to_vec()),
        // Typing into somebody's terminal.
        (IOCTL, TERMINAL_INPUT.map(|request| vec![Is(1, request)]).to_vec()),
        // A program in memory is in no folder.
        (MEMFD_CREATE, vec![vec![Masked(1, NEVER_EXECUTABLE, 0)]]),
        (CHMOD, bits(1)),
        (FCHMOD, bits(1)),
        (FCHMODAT, bits(2)),
        (FCHMODAT2, bits(2)),
        (CREAT, bits(1)),
        (MKNOD, bits(1)),
        (MKNODAT, bits(2)),
        (OPEN, made_with(1, 2)),
        (OPENAT, made_with(2, 3)),
    ]
}
