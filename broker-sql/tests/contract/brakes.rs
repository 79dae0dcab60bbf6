//! Brakes: pause, drain, limits, concurrency keys, unique deployments.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::fleet::{Claimed, Fleet, exec, id, needing, one, reading, refused, run, sqlstate};
use crate::program::broker;

async fn pause(fleet: &mut Fleet, more: &str) -> Value {
    let sql = format!("select tendril.pause('{}'{more})", fleet.cluster.id);
    one(&mut fleet.operator, &sql).await
}

async fn resume(fleet: &mut Fleet, more: &str) -> Value {
    let sql = format!("select tendril.resume('{}'{more})", fleet.cluster.id);
    one(&mut fleet.operator, &sql).await
}

#[tokio::test]
async fn a_paused_cluster_claims_nothing_and_finishes_what_it_holds() {
    let mut fleet = Fleet::new().await;
    let deployment = fleet.deploy_jobs(&[exec("a"), needing(exec("b"), &["a"])]).await;
    let mut runner = fleet.runner().await;
    let held = runner.claim_one().await;
    let paused = pause(&mut fleet, ", 'freeze'").await;
    assert_eq!((&paused["holding"], &paused["draining"]), (&json!(1), &json!(false)));
    // It takes submits, starts and finishes what it holds, and the next job waits.
    runner.start(&held).await;
    assert_eq!(runner.finish(&held, "success").await, "accepted");
    let other = fleet.deploy_jobs(&[exec("a")]).await;
    assert!(runner.claim(9).await.is_empty());
    let beat = runner.heartbeat(&[]).await;
    assert_eq!((&beat["work"], &beat["draining"]), (&json!(false), &json!(false)));
    for deployment in [deployment, other] {
        let waits = fleet.waiting_for(deployment).await.unwrap();
        assert!(waits.starts_with("the cluster to be resumed: ") && waits.ends_with(" paused it: freeze"), "{waits}");
    }
    assert_eq!(resume(&mut fleet, "").await["paused_at"], json!(null));
    assert_eq!(runner.heartbeat(&[]).await["work"], true);
    assert_eq!(runner.claim(9).await.len(), 2);
    // Tried: nobody's cluster, nobody's runner, a portal.
    let nobody = id();
    for sql in
        [format!("select tendril.pause('{nobody}')"), format!("select tendril.pause(null, 'r', false, '{nobody}')")]
    {
        assert_eq!(sqlstate(&mut fleet.operator, &sql).await, "TD002", "{sql}");
    }
    let sql = format!("select tendril.pause('{}')", fleet.cluster.id);
    assert_eq!(sqlstate(&mut fleet.portal, &sql).await, "42501");
}

#[tokio::test]
async fn a_drained_cluster_takes_no_submits_either_and_tells_its_runners() {
    let mut fleet = Fleet::new().await;
    let mut runner = fleet.runner().await;
    assert_eq!(pause(&mut fleet, ", 'move', true").await["draining"], true);
    let sql = fleet.insert(id(), &json!({"jobs": [exec("a")]}));
    let refusal = refused(&mut fleet.portal, &sql).await;
    assert_eq!((refusal.sqlstate.as_str(), refusal.message.as_str()), ("TD003", "cluster one is being drained: move"));
    assert_eq!(runner.heartbeat(&[]).await["draining"], true);
    resume(&mut fleet, "").await;
    assert_eq!(runner.heartbeat(&[]).await["draining"], false);
    run(&mut fleet.portal, &sql).await;
}

#[tokio::test]
async fn a_paused_runner_leaves_the_work_to_others() {
    let mut fleet = Fleet::new().await;
    let deployment = fleet.deploy_jobs(&[exec("a")]).await;
    let (mut paused, mut other) = (fleet.runner().await, fleet.runner().await);
    let of_it = format!(", 'disk', true, '{}'", paused.id);
    pause(&mut fleet, &of_it).await;
    let of_the_other = format!(", null, false, '{}'", other.id);
    pause(&mut fleet, &of_the_other).await;
    assert!(paused.claim(1).await.is_empty());
    assert_eq!(
        fleet.waiting_for(deployment).await.unwrap(),
        "a runner to be resumed: those that can take it are paused"
    );
    assert_eq!(paused.heartbeat(&[]).await["draining"], true);
    let only = format!(", '{}'", other.id);
    resume(&mut fleet, &only).await;
    assert_eq!(other.claim(1).await.len(), 1);
    let shown: (Option<String>, bool) =
        sqlx::query_as("select pause_reason, draining from tendril.runners where id = $1")
            .bind(paused.id)
            .fetch_one(&mut fleet.portal)
            .await
            .unwrap();
    assert_eq!(shown, (Some("disk".into()), true));
}

