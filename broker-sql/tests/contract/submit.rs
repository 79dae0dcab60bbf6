//! Submit: the plain INSERT and `tendril.submit`, in the portal's own transaction.

use serde_json::{Value, json};
use tendril_broker::Error;
use tendril_broker::portal::submission::{Submission, submit};

use crate::fleet::{Fleet, exec, id, needing, one, reading, refused, run, sqlstate};

#[tokio::test]
async fn a_plain_insert_is_a_submit() {
    let mut fleet = Fleet::new().await;
    let cluster = fleet.cluster.id;
    let snapshot = json!({"jobs": [exec("a")]});
    // Tried: without id, with status QUEUED, with RETURNING.
    for columns in ["cluster_id, config_snapshot", "cluster_id, config_snapshot, status"] {
        let status = if columns.contains("status") { ", 'QUEUED'" } else { "" };
        let sql = format!(
            "insert into tendril.deployments ({columns}) values ('{cluster}', '{snapshot}'{status}) returning id"
        );
        let id: uuid::Uuid = one(&mut fleet.portal, &sql).await;
        let state = fleet.state(id).await;
        assert_eq!((state.status.as_str(), state.jobs.len()), ("QUEUED", 1));
        assert_eq!(id.get_version_num(), 7);
    }
    let sql = format!(
        "insert into tendril.deployments (cluster_id, config_snapshot, status) values ('{cluster}', '{snapshot}', 'SUCCESS')"
    );
    let refusal = refused(&mut fleet.portal, &sql).await;
    assert_eq!(
        (refusal.sqlstate.as_str(), refusal.message.as_str()),
        ("TD001", "status: must be QUEUED or left out, not SUCCESS")
    );
    for column in ["user_id", "created_at", "outputs", "retry_of"] {
        let sql = format!(
            "insert into tendril.deployments (cluster_id, config_snapshot, {column}) values ('{cluster}', '{snapshot}', null)"
        );
        assert_eq!(sqlstate(&mut fleet.portal, &sql).await, "42501", "{column}");
    }
}

#[tokio::test]
async fn a_submit_that_is_rolled_back_leaves_nothing() {
    let mut fleet = Fleet::new().await;
    let insert = fleet.insert(id(), &json!({"jobs": [exec("a"), reading("b")]}));
    run(&mut fleet.portal, &format!("begin; {insert}; rollback")).await;
    for table in ["tendril.deployments", "tendril_core.jobs", "tendril_core.queue", "tendril_core.queue_deltas"] {
        let rows: i64 = one(&mut fleet.operator, &format!("select count(*) from {table}")).await;
        assert_eq!(rows, 0, "{table}");
    }
}

#[tokio::test]
async fn an_uncommitted_submit_is_not_seen_by_claims() {
    let mut fleet = Fleet::new().await;
    let insert = fleet.insert(id(), &json!({"jobs": [exec("a")]}));
    run(&mut fleet.portal, &format!("begin; {insert}")).await;
    let mut runner = fleet.runner().await;
    assert_eq!(runner.claim(1).await.len(), 0);
    run(&mut fleet.portal, "commit").await;
    assert_eq!(runner.claim(1).await.len(), 1);
}

#[tokio::test]
async fn a_submit_sent_twice_with_one_id_queues_once() {
    let mut fleet = Fleet::new().await;
    let submission =
        Submission { id: id(), cluster: fleet.cluster.id, snapshot: json!({"jobs": [exec("it's"), reading("b")]}) };
    // A name that is no name, to begin with: nothing of it remains.
    assert!(matches!(submit(&mut fleet.portal, &submission).await, Err(Error::Refused(_))));
    let submission = Submission { snapshot: json!({"jobs": [exec("a")]}), ..submission };
    assert!(submit(&mut fleet.portal, &submission).await.unwrap().queued);
    assert!(!submit(&mut fleet.portal, &submission).await.unwrap().queued);
    let by_function =
        format!("select tendril.submit('{}', '{}', '{}')", submission.cluster, submission.snapshot, submission.id);
    for _ in 0..2 {
        assert_eq!(one::<uuid::Uuid>(&mut fleet.portal, &by_function).await, submission.id);
    }
    let jobs: i64 = one(&mut fleet.operator, "select count(*) from tendril_core.queue").await;
    assert_eq!(jobs, 1);
}

