//! A runner is killed in the middle of a command that changes the world; the next process of its place goes on with it.

use crate::fleet::{Fleet, terraform};
use serde_json::{Value, json};

const LOST: &str = "[tendril: output is missing here: it was lost before it was stored for good]\n";

const SAID: &str = "tendril: the runner was lost; the next process of its place goes on\n";

fn job(script: &str) -> Value {
    json!({"jobs": [{"name": "change", "kind": "exec", "argv": ["/bin/bash", "-c", script]}]})
}

/// All rows in their order, Tendril's own lines too.
async fn rows(fleet: &Fleet, deployment: uuid::Uuid) -> String {
    fleet.whole_log(deployment).await;
    let all = fleet.chunks(deployment).await.into_iter().map(|(_, text)| text);
    // What is said of each command's sandbox is no matter here.
    all.filter(|text| !text.starts_with("sandbox: ")).collect()
}

#[tokio::test]
async fn a_command_that_outlives_its_runner_is_gone_on_with_and_its_log_too() {
    let fleet = Fleet::new().await;
    let runner = fleet.runner("a", &[]).await;
    let (gate, ran) = (fleet.gate(), fleet.file("ran"));
    let script = format!(
        "echo once >> {ran}; seq -f 'before %g' 3; read go < {}; echo the rest of a line; seq -f 'after %g' 2000",
        gate.path()
    );
    let deployment = fleet.submit(&job(&script)).await;
    fleet.lines(deployment, 3).await;
    runner.killed().await;
    let mut next = fleet.runner("a", &[]).await;
    next.said("goes on with a command of an earlier process").await;
    gate.open();
    let status = fleet.ended(deployment).await;
    assert_eq!(status["status"], "SUCCESS", "{status:#}");
    let expected: String = (1..=3)
        .map(|n| format!("before {n}\n"))
        .chain([LOST.into(), SAID.into()])
        .chain((1..=2000).map(|n| format!("after {n}\n")))
        .collect();
    assert_eq!(rows(&fleet, deployment).await, expected);
    assert_eq!(std::fs::read_to_string(fleet.file("ran")).expect("it ran"), "once\n");
    next.figure("tendril_runner_attempts_adopted_total{kind=\"exec\"} 1").await;
    next.forgot_its_work().await;
    next.end().await;
}

#[tokio::test]
async fn what_ended_while_nobody_was_there_is_reported_by_the_next_process() {
    let fleet = Fleet::new().await;
    let runner = fleet.runner("a", &[]).await;
    let gate = fleet.gate();
    let deployment = fleet
        .submit(&job(&format!("echo before; read go < {}; echo the rest of a line; echo after; exit 3", gate.path())))
        .await;
    fleet.lines(deployment, 1).await;
    let records = runner.state();
    runner.killed().await;
    gate.open();
    fleet.appears(&records, "exit.json").await;
    let next = fleet.runner("a", &[]).await;
    let status = fleet.ended(deployment).await;
    assert_eq!(status["status"], "FAILED", "{status:#}");
    assert!(status["error_message"].as_str().is_some_and(|why| why.contains("exited with code 3")), "{status:#}");
    let end = "tendril: /bin/bash exited with code 3\n";
    assert_eq!(rows(&fleet, deployment).await, format!("before\n{LOST}{SAID}after\n{end}"));
    next.end().await;
}

#[tokio::test]
async fn a_command_of_an_earlier_process_hears_of_a_cancel_once() {
    let fleet = Fleet::new().await;
    let runner = fleet.runner("a", &[]).await;
    let gate = fleet.gate();
    let script = format!(
        "trap 'echo the rest of a line; echo interrupted; exit 9' INT; echo ready; while :; do read -t 1 go <> {}; done",
        gate.path()
    );
    let deployment = fleet.submit(&job(&script)).await;
    fleet.lines(deployment, 1).await;
    runner.killed().await;
    let mut next = fleet.runner("a", &[]).await;
    next.said("goes on with a command of an earlier process").await;
    fleet.cancel(deployment).await;
    let status = fleet.ended(deployment).await;
    assert_eq!(status["status"], "CANCELLED", "{status:#}");
    assert_eq!(fleet.whole_log(deployment).await.matches("interrupted").count(), 1);
    next.end().await;
}