async fn limit(fleet: &mut Fleet, max: &str, kind: &str) {
    run(&mut fleet.operator, &format!("select tendril.limit_set('{}', {max}, {kind})", fleet.cluster.id)).await;
}

#[tokio::test]
async fn limits_of_cluster_and_kind_bound_what_runs_at_once() {
    let mut fleet = Fleet::new().await;
    let plans = json!({"template": {"name": "t"}, "stateless": true, "jobs": [
        {"name": "p0", "kind": "terraform.plan"}, {"name": "p1", "kind": "terraform.plan"}, {"name": "p2", "kind": "terraform.plan"}]});
    fleet.deploy(plans).await;
    let execs = fleet.deploy_jobs(&[reading("e0"), reading("e1"), reading("e2")]).await;
    limit(&mut fleet, "1", "'terraform.plan'").await;
    limit(&mut fleet, "3", "null").await;
    let mut runner = fleet.runner().await;
    let mut held: Vec<Claimed> = Vec::new();
    for _ in 0..4 {
        held.extend(runner.claim(2).await);
    }
    let kinds: Vec<&str> = held.iter().map(|claimed| claimed.kind.as_str()).collect();
    assert_eq!(held.len(), 3, "{kinds:?}");
    assert_eq!(kinds.iter().filter(|kind| **kind == "terraform.plan").count(), 1, "{kinds:?}");
    let shown = "select string_agg(coalesce(kind, 'all') || ' ' || running || '/' || max_running, ', ' order by kind nulls first) from tendril.limits";
    assert_eq!(one::<String>(&mut fleet.portal, shown).await, "all 3/3, terraform.plan 1/1");
    let waits =
        fleet.state(execs).await.jobs.into_iter().find(|job| job.state == "QUEUED").unwrap().waiting_for.unwrap();
    assert_eq!(waits, "the limit of the cluster: 3 run, and no more than 3 may");
    let plan = held.iter().position(|claimed| claimed.kind == "terraform.plan").unwrap();
    runner.finish(&held.remove(plan), "success").await;
    assert_eq!(runner.claim(9).await.len(), 1);
    limit(&mut fleet, "null", "null").await;
    limit(&mut fleet, "0", "'exec'").await;
    assert!(runner.claim(9).await.iter().all(|claimed| claimed.kind == "terraform.plan"));
    let cluster = fleet.cluster.id;
    for (arguments, state) in [
        (format!("'{cluster}', -1"), "TD001"),
        (format!("'{cluster}', 100001"), "TD001"),
        (format!("'{cluster}', 1, 'bash'"), "TD001"),
        (format!("'{}', 1", id()), "TD002"),
    ] {
        assert_eq!(
            sqlstate(&mut fleet.operator, &format!("select tendril.limit_set({arguments})")).await,
            state,
            "{arguments}"
        );
    }
}

fn keyed(key: &str, limit: i64, name: &str) -> Value {
    json!({"concurrency": {"key": key, "limit": limit}, "jobs": [reading(name)]})
}

#[tokio::test]
async fn at_most_so_many_with_one_key_run_at_once_and_the_others_stand_aside() {
    let mut fleet = Fleet::new().await;
    let mut deployments: Vec<Uuid> = Vec::new();
    for n in 0..5 {
        deployments.push(fleet.deploy(keyed("db", 2, &format!("k{n}"))).await);
    }
    let aside = "select (select count(*) from tendril_core.queue) || '/' || (select count(*) from tendril_core.parked where why = 'limit')";
    assert_eq!(one::<String>(&mut fleet.operator, aside).await, "2/3", "before anybody has claimed");
    fleet.deploy_jobs(&[reading("free")]).await;
    let mut runner = fleet.runner().await;
    let mut held = runner.claim(9).await;
    assert_eq!(held.iter().map(|claimed| claimed.job.as_str()).collect::<Vec<_>>(), ["k0", "k1", "free"]);
    assert!(runner.claim(9).await.is_empty());
    assert_eq!(fleet.waiting_for(deployments[4]).await.unwrap(), "concurrency key db: 2 run, and no more than 2 may");
    // One ends, one is lost and comes back: there are never more than two, in the order of arrival.
    runner.finish(&held.remove(0), "success").await;
    assert_eq!(runner.claim(9).await.iter().map(|claimed| claimed.job.as_str()).collect::<Vec<_>>(), ["k2"]);
    run(&mut fleet.portal, &format!("select tendril.cancel('{}')", deployments[3])).await;
    assert_eq!(fleet.lose(&runner).await, 3);
    runner.heartbeat(&[]).await;
    fleet.database.duty("unpark").await;
    let again = runner.claim(9).await;
    assert_eq!(again.iter().filter(|claimed| claimed.job.starts_with('k')).count(), 2, "{again:?}");
    for claimed in &again {
        runner.finish(claimed, "success").await;
    }
    fleet.database.duty("unpark").await;
    assert_eq!(runner.claim(9).await.len(), 1, "the last one");
    // A job's own word counts more than the snapshot's. Tried: no key, an empty one, no room at all.
    let mut own = reading("own");
    own["concurrency"] = json!({"key": "other"});
    fleet.deploy(json!({"concurrency": {"key": "db", "limit": 1}, "jobs": [own]})).await;
    assert_eq!(runner.claim(9).await.len(), 1);
    for bad in [json!({"limit": 1}), json!({"key": ""}), json!({"key": "k", "limit": 0}), json!("k")] {
        let sql = fleet.insert(id(), &json!({"concurrency": bad, "jobs": [reading("a")]}));
        let refusal = refused(&mut fleet.portal, &sql).await;
        assert_eq!(refusal.sqlstate, "TD001", "{bad}");
        assert!(refusal.message.starts_with("config_snapshot.concurrency"), "{bad}: {}", refusal.message);
    }
}

