//! What follows when a need fails, and decisions about jobs that wait for one.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::fleet::{Fleet, Runner, apply_at, exec, id, needing, one, reading, refused, run, sqlstate, start_sql};
use crate::program::broker;

fn despite(job: Value, needs: &[&str], if_failed: Value) -> Value {
    let mut job = needing(job, needs);
    job["if_failed"] = if_failed;
    job
}

#[tokio::test]
async fn what_a_job_does_when_a_need_fails_is_its_own_word() {
    let mut fleet = Fleet::new().await;
    let jobs = [
        reading("a"),
        reading("fine"),
        needing(reading("skipped"), &["a"]),
        despite(reading("goes-on"), &["a", "fine"], json!({"a": "continue"})),
        despite(reading("cleanup"), &["skipped"], json!({"skipped": "always"})),
        // It did not fail: it never ran.
        despite(reading("not-this"), &["skipped"], json!({"skipped": "continue"})),
        despite(reading("last"), &["goes-on", "cleanup", "not-this"], json!({"goes-on": "skip", "not-this": "always"})),
    ];
    let deployment = fleet.deploy_jobs(&jobs).await;
    let mut runner = fleet.runner().await;
    assert_eq!(runner.perform("failure").await.job, "a");
    let waits = fleet.state(deployment).await.jobs.into_iter().find(|job| job.name == "goes-on").unwrap().waiting_for;
    assert_eq!(waits.as_deref(), Some("job fine"), "the need that failed is no longer waited for");
    for _ in 0..4 {
        runner.perform("success").await;
    }
    let jobs = fleet.jobs(deployment).await;
    let states: Vec<(&str, &str)> = jobs.iter().map(|(name, state)| (name.as_str(), state.as_str())).collect();
    let expected = [
        ("a", "FAILED"),
        ("cleanup", "SUCCESS"),
        ("fine", "SUCCESS"),
        ("goes-on", "SUCCESS"),
        ("last", "SUCCESS"),
        ("not-this", "SKIPPED"),
        ("skipped", "SKIPPED"),
    ];
    assert_eq!(states, expected);
    let state = fleet.state(deployment).await;
    assert_eq!((state.status.as_str(), state.error_message.as_deref()), ("FAILED", Some("a: failure")));
}

#[tokio::test]
async fn a_cancelled_deployment_runs_nothing_more_whatever_its_needs_say() {
    let mut fleet = Fleet::new().await;
    let deployment = fleet.deploy_jobs(&[exec("a"), despite(exec("always"), &["a"], json!({"a": "always"}))]).await;
    let mut runner = fleet.runner().await;
    let claimed = runner.claim_one().await;
    run(&mut fleet.portal, &format!("select tendril.cancel('{deployment}')")).await;
    runner.finish(&claimed, "cancelled").await;
    assert_eq!(fleet.job(deployment, "always").await, "CANCELLED");
    assert_eq!(fleet.status(deployment).await, "CANCELLED");
}

#[tokio::test]
async fn a_wrong_word_on_a_need_is_named() {
    let mut fleet = Fleet::new().await;
    let apply = json!({"template": {"name": "t"}, "stateless": true, "jobs": [
        {"name": "plan", "kind": "terraform.plan"},
        {"name": "apply", "kind": "terraform.apply", "needs": ["plan"], "if_failed": {"plan": "always"}}]});
    for (snapshot, words) in [
        (
            json!({"jobs": [exec("a"), despite(exec("b"), &["a"], json!({"c": "always"}))]}),
            "jobs[1].if_failed.c: is no need of the job",
        ),
        (
            json!({"jobs": [exec("a"), despite(exec("b"), &["a"], json!({"a": "perhaps"}))]}),
            "jobs[1].if_failed.a: must be one of",
        ),
        (
            json!({"jobs": [exec("a"), despite(exec("b"), &["a"], json!({"a": 1}))]}),
            "jobs[1].if_failed.a: must be one of",
        ),
        (json!({"jobs": [exec("a"), despite(exec("b"), &["a"], json!("always"))]}), "jobs[1].if_failed: must be"),
        (apply, "jobs[1].if_failed.plan: must be \"skip\": terraform.apply has nothing to do without its plan"),
    ] {
        let sql = fleet.insert(id(), &snapshot);
        let refusal = refused(&mut fleet.portal, &sql).await;
        assert_eq!(refusal.sqlstate, "TD001", "{snapshot}");
        assert!(refusal.message.contains(words), "{snapshot}: {}", refusal.message);
    }
}

/// A deployment whose plan is there and whose apply waits for approval.
async fn planned(fleet: &mut Fleet, runner: &mut Runner, path: &str) -> Uuid {
    let mut snapshot = apply_at(path);
    snapshot["approval"] = json!("required");
    snapshot["limits"] = json!({"plan_max_age_s": 3600});
    let deployment = fleet.deploy(snapshot).await;
    runner.perform("success").await;
    assert_eq!(fleet.status(deployment).await, "AWAITING_APPROVAL");
    deployment
}

