//! Load: what a tenant can take of the server beside its rows is bounded, and what is taken is given back soon.

use serde_json::json;
use sqlx::Connection;
use tendril_broker::testing::hostile::{Harm, Hostile};

use crate::fleet::{connect, exec, one, refused, run};
use crate::siege::{MEANWHILE, PATIENCE, Siege};

const BARRED: &str = "select exists (select from tendril_core.cluster_credentials where barred_until is not null)";

#[tokio::test]
async fn a_hoard_of_advisory_locks_is_ended_and_its_credential_waits_a_minute() {
    let mut siege = Siege::alone().await;
    let url = siege.attackers_url();
    // Tried: every place of the server's table of locks, in sixteen sessions, without a transaction.
    let hostile = Hostile::begin(&url, Harm::Locks, 16);
    siege.until("it is barred", BARRED).await;
    siege.until("its sessions are gone", "select count(*) < 1000 from pg_locks where locktype = 'advisory'").await;
    siege.neighbour.goes_on(MEANWHILE).await;
    assert!(hostile.end().await.logins > 0);
    let refused = async {
        loop {
            let Err(sqlx::Error::Database(error)) = sqlx::PgConnection::connect(&url).await else {
                panic!("a barred credential was let in");
            };
            // Of sessions that were on the way in when it was barred, the last may still be at it: until the next look.
            if error.code().as_deref() != Some("53200") {
                return error;
            }
        }
    };
    let error = tokio::time::timeout(PATIENCE, refused).await.unwrap();
    assert_eq!(error.code().as_deref(), Some("53300"), "runners take it for an outage, not for a revocation");
    run(
        &mut siege.fleet.operator,
        "update tendril_core.cluster_credentials set barred_until = clock_timestamp() - interval '1 s' where barred_until is not null",
    )
    .await;
    siege.until("the minute is over", &format!("select not ({BARRED})")).await;
    let limit: i32 = one(
        &mut siege.fleet.operator,
        &format!("select rolconnlimit from pg_roles where rolname = '{}'", siege.fleet.cluster.role),
    )
    .await;
    assert_eq!(limit, 16);
    connect(&url).await.ping().await.unwrap();
    siege.end().await;
}

#[tokio::test]
async fn a_few_locks_are_nobodys_hoard() {
    let mut siege = Siege::begin().await;
    let mut session = connect(&siege.attackers_url()).await;
    run(&mut session, "select pg_advisory_lock(n) from generate_series(1, 500) n").await;
    let ended = "select count(*) from tendril_core.end_hoards()";
    assert_eq!(one::<i64>(&mut siege.fleet.operator, ended).await, 0);
    session.ping().await.unwrap();
    siege.end().await;
}

#[tokio::test]
async fn what_a_runner_locks_is_far_from_a_hoard() {
    let mut siege = Siege::begin().await;
    let share: i64 = one(&mut siege.fleet.operator, "select tendril_core.locks_max()").await;
    siege.fleet.deploy_jobs(&[exec("a"), exec("b")]).await;
    let mut runner = siege.fleet.runner().await;
    run(&mut runner.session, "begin").await;
    let claimed = runner.claim(2).await;
    runner.start(&claimed[0]).await;
    runner.heartbeat(&[&claimed[0]]).await;
    runner.finish(&claimed[0], "success").await;
    let locks = "select count(*) from pg_locks where pid = pg_backend_pid() and not fastpath";
    let held: i64 = one(&mut runner.session, locks).await;
    run(&mut runner.session, "commit").await;
    // More in one transaction than a runner ever does; it may have seven sessions.
    assert!(7 * held < share, "{held} of {share}");
    siege.end().await;
}

#[tokio::test]
async fn a_flood_of_notifications_fails_no_submit() {
    let mut siege = Siege::alone().await;
    let hostile = Hostile::begin(&siege.attackers_url(), Harm::Rings, 8);
    // Its second thousand is on its way, from each session.
    while hostile.done().statements < 16 {
        siege.neighbour.goes_on(1).await;
    }
    siege.neighbour.goes_on(MEANWHILE).await;
    hostile.end().await;
    siege.end().await;
}

