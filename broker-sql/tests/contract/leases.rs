//! Leases, the pulse, and what becomes of work whose runner is silent.

use serde_json::json;

use crate::fleet::{
    Fleet, apply_at, exec, finish_sql, limited, needing, one, reading, refused, run, sqlstate, start_sql,
};

#[tokio::test]
async fn what_was_claimed_or_only_reads_is_queued_again_and_the_old_attempt_is_stale() {
    let mut fleet = Fleet::new().await;
    let deployment = fleet.deploy_jobs(&[exec("claimed"), reading("reads")]).await;
    let mut lost = fleet.runner().await;
    let old = lost.claim(2).await;
    assert_eq!(fleet.lose(&lost).await, 2);
    assert_eq!(fleet.jobs(deployment).await.into_values().collect::<Vec<_>>(), ["QUEUED", "QUEUED"]);
    let mut other = fleet.runner().await;
    let new = other.claim(2).await;
    assert!(new.iter().all(|n| n.ordinal == 2 && old.iter().all(|o| o.fence < n.fence)));
    // The old holder is back: it learns what it has lost, starts nothing, and its report is a note.
    let reply = lost.heartbeat(&[&old[0], &old[1]]).await;
    assert_eq!(reply["held"], json!([]));
    assert_eq!(reply["superseded"].as_array().unwrap().len(), 2);
    assert_eq!(sqlstate(&mut lost.session, &start_sql(&old[0])).await, "TD005");
    for attempt in &old {
        assert_eq!(lost.finish(attempt, "success").await, "noted");
        assert_eq!(lost.finish(attempt, "success").await, "noted", "also when it repeats itself");
    }
    let notes: i64 = one(&mut fleet.operator, "select count(*) from tendril_core.attempt_notes").await;
    assert_eq!(notes, 2);
    for n in 0..30 {
        lost.report(&old[0], json!({"outcome": "success", "log_end": -1, "n": n})).await;
    }
    let notes: i64 = one(&mut fleet.operator, "select count(*) from tendril_core.attempt_notes").await;
    assert_eq!(notes, 21, "notes of one attempt are bounded");
    for attempt in &new {
        if attempt.mutating {
            other.start(attempt).await;
        }
        other.finish(attempt, "success").await;
    }
    assert_eq!(fleet.status(deployment).await, "SUCCESS");
}

#[tokio::test]
async fn losses_count_towards_max_attempts() {
    let mut fleet = Fleet::new().await;
    let deployment = fleet.deploy_jobs(&[limited(reading("poison"), json!({"max_attempts": 2}))]).await;
    for _ in 0..2 {
        let mut runner = fleet.runner().await;
        runner.claim_one().await;
        fleet.lose(&runner).await;
    }
    let state = fleet.state(deployment).await;
    assert_eq!(
        state.error_message.as_deref(),
        Some("poison: the runner was not heard for its lease time; gave up after 2 attempts")
    );
}

#[tokio::test]
async fn a_started_mutating_job_becomes_unknown_and_its_holders_finish_counts() {
    let mut fleet = Fleet::new().await;
    let deployment = fleet.deploy_jobs(&[exec("a")]).await;
    let mut runner = fleet.runner().await;
    let claimed = runner.claim_one().await;
    runner.start(&claimed).await;
    fleet.lose(&runner).await;
    let state = fleet.state(deployment).await;
    assert_eq!((state.status.as_str(), state.jobs[0].state.as_str()), ("PROCESSING", "UNKNOWN"));
    assert_eq!(
        state.error_message.as_deref(),
        Some("a: the runner was not heard for its lease time; what it has changed is not known yet")
    );
    let mut other = fleet.runner().await;
    assert_eq!(other.claim(9).await.len(), 0, "it never starts a second time");
    // The finish may come before any heartbeat.
    assert_eq!(runner.finish(&claimed, "success").await, "accepted");
    assert_eq!(fleet.status(deployment).await, "SUCCESS");
}

