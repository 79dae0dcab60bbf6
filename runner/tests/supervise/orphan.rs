//! The runner dies.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tendril_runner::supervise::{Class, Ended, Exit, Kept, OrphanOutput, STDERR_FILE, STDOUT_FILE, StopReason};

use super::support::{Bed, StandIn, alive, apart, appears, exists, finish, marker, run, spawn};

/// Ten megabytes in numbered lines.
const FLOOD: &str = "seq -f 'line %08.0f of the flood, padded to a length that is about that of terraform, which likes long lines' 100000";

fn flood() -> String {
    (1..=100_000).fold(String::new(), |mut text, n| {
        let _ = writeln!(
            text,
            "line {n:08} of the flood, padded to a length that is about that of terraform, which likes long lines"
        );
        text
    })
}

#[tokio::test]
async fn a_reading_tree_ends_with_its_runner() {
    let bed = Bed::new();
    let mark = marker();
    let mut step = bed.bash("setsid sleep 1000 & sleep 1000 & while :; do wait; done");
    step.argv.push(mark.clone());
    let runner = StandIn::start(&bed, &step, None);
    let command = runner.command;
    assert!(exists(command));
    runner.kill();
    bed.supervisor_gone().await;
    assert!(!exists(command));
    assert_eq!(alive(&mark), Vec::<String>::new());
    let record = bed.record().expect("kept");
    assert_eq!(record.exit, Exit::Interrupted { reason: StopReason::RunnerGone });
    assert!(record.interrupted && !record.forced, "{record:?}");
}

#[tokio::test]
async fn a_reading_command_that_has_filled_its_pipe_can_still_obey_its_interrupt() {
    let bed = Bed::new();
    // Says in a file that the pipe takes no more, and then insists.
    let mut step = bed.perl(
        r#"use Fcntl; $SIG{INT} = sub { syswrite STDOUT, "bye\n"; exit 0 };
        fcntl(STDOUT, F_SETFL, O_NONBLOCK); 1 while syswrite STDOUT, "x" x 4096;
        fcntl(STDOUT, F_SETFL, 0); open my $full, ">", "full"; close $full;
        while (1) { syswrite STDOUT, "x" x 60000 }"#,
    );
    step.orphan_limit_bytes = 1000;
    let runner = StandIn::start(&bed, &step, None);
    appears(bed.path("work/full")).await;
    runner.kill();
    bed.supervisor_gone().await;
    let record = bed.record().expect("kept");
    assert_eq!(record.ended, Some(Ended::Code { code: 0 }));
    assert!(!record.forced);
    assert_eq!(record.orphan_output.expect("drained").stdout.bytes, 1000);
}

#[tokio::test]
async fn a_mutating_command_finishes_without_its_runner_and_its_whole_output_is_kept() {
    let bed = Bed::new();
    bed.gate("gate");
    let mut step = bed.bash(&format!("echo before; echo wrong >&2; read < gate; {FLOOD}; touch done; exit 3"));
    step.class = Class::Mutating;
    let runner = StandIn::start(&bed, &step, None);
    runner.kill();
    bed.release("gate").await;
    bed.supervisor_gone().await;

    assert!(bed.path("work/done").exists());
    let record = bed.record().expect("kept");
    assert_eq!(record.exit, Exit::Failure { code: 3 });
    assert_eq!((record.requested, record.interrupted), (None, false));
    let kept = |name: &str| fs::read_to_string(bed.path("record").join(name)).expect("kept");
    assert_eq!(kept(STDOUT_FILE), format!("before\n{}", flood()));
    assert_eq!(kept(STDERR_FILE), "wrong\n");
    let output = record.orphan_output.expect("drained");
    assert_eq!((output.stdout.dropped_bytes, output.stderr.dropped_bytes), (0, 0));
    assert_eq!(output.stdout.bytes, kept(STDOUT_FILE).len() as u64);
}

#[tokio::test]
async fn orphaned_output_beyond_its_bound_is_counted_and_stalls_nobody() {
    let bed = Bed::new();
    bed.gate("gate");
    let mut step = bed.bash(&format!("read < gate; {FLOOD}; echo short >&2"));
    step.class = Class::Mutating;
    step.orphan_limit_bytes = 5_000;
    let runner = StandIn::start(&bed, &step, None);
    runner.kill();
    bed.release("gate").await;
    bed.supervisor_gone().await;
    let record = bed.record().expect("kept");
    assert_eq!(record.exit, Exit::Success);
    let all = flood();
    let expected = OrphanOutput {
        stdout: Kept { bytes: 5_000, dropped_bytes: all.len() as u64 - 5_000 },
        stderr: Kept { bytes: 6, dropped_bytes: 0 },
    };
    assert_eq!(record.orphan_output, Some(expected));
    assert_eq!(fs::read(bed.path("record").join(STDOUT_FILE)).expect("kept"), &all.as_bytes()[..5_000]);
}

#[tokio::test]
async fn an_orphaned_mutating_command_is_still_held_to_its_timeout() {
    let bed = Bed::new();
    let mut step = bed.step(&["/bin/sleep", "1000"]);
    step.class = Class::Mutating;
    step.timeout_ms = 300;
    let runner = StandIn::start(&bed, &step, None);
    runner.kill();
    bed.supervisor_gone().await;
    let record = bed.record().expect("kept");
    assert_eq!(record.exit, Exit::TimedOut);
    assert!(record.duration_ms >= 300);
}

