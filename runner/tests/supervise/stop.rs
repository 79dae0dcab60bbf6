//! Cancel, timeout, grace: how a command is stopped.

use tendril_runner::supervise::{Ended, Exit, Running, StopReason};

use super::support::{Bed, finish, line, run, spawn};

const CANCELLED: Exit = Exit::Interrupted { reason: StopReason::Cancelled };

/// Says each SIGINT that it gets, and goes on.
const STUBBORN: &str = r#"$| = 1; $SIG{INT} = sub { print "INT\n" }; print "ready\n"; while (1) { sleep 100 }"#;

#[tokio::test]
async fn a_command_that_outlives_its_time_is_interrupted() {
    let bed = Bed::new();
    let mut step = bed.step(&["/bin/sleep", "1000"]);
    step.timeout_ms = 50;
    let record = run(step).await.record;
    assert_eq!(record.exit, Exit::TimedOut);
    assert_eq!(record.ended, Some(Ended::Signal { signal: 2 }));
    assert_eq!(record.requested, Some(StopReason::Timeout));
    assert!(record.interrupted && !record.forced && record.duration_ms >= 50);
}

#[tokio::test]
async fn requests_by_the_dozen_are_one_interrupt_and_the_grace_ends_who_ignores_it() {
    let bed = Bed::new();
    let mut step = bed.perl(STUBBORN);
    step.kill_grace_ms = 1_000;
    let mut running = spawn(step).await;
    assert_eq!(line(&mut running.stdout).await, "ready");
    running.control.interrupt(StopReason::Cancelled).await.expect("asked");
    assert_eq!(line(&mut running.stdout).await, "INT");
    for reason in [StopReason::Shutdown, StopReason::LeaseLost, StopReason::Cancelled].repeat(4) {
        running.control.interrupt(reason).await.expect("asked");
    }
    let outcome = finish(running).await;
    assert_eq!(outcome.text(), "", "a second interrupt would be said here");
    let record = outcome.record;
    assert_eq!(record.exit, CANCELLED, "the first reason counts");
    assert_eq!(record.ended, Some(Ended::Signal { signal: 9 }));
    assert!(record.interrupted && record.forced && record.duration_ms >= 1_000);
}

#[tokio::test]
async fn a_cancelled_command_that_leaves_with_zero_is_still_seen_as_cancelled() {
    let bed = Bed::new();
    let mut running = spawn(
        bed.perl(r#"$| = 1; $SIG{INT} = sub { print "saved\n"; exit 0 }; print "ready\n"; while (1) { sleep 100 }"#),
    )
    .await;
    assert_eq!(line(&mut running.stdout).await, "ready");
    running.control.interrupt(StopReason::Cancelled).await.expect("asked");
    let outcome = finish(running).await;
    assert_eq!(outcome.text(), "saved\n");
    assert_eq!(outcome.record.exit, CANCELLED);
    assert_eq!(outcome.record.ended, Some(Ended::Code { code: 0 }));
    assert!(!outcome.record.forced);
}

#[tokio::test]
async fn only_the_main_process_is_interrupted_and_its_children_die_with_the_grace() {
    let bed = Bed::new();
    let mut step = bed.perl(
        r#"$| = 1; my $child = fork // die;
        my $name = $child ? "main" : "child";
        $SIG{INT} = sub { print "INT $name\n" };
        print "ready\n"; while (1) { sleep 100 }"#,
    );
    step.kill_grace_ms = 500;
    let mut running = spawn(step).await;
    for _ in 0..2 {
        assert_eq!(line(&mut running.stdout).await, "ready");
    }
    running.control.interrupt(StopReason::Shutdown).await.expect("asked");
    let outcome = finish(running).await;
    assert_eq!(outcome.text(), "INT main\n");
    assert_eq!(outcome.record.killed_descendants, 1);
}

#[tokio::test]
async fn a_kill_waits_for_nobody() {
    let bed = Bed::new();
    let mut running = spawn(bed.perl(STUBBORN)).await;
    assert_eq!(line(&mut running.stdout).await, "ready");
    running.control.kill(StopReason::Shutdown).await.expect("asked");
    let outcome = finish(running).await;
    assert_eq!(outcome.text(), "", "no interrupt came before");
    let record = outcome.record;
    assert_eq!(record.exit, Exit::Interrupted { reason: StopReason::Shutdown });
    assert!(record.forced && !record.interrupted && record.duration_ms < 30_000);
}

#[tokio::test]
async fn a_kill_shortens_a_grace_that_runs() {
    let bed = Bed::new();
    let mut running = spawn(bed.perl(STUBBORN)).await;
    assert_eq!(line(&mut running.stdout).await, "ready");
    running.control.interrupt(StopReason::Cancelled).await.expect("asked");
    assert_eq!(line(&mut running.stdout).await, "INT");
    running.control.kill(StopReason::Shutdown).await.expect("asked");
    let record = finish(running).await.record;
    assert_eq!(record.exit, CANCELLED);
    assert!(record.interrupted && record.forced);
}

#[tokio::test]
async fn signals_to_the_supervisor_itself_do_nothing() {
    use nix::sys::signal::{Signal, kill};
    let bed = Bed::new();
    bed.gate("gate");
    let running = spawn(bed.bash("read < gate; exit 4")).await;
    let supervisor = nix::unistd::Pid::from_raw(running.control.supervisor_pid());
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1] {
        kill(supervisor, signal).expect("it lives");
    }
    bed.release("gate").await;
    assert_eq!(finish(running).await.record.exit, Exit::Failure { code: 4 });
}

#[tokio::test]
async fn a_request_after_the_end_is_no_error_and_changes_no_verdict() {
    let bed = Bed::new();
    let Running { stdout, stderr, mut control } = spawn(bed.bash("exit 0")).await;
    bed.recorded().await;
    control.interrupt(StopReason::Cancelled).await.expect("no error");
    let outcome = finish(Running { stdout, stderr, control }).await;
    assert_eq!(outcome.record.exit, Exit::Success);
}

#[tokio::test]
async fn a_wait_that_was_dropped_can_be_taken_up_again() {
    let bed = Bed::new();
    bed.gate("gate");
    let mut running = spawn(bed.bash("read < gate")).await;
    for _ in 0..3 {
        tokio::select! {
            biased;
            ended = running.control.wait() => panic!("it ended: {ended:?}"),
            () = tokio::task::yield_now() => {}
        }
    }
    bed.release("gate").await;
    assert_eq!(finish(running).await.record.exit, Exit::Success);
}