#[tokio::test]
async fn a_late_heartbeat_is_accepted_and_makes_unknown_jobs_started_again() {
    let mut fleet = Fleet::new().await;
    let deployment = fleet.deploy_jobs(&[exec("a")]).await;
    let mut runner = fleet.runner().await;
    let claimed = runner.claim_one().await;
    runner.start(&claimed).await;
    fleet.lose(&runner).await;
    let reply = runner.heartbeat(&[&claimed]).await;
    assert_eq!(reply["held"], json!([claimed.attempt_id]));
    let state = fleet.state(deployment).await;
    assert_eq!((state.jobs[0].state.as_str(), state.error_message), ("STARTED", None));
}

#[tokio::test]
async fn an_unknown_job_ends_at_its_deadline_and_keeps_its_key() {
    let mut fleet = Fleet::new().await;
    let first = fleet.deploy(apply_at("s")).await;
    let second = fleet.deploy(apply_at("s")).await;
    let mut runner = fleet.runner().await;
    for plan in runner.claim(2).await {
        runner.finish(&plan, "success").await;
    }
    let apply = runner.claim_one().await;
    runner.start(&apply).await;
    fleet.lose(&runner).await;
    assert_eq!(fleet.database.duty("deadlines").await, 0, "not before its deadline");
    run(
        &mut fleet.operator,
        "update tendril_core.jobs set deadline_at = clock_timestamp() - interval '1 s' where state = 'UNKNOWN'",
    )
    .await;
    assert_eq!(fleet.database.duty("deadlines").await, 1);
    let state = fleet.state(first).await;
    assert_eq!(
        (state.status.as_str(), state.error_message.as_deref()),
        ("FAILED", Some("apply: outcome unknown: the runner stayed silent until the job's deadline"))
    );
    // What comes now is a note; but a child that is known to be dead frees the key.
    let mut other = fleet.runner().await;
    assert_eq!(other.claim(9).await.len(), 0);
    let report = json!({"outcome": "success", "log_end": -1});
    assert_eq!(runner.report(&apply, report).await, "noted");
    assert_eq!(other.claim(9).await.len(), 0);
    let report = json!({"outcome": "success", "log_end": -1, "child_dead": true});
    assert_eq!(runner.report(&apply, report).await, "noted");
    assert_eq!(other.claim_one().await.deployment_id, second);
    assert_eq!(fleet.status(first).await, "FAILED", "a job ends once");
    // A rescued state is accepted all the same.
    let put = format!(
        "select tendril.runner_artifact_put('{}', {}, 'state', 'application/json', 'x')",
        apply.attempt_id, apply.fence
    );
    run(&mut runner.session, &put).await;
}

#[tokio::test]
async fn declare_lost_and_key_release_are_refused_while_the_holder_is_heard() {
    let mut fleet = Fleet::new().await;
    let first = fleet.deploy(apply_at("s")).await;
    let second = fleet.deploy(apply_at("s")).await;
    let mut runner = fleet.runner().await;
    for plan in runner.claim(2).await {
        runner.finish(&plan, "success").await;
    }
    let apply = runner.claim_one().await;
    let declare = format!("select tendril.declare_lost('{first}', 'apply', 'node is gone')");
    let early = refused(&mut fleet.operator, &declare).await;
    assert_eq!(
        (early.sqlstate.as_str(), early.message.as_str()),
        ("TD003", "job apply is CLAIMED: only one that started can be declared lost")
    );
    runner.start(&apply).await;
    let release = format!("select tendril.key_release('{}', 'local://p/s#default', 'sure')", fleet.cluster.id);
    for sql in [&declare, &release] {
        let alive = refused(&mut fleet.operator, sql).await;
        assert!(alive.sqlstate == "TD003" && alive.message.contains("alive"), "{alive:?}");
    }
    fleet.lose(&runner).await;
    run(&mut fleet.operator, &declare).await;
    let state = fleet.state(first).await;
    assert_eq!(state.error_message.as_deref(), Some("apply: declared lost: node is gone"));
    assert_eq!(sqlstate(&mut fleet.operator, &declare).await, "TD003", "once is enough");
    let mut other = fleet.runner().await;
    assert_eq!(other.claim(9).await.len(), 0, "the key stays held: nobody knows whether the child still writes");
    run(&mut fleet.operator, &release).await;
    assert_eq!(other.claim_one().await.deployment_id, second);
    // The old holder's word frees no key but its own.
    let report = json!({"outcome": "success", "log_end": -1, "child_dead": true});
    assert_eq!(runner.report(&apply, report).await, "noted");
    let held: i64 = one(&mut fleet.operator, "select count(*) from tendril_core.held_keys").await;
    assert_eq!(held, 1);
}