#[tokio::test]
async fn what_a_dead_runner_had_not_read_of_a_finished_command_is_kept() {
    let bed = Bed::new();
    let mut step = bed.bash("echo Apply complete; echo warned >&2");
    step.class = Class::Mutating;
    let runner = StandIn::start(&bed, &step, None);
    assert_eq!(bed.recorded().await.orphan_output, None, "the runner may still read");
    runner.kill();
    bed.supervisor_gone().await;
    let record = bed.record().expect("kept");
    assert_eq!(record.exit, Exit::Success);
    assert_eq!(record.orphan_output.map(|output| output.stdout.bytes), Some(15));
    let kept = fs::read_to_string(bed.path("record").join(STDOUT_FILE)).expect("kept");
    assert_eq!(kept, "Apply complete\n");
}

#[tokio::test]
async fn dropping_the_handle_is_like_the_runners_death() {
    let reading = Bed::new();
    let running = spawn(reading.step(&["/bin/sleep", "1000"])).await;
    drop(running);
    reading.supervisor_gone().await;
    let record = reading.record().expect("kept");
    assert_eq!(record.exit, Exit::Interrupted { reason: StopReason::RunnerGone });

    let mutating = Bed::new();
    mutating.gate("gate");
    let mut step = mutating.bash("read < gate; echo done");
    step.class = Class::Mutating;
    drop(spawn(step).await);
    mutating.release("gate").await;
    mutating.supervisor_gone().await;
    assert_eq!(mutating.record().expect("kept").exit, Exit::Success);
}

#[tokio::test]
async fn a_runner_that_does_not_read_stalls_the_command_and_loses_nothing() {
    let bed = Bed::new();
    // Writes without blocking until the pipe takes no more, says so in a file, and goes on as usual.
    let script = r#"use Fcntl; fcntl(STDOUT, F_SETFL, O_NONBLOCK); my $all = join "", map { "$_\n" } 1 .. 1_500_000;
        my $at = 0; my $n;
        $at += $n while $n = syswrite STDOUT, $all, 4096, $at;
        fcntl(STDOUT, F_SETFL, 0); open my $full, ">", "full"; close $full;
        while ($at < length $all) { $at += syswrite STDOUT, $all, 65536, $at }
        open my $done, ">", "done""#;
    let running = spawn(bed.perl(script)).await;
    appears(bed.path("work/full")).await;
    assert!(!bed.path("work/done").exists());
    let outcome = finish(running).await;
    let expected: String = (1..=1_500_000).fold(String::new(), |mut text, n| {
        let _ = writeln!(text, "{n}");
        text
    });
    assert!(expected.len() > 10_000_000);
    assert!(outcome.text() == expected, "{} bytes", outcome.stdout.len());
    assert_eq!(outcome.record.exit, Exit::Success);
    assert!(bed.path("work/done").exists());
}

#[tokio::test]
async fn a_record_folder_that_the_command_filled_with_links_keeps_no_output_outside() {
    let bed = Bed::new();
    bed.gate("gate");
    let mut step = bed.bash("ln -s ../work/victim ../record/orphan.stdout; touch victim; read < gate; echo secret");
    step.class = Class::Mutating;
    let runner = StandIn::start(&bed, &step, None);
    appears(bed.path("work/victim")).await;
    runner.kill();
    bed.release("gate").await;
    bed.supervisor_gone().await;
    assert_eq!(fs::read_to_string(bed.path("work/victim")).expect("a file"), "");
    let output = bed.record().expect("kept").orphan_output.expect("counted");
    assert_eq!(output.stdout, Kept { bytes: 0, dropped_bytes: 7 });
}

#[tokio::test]
async fn a_hundred_short_commands_at_once_all_report() {
    let beds: Vec<Bed> = (0..100).map(|_| Bed::new()).collect();
    let mut tasks = tokio::task::JoinSet::new();
    for (n, bed) in beds.iter().enumerate() {
        let step = bed.bash(&format!("echo {n}; exit {}", n % 3));
        tasks.spawn(async move { (n, run(step).await) });
    }
    while let Some(done) = tasks.join_next().await {
        let (n, outcome) = done.expect("no panic");
        assert_eq!(outcome.text(), format!("{n}\n"));
        let code = i32::try_from(n % 3).expect("small");
        assert_eq!(outcome.record.ended, Some(Ended::Code { code }));
    }
}

#[tokio::test]
async fn a_reading_command_dies_with_its_supervisor_when_nobody_else_can_end_it() {
    let bed = Bed::new();
    bed.gate("life");
    // Holds the named pipe open as long as it lives, and names its supervisor.
    let step = bed.perl(
        r#"$SIG{$_} = "IGNORE" for qw(INT TERM HUP PIPE); open my $life, ">", "life";
        syswrite $life, getppid . "\n"; while (1) { sleep 100 }"#,
    );
    let runner = StandIn::start(&bed, &step, None);
    runner.stop();
    let life = bed.path("work/life");
    let mut life = apart(move || BufReader::new(fs::File::open(life).expect("a pipe"))).await;
    let mut supervisor = String::new();
    life.read_line(&mut supervisor).expect("a pid");
    let supervisor = Pid::from_raw(supervisor.trim().parse().expect("a pid"));
    kill(supervisor, Signal::SIGKILL).expect("it lives");
    let rest = apart(move || life.read_to_end(&mut Vec::new()).expect("a pipe")).await;
    assert_eq!(rest, 0);
    runner.kill();
}