#[tokio::test]
async fn a_log_that_the_spool_of_a_lost_runner_does_not_know_says_that_output_is_missing() {
    let fleet = Fleet::new().await;
    let runner = fleet.runner("a", &[]).await;
    let (gate, ready) = (fleet.gate(), fleet.file("ready"));
    let script =
        format!("echo read and lost; touch {ready}; read go < {}; echo the rest of a line; echo after", gate.path());
    // Nothing of it is stored before its runner is gone, and then the spool is.
    fleet.log_sessions(1).await;
    let locks = fleet.lock_logs().await;
    let deployment = fleet.submit(&job(&script)).await;
    fleet.exists(&ready).await;
    let state = runner.state();
    runner.killed().await;
    fleet.forget_segments(&state);
    // A batch that waits for the lock has its COMMIT behind it already.
    fleet
        .operate(
            "select pg_terminate_backend(pid, 60000) from pg_stat_activity
              where datname = current_database() and application_name = 'tendril-runner logs'",
        )
        .await;
    locks.release().await;
    let mut next = fleet.runner("a", &[]).await;
    next.said("goes on with a command of an earlier process").await;
    gate.open();
    assert_eq!(fleet.ended(deployment).await["status"], "SUCCESS");
    assert_eq!(rows(&fleet, deployment).await, format!("{LOST}{SAID}after\n"));
    next.end().await;
}

#[tokio::test]
async fn a_log_whose_spool_was_destroyed_goes_on_behind_what_readers_have_of_it() {
    let fleet = Fleet::new().await;
    let runner = fleet.runner("a", &[]).await;
    let gate = fleet.gate();
    let script =
        format!("seq -f 'before %g' 3; read go < {}; echo the rest of a line; seq -f 'after %g' 5", gate.path());
    let deployment = fleet.submit(&job(&script)).await;
    fleet.lines(deployment, 3).await;
    let state = runner.state();
    runner.killed().await;
    fleet.forget_segments(&state);
    let mut next = fleet.runner("a", &[]).await;
    next.said("goes on with a command of an earlier process").await;
    gate.open();
    assert_eq!(fleet.ended(deployment).await["status"], "SUCCESS");
    let lines = |what: &str, count: usize| (1..=count).map(|n| format!("{what} {n}\n")).collect::<String>();
    assert_eq!(rows(&fleet, deployment).await, format!("{}{LOST}{SAID}{}", lines("before", 3), lines("after", 5)));
    next.end().await;
}

#[tokio::test]
async fn a_restart_that_hands_over_interrupts_nothing_that_changes_the_world() {
    let mut fleet = Fleet::new().await;
    fleet.hand_over();
    let mut runner = fleet.runner("a", &[]).await;
    let gate = fleet.gate();
    let changes = format!(
        "trap 'echo interrupted' INT; echo ready; read go < {}; echo the rest of a line; echo done",
        gate.path()
    );
    let deployment = fleet.submit(&job(&changes)).await;
    let reads = json!({"name": "reads", "kind": "exec", "reading": true, "argv": ["/bin/sh", "-c", "echo reading; exec sleep 600"]});
    let other = fleet.submit(&json!({"jobs": [reads]})).await;
    fleet.lines(deployment, 1).await;
    fleet.lines(other, 1).await;
    runner.terminate();
    runner.said("shutting down").await;
    runner.terminate();
    runner.said("leaving what changes the world to the next process").await;
    assert!(runner.exited().await.success(), "{}", runner.all_said());
    let mut next = fleet.runner("a", &[]).await;
    next.said("goes on with a command of an earlier process").await;
    gate.open();
    assert_eq!(fleet.ended(deployment).await["status"], "SUCCESS");
    assert_eq!(fleet.whole_log(deployment).await.replace(LOST, ""), "ready\ndone\n");
    // What only reads was handed back, and begins anew.
    fleet.lines(other, 2).await;
    fleet.cancel(other).await;
    fleet.ended(other).await;
    next.end().await;
}

#[tokio::test]
async fn a_report_that_was_not_answered_is_sent_by_the_next_process() {
    let fleet = Fleet::new().await;
    let runner = fleet.runner("a", &[]).await;
    let gate = fleet.gate();
    let deployment = fleet.submit(&job(&format!("echo working; read go < {}; echo done", gate.path()))).await;
    fleet.lines(deployment, 1).await;
    let locks = fleet.lock_deployment(deployment).await;
    gate.open();
    let state = runner.state();
    fleet.appears(&state, "report.json").await;
    // It is not there before the spool has the last line.
    runner.killed().await;
    locks.release().await;
    let mut next = fleet.runner("a", &[]).await;
    next.said("an earlier process has left a report").await;
    assert_eq!(fleet.ended(deployment).await["status"], "SUCCESS");
    next.forgot_its_work().await;
    assert_eq!(fleet.whole_log(deployment).await, "working\ndone\n");
    next.end().await;
}

