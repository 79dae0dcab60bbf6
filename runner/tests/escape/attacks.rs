//! The attacks, as Perl programs: each says `done`, or the number of the error it got. (Perl calls the kernel directly and needs no
//! compiler.) What they aim at stands in their environment.

use nix::errno::Errno;

/// What became of an attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It went through.
    Done,
    /// It was refused.
    Refused(Errno),
}

impl Outcome {
    /// From what the program said.
    pub fn read(said: &str) -> Self {
        match said.trim() {
            "done" => Self::Done,
            number => Self::Refused(Errno::from_raw(number.parse().unwrap_or_else(|_| panic!("it said {said:?}")))),
        }
    }
}

/// One attack, or something that must work.
pub struct Attack {
    /// In the page's words.
    pub name: &'static str,
    /// What refuses it; `-` when nothing does.
    pub layer: &'static str,
    /// The program.
    pub script: &'static str,
    /// The error in profile `terraform`, and in `exec`; none where it goes through.
    pub errors: [Option<Errno>; 2],
    /// The machine refuses it without any sandbox, for want of hardware, a kernel's option or rights.
    pub refused_anyway: bool,
    /// Without a sandbox it takes rights over the whole machine.
    pub privileged: bool,
}

impl Attack {
    /// How it is to end.
    pub fn expected(&self, in_exec: bool) -> Outcome {
        self.errors[usize::from(in_exec)].map_or(Outcome::Done, Outcome::Refused)
    }

    const fn anyway(self) -> Self {
        Self { refused_anyway: true, ..self }
    }

    const fn privileged(self) -> Self {
        Self { privileged: true, ..self }
    }
}

const fn refused(name: &'static str, layer: &'static str, errno: Errno, script: &'static str) -> Attack {
    Attack { name, layer, script, errors: [Some(errno); 2], refused_anyway: false, privileged: false }
}

const fn file(name: &'static str, script: &'static str) -> Attack {
    refused(name, "files", Errno::EACCES, script)
}

const fn call(name: &'static str, script: &'static str) -> Attack {
    refused(name, "calls", Errno::EPERM, script)
}

const fn works(name: &'static str, script: &'static str) -> Attack {
    Attack { name, layer: "-", script, errors: [None; 2], refused_anyway: false, privileged: false }
}

