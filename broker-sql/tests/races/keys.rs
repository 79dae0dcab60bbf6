//! State keys: one for one state, held by one attempt, and never a reason to wait for ever.

use serde_json::{Value, json};

use crate::fleet::{Fleet, apply_at, limited, one, reading, refused, run, sqlstate, start_sql};

/// Applies at these paths whose plans are done: the next claims meet the keys.
pub async fn planned(fleet: &mut Fleet, paths: &[&str]) {
    for path in paths {
        fleet.deploy(apply_at(path)).await;
    }
    let mut runner = fleet.runner().await;
    for plan in runner.claim(9).await {
        runner.finish(&plan, "success").await;
    }
}

/// Two transactions that made jobs of one state ready did not see each other: both jobs stand in the queue.
pub async fn unseen(fleet: &mut Fleet) {
    let sql = "with gone as (delete from tendril_core.parked returning *)
               insert into tendril_core.queue (job_id, cluster_id, rank, state_key, requires)
               select j.id, j.cluster_id, j.rank, j.state_key, j.requires from gone g join tendril_core.jobs j on j.id = g.job_id";
    assert!(run(&mut fleet.operator, sql).await.rows_affected() > 0);
}

#[tokio::test]
async fn a_claim_passes_over_a_job_whose_key_is_being_freed() {
    let mut fleet = Fleet::new().await;
    planned(&mut fleet, &["s", "s"]).await;
    unseen(&mut fleet).await;
    let (mut holder, mut next) = (fleet.runner().await, fleet.runner().await);
    holder.claim_one().await;
    run(&mut fleet.operator, "begin; select from tendril_core.held_keys for update").await;
    run(&mut next.session, "set lock_timeout = '100ms'").await;
    assert!(next.claim(9).await.is_empty());
    run(&mut fleet.operator, "rollback").await;
    let parked = "select count(*) from tendril_core.parked";
    assert_eq!(one::<i64>(&mut fleet.operator, parked).await, 0, "it stays in the queue");
    assert!(next.claim(9).await.is_empty());
    assert_eq!(one::<i64>(&mut fleet.operator, parked).await, 1, "and is parked by the next claim");
}

#[tokio::test]
async fn an_attempt_whose_key_was_released_does_not_start() {
    let mut fleet = Fleet::new().await;
    planned(&mut fleet, &["s", "s"]).await;
    let (mut silent, mut other) = (fleet.runner().await, fleet.runner().await);
    let first = silent.claim_one().await;
    fleet.silence(&silent).await;
    let release = format!("select tendril.key_release('{}', 'local://p/s#default', 'sure')", fleet.cluster.id);
    run(&mut fleet.operator, &release).await;
    let second = other.claim_one().await;
    other.start(&second).await;
    silent.heartbeat(&[&first]).await;
    assert_eq!(sqlstate(&mut silent.session, &start_sql(&first)).await, "TD005");
    // It drops the work, and the job waits for the key like any other.
    silent.heartbeat(&[]).await;
    assert_eq!(fleet.job(first.deployment_id, "apply").await, "QUEUED");
}

#[tokio::test]
async fn a_job_that_no_runner_can_take_does_not_keep_its_key_from_the_next() {
    let mut fleet = Fleet::new().await;
    planned(&mut fleet, &["s", "s", "s"]).await;
    let mut runner = fleet.runner().await;
    let holder = runner.claim(9).await.remove(0);
    runner.start(&holder).await;
    let sql = "update tendril_core.jobs set requires = requires || 'nobody=has-it'::text
                where id = (select job_id from tendril_core.parked order by rank, seq limit 1)";
    run(&mut fleet.operator, sql).await;
    runner.finish(&holder, "success").await;
    assert!(runner.claim(9).await.is_empty(), "the key's next job is in the queue, and nobody can take it");
    assert_eq!(fleet.database.duty("unpark").await, 1);
    assert_eq!(runner.claim(9).await.len(), 1);
}

