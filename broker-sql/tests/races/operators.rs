//! An operator's decision holds for what was true under the locks, not for what was true when it was asked for.

use sqlx::Connection;

use crate::fleet::{Fleet, one, reading, refusal, run};

#[tokio::test]
async fn declare_lost_spares_an_attempt_that_was_claimed_meanwhile() {
    let mut fleet = Fleet::new().await;
    let deployment = fleet.deploy_jobs(&[reading("a")]).await;
    let (mut silent, mut other) = (fleet.runner().await, fleet.runner().await);
    let old = silent.claim_one().await;
    // Expiry judges in a transaction that is still open; the operator's call waits for it, and another runner comes first.
    let mut judge = fleet.database.operator().await;
    let lock = format!("begin; select from tendril_core.runner_leases where runner_id = '{}' for update", silent.id);
    run(&mut judge, &lock).await;
    let mut deciding = fleet.database.operator().await;
    let pid: i32 = one(&mut deciding, "select pg_backend_pid()").await;
    let decision = tokio::spawn(async move {
        let done =
            sqlx::query("select tendril.declare_lost($1, 'a', 'sure')").bind(deployment).execute(&mut deciding).await;
        drop(deciding.close().await);
        done
    });
    let waits = format!("select coalesce(wait_event_type = 'Lock', false) from pg_stat_activity where pid = {pid}");
    while !one::<bool>(&mut fleet.operator, &waits).await {
        tokio::task::yield_now().await;
    }
    let lose = format!(
        "update tendril_core.runner_leases set lease_expires_at = clock_timestamp() - interval '1 s' where runner_id = '{}';
         select tendril_core.lose('{}', 'not heard')",
        silent.id, old.attempt_id
    );
    run(&mut judge, &lose).await;
    run(&mut judge, "savepoint judged").await;
    // The requeued job is claimed as soon as the judgement is committed: here within it, as the operator's call cannot be
    // held between its two locks from outside.
    let claim = format!(
        "with a as (insert into tendril_core.attempts (job_id, cluster_id, deployment_id, ordinal, claim_no, runner_id, log_writer)
                      select j.id, j.cluster_id, j.deployment_id, 2, 1, '{}', '{}' from tendril_core.jobs j returning *)
         update tendril_core.jobs j set state = 'STARTED', attempt_id = a.id, fence = a.fence, attempts = 2 from a where j.id = a.job_id;
         delete from tendril_core.queue",
        other.id, other.writer
    );
    run(&mut judge, &claim).await;
    run(&mut judge, "commit").await;
    let refusal = refusal(decision.await.unwrap().unwrap_err());
    assert_eq!(refusal.sqlstate, "TD003");
    assert_eq!(fleet.job(deployment, "a").await, "STARTED");
    assert_eq!(other.heartbeat(&[]).await["held"].as_array().unwrap().len(), 1);
}
