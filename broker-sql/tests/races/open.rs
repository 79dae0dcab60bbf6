//! A runner's session that keeps a transaction open harms its own cluster only: `serve` passes over what it has locked.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection};

use crate::fleet::{Claimed, Fleet, Runner, connect, exec, finish_sql, one, reading, run, start_sql};
use crate::keys::{planned, unseen};

/// A session of the operator, as one of serve's, in which any wait for a lock is an error.
async fn impatient(fleet: &Fleet) -> PgConnection {
    let mut session = fleet.database.operator().await;
    run(&mut session, "set lock_timeout = '100ms'").await;
    session
}

/// A second session of a runner's process, in a transaction that has run this and stays open.
async fn open(fleet: &Fleet, sql: &str) -> PgConnection {
    let mut session = connect(&fleet.database.runner_url(fleet.cluster.token.reveal())).await;
    run(&mut session, "begin").await;
    run(&mut session, sql).await;
    session
}

async fn close(mut session: PgConnection) {
    run(&mut session, "rollback").await;
    session.close().await.unwrap();
}

/// What `serve` does for a runner whose lease has run out while the pulse is fresh.
async fn expire(fleet: &mut Fleet, serve: &mut PgConnection, runner: &Runner) -> i64 {
    fleet.database.pulse().await;
    run(serve, "update tendril_core.pulse set rebased_at = null").await;
    fleet.silence(runner).await;
    judge(serve).await
}

async fn judge(serve: &mut PgConnection) -> i64 {
    run(serve, "select tendril_core.pulse(); update tendril_core.pulse set rebased_at = null").await;
    one(serve, "select tendril_core.duty_expire()").await
}

fn progress(claimed: &Claimed) -> String {
    format!("select tendril.runner_progress('{}', {}, '{{}}')", claimed.attempt_id, claimed.fence)
}

#[tokio::test]
async fn expiry_waits_for_no_open_progress() {
    let mut fleet = Fleet::new().await;
    let mut serve = impatient(&fleet).await;
    let deployment = fleet.deploy_jobs(&[reading("a")]).await;
    let mut runner = fleet.runner().await;
    let claimed = runner.claim_one().await;
    let tenant = open(&fleet, &progress(&claimed)).await;
    assert_eq!(expire(&mut fleet, &mut serve, &runner).await, 0, "what is locked is passed over");
    close(tenant).await;
    assert_eq!(judge(&mut serve).await, 1, "and judged later");
    assert_eq!(fleet.job(deployment, "a").await, "QUEUED");
}

#[tokio::test]
async fn expiry_waits_for_no_open_claim_that_parks_a_job() {
    let mut fleet = Fleet::new().await;
    let mut serve = impatient(&fleet).await;
    planned(&mut fleet, &["s", "s"]).await;
    unseen(&mut fleet).await;
    let mut lost = fleet.runner().await;
    lost.claim_one().await;
    let other = fleet.runner().await;
    let tenant = open(&fleet, &format!("select tendril.runner_claim('{}', 1, 9)", other.id)).await;
    assert_eq!(expire(&mut fleet, &mut serve, &lost).await, 0, "its key is locked by the claim that parks behind it");
    close(tenant).await;
    assert_eq!(judge(&mut serve).await, 1);
}

#[tokio::test]
async fn a_deadline_waits_for_no_open_progress() {
    let mut fleet = Fleet::new().await;
    let mut serve = impatient(&fleet).await;
    let deployment = fleet.deploy_jobs(&[exec("a")]).await;
    let mut runner = fleet.runner().await;
    let claimed = runner.claim_one().await;
    runner.start(&claimed).await;
    assert_eq!(fleet.lose(&runner).await, 1);
    run(&mut serve, "update tendril_core.jobs set deadline_at = clock_timestamp() - interval '1 s'").await;
    let tenant = open(&fleet, &progress(&claimed)).await;
    assert_eq!(one::<i64>(&mut serve, "select tendril_core.duty_deadlines()").await, 0);
    close(tenant).await;
    assert_eq!(one::<i64>(&mut serve, "select tendril_core.duty_deadlines()").await, 1);
    assert_eq!(fleet.job(deployment, "a").await, "FAILED");
}

#[tokio::test]
async fn closing_a_log_waits_for_no_open_late_report() {
    let mut fleet = Fleet::new().await;
    let mut serve = impatient(&fleet).await;
    fleet.deploy_jobs(&[reading("a")]).await;
    let mut runner = fleet.runner().await;
    let claimed = runner.claim_one().await;
    assert_eq!(fleet.lose(&runner).await, 1);
    let report = serde_json::json!({"outcome": "success", "log_end": -1});
    assert_eq!(runner.report(&claimed, report.clone()).await, "noted");
    let tenant = open(&fleet, &finish_sql(&claimed, &report)).await;
    assert_eq!(one::<i64>(&mut serve, "select tendril_core.duty_log_windows()").await, 0);
    close(tenant).await;
    assert_eq!(one::<i64>(&mut serve, "select tendril_core.duty_log_windows()").await, 1);
}

