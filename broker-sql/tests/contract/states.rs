//! The state machine of jobs and deployments, through SQL alone.

use serde_json::{Value, json};

use crate::fleet::{
    Fleet, apply_at, exec, finish_sql, limited, needing, one, reading, refused, run, sqlstate, start_sql,
};

#[tokio::test]
async fn a_graph_runs_in_the_order_of_its_needs() {
    let mut fleet = Fleet::new().await;
    let jobs = [exec("a"), needing(exec("b"), &["a"]), needing(exec("c"), &["a"]), needing(exec("d"), &["b", "c"])];
    let deployment = fleet.deploy_jobs(&jobs).await;
    let mut runner = fleet.runner().await;
    assert_eq!(fleet.status(deployment).await, "QUEUED");
    let mut order = Vec::new();
    for expected in [1, 2, 1] {
        let claimed = runner.claim(10).await;
        assert_eq!(claimed.len(), expected, "what needs nothing that is left, and no more");
        assert_eq!(fleet.status(deployment).await, "PROCESSING");
        for job in &claimed {
            order.push(job.job.clone());
            runner.start(job).await;
            runner.finish(job, "success").await;
        }
    }
    assert_eq!(order, ["a", "b", "c", "d"]);
    let state = fleet.state(deployment).await;
    assert_eq!(state.status, "SUCCESS");
    assert!(state.whole["ended_at"].is_string() && state.whole["started_at"].is_string());
}

#[tokio::test]
async fn a_failed_need_skips_what_waits_behind_it() {
    let mut fleet = Fleet::new().await;
    let jobs = [exec("a"), needing(exec("b"), &["a"]), needing(exec("c"), &["b"]), exec("z")];
    let deployment = fleet.deploy_jobs(&jobs).await;
    let mut runner = fleet.runner().await;
    let claimed = runner.claim(2).await;
    runner.start(&claimed[0]).await;
    runner.report(&claimed[0], json!({"outcome": "failure", "log_end": -1, "error": "exit code 3"})).await;
    let state = fleet.state(deployment).await;
    assert_eq!(state.status, "PROCESSING", "job z is still under way");
    let reasons: Vec<_> = state.jobs.iter().map(|j| (j.name.as_str(), j.state.as_str(), j.reason.as_deref())).collect();
    assert_eq!(
        reasons,
        [
            ("a", "FAILED", Some("exit code 3")),
            ("b", "SKIPPED", Some("job a ended as FAILED")),
            ("c", "SKIPPED", Some("job a ended as FAILED")),
            ("z", "CLAIMED", None),
        ]
    );
    runner.start(&claimed[1]).await;
    runner.finish(&claimed[1], "success").await;
    let state = fleet.state(deployment).await;
    assert_eq!((state.status.as_str(), state.error_message.as_deref()), ("FAILED", Some("a: exit code 3")));
}

#[tokio::test]
async fn the_default_jobs_are_plan_and_apply_and_the_apply_gets_the_plans_attempt() {
    let mut fleet = Fleet::new().await;
    let deployment = fleet.deploy(apply_at("s")).await;
    let mut runner = fleet.runner().await;
    let plan = runner.claim_one().await;
    assert_eq!((plan.kind.as_str(), plan.mutating, plan.state_key.as_deref()), ("terraform.plan", false, None));
    assert_eq!(fleet.job(deployment, "plan").await, "STARTED", "the claim of a reading kind is its start");
    let result =
        json!({"outcome": "success", "log_end": -1, "result": {"engine": "terraform", "engine_version": "1.11.4"}});
    runner.report(&plan, result).await;
    // Pinned to the engine that planned: a runner with another one does not get it.
    assert_eq!(runner.claim(1).await.len(), 0);
    let labels = ["kind=terraform.apply", "place=p", "engine=terraform@1.11.4"];
    let mut other = fleet.runner_of(&fleet.cluster, &labels).await;
    let apply = other.claim_one().await;
    assert_eq!(apply.plan_attempt_id, Some(plan.attempt_id));
    assert_eq!(apply.state_key.as_deref(), Some("local://p/s#default"));
    other.start(&apply).await;
    let outputs = json!({"greeting": {"value": "hi", "sensitive": false}});
    other.report(&apply, json!({"outcome": "success", "log_end": -1, "result": {"outputs": outputs}})).await;
    let state = fleet.state(deployment).await;
    assert_eq!(state.status, "SUCCESS");
    assert_eq!(state.outputs, Some(outputs));
    assert_eq!(state.whole["engine_version"], "1.11.4");
    assert_eq!(state.state_location.as_deref(), Some("local://p/s#default"));
}