#[tokio::test]
async fn the_submit_function_makes_an_id_when_none_is_given() {
    let mut fleet = Fleet::new().await;
    let sql = format!("select tendril.submit('{}', '{}')", fleet.cluster.id, json!({"jobs": [exec("a")]}));
    let first: uuid::Uuid = one(&mut fleet.portal, &sql).await;
    let second: uuid::Uuid = one(&mut fleet.portal, &sql).await;
    assert_ne!(first, second);
    assert_eq!(fleet.status(second).await, "QUEUED");
}

#[tokio::test]
async fn one_insert_of_many_rows_is_many_submits_and_one_bad_row_refuses_all() {
    let mut fleet = Fleet::new().await;
    let many = |snapshot: Value| {
        format!(
            "insert into tendril.deployments (cluster_id, config_snapshot)
               select '{}', case n when 300 then '{snapshot}'::jsonb else '{}' end from generate_series(1, 300) n",
            fleet.cluster.id,
            json!({"jobs": [exec("a"), {"name": "b", "kind": "exec", "argv": ["x"], "needs": ["a"]}]})
        )
    };
    let (good, bad) = (many(json!({"jobs": [exec("z")]})), many(json!({"jobs": []})));
    let refusal = refused(&mut fleet.portal, &bad).await;
    assert_eq!(
        (refusal.sqlstate.as_str(), refusal.message.as_str()),
        ("TD001", "config_snapshot.jobs: must hold at least 1 item")
    );
    assert_eq!(one::<i64>(&mut fleet.operator, "select count(*) from tendril_core.jobs").await, 0);
    assert_eq!(run(&mut fleet.portal, &good).await.rows_affected(), 300);
    let counts: String = one(
        &mut fleet.operator,
        "select (select count(*) from tendril_core.jobs) || '/' || (select count(*) from tendril_core.queue) || '/' || (select count(*) from tendril_core.job_needs)",
    )
    .await;
    assert_eq!(counts, "599/300/299");
}

#[tokio::test]
async fn a_cluster_that_is_not_there_or_revoked_or_foreign_is_refused() {
    let mut fleet = Fleet::new().await;
    let snapshot = json!({"jobs": [exec("a")]});
    let insert = |cluster: &str| {
        format!("insert into tendril.deployments (cluster_id, config_snapshot) values ({cluster}, '{snapshot}')")
    };
    let nowhere = refused(&mut fleet.portal, &insert("'01900000-0000-7000-8000-000000000000'")).await;
    assert_eq!(nowhere.sqlstate, "TD002");
    assert!(
        nowhere.message.contains("there is no cluster 01900000-0000-7000-8000-000000000000 that portal_"),
        "{}",
        nowhere.message
    );
    assert_eq!(sqlstate(&mut fleet.portal, &insert("null")).await, "TD002");
    let no_snapshot =
        format!("insert into tendril.deployments (cluster_id, config_snapshot) values ('{}', null)", fleet.cluster.id);
    assert_eq!(refused(&mut fleet.portal, &no_snapshot).await.message, "config_snapshot: is required");
    run(&mut fleet.operator, &format!("select tendril.cluster_revoke('{}')", fleet.cluster.id)).await;
    let revoked = refused(&mut fleet.portal, &insert(&format!("'{}'", fleet.cluster.id))).await;
    assert_eq!((revoked.sqlstate.as_str(), revoked.message.as_str()), ("TD003", "cluster one is revoked"));
}