#[tokio::test]
async fn a_finish_that_cannot_confirm_its_child_dead_keeps_the_key_until_an_operator_decides() {
    let mut fleet = Fleet::new().await;
    let (first, second) = (fleet.deploy(apply_at("s")).await, fleet.deploy(apply_at("s")).await);
    let mut runner = fleet.runner().await;
    for plan in runner.claim(2).await {
        runner.finish(&plan, "success").await;
    }
    let apply = runner.claim_one().await;
    assert_eq!(apply.deployment_id, first);
    runner.start(&apply).await;
    // Tried: the report of a runner whose supervisor was killed.
    let report =
        json!({"outcome": "failure", "log_end": -1, "child_dead": false, "error": "its supervisor was killed"});
    assert_eq!(runner.report(&apply, report).await, "accepted");
    assert_eq!(fleet.status(first).await, "FAILED");
    assert_eq!(runner.claim(9).await.len(), 0, "something of it may still write");
    let release = format!("select tendril.key_release('{}', 'local://p/s#default', 'looked at it')", fleet.cluster.id);
    run(&mut fleet.operator, &release).await;
    assert_eq!(runner.claim_one().await.deployment_id, second);
}

#[tokio::test]
async fn decisions_about_what_is_not_there_name_it() {
    let mut fleet = Fleet::new().await;
    let deployment = fleet.deploy_jobs(&[exec("a")]).await;
    let nowhere = "01900000-0000-7000-8000-000000000000";
    for (sql, message) in [
        (format!("select tendril.declare_lost('{nowhere}', 'a', '')"), format!("deployment {nowhere} has no job a")),
        (
            format!("select tendril.declare_lost('{deployment}', 'b', '')"),
            format!("deployment {deployment} has no job b"),
        ),
        (
            format!("select tendril.key_release('{nowhere}', 'k', '')"),
            format!("key k is not held in cluster {nowhere}"),
        ),
    ] {
        let refusal = refused(&mut fleet.operator, &sql).await;
        assert_eq!((refusal.sqlstate.as_str(), refusal.message.as_str()), ("TD002", message.as_str()));
    }
}

#[tokio::test]
async fn a_gap_of_the_pulse_renews_all_leases_before_anybody_is_judged() {
    let mut fleet = Fleet::new().await;
    fleet.deploy_jobs(&[exec("a")]).await;
    let mut runner = fleet.runner().await;
    runner.claim_one().await;
    let rebased = "select lease_expires_at > clock_timestamp() + interval '25 s' and lease_expires_at < clock_timestamp() + interval '31 s'
                     from tendril_core.runner_leases";
    for (what, lease, pulse) in [
        ("silence of 3 s", "- interval '1 h'", "- interval '3 s'"),
        ("a clock set back by an hour: leases also go down", "+ interval '1 h'", "+ interval '1 h'"),
        ("the first beat ever", "- interval '1 h'", "- interval '100 years'"),
    ] {
        let sql = format!(
            "update tendril_core.runner_leases set lease_expires_at = clock_timestamp() {lease};
             update tendril_core.pulse set at = clock_timestamp() {pulse}"
        );
        run(&mut fleet.operator, &sql).await;
        assert_eq!(fleet.database.duty("expire").await, 0, "{what}: a pulse that is not fresh judges nobody");
        run(&mut fleet.operator, "select tendril_core.pulse(); select tendril_core.duty_expire()").await;
        assert!(one::<bool>(&mut fleet.operator, rebased).await, "{what}");
    }
    let lost: bool = one(&mut fleet.operator, "select bool_or(judged_lost) from tendril_core.runner_leases").await;
    assert!(!lost);
}

