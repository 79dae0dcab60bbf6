//! The database is restored to an earlier moment under a living runner.

use crate::fleet::Fleet;
use serde_json::{Value, json};

fn change(script: &str) -> Value {
    json!({"jobs": [{"name": "change", "kind": "exec", "argv": ["/bin/bash", "-c", script]}]})
}

#[tokio::test]
async fn what_was_done_in_the_lost_time_is_not_done_again() {
    let mut fleet = Fleet::new().await;
    let mut runner = fleet.runner("a", &[]).await;
    fleet.operate("select tendril.pause(id) from tendril.clusters").await;
    let (gate, ran) = (fleet.gate(), fleet.file("ran"));
    let done = fleet.submit(&change(&format!("echo done >> {ran}"))).await;
    let running = fleet.submit(&change(&format!("echo running >> {ran}; echo up; read go < {}", gate.path()))).await;
    fleet.snapshot().await;
    fleet.operate("select tendril.resume(id) from tendril.clusters").await;
    assert_eq!(fleet.ended(done).await["status"], "SUCCESS");
    fleet.lines(running, 1).await;

    fleet.restore().await;
    runner.said("the database was set back in time and has forgotten this attempt").await;
    fleet.operate("select tendril.resume(id) from tendril.clusters").await;
    for deployment in [done, running] {
        assert_eq!(fleet.status(deployment).await["status"], "AWAITING_APPROVAL");
    }
    let waits = fleet.status(done).await["jobs"][0]["waiting_for"].as_str().expect("it waits").to_owned();
    assert!(waits.contains("an attempt it does not know ended as success"), "{waits}");
    gate.open();
    runner.said("the broker refused the report; it stays on disk").await;
    // What is new is done, once.
    let later = fleet.submit(&change(&format!("echo later >> {ran}"))).await;
    assert_eq!(fleet.ended(later).await["status"], "SUCCESS");
    let ran = std::fs::read_to_string(fleet.file("ran")).expect("they ran");
    let mut ran: Vec<&str> = ran.lines().collect();
    ran.sort_unstable();
    assert_eq!(ran, ["done", "later", "running"]);
    runner.end().await;
}

#[tokio::test]
async fn an_end_that_the_database_forgot_is_told_again_and_what_runs_goes_on() {
    let mut fleet = Fleet::new().await;
    let mut runner = fleet.runner("a", &[]).await;
    let (first_gate, second_gate, ran) = (fleet.gate(), fleet.another_gate("second"), fleet.file("ran"));
    let script = |gate: std::path::Display<'_>| {
        change(&format!("echo before; read go < {gate}; echo after; echo once >> {ran}"))
    };
    let (first, second) =
        (fleet.submit(&script(first_gate.path())).await, fleet.submit(&script(second_gate.path())).await);
    fleet.lines(first, 1).await;
    fleet.lines(second, 1).await;
    fleet.snapshot().await;
    first_gate.open();
    assert_eq!(fleet.ended(first).await["status"], "SUCCESS");

    fleet.restore().await;
    runner.said("the database had forgotten this end; it was told again").await;
    assert_eq!(fleet.ended(first).await["status"], "SUCCESS");
    second_gate.open();
    assert_eq!(fleet.ended(second).await["status"], "SUCCESS");
    assert_eq!(fleet.whole_log(second).await, "before\nafter\n");
    assert_eq!(std::fs::read_to_string(fleet.file("ran")).expect("they ran"), "once\nonce\n");
    runner.end().await;
}

#[tokio::test]
async fn a_new_history_in_which_nothing_is_missing_holds_nothing_up() {
    let mut fleet = Fleet::new().await;
    let runner = fleet.runner("a", &[]).await;
    let gate = fleet.gate();
    let running = fleet.submit(&change(&format!("echo before; read go < {}; echo after", gate.path()))).await;
    fleet.lines(running, 1).await;
    fleet.snapshot().await;
    fleet.restore().await;
    let next = fleet.submit(&change("echo next")).await;
    assert_eq!(fleet.ended(next).await["status"], "SUCCESS");
    gate.open();
    assert_eq!(fleet.ended(running).await["status"], "SUCCESS");
    assert_eq!(fleet.whole_log(running).await, "before\nafter\n");
    runner.end().await;
}

#[tokio::test]
async fn lines_that_the_database_forgot_are_a_gap_in_a_log_that_goes_on() {
    let mut fleet = Fleet::new().await;
    let runner = fleet.runner("a", &[]).await;
    let (first_gate, second_gate) = (fleet.gate(), fleet.another_gate("second"));
    let script = format!(
        "echo before; read go < {}; echo lost; read go < {}; echo after",
        first_gate.path(),
        second_gate.path()
    );
    let deployment = fleet.submit(&change(&script)).await;
    fleet.lines(deployment, 1).await;
    fleet.snapshot().await;
    first_gate.open();
    fleet.lines(deployment, 2).await;
    fleet.restore().await;
    second_gate.open();
    assert_eq!(fleet.ended(deployment).await["status"], "SUCCESS");
    let text = fleet.whole_log(deployment).await;
    assert_eq!(text, "before\nafter\n");
    let rows: Vec<_> = fleet.chunks(deployment).await.into_iter().map(|(_, text)| text).collect();
    assert!(rows.iter().any(|text| text.contains("missing")), "{rows:?}");
    runner.end().await;
}

#[tokio::test]
async fn a_standby_that_is_not_promoted_yet_is_waited_for() {
    let mut fleet = Fleet::new().await;
    let mut runner = fleet.runner("a", &[]).await;
    let gate = fleet.gate();
    let running = fleet.submit(&change(&format!("echo before; read go < {}; echo after", gate.path()))).await;
    fleet.lines(running, 1).await;
    // Tried: it answers at the address of the server, and refuses whatever writes.
    fleet.read_only(true).await;
    gate.open();
    runner.said("read-only transaction").await;
    runner.said("outcome=Success").await;
    fleet.read_only(false).await;
    assert_eq!(fleet.ended(running).await["status"], "SUCCESS");
    assert_eq!(fleet.whole_log(running).await, "before\nafter\n");
    runner.end().await;
}

#[tokio::test]
async fn a_change_whose_start_the_database_forgot_is_not_made_again_when_its_runner_is_killed() {
    let mut fleet = Fleet::new().await;
    let mut runner = fleet.runner("a", &[]).await;
    let (gate, ran) = (fleet.gate(), fleet.file("ran"));
    // Kept between its claim and its start, and then the database is copied.
    fleet.operate("update tendril.clusters set origin = 'before'").await;
    fleet.operate("update tendril_core.runner_leases set witnessed = 'before'").await;
    let changing = fleet.submit(&change(&format!("echo once >> {ran}; echo up; read go < {}", gate.path()))).await;
    fleet.job_is(changing, "CLAIMED").await;
    fleet.snapshot().await;
    fleet.lines(changing, 1).await;
    fleet.restore().await;
    fleet.job_is(changing, "STARTED").await;
    runner.killed().await;
    fleet.runners_are_lost().await;
    fleet.job_is(changing, "UNKNOWN").await;
    runner = fleet.runner("a", &[]).await;
    runner.said("goes on with a command of an earlier process").await;
    gate.open();
    assert_eq!(fleet.ended(changing).await["status"], "SUCCESS");
    assert_eq!(std::fs::read_to_string(fleet.file("ran")).expect("it ran"), "once\n");
    runner.end().await;
}