#[tokio::test]
async fn a_submit_rings_once_for_a_runner_that_waits_and_for_no_other() {
    let mut fleet = Fleet::new().await;
    let mut runner = fleet.runner().await;
    let mut listener =
        sqlx::postgres::PgListener::connect(&fleet.database.runner_url(fleet.cluster.token.reveal())).await.unwrap();
    let channel = format!("tendril_{}", fleet.cluster.id.simple());
    listener.listen(&channel).await.unwrap();
    // Nobody waits: no ring. Then one waits: one ring for two submits in one transaction.
    fleet.deploy_jobs(&[exec("a")]).await;
    run(&mut runner.session, &format!("select tendril.runner_wait('{}')", runner.id)).await;
    let inserts =
        [fleet.insert(id(), &json!({"jobs": [exec("b")]})), fleet.insert(id(), &json!({"jobs": [exec("c")]}))];
    run(&mut fleet.portal, &format!("begin; {}; {}; commit", inserts[0], inserts[1])).await;
    run(&mut fleet.portal, &format!("notify {channel}, 'end'")).await;
    let mut heard = Vec::new();
    while heard.last().map(String::as_str) != Some("end") {
        heard.push(listener.recv().await.unwrap().payload().to_owned());
    }
    assert_eq!(heard, ["", "end"]);
}

#[tokio::test]
async fn a_submit_waits_for_no_open_transaction_of_another_portal_or_of_serve() {
    let mut fleet = Fleet::new().await;
    let mut runner = fleet.runner().await;
    run(&mut runner.session, &format!("select tendril.runner_wait('{}')", runner.id)).await;
    let mut other = fleet.database.operator().await;
    let first = fleet.insert(id(), &json!({"jobs": [exec("a")]}));
    // Everything that serve touches is locked, and another submit is open.
    run(
        &mut other,
        &format!(
            "begin; {first}; select from tendril_core.bells for update; select from tendril_core.queue_depth for update;
             select from tendril.clusters for no key update; select tendril_core.pulse()"
        ),
    )
    .await;
    run(&mut fleet.portal, "set statement_timeout = '5s'; set lock_timeout = '5s'").await;
    fleet.deploy_jobs(&[exec("b")]).await;
    run(&mut other, "commit").await;
    assert_eq!(runner.claim(9).await.len(), 2);
}

#[tokio::test]
async fn cost_is_planned_when_a_runner_offers_it_or_the_snapshot_says_so() {
    let mut fleet = Fleet::new().await;
    let names = |cost: Option<&str>, action: &str| {
        let mut snapshot = json!({"template": {"name": "t"}, "stateless": true, "action": action});
        if let Some(cost) = cost {
            snapshot["cost"] = json!(cost);
        }
        snapshot
    };
    let mut expanded = Vec::new();
    for (cost, action) in [(None, "apply"), (Some("on"), "apply"), (Some("on"), "plan"), (Some("on"), "destroy")] {
        let deployment = fleet.deploy(names(cost, action)).await;
        expanded.push(fleet.state(deployment).await.jobs.into_iter().map(|j| j.name).collect::<Vec<_>>().join(" "));
    }
    assert_eq!(expanded, ["plan apply", "plan cost apply", "plan cost", "plan destroy"]);
    let _offers = fleet.runner_of(&fleet.cluster, &["kind=infracost.breakdown"]).await;
    let mut expanded = Vec::new();
    for cost in [None, Some("off")] {
        let deployment = fleet.deploy(names(cost, "apply")).await;
        expanded.push(fleet.state(deployment).await.jobs.len());
    }
    assert_eq!(expanded, [3, 2]);
}