#[tokio::test]
async fn a_re_base_waits_for_no_open_heartbeat_and_judges_nobody_whom_it_passed_over() {
    let mut fleet = Fleet::new().await;
    let mut serve = impatient(&fleet).await;
    fleet.deploy_jobs(&[reading("a")]).await;
    let (mut held, free) = (fleet.runner().await, fleet.runner().await);
    held.claim_one().await;
    fleet.silence(&held).await;
    fleet.silence(&free).await;
    let lock = format!("select from tendril.runner_heartbeat('{}', 0, '{{}}')", held.id);
    let tenant = open(&fleet, &lock).await;
    assert!(one::<bool>(&mut serve, "select tendril_core.pulse()").await, "the first beat ever re-bases");
    close(tenant).await;
    let live = |id| {
        format!("select lease_expires_at > clock_timestamp() from tendril_core.runner_leases where runner_id = '{id}'")
    };
    assert!(one::<bool>(&mut serve, &live(free.id)).await);
    assert!(!one::<bool>(&mut serve, &live(held.id)).await, "the locked lease is as it was");
    assert_eq!(one::<i64>(&mut serve, "select tendril_core.duty_expire()").await, 0, "it has its TTL all the same");
}

#[tokio::test]
async fn runners_that_their_tenant_keeps_locked_do_not_stand_before_all_others() {
    let mut fleet = Fleet::new().await;
    let mut serve = impatient(&fleet).await;
    let mut hostile = fleet.runner().await;
    hostile.take_over().await;
    for n in 0..51 {
        fleet.deploy_jobs(&[reading("a")]).await;
        let sql = format!(
            "select tendril.runner_register('00000000-0000-7000-8000-{n:012}', 1, '{{\"name\": \"x\", \"version\": \"1\", \"labels\": \
             [\"kind=exec\"], \"slots\": 1, \"log_writer\": \"{}\"}}');
             select tendril.runner_claim('00000000-0000-7000-8000-{n:012}', 1, 1)",
            hostile.writer
        );
        run(&mut hostile.session, &sql).await;
    }
    let tenant = open(&fleet, &format!("select tendril.log_takeover('{}')", hostile.writer)).await;
    let honest = fleet.database.cluster("two").await;
    let mut honest = fleet.runner_of(&honest, &["kind=exec"]).await;
    let deploy = "insert into tendril.deployments (cluster_id, config_snapshot)
        select id, '{\"jobs\": [{\"name\": \"b\", \"kind\": \"exec\", \"argv\": [\"x\"], \"reading\": true}]}' from tendril.clusters where name = 'two'";
    run(&mut fleet.portal, deploy).await;
    honest.claim_one().await;
    run(&mut serve, "select tendril_core.pulse(); update tendril_core.runner_leases set lease_expires_at = clock_timestamp() - interval '1 s'").await;
    let mut lost = 0;
    // Each run looks at fifty of the fifty-two: that a hundred runs all miss the one has no chance worth a name.
    for _ in 0..100 {
        lost += judge(&mut serve).await;
    }
    assert_eq!(lost, 1, "the honest tenant's, and none of those that are locked");
    close(tenant).await;
}

#[tokio::test]
async fn explaining_takes_back_what_a_claim_overtook() {
    let mut fleet = Fleet::new().await;
    let deployment = fleet.deploy_jobs(&[reading("a")]).await;
    let mut runner = fleet.runner().await;
    runner.claim_one().await;
    // What the duty writes when the claim commits between its look and its update.
    let sql =
        format!("update tendril.deployments set waiting_for = 'a free slot on a runner' where id = '{deployment}'");
    run(&mut fleet.operator, &sql).await;
    assert_eq!(fleet.waiting_for(deployment).await, None);
    assert_eq!(fleet.status(deployment).await, "PROCESSING");
}

#[tokio::test]
async fn a_started_attempt_stays_started_whatever_its_tenant_has_open() {
    let mut fleet = Fleet::new().await;
    let mut serve = impatient(&fleet).await;
    let deployment = fleet.deploy_jobs(&[exec("a")]).await;
    let mut runner = fleet.runner().await;
    let claimed = runner.claim_one().await;
    let tenant = open(&fleet, &start_sql(&claimed)).await;
    for duty in
        ["expire", "deadlines", "explain", "clusters", "fold", "sessions", "unpark", "log_windows", "credentials"]
    {
        let sql = format!("select tendril_core.duty_{duty}()");
        let done = sqlx::query(AssertSqlSafe(sql)).execute(&mut serve).await;
        assert!(done.is_ok(), "{duty}: {done:?}");
    }
    close(tenant).await;
    assert_eq!(fleet.job(deployment, "a").await, "CLAIMED");
}
