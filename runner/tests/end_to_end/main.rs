//! The whole way on real parts: a row in a real Postgres, the real runner binary, real processes, real Terraform.
//!
//! `TENDRIL_TEST_DATABASE_URL` names the server; `./dev test` starts one. Every test has a database and a runner of its own.
#![expect(clippy::expect_used, reason = "a test that cannot be set up has nothing to go on with")]

mod adoption;
mod fleet;
mod logs;
mod set_back;

use fleet::{Fleet, terraform, until};
use serde_json::json;
use tendril_broker::testing::TestDatabase;

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
async fn a_runner_claims_nothing_that_it_may_not_start_yet() {
    let fleet = Fleet::new().await;
    // They wait already when the runner registers, and its first heartbeat is not answered yet.
    let jobs: Vec<_> =
        (0..8).map(|n| json!({"name": format!("job{n}"), "kind": "exec", "argv": ["/bin/true"]})).collect();
    let deployment = fleet.submit(&json!({"jobs": jobs})).await;
    let runner = fleet.runner("a", &[]).await;
    let status = fleet.ended(deployment).await;
    assert_eq!(status["status"], "SUCCESS");
    let claims: Vec<_> = status["jobs"].as_array().expect("jobs").iter().map(|job| &job["attempts"]).collect();
    assert!(claims.iter().all(|count| **count == 1), "{claims:?}");
    runner.end().await;
}

#[tokio::test]
async fn a_job_cannot_read_the_runners_environment_or_memory() {
    let mut fleet = Fleet::new().await;
    fleet.without_root();
    let runner = fleet.runner("a", &[]).await;
    let script = format!(
        "for p in {} $PPID; do for f in environ mem maps cmdline; do head -c 100000 /proc/$p/$f | tr '\\0' '\\n'; done; \
         ls /proc/$p/fd; kill -CONT $p; done; ls /proc; true",
        runner.pid()
    );
    let deployment =
        fleet.submit(&json!({"jobs": [{"name": "nosy", "kind": "exec", "argv": ["/bin/bash", "-c", script]}]})).await;
    let status = fleet.ended(deployment).await;
    assert_eq!(status["status"], "SUCCESS", "{status:#}");
    let log = fleet.whole_log(deployment).await;
    assert!(log.matches("Permission denied").count() == 11 && !log.contains("TENDRIL_"), "{log}");
    assert_eq!(log.matches("Operation not permitted").count(), 2, "{log}");
    runner.end().await;
}

#[tokio::test]
async fn a_flood_of_forged_rings_does_not_become_a_flood_of_claims() {
    let fleet = Fleet::new().await;
    let runner = fleet.runner("a", &[]).await;
    let rings = "tendril_runner_doorbell_rings_total ";
    let figure = |metrics: &str, name: &str| {
        let line = metrics.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.rsplit(' ').next().and_then(|count| count.parse::<u64>().ok()).unwrap_or(0)
    };
    while figure(&runner.get("/metrics").await, rings) == 0 {
        fleet.ring(1).await;
    }
    let claims = "tendril_runner_call_seconds_count{call=\"claim\"}";
    let before = figure(&runner.get("/metrics").await, claims);
    let took = fleet.ring(3000).await;
    let after = figure(&runner.get("/metrics").await, claims);
    // Fifty wake-ups a second, and the few looks that belong to the last of them.
    let most = 50 * (took.as_secs() + 1) + 20;
    assert!(after - before <= most, "{} claims in {took:?}", after - before);
    runner.end().await;
}

#[tokio::test]
async fn a_wrong_token_ends_the_runner_at_once_with_words() {
    let fleet = Fleet::new().await;
    let mut runner = fleet.stranger().await;
    assert!(!runner.exited().await.success());
    let said = runner.all_said();
    assert!(said.contains("refuses role r_") && !said.contains("0000000000"), "{said}");
}

#[tokio::test]
async fn a_database_that_is_not_the_brokers_ends_the_runner_at_once_with_what_to_do() {
    let fleet = Fleet::new().await;
    // Tried: a database without the schema, and one that has it and does not know the token's role.
    for (database, words) in [
        (TestDatabase::empty().await, ["schema \"tendril\" does not exist", "tendril-broker migrate"]),
        (TestDatabase::create().await, ["is not a runner's credential", "use the token that cluster create"]),
    ] {
        let mut runner = fleet.lost(&database).await;
        assert_eq!(runner.exited().await.code(), Some(1));
        let said = runner.all_said();
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
    }
}

#[tokio::test]
async fn a_runner_that_waits_for_its_broker_lives_and_is_not_ready() {
    let mut fleet = Fleet::new().await;
    fleet.read_only(true).await;
    let mut runner = fleet.second("a");
    runner.said("cannot register yet").await;
    assert_eq!(runner.get("/healthz").await, "alive\n");
    for path in ["/readyz", "/metrics"] {
        let answer = runner.get(path).await;
        assert!(answer.starts_with("not registered yet"), "{path}: {answer}");
    }
    fleet.read_only(false).await;
    until("the runner is ready", async || (runner.get("/readyz").await == "ready\n").then_some(())).await;
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