#[tokio::test]
async fn a_plan_is_shown_in_json_only_where_a_cost_job_reads_it() {
    let mut fleet = Fleet::new().await;
    let expanding = |keys: Value| {
        let mut snapshot = json!({"template": {"name": "t"}, "stateless": true});
        for (key, value) in keys.as_object().unwrap() {
            snapshot[key] = value.clone();
        }
        snapshot
    };
    let plan = |name: &str| json!({"name": name, "kind": "terraform.plan"});
    let cost = |needs: Value| json!({"name": "cost", "kind": "infracost.breakdown", "needs": needs});
    for (keys, lean) in [
        (json!({}), vec!["plan"]),
        (json!({"cost": "off", "action": "plan"}), vec!["plan"]),
        (json!({"cost": "on", "action": "destroy"}), vec!["plan"]),
        (json!({"cost": "on"}), vec![]),
        (json!({"cost": "on", "action": "plan"}), vec![]),
        // Graphs of one's own: only the plan that the cost job needs is shown.
        (json!({"jobs": [plan("a"), plan("b"), cost(json!(["b"]))]}), vec!["a"]),
        (json!({"jobs": [cost(json!(["b"])), plan("a"), plan("b")]}), vec!["a"]),
        (json!({"jobs": [plan("a"), cost(json!([]))]}), vec!["a"]),
        // A cost job that does not need the plan itself is not given it.
        (json!({"jobs": [plan("a"), needing(exec("b"), &["a"]), cost(json!(["b"]))]}), vec!["a"]),
    ] {
        let deployment = fleet.deploy(expanding(keys.clone())).await;
        let flagged = format!(
            "select coalesce(jsonb_agg(name order by name), '[]') from tendril_core.jobs
              where deployment_id = '{deployment}' and spec -> 'plan_json' = 'false'"
        );
        assert_eq!(one::<Value>(&mut fleet.operator, &flagged).await, json!(lean), "{keys}");
        let other = format!(
            "select count(*) from tendril_core.jobs where deployment_id = '{deployment}' and spec ? 'plan_json'"
        );
        assert_eq!(one::<i64>(&mut fleet.operator, &other).await, i64::try_from(lean.len()).unwrap(), "{keys}");
    }
}

#[tokio::test]
async fn a_cost_job_is_given_the_plan_that_was_shown_for_it() {
    let mut fleet = Fleet::new().await;
    let mut runner = fleet.runner_of(&fleet.cluster, &["kind=terraform.plan", "kind=infracost.breakdown"]).await;
    fleet.deploy(json!({"template": {"name": "t"}, "stateless": true, "action": "plan"})).await;
    let plan = runner.perform("success").await;
    let cost = runner.claim_one().await;
    assert_eq!((cost.kind.as_str(), cost.plan_attempt_id), ("infracost.breakdown", Some(plan.attempt_id)));
    let shown = "select not bool_or(spec ? 'plan_json') from tendril_core.jobs";
    assert!(one::<bool>(&mut fleet.operator, shown).await, "the plan in JSON is there to be read");
}

#[tokio::test]
async fn a_template_that_works_with_one_engine_is_left_to_runners_that_have_it() {
    let mut fleet = Fleet::new().await;
    for (version, engines) in [("1.0.0", json!({"tofu": "*"})), ("2.0.0", json!({"tofu": "*", "terraform": "*"}))] {
        let record = json!({"name": "t", "version": version, "engine": engines, "inputs": {"type": "object"}});
        run(&mut fleet.operator, &format!("select tendril.template_register('{record}')")).await;
    }
    let mut without = fleet.runner_of(&fleet.cluster, &["kind=terraform.plan", "engine=terraform"]).await;
    let mut with = fleet.runner_of(&fleet.cluster, &["kind=terraform.plan", "engine=tofu"]).await;
    let snapshot =
        |version: &str| json!({"template": {"name": "t", "version": version}, "stateless": true, "action": "plan"});
    let one_engine = fleet.deploy(snapshot("1.0.0")).await;
    let both_engines = fleet.deploy(snapshot("2.0.0")).await;
    let claimed = without.claim(9).await;
    assert_eq!(claimed.iter().map(|c| c.deployment_id).collect::<Vec<_>>(), [both_engines]);
    assert_eq!(with.claim_one().await.deployment_id, one_engine);
}

#[tokio::test]
async fn limits_labels_and_engine_reach_the_jobs() {
    let mut fleet = Fleet::new().await;
    let snapshot = json!({
        "template": {"name": "t"}, "engine": "tofu", "engine_version": "1.6.2", "labels": ["eu"],
        "backend": {"type": "local", "place": "p1", "path": "a/b"}, "workspace": "w",
        "limits": {"timeout_s": 7, "kill_grace_s": 3, "max_attempts": 5},
    });
    fleet.deploy(snapshot).await;
    let jobs: Value = one(
        &mut fleet.operator,
        "select jsonb_agg(jsonb_build_array(name, timeout_ms, kill_grace_ms, max_attempts, requires, state_key) order by created_at) from tendril_core.jobs",
    )
    .await;
    assert_eq!(
        jobs,
        json!([
            ["plan", 7000, 3000, 5, ["kind=terraform.plan", "engine=tofu@1.6.2", "place=p1", "eu"], null],
            [
                "apply",
                7000,
                3000,
                5,
                ["kind=terraform.apply", "engine=tofu@1.6.2", "place=p1", "eu"],
                "local://p1/a/b#w"
            ],
        ])
    );
}

