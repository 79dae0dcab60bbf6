//! System calls with arguments, and what becomes of them: for the tests here, and for those that run in an emulator.

use super::calls::{ABSENT, CLONE, Call, IOCTL, MEMFD_CREATE, Processor, REFUSED, SENDMSG, SENDTO, SETSOCKOPT, SOCKET};
use super::calls::{SENDMMSG, UNSHARE, refused_with};
use super::filter;
use nix::libc;

const EPERM: i32 = libc::EPERM;
const ENOSYS: i32 = libc::ENOSYS;
const ALLOWED: i32 = 0;

/// A call, and its verdict.
#[derive(Clone, Debug)]
pub struct Case {
    /// The call's name.
    pub name: &'static str,
    /// Its number; none where the processor has no such call.
    pub number: Option<i64>,
    /// Its first arguments; the others are 0.
    pub arguments: Vec<u64>,
    /// The number of the error that the filter gives, 0 if it lets the call through.
    pub errno: i32,
}

/// The filter's programs for a processor, as the kernel takes them: instructions of 8 bytes, in the order in which they are installed.
///
/// # Errors
/// The table cannot be compiled.
pub fn programs_for(processor: Processor, udp: bool) -> Result<[Vec<u8>; 2], seccompiler::Error> {
    let bytes = |program: &seccompiler::BpfProgram| {
        let one = |one: &seccompiler::sock_filter| {
            [&one.code.to_le_bytes()[..], &[one.jt, one.jf], &one.k.to_le_bytes()].concat()
        };
        program.iter().flat_map(one).collect()
    };
    Ok(filter::programs(processor, udp)?.each_ref().map(bytes))
}

/// All cases for a processor.
#[must_use]
pub fn cases(processor: Processor, udp: bool) -> Vec<Case> {
    let column = usize::from(processor == Processor::Aarch64);
    let plain = |calls: &[Call], errno| calls.iter().map(|call| (*call, Vec::new(), errno)).collect::<Vec<_>>();
    let mut all = [plain(&REFUSED, EPERM), plain(&ABSENT, ENOSYS), with_arguments(), with_modes()].concat();
    let verdict = if udp { ALLOWED } else { EPERM };
    all.extend([
        (SOCKET, vec![2, 2 | 0x80000, 0], verdict),
        (SOCKET, vec![2, 2, 17], verdict),
        (SOCKET, vec![10, 2, 0], verdict),
    ]);
    let case = |(call, arguments, errno): (Call, Vec<u64>, i32)| {
        let number = Some(call.numbers[column]).filter(|number| *number >= 0);
        Case { name: call.name, number, arguments, errno }
    };
    all.into_iter().map(case).collect()
}

fn with_arguments() -> Vec<(Call, Vec<u64>, i32)> {
    let of = |errno: i32| move |(call, arguments): (Call, &[u64])| (call, arguments.to_vec(), errno);
    let refused: [(Call, &[u64]); 22] = [
        (CLONE, &[0x1000_0011]),
        (CLONE, &[0x4000_0011]),
        (UNSHARE, &[0x80]),
        (UNSHARE, &[0x0002_0000]),
        (SOCKET, &[17, 3, 3]),
        (SOCKET, &[38, 5, 0]),
        (SOCKET, &[40, 1, 0]),
        (SOCKET, &[2, 3, 1]),
        (SOCKET, &[10, 3 | 0x80000, 58]),
        (SOCKET, &[2, 1, 262]),
        (SOCKET, &[2, 2, 1]),
        (SOCKET, &[16, 3, 15]),
        (SENDTO, &[3, 0, 0, 0x2000_0000, 0, 0]),
        (SENDTO, &[3, 0, 0, 0x2000_4000, 0, 0]),
        (SENDMSG, &[3, 0, 0x2000_0000]),
        (SENDMMSG, &[3, 0, 0, 0x2000_0000]),
        (SETSOCKOPT, &[3, 6, 30]),
        (SETSOCKOPT, &[3, 6, 23]),
        (IOCTL, &[0, 0x5412]),
        (MEMFD_CREATE, &[0, 1]),
        // Upper halves of arguments, which the kernel does not look at.
        (IOCTL, &[0, 0xffff_ffff_0000_5412]),
        (SOCKET, &[0x1_0000_0002, 1, 262]),
    ];
    let allowed: [(Call, &[u64]); 14] = [
        (CLONE, &[0x0000_0011]),
        (CLONE, &[0x003d_0f00]),
        (UNSHARE, &[0x200]),
        (SOCKET, &[1, 1 | 0x80000, 0]),
        (SOCKET, &[2, 1 | 0x80800, 6]),
        (SOCKET, &[10, 1, 0]),
        (SOCKET, &[16, 3, 0]),
        (SENDTO, &[3, 0, 0, 0x4000, 0, 0]),
        (SENDMSG, &[3, 0, 0x4000]),
        (SENDMMSG, &[3, 0, 0, 0x4000]),
        (SETSOCKOPT, &[3, 6, 1]),
        (SETSOCKOPT, &[3, 1, 30]),
        (IOCTL, &[0, 0x5401]),
        (MEMFD_CREATE, &[0, 8]),
    ];
    refused.into_iter().map(of(EPERM)).chain(allowed.into_iter().map(of(ALLOWED))).collect()
}

/// Setuid bits are refused, plain modes are not.
fn with_modes() -> Vec<(Call, Vec<u64>, i32)> {
    let before = |call: &Call| match call.name {
        "chmod" | "fchmod" | "creat" | "mknod" => Some(vec![0]),
        "fchmodat" | "fchmodat2" | "mknodat" => Some(vec![0, 0]),
        "open" => Some(vec![0, 0o102]),
        "openat" => Some(vec![0, 0, 0o102]),
        _ => None,
    };
    let calls = refused_with(true).into_iter().filter_map(|(call, _)| Some((call, before(&call)?)));
    let modes = [(0o755, ALLOWED), (0o4755, EPERM), (0o2755, EPERM)];
    calls
        .flat_map(|(call, before)| modes.map(|(mode, errno)| (call, [before.clone(), vec![mode]].concat(), errno)))
        .collect()
}