#[tokio::test]
async fn a_command_whose_supervisor_is_lost_too_ends_as_unknown_and_keeps_its_key() {
    let fleet = Fleet::new().await;
    let runner = fleet.runner("a", &[]).await;
    let gate = fleet.gate();
    let deployment = fleet.submit(&job(&format!("echo $PPID; read go < {}", gate.path()))).await;
    let supervisor = fleet.line(deployment, |line| line.parse().ok()).await;
    runner.killed().await;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(supervisor), nix::sys::signal::Signal::SIGKILL)
        .expect("a signal");
    let next = fleet.runner("a", &[]).await;
    let status = fleet.ended(deployment).await;
    assert_eq!(status["status"], "FAILED", "{status:#}");
    let why = status["error_message"].as_str().expect("a reason");
    assert!(why.contains("lost together with the supervisor") && why.contains("not known"), "{why}");
    gate.open();
    next.end().await;
}

#[tokio::test]
async fn a_folder_that_may_still_be_written_to_outlives_also_the_process_that_only_sends_its_report() {
    let fleet = Fleet::new().await;
    let runner = fleet.runner("a", &[]).await;
    let gate = fleet.gate();
    let deployment = fleet.submit(&job(&format!("echo $PPID; pwd; read go < {}", gate.path()))).await;
    fleet.lines(deployment, 2).await;
    let supervisor = fleet.line(deployment, |line| line.parse().ok()).await;
    let folder = fleet.line(deployment, |line| line.starts_with('/').then(|| line.to_owned())).await;
    let locks = fleet.lock_deployment(deployment).await;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(supervisor), nix::sys::signal::Signal::SIGKILL)
        .expect("a signal");
    let state = runner.state();
    fleet.appears(&state, "report.json").await;
    runner.killed().await;
    locks.release().await;
    let mut next = fleet.runner("a", &[]).await;
    next.said("an earlier process has left a report").await;
    assert_eq!(fleet.ended(deployment).await["status"], "FAILED");
    next.said("a work folder is kept").await;
    assert!(std::path::Path::new(&folder).is_dir(), "nobody knows whether something still writes there");
    next.end().await;
}

#[tokio::test]
async fn what_is_shown_twice_because_two_runners_were_lost_says_so() {
    let fleet = Fleet::new().await;
    let runner = fleet.runner("a", &[]).await;
    let gate = fleet.gate();
    let other = format!("{}2", gate.path());
    let script = format!(
        "mkfifo {other}; echo one; read go < {}; echo the rest of a line; echo two; read go < {other}; echo three",
        gate.path()
    );
    let deployment = fleet.submit(&job(&script)).await;
    fleet.lines(deployment, 1).await;
    runner.killed().await;
    let mut second = fleet.runner("a", &[]).await;
    second.said("goes on with a command of an earlier process").await;
    gate.open();
    fleet.lines(deployment, 2).await;
    second.killed().await;
    let mut third = fleet.runner("a", &[]).await;
    third.said("goes on with a command of an earlier process").await;
    std::fs::write(&other, "go\n").expect("the gate is open");
    assert_eq!(fleet.ended(deployment).await["status"], "SUCCESS");
    let again = "tendril: it was lost before: what the command has printed since the first time may stand here twice\n";
    assert_eq!(rows(&fleet, deployment).await, format!("one\n{LOST}{SAID}two\n{LOST}{SAID}{again}two\nthree\n"));
    third.end().await;
}

#[tokio::test]
async fn an_apply_goes_on_without_its_runner_and_ends_with_its_outputs() {
    let Some(engine) = terraform() else { return };
    let fleet = Fleet::new().await;
    let runner = fleet.runner("a", &engine).await;
    let gate = fleet.gate();
    let tree = format!(
        "resource \"terraform_data\" \"one\" {{\n  input = \"Ada\"\n  provisioner \"local-exec\" {{ command = \"echo waiting; read go < {}\" }}\n}}\n\
         output \"greeting\" {{ value = \"Hello, ${{terraform_data.one.output}}\" }}\n",
        gate.path()
    );
    let backend = json!({"type": "local", "place": "test", "path": "adopted/one"});
    let deployment = fleet.submit(&json!({"template": {"inline": {"main.tf": tree}}, "backend": backend})).await;
    fleet.line(deployment, |line| line.ends_with("(local-exec): waiting").then_some(())).await;
    runner.killed().await;
    let mut next = fleet.runner("a", &engine).await;
    next.said("goes on with a command of an earlier process").await;
    gate.open();
    let status = fleet.ended(deployment).await;
    assert_eq!(status["status"], "SUCCESS", "{status:#}");
    assert_eq!(status["outputs"]["greeting"], "Hello, Ada", "{status:#}");
    let log = rows(&fleet, deployment).await;
    assert!(log.contains(LOST) && log.contains("Apply complete! Resources: 1 added"), "{log}");
    assert!(next.state_file("adopted/one").contains("Ada"));
    next.end().await;
}
