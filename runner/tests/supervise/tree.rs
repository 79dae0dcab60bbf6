//! Daemons, bombs and memory: everything below the command.

use tendril_runner::supervise::{Certainty, Exit, StopReason};

use super::support::{Bed, StandIn, alive, exists, finish, line, marker, run, spawn};

#[tokio::test]
async fn a_daemon_that_left_session_group_and_pipes_is_dead_when_the_command_is() {
    let bed = Bed::new();
    // The parent leaves only when the daemon has written its pid, so the daemon is complete.
    let script = r#"use POSIX; pipe(my $r, my $w);
        if (!fork) {
            POSIX::setsid(); fork and POSIX::_exit(0);
            $SIG{$_} = "IGNORE" for qw(INT TERM HUP);
            syswrite $w, "$$\n"; POSIX::close($_) for 0..9; while (1) { sleep 100 }
        }
        my $pid = <$r>; syswrite STDOUT, $pid; exit 0"#;
    let outcome = run(bed.perl(script)).await;
    let daemon: i32 = outcome.text().trim().parse().expect("a pid");
    assert!(!exists(daemon), "the daemon lives");
    assert_eq!(outcome.record.exit, Exit::Success);
    assert_eq!(outcome.record.killed_descendants, 1);
}

#[tokio::test]
async fn a_daemon_that_holds_the_pipe_does_not_keep_its_reader_waiting() {
    let bed = Bed::new();
    let outcome = run(bed.bash("setsid sleep 1000 & echo done")).await;
    assert_eq!(outcome.text(), "done\n");
    assert_eq!(outcome.record.exit, Exit::Success);
}

#[tokio::test]
async fn a_tree_that_grows_while_it_is_killed_is_killed() {
    let bed = Bed::new();
    let mark = marker();
    // 31 processes, each in a session of its own and deaf. Every leaf (16) then flees from process to process,
    // at most 100 times and for 20 s, whichever comes first: a bomb with a fuse, and small, since the whole
    // machine shares one space of process ids (all other tests and people on it, too).
    let script = r#"use POSIX; my $end = time + 20; my $depth = 0;
        $SIG{$_} = "IGNORE" for qw(INT TERM HUP CHLD);
        syswrite STDOUT, "ready\n";
        SPLIT: while ($depth++ < 4) {
            for my $side (0, 1) { if (!fork) { POSIX::setsid(); next SPLIT } }
            sleep 1 while time < $end; POSIX::_exit(0);
        }
        syswrite STDOUT, "leaf\n";
        for (1 .. 100) { last if time >= $end; fork and POSIX::_exit(0); POSIX::setsid(); }
        sleep 1 while time < $end;"#;
    let mut step = bed.perl(script);
    step.argv.push(mark.clone());
    step.kill_grace_ms = 100;
    let mut running = spawn(step).await;
    for _ in 0..17 {
        line(&mut running.stdout).await;
    }
    running.control.interrupt(StopReason::Cancelled).await.expect("asked");
    let outcome = finish(running).await;
    assert_eq!(alive(&mark), Vec::<String>::new());
    assert!(outcome.record.forced && outcome.record.killed_descendants >= 16, "{:?}", outcome.record);
    assert!(outcome.record.duration_ms < 19_000, "the fuse, not the kill, ended it");
}

#[tokio::test]
async fn a_process_whose_first_thread_has_left_is_not_taken_for_dead() {
    if !std::path::Path::new("/usr/bin/python3").exists() {
        eprintln!("skipped: needs /usr/bin/python3 to make such a process");
        return;
    }
    let bed = Bed::new();
    let mark = marker();
    let script = "import os, sys, threading, time, ctypes
r, w = os.pipe()
if os.fork() == 0:
    os.setsid()
    def stay():
        while 'Z' not in open(f'/proc/{os.getpid()}/stat').read().split(') ')[1][:1]: time.sleep(0.001)
        os.write(w, b'x')
        while True: time.sleep(100)
    threading.Thread(target=stay).start()
    ctypes.CDLL(None).syscall(60, 0)
os.read(r, 1)
print('half dead')
";
    let outcome = run(bed.step(&["/usr/bin/python3", "-c", script, &mark])).await;
    assert_eq!(outcome.text(), "half dead\n", "{}", String::from_utf8_lossy(&outcome.stderr));
    assert_eq!(alive(&mark), Vec::<String>::new());
    assert_eq!(outcome.record.killed_descendants, 1);
}

const MIB: u64 = 1 << 20;

#[tokio::test]
async fn the_peak_of_one_large_process_is_known_however_short_it_lived() {
    let bed = Bed::new();
    let outcome = run(bed.perl("my $x = 'x'; $x x= 200 << 20; exit 0")).await;
    let peak = outcome.record.peak_memory_bytes;
    assert!((200 * MIB..300 * MIB).contains(&peak), "{} MiB", peak / MIB);

    let small = run(Bed::new().bash("true")).await.record.peak_memory_bytes;
    assert!((MIB..50 * MIB).contains(&small), "{} MiB", small / MIB);
}

#[tokio::test]
async fn the_peak_is_that_of_the_whole_tree() {
    let bed = Bed::new();
    let mut running = spawn(bed.perl(
        r#"for (1, 2) { if (!fork) { my $x = 'x'; $x x= 100 << 20; syswrite STDOUT, "full\n"; while (1) { sleep 100 } } }
        while (1) { sleep 100 }"#,
    ))
    .await;
    for _ in 0..2 {
        assert_eq!(line(&mut running.stdout).await, "full");
    }
    // The last sample is taken before the kill, so both were seen together.
    running.control.kill(StopReason::Cancelled).await.expect("asked");
    let peak = finish(running).await.record.peak_memory_bytes;
    assert!((200 * MIB..300 * MIB).contains(&peak), "{} MiB", peak / MIB);
}

/// A memory control group of 64 MiB, where this machine lets us make one.
struct Group(std::path::PathBuf);

impl Group {
    fn make() -> Option<Self> {
        let path = std::path::Path::new("/sys/fs/cgroup/memory").join(marker());
        std::fs::create_dir(&path).ok()?;
        let group = Self(path);
        for file in ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"] {
            let _ = std::fs::write(group.0.join(file), (64 * MIB).to_string());
        }
        Some(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A dead process leaves its group a moment after it has closed its files.
        for _ in 0..100_000 {
            if std::fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::yield_now();
        }
    }
}

#[tokio::test]
async fn a_command_that_eats_all_memory_is_told_apart_and_its_runner_lives() {
    let Some(group) = Group::make() else {
        eprintln!("skipped: needs the right to make a memory control group (version 1)");
        return;
    };
    // The command itself is the victim, or a child of it whose failure it passes on.
    let itself = "my $x = 'x'; $x x= 300 << 20; exit 0";
    let provider = "if (!fork) { my $x = 'x'; $x x= 300 << 20; exit 0 } wait; exit($? ? 1 : 0)";
    for (script, certainty) in [(itself, Certainty::Counted), (provider, Certainty::Suspected)] {
        let bed = Bed::new();
        let runner = StandIn::start(&bed, &bed.perl(script), Some(&group.0));
        let record = bed.recorded().await;
        assert_eq!(record.exit, Exit::OutOfMemory { certainty }, "{record:?}");
        // Dismissed by its runner's death, and then nobody is left in the group.
        runner.kill();
        bed.supervisor_gone().await;
    }
}