#[tokio::test]
async fn an_optional_job_that_fails_leaves_the_success_alone() {
    let mut fleet = Fleet::new().await;
    let mut cost = reading("cost");
    cost["optional"] = json!(true);
    let deployment = fleet.deploy_jobs(&[cost, exec("a")]).await;
    let mut runner = fleet.runner().await;
    runner.perform("failure").await;
    runner.perform("success").await;
    let state = fleet.state(deployment).await;
    assert_eq!((state.status.as_str(), state.error_message), ("SUCCESS", None));
}

#[tokio::test]
async fn approval_holds_a_job_back_until_somebody_gives_it() {
    let mut fleet = Fleet::new().await;
    let mut snapshot = apply_at("s");
    snapshot["approval"] = json!("required");
    let deployment = fleet.deploy(snapshot).await;
    let mut runner = fleet.runner().await;
    let approve = format!("select tendril.approve('{deployment}', null, 'looks right')");
    // Too early: the plan is not there yet.
    assert_eq!(sqlstate(&mut fleet.portal, &approve).await, "TD003");
    runner.perform("success").await;
    assert_eq!(fleet.status(deployment).await, "AWAITING_APPROVAL");
    assert_eq!(runner.claim(1).await.len(), 0);
    let wrong = refused(&mut fleet.portal, &format!("select tendril.approve('{deployment}', 'plan')")).await;
    assert_eq!(
        (wrong.sqlstate.as_str(), wrong.message.as_str()),
        ("TD003", "no job plan of the deployment waits for approval")
    );
    assert_eq!(one::<i32>(&mut fleet.portal, &approve).await, 1);
    assert_eq!(fleet.status(deployment).await, "PROCESSING");
    assert_eq!(sqlstate(&mut fleet.portal, &approve).await, "TD003", "once is enough");
    runner.perform("success").await;
    assert_eq!(fleet.status(deployment).await, "SUCCESS");
    let kept: String = one(&mut fleet.operator, "select reason from tendril_core.approvals").await;
    assert_eq!(kept, "looks right");
}

#[tokio::test]
async fn a_deployment_whose_first_job_needs_approval_awaits_it_from_the_submit_on() {
    let mut fleet = Fleet::new().await;
    let mut job = exec("a");
    job["approval"] = json!("required");
    let deployment = fleet.deploy_jobs(&[job]).await;
    assert_eq!(fleet.status(deployment).await, "AWAITING_APPROVAL");
}

#[tokio::test]
async fn cancel_is_immediate_for_what_waits() {
    let mut fleet = Fleet::new().await;
    let mut approved = exec("b");
    approved["approval"] = json!("required");
    let deployment = fleet.deploy_jobs(&[exec("a"), approved, needing(exec("c"), &["a"])]).await;
    let cancel = format!("select tendril.cancel('{deployment}', 'wrong cluster')");
    assert_eq!(one::<String>(&mut fleet.portal, &cancel).await, "CANCELLED");
    let state = fleet.state(deployment).await;
    assert!(
        state.jobs.iter().all(|j| j.state == "CANCELLED" && j.reason.as_deref() == Some("cancelled: wrong cluster"))
    );
    let mut runner = fleet.runner().await;
    assert_eq!(runner.claim(9).await.len(), 0);
    let again = refused(&mut fleet.portal, &cancel).await;
    assert_eq!(
        (again.sqlstate.as_str(), again.message.as_str()),
        ("TD003", "the deployment has ended already: CANCELLED")
    );
}

#[tokio::test]
async fn cancel_of_a_claimed_job_is_a_request_that_the_heartbeat_repeats_and_the_start_refuses() {
    let mut fleet = Fleet::new().await;
    let deployment = fleet.deploy_jobs(&[exec("a"), needing(exec("b"), &["a"])]).await;
    let mut runner = fleet.runner().await;
    let claimed = runner.claim_one().await;
    let cancel = format!("select tendril.cancel('{deployment}')");
    assert_eq!(one::<String>(&mut fleet.portal, &cancel).await, "PROCESSING");
    for _ in 0..2 {
        assert_eq!(runner.heartbeat(&[&claimed]).await["cancel"], json!([claimed.attempt_id]));
    }
    assert_eq!(sqlstate(&mut runner.session, &start_sql(&claimed)).await, "TD013");
    runner.finish(&claimed, "cancelled").await;
    assert_eq!(fleet.status(deployment).await, "CANCELLED");
}