#[tokio::test]
async fn a_heartbeat_never_shortens_a_lease() {
    let mut fleet = Fleet::new().await;
    let mut runner = fleet.runner().await;
    run(&mut fleet.operator, "update tendril_core.runner_leases set lease_expires_at = '2999-01-01'").await;
    runner.heartbeat(&[]).await;
    let kept: bool =
        one(&mut fleet.operator, "select lease_expires_at = '2999-01-01' from tendril_core.runner_leases").await;
    assert!(kept);
}

#[tokio::test]
async fn a_heartbeat_settles_claims_and_releases_what_is_not_held() {
    let mut fleet = Fleet::new().await;
    let deployment = fleet.deploy_jobs(&[exec("a"), exec("b"), reading("c")]).await;
    let mut runner = fleet.runner().await;
    let claimed = runner.claim(3).await;
    // The reply of claim 1 was lost as far as a and c are concerned; b is held.
    let reply = runner.heartbeat(&[&claimed[1]]).await;
    assert_eq!(reply["held"], json!([claimed[1].attempt_id]));
    let jobs = fleet.jobs(deployment).await;
    assert_eq!(jobs.values().map(String::as_str).collect::<Vec<_>>(), ["QUEUED", "CLAIMED", "QUEUED"]);
    assert_eq!(runner.heartbeat(&[&claimed[1]]).await["work"], json!(true));
    // A claim that is not settled yet is left alone.
    let more = runner.claim(1).await;
    runner.claim_no -= 1;
    runner.heartbeat(&[&claimed[1]]).await;
    assert_ne!(fleet.job(deployment, &more[0].job).await, "QUEUED");
}

#[tokio::test]
async fn a_runner_that_leaves_with_work_in_hand_keeps_it() {
    let mut fleet = Fleet::new().await;
    fleet.deploy_jobs(&[exec("a")]).await;
    let mut runner = fleet.runner().await;
    let claimed = runner.claim_one().await;
    let leave = format!("select tendril.runner_leave('{}')", runner.id);
    run(&mut runner.session, &leave).await;
    assert_eq!(runner.heartbeat(&[&claimed]).await["held"], json!([claimed.attempt_id]));
    runner.finish(&claimed, "cancelled").await;
    run(&mut runner.session, &leave).await;
    let online: bool = one(&mut fleet.portal, "select bool_or(online) from tendril.runners").await;
    assert!(!online);
    assert_eq!(sqlstate(&mut runner.session, &leave).await, "TD002", "it is gone");
}

#[tokio::test]
async fn clusters_show_whether_a_runner_is_heard() {
    let mut fleet = Fleet::new().await;
    let status = "select status from tendril.clusters";
    assert_eq!(one::<String>(&mut fleet.portal, status).await, "OFFLINE");
    let runner = fleet.runner().await;
    fleet.database.duty("clusters").await;
    assert_eq!(one::<String>(&mut fleet.portal, status).await, "ONLINE");
    fleet.lose(&runner).await;
    fleet.database.duty("clusters").await;
    assert_eq!(one::<String>(&mut fleet.portal, status).await, "OFFLINE");
    let seen: bool = one(&mut fleet.portal, "select last_seen_at is not null from tendril.clusters").await;
    assert!(seen);
}

