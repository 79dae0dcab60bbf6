//! A migration beside runners, portals and `serve` that are at work: it ends nobody, and nobody ends it.

use std::time::Duration;

use sqlx::postgres::PgConnection;
use tendril_broker::Error;
use tendril_broker::operator::migration;
use tendril_broker::testing::{TestDatabase, figures};
use tokio::task::JoinHandle;

use crate::fleet::{Fleet, apply_at, exec, needing, one, reading, run};

/// The first migration that changes what runners write.
const HEAVY: i64 = 73;

async fn old_fleet() -> Fleet {
    Fleet::at(TestDatabase::before(HEAVY).await).await
}

/// Begins to migrate; returns once that waits for somebody.
async fn migrating(fleet: &mut Fleet) -> JoinHandle<Result<Vec<i64>, Error>> {
    let mut session = fleet.database.operator().await;
    let pid: i32 = one(&mut session, "select pg_backend_pid()").await;
    let migrating = tokio::spawn(async move { migration::migrate(&mut session).await });
    let waits = format!("select coalesce(wait_event_type = 'Lock', false) from pg_stat_activity where pid = {pid}");
    while !one::<bool>(&mut fleet.operator, &waits).await {
        assert!(!migrating.is_finished(), "it was to wait");
        tokio::task::yield_now().await;
    }
    migrating
}

/// Counts of the queue that are not what there is; what happened before it was counted is not counted.
async fn miscounted(session: &mut PgConnection) -> Vec<String> {
    let differences = figures::differences(session).await.unwrap();
    let of_queue = |line: &String| ["depth", "age", "runnable"].iter().any(|sort| line.starts_with(sort));
    differences.into_iter().filter(of_queue).collect()
}

#[tokio::test]
async fn a_migration_holds_nothing_up_that_has_begun_to_lose_an_attempt() {
    let mut fleet = old_fleet().await;
    fleet.deploy_jobs(&[reading("a"), needing(exec("b"), &["a"])]).await;
    let mut runner = fleet.runner().await;
    let claimed = runner.claim_one().await;
    // What serve does for a lease that has run out, in its two steps: the attempt, then the job.
    let mut serve = fleet.database.operator().await;
    run(&mut serve, "set lock_timeout = '100ms'; begin").await;
    run(&mut serve, &format!("select tendril_core.supersede('{}', 'lost')", claimed.attempt_id)).await;
    let migrating = migrating(&mut fleet).await;
    run(&mut serve, "select tendril_core.requeue(j, 'lost') from tendril_core.jobs j where j.name = 'a'; commit").await;
    assert!(migrating.await.unwrap().unwrap().contains(&HEAVY));
    assert_eq!(runner.claim_one().await.job, "a");
    assert_eq!(miscounted(&mut fleet.operator).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_migration_gives_way_to_who_holds_what_it_wants_and_wants_what_it_holds() {
    let mut fleet = old_fleet().await;
    let cancelled = fleet.deploy(apply_at("s")).await;
    fleet.deploy(apply_at("s")).await;
    // A cancel, in its two steps: it takes who is parked before it writes jobs, and a submit does it the other way round.
    let mut portal = fleet.database.operator().await;
    let jobs = format!("select array_agg(id) from tendril_core.jobs where deployment_id = '{cancelled}'");
    run(&mut portal, &format!("begin; select tendril_core.dequeue(({jobs}))")).await;
    let migrating = migrating(&mut fleet).await;
    run(&mut portal, &format!("select tendril_core.cancel_jobs('{cancelled}', 'no more'); commit")).await;
    assert!(migrating.await.unwrap().unwrap().contains(&HEAVY));
    assert_eq!(fleet.status(cancelled).await, "CANCELLED");
    assert_eq!(miscounted(&mut fleet.operator).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_migration_that_never_gets_its_locks_says_so_and_leaves_nothing() {
    let mut fleet = old_fleet().await;
    let mut dump = fleet.database.operator().await;
    run(&mut dump, "begin; lock table tendril_core.parked in access share mode").await;
    let mut session = fleet.database.operator().await;
    let before = migration::state(&mut session).await.unwrap();
    let refused = migration::migrate_patiently(&mut session, &[Duration::from_millis(50); 2]).await.unwrap_err();
    let refusal = refused.refusal().unwrap();
    assert_eq!(refusal.sqlstate, "55P03");
    assert!(refusal.message.contains("in each of 2 tries; nothing was applied"), "{}", refusal.message);
    assert!(refused.hint().unwrap().contains("pg_stat_activity"));
    assert_eq!(migration::state(&mut session).await.unwrap(), before);
    // And whoever comes does not wait for it.
    run(&mut fleet.operator, "set lock_timeout = '100ms'; update tendril_core.jobs set state = state").await;
    run(&mut dump, "rollback").await;
    assert_eq!(migration::migrate(&mut session).await.unwrap(), before.pending);
}

#[tokio::test]
async fn nobody_is_judged_while_the_printed_script_runs() {
    let mut fleet = old_fleet().await;
    let script = migration::script();
    let (head, _) = script.split_once("\n-- migration 0001:").unwrap();
    let (_, newer) = script.split_once(&format!("\n-- migration {HEAVY:04}:")).unwrap();
    let mut session = fleet.database.operator().await;
    run(&mut session, &format!("begin; {head}")).await;
    run(&mut session, &format!("-- migration {newer}")).await;
    // Another replica of serve comes to beat: it takes it that somebody is at it, and waits for nothing.
    run(&mut fleet.operator, "set lock_timeout = '100ms'").await;
    assert!(!one::<bool>(&mut fleet.operator, "select tendril_core.pulse()").await);
    run(&mut session, "commit").await;
    assert!(one::<bool>(&mut fleet.operator, "select tendril_core.pulse()").await);
    assert_eq!(migration::migrate(&mut session).await.unwrap(), Vec::<i64>::new());
}
