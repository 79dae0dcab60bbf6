//! The table of system calls as programs for the kernel.

use super::calls::{ABSENT, Call, Processor, REFUSED, Test, refused_with};
use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
};
use std::collections::BTreeMap;

const EPERM: u32 = libc::EPERM.unsigned_abs();
const ENOSYS: u32 = libc::ENOSYS.unsigned_abs();
/// Calls with this bit and above are x32's.
const X32: u32 = 0x4000_0000;

/// The filters for a processor, in the order in which they are installed. A call goes through all of them.
///
/// # Errors
/// The table cannot be compiled, which a test would have found.
pub(super) fn programs(processor: Processor, udp: bool) -> Result<[BpfProgram; 2], seccompiler::Error> {
    let absent = ABSENT.into_iter().map(|call| (call, Vec::new())).collect();
    let refused = REFUSED.into_iter().map(|call| (call, Vec::new())).chain(refused_with(udp)).collect();
    let mut programs = [compile(processor, absent, ENOSYS)?, compile(processor, refused, EPERM)?];
    for program in &mut programs {
        // Before each: what the compiler puts first would kill, and the strictest of all filters counts.
        program.splice(0..0, other_abis(processor));
    }
    Ok(programs)
}

fn compile(
    processor: Processor,
    table: Vec<(Call, Vec<Vec<Test>>)>,
    errno: u32,
) -> Result<BpfProgram, seccompiler::Error> {
    let (column, target) = match processor {
        Processor::X86_64 => (0, TargetArch::x86_64),
        Processor::Aarch64 => (1, TargetArch::aarch64),
    };
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for (call, reasons) in table.into_iter().filter(|(call, _)| call.numbers[column] >= 0) {
        let reasons = reasons.iter().map(|tests| {
            let conditions = tests.iter().map(condition).collect::<Result<_, _>>()?;
            SeccompRule::new(conditions)
        });
        rules.insert(call.numbers[column], reasons.collect::<Result<_, _>>()?);
    }
    SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno), target)?
        .try_into()
        .map_err(seccompiler::Error::from)
}

fn condition(test: &Test) -> Result<SeccompCondition, seccompiler::BackendError> {
    let (argument, operator, value) = match *test {
        Test::Is(argument, value) => (argument, SeccompCmpOp::Eq, value),
        Test::IsNot(argument, value) => (argument, SeccompCmpOp::Ne, value),
        Test::Masked(argument, mask, value) => (argument, SeccompCmpOp::MaskedEq(mask.into()), value),
    };
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value.into())
}