#[tokio::test]
async fn the_queues_depth_is_right_before_and_after_folding() {
    let mut fleet = Fleet::new().await;
    fleet.deploy_jobs(&[exec("a"), needing(exec("b"), &["a"]), reading("c")]).await;
    let mut runner = fleet.runner().await;
    let claimed = runner.claim(1).await;
    runner.start(&claimed[0]).await;
    let depth = "select string_agg(state || '=' || jobs, ' ' order by state) from tendril.queue_depth()";
    let expected = "BLOCKED=1 QUEUED=1 STARTED=1";
    assert_eq!(one::<String>(&mut fleet.portal, depth).await, expected);
    assert!(fleet.database.duty("fold").await > 0);
    assert_eq!(one::<String>(&mut fleet.portal, depth).await, expected);
    let deltas: i64 = one(&mut fleet.operator, "select count(*) from tendril_core.queue_deltas").await;
    assert_eq!(deltas, 0);
    runner.finish(&claimed[0], "failure").await;
    runner.perform("success").await;
    fleet.database.duty("fold").await;
    let left: Option<String> = one(&mut fleet.portal, depth).await;
    assert_eq!(left, None);
}

#[tokio::test]
async fn waiting_for_names_what_is_missing() {
    let mut fleet = Fleet::new().await;
    let deployment = fleet.deploy_jobs(&[limited(reading("a"), json!({"max_attempts": 2}))]).await;
    assert_eq!(fleet.waiting_for(deployment).await.as_deref(), Some("a runner: none of the cluster is online"));
    let other = fleet.runner_of(&fleet.cluster, &["kind=terraform.plan"]).await;
    assert_eq!(fleet.waiting_for(deployment).await.as_deref(), Some("a runner with label kind=exec"));
    let mut runner = fleet.runner().await;
    assert_eq!(fleet.waiting_for(deployment).await.as_deref(), Some("a free slot on a runner"));
    let claimed = runner.claim_one().await;
    assert_eq!(fleet.waiting_for(deployment).await, None, "nothing is missing while it runs");
    runner.finish(&claimed, "failure").await;
    let waits = fleet.waiting_for(deployment).await.unwrap();
    assert!(waits.starts_with("the next try at ") && waits.ends_with(" UTC"), "{waits}");
    run(&mut fleet.portal, &format!("select tendril.cancel('{deployment}')")).await;
    assert_eq!(fleet.waiting_for(deployment).await, None, "nothing is missing after the end");
    drop(other);
}

#[tokio::test]
async fn waiting_for_names_approvals_needs_keys_and_silent_runners() {
    let mut fleet = Fleet::new().await;
    let mut approved = exec("a");
    approved["approval"] = json!("required");
    let approval = fleet.deploy_jobs(&[approved]).await;
    let waits = fleet.waiting_for(approval).await.unwrap();
    assert_eq!(waits, format!("approval of job a: tendril.approve('{approval}')"));
    run(&mut fleet.portal, &format!("select tendril.cancel('{approval}')")).await;

    let mut runner = fleet.runner().await;
    let first = fleet.deploy(apply_at("s")).await;
    let second = fleet.deploy(apply_at("s")).await;
    let needs = fleet.state(first).await;
    assert_eq!(needs.jobs[1].waiting_for.as_deref(), Some("job plan"));
    for plan in runner.claim(2).await {
        runner.finish(&plan, "success").await;
    }
    let apply = runner.claim_one().await;
    runner.claim(1).await;
    let waits = fleet.waiting_for(second).await.unwrap();
    assert_eq!(waits, format!("key local://p/s#default, held by job apply of deployment {first}"));
    runner.start(&apply).await;
    fleet.lose(&runner).await;
    let waits = fleet.waiting_for(first).await.unwrap();
    assert_eq!(waits, "the runner of job apply to be heard again, or an operator's declare-lost");
    runner.report(&apply, json!({"outcome": "failure", "log_end": -1})).await;
    assert_eq!(sqlstate(&mut runner.session, &finish_sql(&apply, &json!({}))).await, "TD001");
}