#[tokio::test]
async fn a_rejection_ends_the_job_and_says_who_and_why() {
    let mut fleet = Fleet::new().await;
    let mut runner = fleet.runner().await;
    let deployment = planned(&mut fleet, &mut runner, "s").await;
    let reject = |job: &str| format!("select tendril.reject('{deployment}', {job}, 'too dear')");
    assert_eq!(sqlstate(&mut fleet.portal, &reject("'plan'")).await, "TD003");
    // Rolled back it has never been.
    run(&mut fleet.portal, &format!("begin; {}; rollback", reject("null"))).await;
    assert_eq!(fleet.status(deployment).await, "AWAITING_APPROVAL");
    assert_eq!(one::<i32>(&mut fleet.portal, &reject("null")).await, 1);
    let state = fleet.state(deployment).await;
    let actor: String = one(&mut fleet.portal, "select current_user::text").await;
    let (apply, decision) = (&state.whole["jobs"][1], &state.whole["jobs"][1]["approval"]);
    assert_eq!((state.status.as_str(), &apply["state"]), ("CANCELLED", &json!("CANCELLED")));
    assert_eq!(apply["reason"], format!("rejected by {actor}: too dear"));
    assert_eq!(
        (&decision["decision"], &decision["actor"], &decision["reason"]),
        (&json!("rejected"), &json!(actor), &json!("too dear"))
    );
    assert_eq!(state.whole["cancel_reason"], apply["reason"]);
    assert_eq!(sqlstate(&mut fleet.portal, &reject("null")).await, "TD003");
    assert_eq!(sqlstate(&mut fleet.portal, &format!("select tendril.approve('{deployment}')")).await, "TD003");
    assert_eq!(sqlstate(&mut fleet.portal, &format!("select tendril.reject('{}')", id())).await, "TD002");
    // By the command, and shown by it.
    let other = planned(&mut fleet, &mut runner, "t").await.to_string();
    let url = fleet.database.url();
    let ran = broker(&url, &["reject", &other, "--reason", "not on a Friday", "--json"]).await;
    assert_eq!((ran.code, ran.json()["rejected"].clone()), (0, json!(1)), "{}", ran.err);
    let shown = broker(&url, &["status", &other]).await.out;
    assert!(shown.contains("apply was rejected by ") && shown.contains(": not on a Friday"), "{shown}");
}

#[tokio::test]
async fn a_plan_that_is_too_old_is_not_applied() {
    let mut fleet = Fleet::new().await;
    let mut runner = fleet.runner().await;
    let age = "update tendril_core.jobs set expires_at = expires_at - interval '1 h' where expires_at is not null";
    let fresh = "select expires_at - clock_timestamp() between interval '55 min' and interval '1 h' from tendril_core.jobs where expires_at is not null";
    // While it waits for approval.
    let waits = planned(&mut fleet, &mut runner, "a").await;
    assert!(one::<bool>(&mut fleet.operator, fresh).await, "limits.plan_max_age_s");
    run(&mut fleet.operator, age).await;
    let refusal = refused(&mut fleet.portal, &format!("select tendril.approve('{waits}')")).await;
    assert_eq!(refusal.sqlstate, "TD003");
    assert!(refusal.message.starts_with("the plan was too old at "), "{}", refusal.message);
    // Approved in time, and queued for too long.
    let queued = planned(&mut fleet, &mut runner, "b").await;
    run(&mut fleet.portal, &format!("select tendril.approve('{queued}')")).await;
    run(&mut fleet.operator, age).await;
    assert_eq!(fleet.database.duty("plans").await, 2);
    // Claimed in time, and not started.
    let claimed = planned(&mut fleet, &mut runner, "c").await;
    run(&mut fleet.portal, &format!("select tendril.approve('{claimed}')")).await;
    let apply = runner.claim_one().await;
    run(&mut fleet.operator, age).await;
    assert_eq!(sqlstate(&mut runner.session, &start_sql(&apply)).await, "TD013");
    assert_eq!(runner.finish(&apply, "cancelled").await, "accepted");
    for deployment in [waits, queued, claimed] {
        let state = fleet.state(deployment).await;
        let error = state.error_message.unwrap();
        assert_eq!(state.status, "FAILED");
        assert!(error.starts_with("apply: the plan was too old at ") && error.ends_with(": plan again"), "{error}");
    }
    // What has started runs to its end.
    let started = planned(&mut fleet, &mut runner, "d").await;
    run(&mut fleet.portal, &format!("select tendril.approve('{started}')")).await;
    let apply = runner.claim_one().await;
    runner.start(&apply).await;
    run(&mut fleet.operator, age).await;
    assert_eq!(fleet.database.duty("plans").await, 0);
    runner.finish(&apply, "success").await;
    assert_eq!(fleet.status(started).await, "SUCCESS");
    // Without a word of its own a plan is good for a day.
    fleet.deploy(apply_at("e")).await;
    runner.perform("success").await;
    let day = "select expires_at > clock_timestamp() + interval '23 h' from tendril_core.jobs where state = 'QUEUED' and kind = 'terraform.apply'";
    assert!(one::<bool>(&mut fleet.operator, day).await);
}
