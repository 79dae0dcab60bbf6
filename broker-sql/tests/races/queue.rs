//! Places in the queue, while others are at it.

use std::collections::BTreeSet;

use serde_json::json;

use sqlx::postgres::PgConnection;
use tokio::task::JoinHandle;

use crate::fleet::{Fleet, Runner, id, one, reading, refusal, run};

#[tokio::test]
async fn what_others_have_just_picked_hides_nothing_of_any_class() {
    let mut fleet = Fleet::new().await;
    for n in 0..24 {
        let labels: &[&str] = if n % 2 == 0 { &[] } else { &["place=p"] };
        fleet.deploy(json!({"labels": labels, "jobs": [reading("a")]})).await;
    }
    // More than a claim looks at beyond what it wants.
    let (mut first, mut second) = (fleet.runner().await, fleet.runner().await);
    run(&mut first.session, &format!("begin; select tendril.runner_claim('{}', 1, 21)", first.id)).await;
    run(&mut second.session, "set lock_timeout = '2s'").await;
    let rest: BTreeSet<_> = second.claim(8).await.iter().map(|claimed| claimed.deployment_id).collect();
    assert_eq!(rest.len(), 3, "all that is left, at once");
    run(&mut first.session, "commit").await;
    first.claim_no = 1;
    let taken: BTreeSet<_> = first.claim_again(21).await.iter().map(|claimed| claimed.deployment_id).collect();
    assert_eq!((taken.len(), taken.intersection(&rest).count()), (21, 0));
}

#[tokio::test]
async fn a_snooze_waits_for_a_claim_that_is_under_way_and_leaves_what_it_took() {
    let mut fleet = Fleet::new().await;
    let deployment = fleet.deploy_jobs(&[reading("a"), reading("b")]).await;
    let mut runner = fleet.runner().await;
    run(&mut runner.session, &format!("begin; select tendril.runner_claim('{}', 1, 1)", runner.id)).await;
    let snooze = format!("select tendril.snooze('{deployment}', clock_timestamp() + interval '1 h')");
    let mut portal = fleet.database.operator().await;
    let asked = tokio::spawn(async move { one::<i32>(&mut portal, &snooze).await });
    until_waiting(&mut fleet, "select tendril.snooze%").await;
    run(&mut runner.session, "commit").await;
    assert_eq!(asked.await.unwrap(), 1, "the one that was claimed is not snoozed");
    let jobs = fleet.jobs(deployment).await;
    assert_eq!((jobs["a"].as_str(), jobs["b"].as_str()), ("STARTED", "QUEUED"));
}

/// Until a session waits for a lock with a statement like this.
pub async fn until_waiting(fleet: &mut Fleet, like: &str) {
    let sql = format!(
        "select count(*) > 0 from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database() and query like '{like}'"
    );
    while !one::<bool>(&mut fleet.operator, &sql).await {
        tokio::task::yield_now().await;
    }
}

/// A claim that waits for another one.
async fn claiming(fleet: &mut Fleet, mut runner: Runner) -> JoinHandle<usize> {
    let claim = tokio::spawn(async move { runner.claim(8).await.len() });
    until_waiting(fleet, "%tendril.runner_claim%").await;
    claim
}

#[tokio::test]
async fn two_claims_at_once_stay_within_the_limits() {
    let mut fleet = Fleet::new().await;
    for n in 0..4 {
        fleet.deploy(json!({"concurrency": {"key": "db", "limit": 2}, "jobs": [reading(&format!("j{n}"))]})).await;
    }
    // As if the four submits had not seen each other.
    let unseen = "with gone as (delete from tendril_core.parked returning *)
                  insert into tendril_core.queue (job_id, cluster_id, rank, concurrency_key, requires)
                  select j.id, j.cluster_id, j.rank, j.concurrency_key, j.requires from gone g join tendril_core.jobs j on j.id = g.job_id";
    run(&mut fleet.operator, unseen).await;
    let (mut first, second, third) = (fleet.runner().await, fleet.runner().await, fleet.runner().await);
    run(&mut first.session, &format!("begin; select tendril.runner_claim('{}', 1, 1)", first.id)).await;
    let other = claiming(&mut fleet, second).await;
    run(&mut first.session, "commit").await;
    assert_eq!(other.await.unwrap(), 1, "two of this key in all");
    for n in 0..4 {
        fleet.deploy_jobs(&[reading(&format!("free{n}"))]).await;
    }
    run(&mut fleet.operator, &format!("select tendril.limit_set('{}', 4)", fleet.cluster.id)).await;
    run(&mut first.session, &format!("begin; select tendril.runner_claim('{}', 2, 1)", first.id)).await;
    let other = claiming(&mut fleet, third).await;
    run(&mut first.session, "commit").await;
    assert_eq!(other.await.unwrap(), 1, "four of the cluster in all");
}