/// How many deployments say this.
async fn say(fleet: &mut Fleet, what: &str) -> i64 {
    one(&mut fleet.operator, &format!("select count(*) from tendril.deployments where waiting_for = '{what}'")).await
}

#[tokio::test]
async fn each_unfinished_deployment_is_explained_in_its_turn_and_the_newest_at_once() {
    const NOBODY: &str = "a runner: none of the cluster is online";
    const NOT_YET: &str = "a free slot on a runner";
    let mut fleet = Fleet::new().await;
    let snapshot = json!({"jobs": [exec("a")]});
    let many = format!(
        "insert into tendril.deployments (cluster_id, config_snapshot) select '{}', '{snapshot}' from generate_series(1, 950)",
        fleet.cluster.id
    );
    run(&mut fleet.portal, &many).await;
    let newest = fleet.deploy_jobs(&[exec("a")]).await;
    assert_eq!(fleet.waiting_for(newest).await.as_deref(), Some(NOBODY), "the newest is not behind 950 others");
    assert_eq!(say(&mut fleet, NOBODY).await, 500, "what one run looks at is bounded");
    for _ in 0..2 {
        fleet.database.duty("explain").await;
    }
    assert_eq!(say(&mut fleet, NOBODY).await, 951);
    // What they wait for changes: no old text stays, wherever the last round ended. Some were made at one moment.
    run(&mut fleet.operator, "update tendril.deployments set created_at = '2026-01-01' where id > (select id from tendril.deployments order by id offset 300 limit 1)").await;
    let mut runner = fleet.runner().await;
    for _ in 0..3 {
        fleet.database.duty("explain").await;
    }
    assert_eq!((say(&mut fleet, NOBODY).await, say(&mut fleet, NOT_YET).await), (0, 951));
    // And when most have ended, what is left is looked at in each run.
    let keep = fleet.deploy_jobs(&[exec("a")]).await;
    run(&mut fleet.operator, &format!("select tendril.cancel(id) from tendril.deployments where id <> '{keep}'")).await;
    assert_eq!(fleet.waiting_for(keep).await.as_deref(), Some(NOT_YET));
    fleet.silence(&runner).await;
    assert_eq!(fleet.waiting_for(keep).await.as_deref(), Some(NOBODY));
    runner.heartbeat(&[]).await;
    runner.perform("success").await;
    assert_eq!(fleet.waiting_for(keep).await, None);
}

#[tokio::test]
async fn a_runner_without_a_lease_starts_nothing() {
    let mut fleet = Fleet::new().await;
    fleet.deploy_jobs(&[exec("a")]).await;
    let mut runner = fleet.runner().await;
    let claimed = runner.claim_one().await;
    fleet.silence(&runner).await;
    assert_eq!(sqlstate(&mut runner.session, &start_sql(&claimed)).await, "TD006");
    run(&mut fleet.operator, "delete from tendril_core.runner_leases").await;
    assert_eq!(sqlstate(&mut runner.session, &start_sql(&claimed)).await, "TD006");
}

#[tokio::test]
async fn heartbeats_and_duties_wait_for_nobodys_open_transaction() {
    let mut fleet = Fleet::new().await;
    let deployment = fleet.deploy_jobs(&[exec("a"), exec("b")]).await;
    let mut runner = fleet.runner().await;
    let claimed = runner.claim_one().await;
    run(&mut runner.session, "set statement_timeout = '5s'").await;
    run(&mut fleet.portal, &format!("begin; select tendril.cancel('{deployment}')")).await;
    let reply = runner.heartbeat(&[]).await;
    assert_eq!(reply["held"], json!([claimed.attempt_id]), "what is locked is judged the next time");
    assert_eq!(fleet.lose(&runner).await, 0);
    run(&mut fleet.portal, "rollback").await;
    assert_eq!(fleet.lose(&runner).await, 1);
    assert_eq!(fleet.job(deployment, "a").await, "QUEUED");
}