#[tokio::test]
async fn cancel_of_a_started_job_ends_as_its_holder_reports() {
    let mut fleet = Fleet::new().await;
    let deployment = fleet.deploy_jobs(&[exec("a")]).await;
    let mut runner = fleet.runner().await;
    let claimed = runner.claim_one().await;
    runner.start(&claimed).await;
    run(&mut fleet.portal, &format!("select tendril.cancel('{deployment}')")).await;
    runner.finish(&claimed, "success").await;
    assert_eq!(fleet.status(deployment).await, "SUCCESS", "it finished before the cancel reached it");
}

#[tokio::test]
async fn a_claimed_job_of_a_cancelled_deployment_does_not_go_back_to_the_queue() {
    let mut fleet = Fleet::new().await;
    let deployment = fleet.deploy_jobs(&[exec("a")]).await;
    let mut runner = fleet.runner().await;
    runner.claim_one().await;
    run(&mut fleet.portal, &format!("select tendril.cancel('{deployment}')")).await;
    assert_eq!(fleet.lose(&runner).await, 1);
    assert_eq!(fleet.status(deployment).await, "CANCELLED");
}

#[tokio::test]
async fn retry_makes_a_new_deployment_and_leaves_the_old_one_as_it_is() {
    let mut fleet = Fleet::new().await;
    let deployment = fleet.deploy_jobs(&[exec("a")]).await;
    let retry = format!("select tendril.retry('{deployment}', '01900000-0000-7000-8000-000000000001')");
    let early = refused(&mut fleet.portal, &retry).await;
    assert_eq!(
        (early.sqlstate.as_str(), early.message.as_str()),
        ("TD003", "the deployment is QUEUED; only FAILED and CANCELLED ones are done again")
    );
    let mut runner = fleet.runner().await;
    runner.perform("failure").await;
    let first: uuid::Uuid = one(&mut fleet.portal, &retry).await;
    let second: uuid::Uuid = one(&mut fleet.portal, &retry).await;
    assert_eq!(first, second, "sent twice with one id it is queued once");
    assert_eq!(fleet.status(deployment).await, "FAILED");
    assert_eq!(fleet.status(first).await, "QUEUED");
    let of: bool = one(
        &mut fleet.operator,
        "select n.retry_of = o.id from tendril_core.jobs n join tendril_core.jobs o on o.id <> n.id where n.retry_of is not null",
    )
    .await;
    assert!(of, "its job names the job that it does again");
    assert_eq!(runner.claim(9).await.len(), 1);
    // An id that is something else is not taken for a retry.
    let other = fleet.deploy_jobs(&[exec("a")]).await;
    let wrong = format!("select tendril.retry('{deployment}', '{other}')");
    assert_eq!(sqlstate(&mut fleet.portal, &wrong).await, "TD002");
}

/// How long the job that waits for its time has to, in seconds.
async fn wait_s(fleet: &mut Fleet) -> f64 {
    let sql = "select extract(epoch from p.run_after - j.queued_at)::float8 from tendril_core.parked p join tendril_core.jobs j on j.id = p.job_id";
    one(&mut fleet.operator, sql).await
}

#[tokio::test]
async fn a_failure_is_tried_again_only_for_reading_jobs_with_max_attempts_and_waits_longer_each_time() {
    let mut fleet = Fleet::new().await;
    let twice = limited(reading("a"), json!({"max_attempts": 3}));
    let deployment = fleet.deploy_jobs(&[twice]).await;
    let mut runner = fleet.runner().await;
    for expected_s in [1.0, 2.0] {
        runner.perform("failure").await;
        assert_eq!(fleet.job(deployment, "a").await, "QUEUED");
        let wait = wait_s(&mut fleet).await;
        assert!((wait - expected_s).abs() < 0.2, "waits {wait} s");
        assert_eq!(runner.claim(1).await.len(), 0, "not before its time");
        assert_eq!(fleet.its_time_comes().await, 1);
    }
    runner.perform("timeout").await;
    assert_eq!(fleet.status(deployment).await, "FAILED");

    let plain = fleet.deploy_jobs(&[reading("a")]).await;
    runner.perform("failure").await;
    assert_eq!(fleet.status(plain).await, "FAILED", "without max_attempts a failure is a failure");
    let permanent = fleet.deploy_jobs(&[limited(reading("a"), json!({"max_attempts": 3}))]).await;
    let claimed = runner.claim_one().await;
    runner.report(&claimed, json!({"outcome": "failure", "log_end": -1, "permanent": true})).await;
    assert_eq!(fleet.status(permanent).await, "FAILED", "what cannot get better is not tried again");
}