/// Refuses the calls of i386 and x32, which have other numbers, as a kernel without them would.
fn other_abis(processor: Processor) -> Vec<sock_filter> {
    const LOAD_WORD: u16 = 0x20;
    const IF_EQUAL: u16 = 0x15;
    const IF_AT_LEAST: u16 = 0x35;
    const RETURN: u16 = 0x06;
    const NUMBER: u32 = 0;
    const ARCHITECTURE: u32 = 4;
    let (audit, jump_over) = match processor {
        Processor::X86_64 => (0xC000_003E, 2),
        Processor::Aarch64 => (0xC000_00B7, 2),
    };
    let instruction = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    vec![
        instruction(LOAD_WORD, 0, 0, ARCHITECTURE),
        instruction(IF_EQUAL, 0, jump_over, audit),
        instruction(LOAD_WORD, 0, 0, NUMBER),
        instruction(IF_AT_LEAST, 0, 1, X32),
        instruction(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | ENOSYS),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::cases::{Case, cases, programs_for};
    use super::*;

    const BOTH: [Processor; 2] = [Processor::X86_64, Processor::Aarch64];
    const AUDIT: [u32; 2] = [0xC000_003E, 0xC000_00B7];
    const I386: u32 = 0x4000_0003;
    const ALLOWED: u32 = 0;

    /// What the kernel does with such programs, for the instructions that stand in them.
    fn execute(program: &[sock_filter], data: &[u32; 16]) -> u32 {
        let (mut at, mut value) = (0, 0);
        loop {
            let one = &program[at];
            let jump = |taken| usize::from(if taken { one.jt } else { one.jf });
            at += 1;
            match one.code {
                0x20 => value = data[usize::try_from(one.k).unwrap() / 4],
                0x54 => value &= one.k,
                0x05 => at += usize::try_from(one.k).unwrap(),
                0x15 => at += jump(value == one.k),
                0x25 => at += jump(value > one.k),
                0x35 => at += jump(value >= one.k),
                0x06 => return one.k,
                other => panic!("an instruction {other:#x} that is not known here"),
            }
        }
    }

    /// The error number that a call gets, 0 for none; the strictest of all filters counts.
    fn verdict(programs: &[BpfProgram; 2], audit: u32, number: i64, arguments: &[u64]) -> u32 {
        let mut data = [0; 16];
        data[0] = u32::try_from(number).unwrap();
        data[1] = audit;
        for (index, argument) in arguments.iter().enumerate() {
            data[4 + 2 * index] = (*argument & 0xffff_ffff) as u32;
            data[5 + 2 * index] = (*argument >> 32) as u32;
        }
        let results = programs.each_ref().map(|program| execute(program, &data));
        // As the kernel orders them: signed, and the lowest is the strictest; of two alike, the one installed last.
        let strictest = results.into_iter().rev().min_by_key(|result| (result & 0xffff_0000).cast_signed()).unwrap();
        match strictest & 0xffff_0000 {
            libc::SECCOMP_RET_ALLOW => ALLOWED,
            libc::SECCOMP_RET_ERRNO => strictest & 0xffff,
            other => panic!("{other:#x} is no error number"),
        }
    }

    #[test]
    fn what_is_refused_is_refused_on_both_processors_and_what_programs_need_goes_through() {
        for (column, processor) in BOTH.into_iter().enumerate() {
            for udp in [true, false] {
                let programs = programs(processor, udp).unwrap();
                let cases = cases(processor, udp);
                assert!(cases.iter().filter(|case| case.number.is_some()).count() > 100);
                for Case { name, number, arguments, errno } in cases {
                    let Some(number) = number else { continue };
                    let got = verdict(&programs, AUDIT[column], number, &arguments);
                    assert_eq!(got, errno.unsigned_abs(), "{name} {arguments:x?} on {processor:?}, udp {udp}");
                }
            }
        }
        // read, write, execve, exit_group
        for (column, numbers) in [[0, 1, 59, 231], [63, 64, 221, 94]].into_iter().enumerate() {
            let programs = programs(BOTH[column], true).unwrap();
            numbers.into_iter().for_each(|number| assert_eq!(verdict(&programs, AUDIT[column], number, &[]), ALLOWED));
        }
    }

    #[test]
    fn what_is_installed_is_what_is_tried_in_an_emulator() {
        let program = &programs(Processor::Aarch64, true).unwrap()[0];
        let bytes = &programs_for(Processor::Aarch64, true).unwrap()[0];
        let read = |eight: &[u8]| {
            let half = |at: usize| u16::from_le_bytes([eight[at], eight[at + 1]]);
            sock_filter { code: half(0), jt: eight[2], jf: eight[3], k: u32::from(half(4)) | u32::from(half(6)) << 16 }
        };
        assert_eq!(&bytes.chunks_exact(8).map(read).collect::<Vec<_>>(), program);
    }

    #[test]
    fn other_abis_have_no_calls_at_all() {
        let programs = programs(Processor::X86_64, true).unwrap();
        // getpid as i386 and as x32 count it, ptrace as x32 does.
        assert_eq!(verdict(&programs, I386, 20, &[]), ENOSYS);
        assert_eq!(verdict(&programs, AUDIT[0], 0x4000_0027, &[]), ENOSYS);
        assert_eq!(verdict(&programs, AUDIT[0], 0x4000_0209, &[]), ENOSYS);
    }

    #[test]
    fn the_numbers_are_those_of_the_c_library() {
        let column = usize::from(cfg!(target_arch = "aarch64"));
        let all = REFUSED.into_iter().chain(ABSENT).chain(refused_with(true).into_iter().map(|(call, _)| call));
        let number = |name: &str| all.clone().find(|call| call.name == name).unwrap().numbers[column];
        macro_rules! same {
            ($($name:literal $constant:ident)*) => { $(assert_eq!(number($name), libc::$constant, $name);)* };
        }
        same!("ptrace" SYS_ptrace "process_vm_readv" SYS_process_vm_readv "process_vm_writev" SYS_process_vm_writev
            "pidfd_getfd" SYS_pidfd_getfd "kcmp" SYS_kcmp "mount" SYS_mount "umount2" SYS_umount2
            "pivot_root" SYS_pivot_root "chroot" SYS_chroot "open_tree" SYS_open_tree "move_mount" SYS_move_mount
            "fsopen" SYS_fsopen "fsconfig" SYS_fsconfig "fsmount" SYS_fsmount "fspick" SYS_fspick
            "mount_setattr" SYS_mount_setattr "swapon" SYS_swapon "swapoff" SYS_swapoff "quotactl" SYS_quotactl
            "quotactl_fd" SYS_quotactl_fd "acct" SYS_acct "open_by_handle_at" SYS_open_by_handle_at
            "fanotify_init" SYS_fanotify_init "setns" SYS_setns "bpf" SYS_bpf "perf_event_open" SYS_perf_event_open
            "userfaultfd" SYS_userfaultfd "io_uring_setup" SYS_io_uring_setup "io_uring_enter" SYS_io_uring_enter
            "io_uring_register" SYS_io_uring_register "add_key" SYS_add_key "request_key" SYS_request_key
            "keyctl" SYS_keyctl "memfd_secret" SYS_memfd_secret "lookup_dcookie" SYS_lookup_dcookie
            "init_module" SYS_init_module "finit_module" SYS_finit_module "delete_module" SYS_delete_module
            "kexec_load" SYS_kexec_load "kexec_file_load" SYS_kexec_file_load "reboot" SYS_reboot
            "settimeofday" SYS_settimeofday "clock_settime" SYS_clock_settime "sethostname" SYS_sethostname
            "setdomainname" SYS_setdomainname "syslog" SYS_syslog "vhangup" SYS_vhangup "shmget" SYS_shmget
            "shmat" SYS_shmat "semget" SYS_semget "msgget" SYS_msgget "mq_open" SYS_mq_open
            "personality" SYS_personality "clone3" SYS_clone3 "openat2" SYS_openat2 "clone" SYS_clone
            "unshare" SYS_unshare "socket" SYS_socket "sendto" SYS_sendto "sendmsg" SYS_sendmsg
            "sendmmsg" SYS_sendmmsg "setsockopt" SYS_setsockopt "ioctl" SYS_ioctl "memfd_create" SYS_memfd_create
            "fchmod" SYS_fchmod "fchmodat" SYS_fchmodat "openat" SYS_openat "mknodat" SYS_mknodat);
        #[cfg(target_arch = "x86_64")]
        same!("iopl" SYS_iopl "ioperm" SYS_ioperm "modify_ldt" SYS_modify_ldt "uselib" SYS_uselib "chmod" SYS_chmod
            "creat" SYS_creat "open" SYS_open "mknod" SYS_mknod);
    }
}