#[tokio::test]
async fn a_queue_of_notifications_that_is_half_full_is_not_rung_into() {
    let mut siege = Siege::begin().await;
    let fleet = &mut siege.fleet;
    let mut runner = fleet.runner().await;
    let wait = format!("select tendril.runner_wait('{}')", runner.id);
    let full = |usage: f64| {
        format!(
            "create or replace function tendril_core.notify_queue_usage() returns double precision language sql as 'select {usage}::double precision'"
        )
    };
    let waiting = format!("select waiting from tendril_core.bells where cluster_id = '{}'", fleet.cluster.id);
    run(&mut runner.session, &wait).await;
    // Half full: a commit that rings could fail. The submit goes through, and nobody is rung.
    run(&mut fleet.operator, &full(0.6)).await;
    fleet.deploy(json!({"jobs": [exec("a")]})).await;
    assert!(one::<bool>(&mut fleet.operator, &waiting).await, "the ring is still owed");
    run(&mut fleet.operator, &full(0.0)).await;
    fleet.deploy(json!({"jobs": [exec("b")]})).await;
    assert!(!one::<bool>(&mut fleet.operator, &waiting).await);
    siege.end().await;
}

#[tokio::test]
async fn logins_without_end_keep_to_their_limit() {
    let mut siege = Siege::alone().await;
    let hostile = Hostile::begin(&siege.attackers_url(), Harm::Logins, 32);
    while hostile.done().logins < 200 {
        siege.neighbour.goes_on(1).await;
        let most =
            format!("select count(*) <= 16 from pg_stat_activity where usename = '{}'", siege.fleet.cluster.role);
        assert!(one::<bool>(&mut siege.fleet.operator, &most).await);
    }
    hostile.end().await;
    siege.end().await;
}

#[tokio::test]
async fn queries_that_compute_without_end_are_ended() {
    let mut siege = Siege::alone().await;
    run(&mut siege.fleet.operator, "update tendril_core.settings set session_max_age = '1 s'").await;
    let hostile = Hostile::begin(&siege.attackers_url(), Harm::Processor, 4);
    while hostile.done().logins < 8 {
        siege.neighbour.goes_on(1).await;
    }
    hostile.end().await;
    siege.end().await;
}

#[tokio::test]
async fn temporary_tables_and_large_objects_are_taken_away() {
    let mut siege = Siege::begin().await;
    let hostile = Hostile::begin(&siege.attackers_url(), Harm::Disk, 2);
    let role = siege.fleet.cluster.role.clone();
    let objects = format!("select count(*) from pg_largeobject_metadata where lomowner = '{role}'::regrole");
    siege.until("it has made some", &format!("select ({objects}) > 0")).await;
    siege.neighbour.goes_on(MEANWHILE).await;
    // It goes on until it is sent away: that is what ends temporary tables.
    let logins = hostile.done().logins;
    while hostile.done().logins == logins {
        siege.neighbour.goes_on(1).await;
    }
    hostile.end().await;
    let tables = format!("select count(*) from pg_class where relpersistence = 't' and relowner = '{role}'::regrole");
    siege.until("all is taken away", &format!("select ({objects}) = 0 and ({tables}) = 0")).await;
    siege.end().await;
}

#[tokio::test]
async fn an_artifact_takes_no_room_beside_its_bytes() {
    let mut siege = Siege::begin().await;
    siege.fleet.deploy_jobs(&[exec("a")]).await;
    let mut runner = siege.fleet.runner().await;
    let claimed = runner.claim_one().await;
    // Tried: a megabyte where its kind is said, and one where its name is.
    for (name, kind) in [("'plan'", "repeat('x', 1000000)"), ("repeat('x', 1000000)", "'text/plain'")] {
        let sql = format!(
            "select tendril.runner_artifact_put('{}', {}, {name}, {kind}, 'x')",
            claimed.attempt_id, claimed.fence
        );
        let refusal = refused(&mut runner.session, &sql).await;
        assert!(refusal.sqlstate == "TD001" && refusal.message.len() < 300, "{name} {kind}: {refusal:?}");
    }
    siege.end().await;
}