#[tokio::test]
async fn a_deployment_with_a_unique_key_lives_alone() {
    let mut fleet = Fleet::new().await;
    let snapshot = json!({"unique_key": "nightly", "jobs": [reading("a")]});
    let first = fleet.deploy(snapshot.clone()).await;
    let sql = fleet.insert(id(), &snapshot);
    let refusal = refused(&mut fleet.portal, &sql).await;
    assert_eq!(refusal.sqlstate, "TD014");
    assert_eq!(refusal.message, format!("unique_key: deployment {first} with key nightly has not ended"));
    let detail: Value = serde_json::from_str(&refusal.detail.unwrap()).unwrap();
    assert_eq!(detail, json!({"deployment_id": first, "status": "QUEUED"}));
    // The same submit once more queues nothing and is no second one; another key, cluster or none is free.
    let again = format!("{} on conflict (id) do nothing", fleet.insert(first, &snapshot));
    assert_eq!(run(&mut fleet.portal, &again).await.rows_affected(), 0);
    fleet.deploy(json!({"unique_key": "weekly", "jobs": [reading("a")]})).await;
    let two = fleet.database.cluster("two").await;
    let one_cluster = std::mem::replace(&mut fleet.cluster, two);
    fleet.deploy(snapshot.clone()).await;
    fleet.cluster = one_cluster;
    // One statement with two of them is refused as a whole.
    let twice = format!(
        "insert into tendril.deployments (cluster_id, config_snapshot) select '{}', '{}' from generate_series(1, 2)",
        fleet.cluster.id,
        json!({"unique_key": "both", "jobs": [reading("a")]})
    );
    assert_eq!(sqlstate(&mut fleet.portal, &twice).await, "TD014");
    run(&mut fleet.portal, &format!("select tendril.cancel('{first}')")).await;
    fleet.deploy(snapshot).await;
}

#[tokio::test]
async fn the_commands_pause_drain_resume_and_limit() {
    let fleet = Fleet::new().await;
    let runner = fleet.runner().await;
    let url = fleet.database.url();
    let runner_id = runner.id.to_string();
    for (arguments, key, value) in [
        (&["cluster", "pause", "one", "--reason", "freeze"][..], "draining", json!(false)),
        (&["cluster", "drain", "one"], "draining", json!(true)),
        (&["cluster", "resume", "one"], "paused_at", json!(null)),
        (&["runner", "drain", &runner_id], "draining", json!(true)),
        (&["runner", "pause", &runner_id, "--reason", "disk"], "draining", json!(false)),
    ] {
        let ran = broker(&url, &[arguments, &["--json"]].concat()).await;
        assert_eq!((ran.code, &ran.json()[key]), (0, &value), "{arguments:?}: {}", ran.err);
    }
    let listed = broker(&url, &["runner", "list", "--cluster", "one", "--json"]).await.json();
    assert_eq!((&listed[0]["id"], &listed[0]["pause_reason"]), (&json!(runner_id), &json!("disk")));
    assert!(broker(&url, &["runner", "list"]).await.out.contains("paused"));
    assert!(broker(&url, &["runner", "resume", &runner_id]).await.out.contains("claims again"));
    let limited = broker(&url, &["cluster", "limit", "one", "--max", "2", "--kind", "exec", "--json"]).await.json();
    assert_eq!((&limited[0]["max_running"], &limited[0]["kind"]), (&json!(2), &json!("exec")));
    assert_eq!(broker(&url, &["cluster", "limit", "one", "--none", "--kind", "exec"]).await.out, "no limits\n");
}