#[tokio::test]
async fn released_work_goes_back_and_does_not_count() {
    let mut fleet = Fleet::new().await;
    let deployment = fleet.deploy_jobs(&[limited(reading("a"), json!({"max_attempts": 1}))]).await;
    let mut runner = fleet.runner().await;
    for attempt in 1..=3 {
        let claimed = runner.claim_one().await;
        assert_eq!(claimed.ordinal, attempt);
        runner.finish(&claimed, "released").await;
    }
    runner.perform("success").await;
    assert_eq!(fleet.status(deployment).await, "SUCCESS");
}

#[tokio::test]
async fn what_is_handed_back_again_and_again_waits_longer_each_time_and_never_longer_than_a_lease() {
    let mut fleet = Fleet::new().await;
    let deployment = fleet.deploy_jobs(&[exec("a")]).await;
    let mut runner = fleet.runner().await;
    for _ in 0..3 {
        let claimed = runner.claim_one().await;
        runner.finish(&claimed, "released").await;
    }
    for expected_s in [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0] {
        let claimed = runner.claim_one().await;
        runner.finish(&claimed, "released").await;
        assert!(runner.claim(1).await.is_empty(), "not before its time");
        let wait = wait_s(&mut fleet).await;
        assert!((wait - expected_s).abs() < 0.2, "waits {wait} s, and not {expected_s}");
        assert_eq!(fleet.its_time_comes().await, 1);
    }
    // What lasts for hours is no fleet's restart.
    run(
        &mut fleet.operator,
        "insert into tendril_core.attempts (job_id, cluster_id, deployment_id, ordinal, claim_no, runner_id, log_writer, outcome, superseded_at)
           select a.job_id, a.cluster_id, a.deployment_id, n, 0, a.runner_id, a.log_writer, 'released', now()
             from tendril_core.attempts a, generate_series(11, 1000) n where a.ordinal = 1;
         update tendril_core.jobs set attempts = 1000, max_attempts = 1001",
    )
    .await;
    let claimed = runner.claim_one().await;
    runner.finish(&claimed, "released").await;
    let state = fleet.state(deployment).await;
    assert_eq!(state.status, "FAILED");
    assert!(state.error_message.as_deref().is_some_and(|why| why.contains("gave up after 1001 attempts")), "{state:?}");
}

#[tokio::test]
async fn a_start_that_is_refused_for_good_is_tried_as_often_as_a_job_may_be_with_growing_waits() {
    let mut fleet = Fleet::new().await;
    let deployment = fleet.deploy_jobs(&[exec("a")]).await;
    let mut runner = fleet.runner().await;
    let refused =
        json!({"outcome": "released", "log_end": -1, "permanent": true, "error": "the broker does not let it start"});
    for expected_s in [2.0, 4.0] {
        let claimed = runner.claim_one().await;
        runner.report(&claimed, refused.clone()).await;
        let wait = wait_s(&mut fleet).await;
        assert!((wait - expected_s).abs() < 0.2, "waits {wait} s, and not {expected_s}");
        assert_eq!(fleet.its_time_comes().await, 1);
    }
    let claimed = runner.claim_one().await;
    runner.report(&claimed, refused).await;
    let state = fleet.state(deployment).await;
    assert_eq!(state.status, "FAILED");
    let why = "the broker does not let it start; gave up after 3 attempts";
    assert!(state.error_message.as_deref().is_some_and(|said| said.contains(why)), "{state:?}");
}

#[tokio::test]
async fn a_started_mutating_job_cannot_be_released() {
    let mut fleet = Fleet::new().await;
    let deployment = fleet.deploy_jobs(&[exec("a")]).await;
    let mut runner = fleet.runner().await;
    let claimed = runner.claim_one().await;
    runner.start(&claimed).await;
    runner.finish(&claimed, "released").await;
    assert_eq!(
        fleet.status(deployment).await,
        "FAILED",
        "it may have changed the world: it never starts again by itself"
    );
}