#[tokio::test]
async fn a_pause_returns_after_the_claims_that_are_under_way() {
    let mut fleet = Fleet::new().await;
    fleet.deploy_jobs(&[reading("a"), reading("b")]).await;
    let mut runner = fleet.runner().await;
    run(&mut runner.session, &format!("begin; select tendril.runner_claim('{}', 1, 1)", runner.id)).await;
    let (mut operator, sql) =
        (fleet.database.operator().await, format!("select (tendril.pause('{}') -> 'holding')::int", fleet.cluster.id));
    let asked = tokio::spawn(async move { one::<i32>(&mut operator, &sql).await });
    until_waiting(&mut fleet, "select (tendril.pause%").await;
    run(&mut runner.session, "commit").await;
    assert_eq!(asked.await.unwrap(), 1, "it knows of what was claimed meanwhile");
    runner.claim_no = 1;
    assert!(runner.claim(1).await.is_empty());
}

async fn submitting(fleet: &mut Fleet, sql: String) -> JoinHandle<Result<(), String>> {
    let mut other: PgConnection = fleet.database.operator().await;
    let asked = tokio::spawn(async move {
        let done = sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut other).await;
        done.map(drop).map_err(|error| refusal(error).sqlstate)
    });
    until_waiting(fleet, "insert into tendril.deployments%").await;
    asked
}

#[tokio::test]
async fn of_two_submits_with_one_key_at_once_one_is_refused_unless_the_other_is_rolled_back() {
    let mut fleet = Fleet::new().await;
    let grant = "insert into tendril_core.portal_grants (role, scope) values (current_user, 'all')";
    run(&mut fleet.operator, grant).await;
    let snapshot = json!({"unique_key": "nightly", "jobs": [reading("a")]});
    for (end, expected) in [("rollback", Ok(())), ("commit", Err("TD014".to_owned()))] {
        let (first, second) = (fleet.insert(id(), &snapshot), fleet.insert(id(), &snapshot));
        run(&mut fleet.portal, &format!("begin; {first}")).await;
        let other = submitting(&mut fleet, second).await;
        run(&mut fleet.portal, end).await;
        assert_eq!(other.await.unwrap(), expected, "after {end}");
        run(&mut fleet.operator, "select tendril.cancel(id) from tendril.deployments where status = 'QUEUED'").await;
    }
}

#[tokio::test]
async fn of_an_approval_and_a_rejection_at_once_the_first_counts() {
    let mut fleet = Fleet::new().await;
    let mut job = reading("a");
    job["approval"] = json!("required");
    for (end, jobs) in [("rollback", Ok(())), ("commit", Err("TD003".to_owned()))] {
        let deployment = fleet.deploy_jobs(&[job.clone()]).await;
        run(&mut fleet.portal, &format!("begin; select tendril.approve('{deployment}')")).await;
        let mut other: PgConnection = fleet.database.operator().await;
        let sql = format!("select tendril.reject('{deployment}')");
        let asked = tokio::spawn(async move {
            let done = sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut other).await;
            done.map(drop).map_err(|error| refusal(error).sqlstate)
        });
        until_waiting(&mut fleet, "select tendril.reject%").await;
        run(&mut fleet.portal, end).await;
        assert_eq!(asked.await.unwrap(), jobs, "after {end}");
    }
}

#[tokio::test]
async fn two_replicas_at_once_make_one_deployment_of_a_due_moment() {
    let mut fleet = Fleet::new().await;
    let snapshot = json!({"jobs": [reading("a")]});
    let set = format!("select tendril.schedule_set('{}', 'n', '* * * * *', '{snapshot}')", fleet.cluster.id);
    run(&mut fleet.portal, &set).await;
    let due = "update tendril_core.schedules set next_at = date_trunc('minute', clock_timestamp())";
    for (end, made) in [("rollback", 1), ("commit", 1)] {
        run(&mut fleet.operator, due).await;
        // One replica is at it and has not committed; the other passes over it, and does it when the first one dies.
        run(&mut fleet.operator, "begin; select tendril_core.duty_schedules()").await;
        assert_eq!(fleet.database.duty("schedules").await, 0);
        run(&mut fleet.operator, end).await;
        let later = fleet.database.duty("schedules").await;
        assert_eq!(later, i64::from(end == "rollback"), "after {end}");
        let all = "select count(*) from tendril.deployments where scheduled_for = (select max(scheduled_for) from tendril.deployments)";
        assert_eq!(one::<i64>(&mut fleet.portal, all).await, made, "after {end}");
        // A clock that was set back brings no second one of a moment.
        let again = "update tendril_core.schedules set next_at = (select max(scheduled_for) from tendril.deployments)";
        run(&mut fleet.operator, again).await;
        fleet.database.duty("schedules").await;
        assert_eq!(one::<i64>(&mut fleet.portal, all).await, made);
        run(&mut fleet.operator, "update tendril.deployments set scheduled_for = scheduled_for - interval '1 day'")
            .await;
    }
}