/// What stands before each of them.
pub const PRELUDE: &str = r#"
use strict; use warnings; no warnings 'portable'; use Socket; use Fcntl; use POSIX ();
$| = 1; our %N; $N{$1} = $2 while ($ENV{NUMBERS} // '') =~ /(\w+)=(-?\d+)/g;
sub told { my ($ok) = @_; my $e = $! + 0; print $ok ? "done\n" : "$e\n"; POSIX::_exit(0) }
sub try_call { my ($name, @args) = @_; my $r = syscall($N{$name}, @args); told($r != -1) }
sub opened { my ($mode, $path) = @_; told(open(my $f, $mode, $path)) }
# sched_yield as i386 counts it, from machine code of its own; as the exit code of a child.
sub low_call { if ((POSIX::uname())[4] ne 'x86_64') { $! = 38; told(0) }
  my $c = "\xb8\x9e\0\0\0\xcd\x80\xf7\xd8\x89\xc7\xb8\xe7\0\0\0\x0f\x05"; my $p = fork;
  if (!$p) { my $m = syscall(9, 0, 4096, 7, 0x22, -1, 0); pipe(my $r, my $w); syswrite($w, $c); syscall(0, fileno($r), $m, length $c);
    require DynaLoader; DynaLoader::dl_install_xsub('main::low', $m); no strict 'refs'; &{'low'}() }
  waitpid($p, 0); my $e = $? >> 8; $! = $e; told($? == 0) }
sub tcp { my ($port, $host) = @_; socket(my $s, AF_INET, SOCK_STREAM, 0) or told(0);
  told(connect($s, sockaddr_in($port, inet_aton($host // '127.0.0.1')))) }
"#;

/// All of them, in the page's order.
pub const ALL: &[Attack] = &[
    // The runner.
    file("read the runner's credential", r#"opened('<', $ENV{SECRET});"#),
    file("read the runner's environment", r#"opened('<', "/proc/$ENV{VICTIM}/environ");"#),
    file("write the runner's memory", r#"opened('+<', "/proc/$ENV{VICTIM}/mem");"#).privileged(),
    file("read another process's command line", r#"opened('<', "/proc/$ENV{VICTIM}/cmdline");"#),
    file("list the processes", r#"told(opendir(my $d, '/proc'));"#),
    call("ptrace the runner", r#"try_call('ptrace', 0x4206, $ENV{VICTIM} + 0, 0, 0);"#).privileged(),
    call(
        "process_vm_readv from the runner",
        r#"my $b = "\0" x 8; my $i = pack('QQ', unpack('Q', pack('p', $b)), 0); try_call('process_vm_readv', $ENV{VICTIM} + 0, $i, 1, $i, 1, 0);"#,
    ).privileged(),
    call("take a descriptor of the runner's", r#"my $fd = syscall($N{pidfd_open}, $ENV{VICTIM} + 0, 0); told(0) if $fd < 0; try_call('pidfd_getfd', $fd, 0, 0);"#).privileged(),
    refused("signal the runner", "scopes", Errno::EPERM, r#"told(kill('CONT', $ENV{VICTIM} + 0));"#),
    file("tamper with the attempt's own records", r#"opened('>', "$ENV{RECORDS}/forged");"#),
    // A neighbour's work folder.
    file("list a neighbour's work folder", r#"told(opendir(my $d, $ENV{NEIGHBOUR}));"#),
    file("read a neighbour's file", r#"opened('<', "$ENV{NEIGHBOUR}/file");"#),
    file("write a neighbour's file", r#"opened('+<', "$ENV{NEIGHBOUR}/file");"#),
    refused("truncate a neighbour's file", "truncate", Errno::EACCES, r#"told(truncate("$ENV{NEIGHBOUR}/file", 0));"#),
    file("make a file at a neighbour's", r#"opened('>', "$ENV{NEIGHBOUR}/new.$$");"#),
    refused("link a neighbour's file to the own folder", "files", Errno::EXDEV, r#"told(link("$ENV{NEIGHBOUR}/file", "link.$$"));"#),
    file("remove a neighbour's file", r#"told(unlink("$ENV{NEIGHBOUR}/victim-$ENV{TURN}"));"#),
    works("chmod a neighbour's file, if its path is known", r#"told(chmod(0600, "$ENV{NEIGHBOUR}/file"));"#),
    works("watch a neighbour's folder, if its path is known", r#"my $fd = syscall($N{inotify_init1}, 0); my $p = $ENV{NEIGHBOUR}; try_call('inotify_add_watch', $fd, $p, 0x100);"#),
    works("ask whether a file is there, and its size", r#"told(defined((stat("$ENV{NEIGHBOUR}/file"))[7]));"#),
    // Elsewhere.
    file("write to /tmp", r#"my $p = "/tmp/tendril-escape.$$"; open(my $f, '>', $p) or told(0); told(unlink($p));"#),
    file("write to /dev/shm", r#"my $p = "/dev/shm/tendril-escape.$$"; open(my $f, '>', $p) or told(0); told(unlink($p));"#),
    file("read other settings of the machine", r#"opened('<', '/etc/hostname');"#),
    file("open a device that is not listed", r#"opened('+<', '/dev/ptmx');"#),
    // Programs.
    file("execute a dropped program", r#"my $p = "dropped.$$"; open(my $i, '<', $ENV{SAMPLE}) or told(0); open(my $o, '>', $p) or told(0); { local $/; print $o scalar <$i> } close $o; chmod 0755, $p; close(STDERR); my $r = system { "./$p" } $p, '-e', '1'; told($r == 0);"#),
    call("make a program in memory (memfd)", r#"my $n = 'x'; try_call('memfd_create', $n, 1);"#),
    Attack {
        name: "start a shell",
        layer: "files",
        script: r#"close(STDERR); my $r = system { '/bin/sh' } 'sh', '-c', ':'; told($r == 0);"#,
        errors: [Some(Errno::EACCES), None],
        refused_anyway: false,
        privileged: false,
    },
    call("make a file setuid", r#"open(my $f, '>', "own.$$") or told(0); told(chmod(04755, "own.$$"));"#),
    // Namespaces and roots.
    call("unshare a user namespace", r#"try_call('unshare', 0x10000000);"#).privileged(),
    call("clone into a user namespace", r#"my $r = syscall($N{clone}, 0x10000000 | 17, 0, 0, 0, 0); POSIX::_exit(0) if $r == 0; told($r != -1);"#).privileged(),
    refused("clone3", "calls", Errno::ENOSYS, r#"my $a = pack('Q11', (0) x 11); my $r = syscall($N{clone3}, $a, 88); POSIX::_exit(0) if $r == 0; told($r != -1);"#),
    call("mount", r#"my ($s, $t, $f) = ('none', $ENV{MOUNT}, 'tmpfs'); try_call('mount', $s, $t, $f, 0, 0);"#).privileged(),
    call("setns", r#"socket(my $s, AF_INET, SOCK_STREAM, 0); try_call('setns', fileno($s), 0);"#).anyway(),
    call("chroot", r#"told(chroot('.'));"#).privileged(),
    call("pivot_root", r#"my $p = '.'; try_call('pivot_root', $p, $p);"#).anyway(),
    call("open_tree", r#"my $p = '/'; try_call('open_tree', -100, $p, 0);"#).privileged(),
    // The kernel's corners.
    call("io_uring", r#"my $p = "\0" x 120; try_call('io_uring_setup', 1, $p);"#).anyway(),
    call("userfaultfd", r#"try_call('userfaultfd', 0);"#).anyway(),
    call("keyctl", r#"try_call('keyctl', 0, -3, 1);"#).anyway(),
    call("bpf", r#"my $a = "\0" x 72; try_call('bpf', 0, $a, 72);"#).anyway(),
    call("perf_event_open", r#"my $a = pack('LLQ', 1, 112, 0) . "\0" x 96; try_call('perf_event_open', $a, 0, -1, -1, 0);"#).anyway(),
    call("open_by_handle_at", r#"my $h = pack('LL', 8, 1) . "\0" x 8; try_call('open_by_handle_at', -100, $h, 0);"#).anyway(),
    call("type into a terminal (TIOCSTI)", r#"my $c = 'x'; told(ioctl(STDIN, 0x5412, $c));"#).anyway(),
    refused("a system call of i386 (int 0x80)", "calls", Errno::ENOSYS, r#"low_call();"#).anyway(),
    refused("a system call of x32", "calls", Errno::ENOSYS, r#"my $r = syscall(0x40000027); told($r != -1);"#).anyway(),
    // Sockets.
    call("AF_VSOCK", r#"told(socket(my $s, 40, 1, 0));"#).anyway(),
    call("AF_ALG", r#"told(socket(my $s, 38, 5, 0));"#).anyway(),
    call("AF_PACKET", r#"told(socket(my $s, 17, 3, 0));"#).privileged(),
    call("a raw socket", r#"told(socket(my $s, AF_INET, 3, 1));"#).privileged(),
    call("an MPTCP socket", r#"told(socket(my $s, AF_INET, SOCK_STREAM, 262));"#).anyway(),
    refused("TCP to the broker", "tcp", Errno::EACCES, r#"tcp($ENV{BROKER});"#),
    call("TCP to the broker by MSG_FASTOPEN", r#"socket(my $s, AF_INET, SOCK_STREAM, 0); told(defined send($s, 'x', 0x20000000, sockaddr_in($ENV{BROKER}, inet_aton('127.0.0.1'))));"#),
    call("TCP to the broker by TCP_FASTOPEN_CONNECT", r#"socket(my $s, AF_INET, SOCK_STREAM, 0); told(setsockopt($s, 6, 30, pack('l', 1)));"#),
    refused("TCP to the metadata address", "tcp", Errno::EACCES, r#"tcp(80, '169.254.169.254');"#).anyway(),
    refused("bind a TCP port", "tcp", Errno::EACCES, r#"socket(my $s, AF_INET, SOCK_STREAM, 0); told(bind($s, sockaddr_in(0, inet_aton('127.0.0.1'))));"#),
    works("listen on a port that the kernel picks, without bind", r#"socket(my $s, AF_INET, SOCK_STREAM, 0); told(listen($s, 1));"#),
    works("send UDP anywhere (unless `udp = false`)", r#"socket(my $s, AF_INET, SOCK_DGRAM, 0) or told(0); told(defined send($s, 'x', 0, sockaddr_in($ENV{BROKER}, inet_aton('127.0.0.1'))));"#),
    refused("connect to an abstract socket", "scopes", Errno::EPERM, r#"socket(my $s, AF_UNIX, SOCK_STREAM, 0); told(connect($s, pack('Sa*', AF_UNIX, "\0$ENV{ABSTRACT}")));"#),
    works("connect to a socket file elsewhere, if its mode allows", r#"socket(my $s, AF_UNIX, SOCK_STREAM, 0); told(connect($s, pack_sockaddr_un($ENV{SOCKET})));"#),
    // What outlives the job, or fills the machine.
    call("System V shared memory", r#"told(defined shmget(0, 4096, 0600 | 01000));"#),
    call("System V semaphores", r#"told(defined semget(0, 1, 0600 | 01000));"#),
    call("System V queues", r#"told(defined msgget(0, 0600 | 01000));"#),
    call("POSIX queues", r#"my $n = "tendril-escape-$$"; my $fd = syscall($N{mq_open}, $n, 0102, 0600, 0); syscall($N{mq_unlink}, $n) if $fd != -1; told($fd != -1);"#).anyway(),
    refused("a file above the limit", "limits", Errno::EFBIG, r#"$SIG{XFSZ} = 'IGNORE'; open(my $f, '>', "big.$$") or told(0); told(truncate($f, $ENV{LIMIT} + 1));"#),
    refused("an inherited descriptor", "descriptors", Errno::EBADF, r#"for (3 .. 1023) { next if syscall($N{fcntl}, $_, 1) == -1; my $p = syscall($N{fcntl}, $_, 1); told(1) if !($p & 1) } $! = 9; told(0);"#).anyway(),
    refused("regain a capability (chown)", "capabilities", Errno::EPERM, r#"open(my $f, '>', "chown.$$") or told(0); told(chown(12345, 12345, "chown.$$"));"#).anyway(),
    // What must work.
    works("**must work:** a file in the work folder, and its mode", r#"open(my $f, '>', "own.$$") or told(0); print $f 'x'; close $f; mkdir("d.$$") or told(0); rename("own.$$", "d.$$/own") or told(0); told(chmod(0755, "d.$$/own"));"#),
    works("**must work:** a plugin's socket under TMPDIR", r#"my $p = "$ENV{TMPDIR}/s.$$"; socket(my $l, AF_UNIX, SOCK_STREAM, 0); bind($l, pack_sockaddr_un($p)) or told(0); listen($l, 1) or told(0); socket(my $s, AF_UNIX, SOCK_STREAM, 0); told(connect($s, pack_sockaddr_un($p)));"#),
    works("**must work:** TCP to a port that is listed", r#"tcp($ENV{ALLOWED});"#),
    works("**must work:** resolving a name", r#"told(defined inet_aton('localhost'));"#),
    works("**must work:** fork, and execute the listed program", r#"close(STDERR); my $r = system { $^X } 'perl', '-e', '1'; told($r == 0);"#),
    works("**must work:** certificates, time zones, randomness, /dev/null", r#"opendir(my $d, '/etc/ssl/certs') or told(0); open(my $r, '<', '/dev/urandom') or told(0); sysread($r, my $b, 8) == 8 or told(0); open(my $n, '>', '/dev/null') or told(0); told(print $n 'x');"#),
    works("**must work:** memory that cannot be executed (memfd, sealed)", r#"my $n = 'x'; try_call('memfd_create', $n, 8);"#),
    works("**must work:** signals within the job", r#"my $p = fork; if (!$p) { sleep 60; POSIX::_exit(0) } told(kill('KILL', $p) && waitpid($p, 0) == $p);"#),
];
