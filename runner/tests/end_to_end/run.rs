//! A job from its row to its end.

use crate::fleet::{Fleet, terraform};
use serde_json::json;

#[tokio::test]
async fn an_insert_becomes_a_plan_an_apply_and_outputs() {
    let Some(engine) = terraform() else { return };
    let fleet = Fleet::new().await;
    let runner = fleet.runner("a", &engine).await;
    let tree = "variable \"name\" { type = string }\n\
                resource \"terraform_data\" \"one\" {\n  input = var.name\n  provisioner \"local-exec\" { command = \"echo made by ${var.name}\" }\n}\n\
                output \"greeting\" { value = \"Hello, ${terraform_data.one.output}\" }\n\
                output \"secret\" {\n  value = \"hunter2-${var.name}\"\n  sensitive = true\n}\n";
    let deployment = fleet
        .submit(&json!({
            "template": {"inline": {"main.tf": tree}}, "inputs": {"name": "Ada"},
            "backend": {"type": "local", "place": "test", "path": "e2e/one"},
        }))
        .await;
    let status = fleet.ended(deployment).await;
    assert_eq!(status["status"], "SUCCESS", "{status:#}");
    assert_eq!(status["outputs"]["greeting"], "Hello, Ada");
    assert!(!status.to_string().contains("hunter2"), "{status:#}");
    assert_eq!(status["state_location"], "local://test/e2e/one#default");
    // What the portal sees of the apply: each resource, and each command with its end, length and memory.
    let apply = status["jobs"].as_array().expect("jobs").iter().find(|job| job["kind"] == "terraform.apply");
    let attempt = &apply.expect("an apply")["attempt"];
    assert_eq!(attempt["progress"]["resources"]["terraform_data.one"]["state"], "complete", "{attempt:#}");
    let commands = attempt["report"]["commands"].as_array().expect("commands");
    assert!(commands.iter().any(|command| command["name"] == "apply"), "{attempt:#}");
    for command in commands {
        assert_eq!(
            (&command["exit"]["kind"], &command["ended"]["code"]),
            (&json!("success"), &json!(0)),
            "{command:#}"
        );
        assert!(
            command["duration_ms"].as_u64() > Some(0) && command["peak_memory_bytes"].as_u64() > Some(0),
            "{command:#}"
        );
    }
    let log = fleet.whole_log(deployment).await;
    assert!(log.contains("(local-exec): made by Ada\n") && log.contains("Plan: 1 to add"), "{log}");
    assert!(!log.contains("hunter2"), "{log}");
    // The truth is Terraform's own state, on the runner's place.
    let state = runner.state_file("e2e/one");
    assert!(state.contains("\"terraform_data\"") && state.contains("Ada"), "{state}");
    runner.end().await;
}

#[tokio::test]
async fn a_running_job_is_cancelled_and_nothing_of_it_lives_on() {
    let fleet = Fleet::new().await;
    let runner = fleet.runner("a", &[]).await;
    let script = "trap 'exit 3' INT; echo $$; while :; do read -t 60 < <(:) || true; read -t 60 <> <(:); done";
    let deployment =
        fleet.submit(&json!({"jobs": [{"name": "loop", "kind": "exec", "argv": ["/bin/bash", "-c", script]}]})).await;
    let pid = fleet.line(deployment, |line| line.parse::<i32>().ok()).await;
    fleet.cancel(deployment).await;
    let status = fleet.ended(deployment).await;
    assert_eq!(status["status"], "CANCELLED", "{status:#}");
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    runner.end().await;
}

#[tokio::test]
async fn a_job_that_runs_for_too_long_is_ended_and_says_so() {
    let fleet = Fleet::new().await;
    let runner = fleet.runner("a", &[]).await;
    let deployment = fleet
        .submit(&json!({"limits": {"timeout_s": 1, "kill_grace_s": 1},
            "jobs": [{"name": "slow", "kind": "exec", "argv": ["/bin/bash", "-c", "trap '' INT; while :; do sleep 1; done"]}]}))
        .await;
    let status = fleet.ended(deployment).await;
    assert_eq!(status["status"], "FAILED");
    assert!(status["error_message"].as_str().expect("a reason").contains("timeout"), "{status:#}");
    // It ignores its interrupt: the kill came after the grace that was asked for, not after the usual minute.
    let took = fleet.seconds(deployment).await;
    assert!(took < 30.0, "{took} s");
    runner.end().await;
}

#[tokio::test]
async fn twenty_thousand_lines_arrive_once_in_order_and_whole() {
    let fleet = Fleet::new().await;
    let runner = fleet.runner("a", &[]).await;
    let deployment = fleet
        .submit(&json!({"jobs": [{"name": "loud", "kind": "exec", "argv": ["/usr/bin/seq", "-f", "line %08g of many, with some length to it", "20000"]}]}))
        .await;
    assert_eq!(fleet.ended(deployment).await["status"], "SUCCESS");
    let expected: String = (1..=20_000).map(|n| format!("line {n:08} of many, with some length to it\n")).collect();
    assert!(fleet.whole_log(deployment).await == expected, "the stored log differs from what was printed");
    runner.end().await;
}

#[tokio::test]
async fn what_cannot_run_says_why_in_the_deployment() {
    let fleet = Fleet::new().await;
    let runner = fleet.runner("a", &[]).await;
    // A program that is not there; an undefined variable in a template; a place that is another's.
    for (snapshot, words) in [
        (json!({"jobs": [{"name": "x", "kind": "exec", "argv": ["/no/such/program"]}]}), "/no/such/program"),
        (json!({"jobs": [{"name": "x", "kind": "exec", "argv": ["false"]}]}), "code 1"),
    ] {
        let status = fleet.ended(fleet.submit(&snapshot).await).await;
        assert_eq!(status["status"], "FAILED");
        assert!(status["error_message"].as_str().expect("a reason").contains(words), "{words}: {status:#}");
    }
    runner.end().await;
}

#[tokio::test]
async fn metrics_and_probes_answer() {
    let fleet = Fleet::new().await;
    let runner = fleet.runner("a", &[]).await;
    let deployment = fleet.submit(&json!({"jobs": [{"name": "x", "kind": "exec", "argv": ["/bin/true"]}]})).await;
    fleet.ended(deployment).await;
    assert_eq!(runner.get("/healthz").await, "alive\n");
    assert_eq!(runner.get("/readyz").await, "ready\n");
    for line in [
        "tendril_runner_attempts_claimed_total{kind=\"exec\"} 1",
        "tendril_runner_attempt_start_seconds_count{kind=\"exec\"} 1",
        "tendril_runner_attempt_seconds_count{kind=\"exec\"} 1",
        "tendril_runner_attempts_ended_total{kind=\"exec\",outcome=\"success\"} 1",
        "tendril_runner_call_seconds_count{call=\"start\"} 1",
        "tendril_runner_call_seconds_count{call=\"finish\"} 1",
        "tendril_runner_call_seconds_count{call=\"claim\"}",
        "tendril_runner_call_seconds_count{call=\"heartbeat\"}",
        "# EOF",
    ] {
        // The runner counts an end when its report is answered: a moment after the portal sees it.
        runner.figure(line).await;
    }
    runner.end().await;
}