#[tokio::test]
async fn finish_is_idempotent_and_refuses_bad_reports() {
    let mut fleet = Fleet::new().await;
    let deployment = fleet.deploy_jobs(&[exec("a")]).await;
    let mut runner = fleet.runner().await;
    let claimed = runner.claim_one().await;
    runner.start(&claimed).await;
    run(&mut runner.session, &start_sql(&claimed)).await;
    for bad in [
        json!({}),
        json!({"outcome": "success"}),
        json!({"outcome": "splendid", "log_end": 1}),
        json!({"outcome": "success", "log_end": "1"}),
        json!({"outcome": "success", "log_end": 1.5}),
        json!({"outcome": "success", "log_end": -2}),
        json!({"outcome": "success", "log_end": 1e30}),
        json!([]),
    ] {
        assert_eq!(sqlstate(&mut runner.session, &finish_sql(&claimed, &bad)).await, "TD001", "{bad}");
    }
    let huge = json!({"outcome": "success", "log_end": -1, "result": "x".repeat(9_000_000)});
    assert_eq!(sqlstate(&mut runner.session, &finish_sql(&claimed, &huge)).await, "TD011");
    assert_eq!(fleet.job(deployment, "a").await, "STARTED");
    assert_eq!(runner.finish(&claimed, "success").await, "accepted");
    assert_eq!(runner.finish(&claimed, "success").await, "again");
    assert_eq!(runner.finish(&claimed, "failure").await, "again", "the first word counts");
    assert_eq!(fleet.status(deployment).await, "SUCCESS");
}

#[tokio::test]
async fn a_wrong_fence_addresses_nothing() {
    let mut fleet = Fleet::new().await;
    fleet.deploy_jobs(&[exec("a")]).await;
    let mut runner = fleet.runner().await;
    let mut claimed = runner.claim_one().await;
    claimed.fence += 1;
    assert_eq!(sqlstate(&mut runner.session, &start_sql(&claimed)).await, "TD002");
    let report = json!({"outcome": "success", "log_end": -1});
    assert_eq!(sqlstate(&mut runner.session, &finish_sql(&claimed, &report)).await, "TD002");
}

#[tokio::test]
async fn progress_shows_while_it_runs_and_is_bounded() {
    let mut fleet = Fleet::new().await;
    let deployment = fleet.deploy_jobs(&[exec("a")]).await;
    let mut runner = fleet.runner().await;
    let claimed = runner.claim_one().await;
    let progress = |value: Value| {
        format!("select tendril.runner_progress('{}', {}, '{value}')", claimed.attempt_id, claimed.fence)
    };
    run(&mut runner.session, &progress(json!({"done": 1}))).await;
    let shown: Value =
        one(&mut fleet.portal, &format!("select progress from tendril.jobs where deployment_id = '{deployment}'"))
            .await;
    assert_eq!(shown, json!({"done": 1}));
    assert_eq!(sqlstate(&mut runner.session, &progress(json!("x".repeat(600_000)))).await, "TD011");
    runner.finish(&claimed, "cancelled").await;
    run(&mut runner.session, &progress(json!({"done": 2}))).await;
    let shown: Value =
        one(&mut fleet.portal, &format!("select progress from tendril.jobs where deployment_id = '{deployment}'"))
            .await;
    assert_eq!(shown, json!({"done": 1}), "a stale one is ignored");
}

#[tokio::test]
async fn an_update_or_delete_by_hand_is_refused() {
    let mut fleet = Fleet::new().await;
    let deployment = fleet.deploy_jobs(&[exec("a")]).await;
    let update = refused(&mut fleet.portal, "update tendril.deployments set status = 'CANCELLED'").await;
    assert_eq!(update.sqlstate, "TD004");
    assert!(update.hint.unwrap().contains("tendril.cancel(id, reason)"));
    for sql in [
        "delete from tendril.deployments",
        "truncate tendril.deployments",
        "update tendril.deployments set error_message = ''",
        "insert into tendril.clusters (name) values ('x')",
        "insert into tendril.deployment_logs (seq) values (1)",
    ] {
        assert_eq!(sqlstate(&mut fleet.portal, sql).await, "42501", "{sql}");
    }
    assert_eq!(sqlstate(&mut fleet.portal, "begin; lock table tendril.deployments in share mode").await, "42501");
    run(&mut fleet.portal, "rollback").await;
    // Nothing to see for those who would lock rows.
    let locked = run(&mut fleet.portal, "select from tendril.deployments for update").await;
    assert_eq!(locked.rows_affected(), 0);
    assert_eq!(fleet.status(deployment).await, "QUEUED");
}