#[tokio::test]
async fn a_job_says_its_own_limits_and_adds_its_own_labels() {
    let mut fleet = Fleet::new().await;
    let snapshot = json!({
        "template": {"name": "t"}, "stateless": true, "labels": ["eu"],
        "limits": {"timeout_s": 7, "kill_grace_s": 3, "max_attempts": 5},
        "jobs": [
            {"name": "gone", "kind": "terraform.plan", "destroy": true},
            {"name": "own", "kind": "exec", "argv": ["x", "y z"], "reading": true, "labels": ["gpu"],
             "limits": {"timeout_s": 8, "kill_grace_s": 0, "max_attempts": 2}, "optional": true, "approval": "required"},
            {"name": "some", "kind": "exec", "argv": ["x"], "limits": {"timeout_s": 9}, "needs": ["own"], "approval": "none"},
        ],
    });
    fleet.deploy(snapshot).await;
    let jobs: Value = one(
        &mut fleet.operator,
        "select jsonb_agg(jsonb_build_array(name, timeout_ms, kill_grace_ms, max_attempts, requires, spec) order by name) from tendril_core.jobs",
    )
    .await;
    assert_eq!(
        jobs,
        json!([
            ["gone", 7000, 3000, 5, ["kind=terraform.plan", "eu"], {"destroy": true, "plan_json": false}],
            ["own", 8000, 0, 2, ["kind=exec", "eu", "gpu"], {"argv": ["x", "y z"]}],
            ["some", 9000, 3000, 5, ["kind=exec", "eu"], {"argv": ["x"], "needs": ["own"]}],
        ])
    );
    let flags: Value = one(
        &mut fleet.operator,
        "select jsonb_agg(jsonb_build_array(name, mutating, optional, state) order by name) from tendril_core.jobs",
    )
    .await;
    assert_eq!(
        flags,
        json!([
            ["gone", false, false, "QUEUED"],
            ["own", false, true, "AWAITING_APPROVAL"],
            ["some", true, false, "BLOCKED"]
        ])
    );
}

#[tokio::test]
async fn snapshots_that_write_one_state_have_one_key() {
    let mut fleet = Fleet::new().await;
    for (snapshot, key) in [
        (json!({"backend": {"type": "s3", "config": {"bucket": "b", "key": "k"}}}), "s3://b/k#default"),
        (
            json!({"backend": {"type": "s3", "config": {"bucket": "b", "key": "k", "region": "eu"}}, "workspace": "w"}),
            "s3://b/k#w",
        ),
        (
            json!({"backend": {"type": "s3", "config": {"bucket": "b", "key": "k", "endpoints": {"s3": "http://m"}}}}),
            "s3://b/k@http://m#default",
        ),
        (json!({"backend": {"type": "gcs", "config": {"bucket": "b"}}}), "gcs://b/#default"),
        (
            json!({"backend": {"type": "azurerm", "config": {"storage_account_name": "a", "container_name": "c", "key": "k"}}}),
            "azurerm://a/c/k#default",
        ),
        (json!({"backend": {"type": "http", "config": {"address": "https://h/s/"}}}), "https://h/s#default"),
        (json!({"backend": {"type": "pg", "config": {}}, "state_key": "mine"}), "mine"),
        (json!({"backend": {"type": "own"}, "state_key": "mine"}), "mine"),
    ] {
        let mut snapshot = snapshot;
        snapshot["template"] = json!({"name": "t"});
        let deployment = fleet.deploy(snapshot.clone()).await;
        assert_eq!(fleet.state(deployment).await.state_location.as_deref(), Some(key), "{snapshot}");
    }
    let stateless = fleet.deploy(json!({"template": {"name": "t"}, "stateless": true})).await;
    assert_eq!(fleet.state(stateless).await.state_location, None);
}