#[tokio::test]
async fn a_job_whose_waker_was_cancelled_is_woken_by_serve() {
    let mut fleet = Fleet::new().await;
    planned(&mut fleet, &["s", "s", "s"]).await;
    let mut runner = fleet.runner().await;
    let holder = runner.claim(9).await.remove(0);
    runner.start(&holder).await;
    runner.finish(&holder, "success").await;
    let woken = "select j.deployment_id::text from tendril_core.queue q join tendril_core.jobs j on j.id = q.job_id";
    let woken: String = one(&mut fleet.operator, woken).await;
    run(&mut fleet.portal, &format!("select tendril.cancel('{woken}')")).await;
    assert!(runner.claim(9).await.is_empty());
    assert_eq!(fleet.database.duty("unpark").await, 1);
    assert_eq!(runner.claim(9).await.len(), 1);
}

fn stored_at(backend: Value) -> Value {
    json!({"template": {"name": "hello"}, "backend": backend})
}

#[tokio::test]
async fn a_state_has_no_second_name() {
    let mut fleet = Fleet::new().await;
    let refusals = [
        (json!({"type": "local", "place": "p", "path": "s/"}), "config_snapshot.backend.path: "),
        (json!({"type": "gcs", "config": {"bucket": "b", "prefix": "s/"}}), "config_snapshot.backend.config.prefix: "),
        (json!({"type": "gcs", "config": {"bucket": "b", "prefix": "./s"}}), "config_snapshot.backend.config.prefix: "),
        (json!({"type": "s3", "config": {"bucket": "b", "key": "k".repeat(3000)}}), "config_snapshot.backend: "),
    ];
    for (backend, path) in refusals {
        let sql = fleet.insert(crate::fleet::id(), &stored_at(backend.clone()));
        let refusal = refused(&mut fleet.portal, &sql).await;
        assert_eq!(refusal.sqlstate, "TD001", "{backend}");
        assert!(refusal.message.starts_with(path), "{backend}: {}", refusal.message);
    }
    for address in ["https://states.example.com/A", "https://States.Example.COM/A/"] {
        let http = json!({"type": "http", "config": {"address": address}});
        let deployment = fleet.deploy(stored_at(http)).await;
        let location = fleet.state(deployment).await.state_location;
        assert_eq!(location.as_deref(), Some("https://states.example.com/A#default"), "{address}");
    }
}

#[tokio::test]
async fn whole_numbers_in_decimal_form_are_limits() {
    let mut fleet = Fleet::new().await;
    let limits = json!({"timeout_s": 90.0, "kill_grace_s": 1.0, "max_attempts": 2.0});
    let deployment = fleet.deploy_jobs(&[limited(reading("a"), limits)]).await;
    let sql = format!(
        "select timeout_ms = 90000 and kill_grace_ms = 1000 and max_attempts = 2 from tendril_core.jobs where deployment_id = '{deployment}'"
    );
    assert!(one::<bool>(&mut fleet.operator, &sql).await);
}

#[tokio::test]
async fn a_job_that_was_handed_back_many_times_still_ends() {
    let mut fleet = Fleet::new().await;
    let deployment = fleet.deploy_jobs(&[limited(reading("a"), json!({"max_attempts": 2}))]).await;
    let mut runner = fleet.runner().await;
    for _ in 0..50 {
        let claimed = runner.claim_one().await;
        runner.finish(&claimed, "released").await;
        // From the fourth time on it waits.
        fleet.its_time_comes().await;
    }
    let claimed = runner.claim_one().await;
    assert_eq!(runner.finish(&claimed, "failure").await, "accepted");
    assert_eq!(fleet.job(deployment, "a").await, "QUEUED", "to be tried again in five minutes at most");
    let soon = "select run_after <= clock_timestamp() + interval '5 min' from tendril_core.parked";
    assert!(one::<bool>(&mut fleet.operator, soon).await);
}
