//! What a runner does with its work before it goes.

use crate::fleet::Fleet;
use serde_json::json;

#[tokio::test]
async fn a_first_sigterm_lets_a_job_finish_and_claims_nothing_more() {
    let fleet = Fleet::new().await;
    let mut runner = fleet.runner("a", &[]).await;
    let gate = fleet.gate();
    let deployment = fleet
        .submit(&json!({"jobs": [
            {"name": "first", "kind": "exec", "argv": ["/bin/bash", "-c", format!("echo ready; read < {}", gate.path())]},
            {"name": "second", "kind": "exec", "argv": ["/bin/true"], "needs": ["first"]}]}))
        .await;
    fleet.line(deployment, |line| (line == "ready").then_some(())).await;
    runner.terminate();
    runner.said("shutting down").await;
    gate.open();
    assert!(runner.exited().await.success());
    let status = fleet.status(deployment).await;
    assert_eq!(
        (&status["jobs"][0]["state"], &status["jobs"][1]["state"]),
        (&json!("SUCCESS"), &json!("QUEUED")),
        "{status:#}"
    );
    // Its log was stored to the end before it left.
    assert_eq!(fleet.log(deployment).await, "ready\n");
}

#[tokio::test]
async fn a_runner_that_leaves_while_its_claim_is_under_way_gives_back_what_that_brings() {
    let fleet = Fleet::new().await;
    let mut runner = fleet.runner("a", &[]).await;
    let attempts = fleet.lock_attempts().await;
    let deployment = fleet.submit(&json!({"jobs": [{"name": "x", "kind": "exec", "argv": ["/bin/true"]}]})).await;
    fleet.waits_for_a_lock("runner_claim").await;
    runner.terminate();
    runner.said("shutting down").await;
    attempts.release().await;
    assert!(runner.exited().await.success());
    let status = fleet.status(deployment).await;
    assert_eq!(status["jobs"][0]["state"], "QUEUED", "{status:#}\n{}", runner.all_said());
}

#[tokio::test]
async fn a_shutdown_ends_in_its_time_also_when_a_report_cannot_be_sent() {
    let fleet = Fleet::new().await;
    let mut runner = fleet.runner("a", &[]).await;
    let gate = fleet.gate();
    let argv = ["/bin/bash", "-c", &format!("echo ready; read < {}", gate.path())];
    let limits = json!({"timeout_s": 600, "kill_grace_s": 1});
    let deployment =
        fleet.submit(&json!({"limits": limits, "jobs": [{"name": "x", "kind": "exec", "argv": argv}]})).await;
    fleet.line(deployment, |line| (line == "ready").then_some(())).await;
    // Its finish waits for the deployment's row.
    let row = fleet.lock_deployment(deployment).await;
    runner.terminate();
    runner.said("shutting down").await;
    gate.open();
    fleet.waits_for_a_lock("runner_finish").await;
    runner.terminate();
    runner.said("leaving with work unreported").await;
    row.release().await;
    assert!(runner.exited().await.success());
}

#[tokio::test]
async fn a_second_sigterm_interrupts_hands_reading_work_back_and_never_calls_mutating_work_done() {
    let fleet = Fleet::new().await;
    let mut runner = fleet.runner("a", &[]).await;
    let wait = ["/bin/bash", "-c", "echo ready; exec sleep 1000"];
    let deployment = fleet
        .submit(&json!({"jobs": [
            {"name": "reads", "kind": "exec", "reading": true, "argv": wait},
            {"name": "writes", "kind": "exec", "argv": wait}]}))
        .await;
    fleet.lines(deployment, 2).await;
    runner.terminate();
    runner.said("shutting down").await;
    runner.terminate();
    assert!(runner.exited().await.success());
    let status = fleet.status(deployment).await;
    assert_eq!(status["jobs"][0]["state"], "QUEUED", "{status:#}");
    assert_eq!(status["jobs"][1]["state"], "FAILED", "{status:#}");
    assert!(status["error_message"].as_str().expect("a reason").contains("shut down"), "{status:#}");
}
