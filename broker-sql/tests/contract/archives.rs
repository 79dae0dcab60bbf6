//! Who learns what of archived logs, and who may say that one is archived.

use serde_json::json;
use tendril_broker::testing::TestDatabase;

use crate::fleet::{Claimed, Fleet, connect, one, reading, run, sqlstate};

/// A closed log of one row.
async fn closed_log(fleet: &mut Fleet) -> Claimed {
    fleet.deploy_jobs(&[reading("a")]).await;
    let mut runner = fleet.runner().await;
    let claimed = runner.claim_one().await;
    runner.take_over().await;
    runner.append(&claimed, 0, 3, "text\n").await.unwrap();
    runner.report(&claimed, json!({"outcome": "success", "log_end": 3})).await;
    assert_eq!(fleet.database.duty("log_windows").await, 1);
    claimed
}

/// What serve says when an object is stored; whether it was recorded.
async fn record(fleet: &mut Fleet, claimed: &Claimed, last_seq: i64) -> bool {
    let object = json!({"url": "s3://logs/p/x.tlog.zst", "first_seq": 0, "last_seq": last_seq, "log_rows": 1, "text_bytes": 5,
        "object_bytes": 99, "sha256": "00", "frames": [[0, 60, 0, last_seq]]});
    let claim = "0190abcd-0000-7000-8000-000000000001";
    run(&mut fleet.operator, "update tendril_core.log_archives set due_at = '-infinity'").await;
    run(&mut fleet.operator, &format!("select tendril_core.archive_claim('{claim}', '1 min', 5)")).await;
    let sql = format!("select tendril_core.archive_stored('{}', '{claim}', '{object}')", claimed.attempt_id);
    one(&mut fleet.operator, &sql).await
}

#[tokio::test]
async fn a_portal_learns_where_its_own_archived_logs_lie_and_no_others() {
    let mut fleet = Fleet::new().await;
    let claimed = closed_log(&mut fleet).await;
    let listed = format!(
        "select coalesce(string_agg(concat_ws(' ', job, attempt, in_database, log_state, log_end, url, last_seq, frames), ','), '')
           from tendril.log_archives('{}')",
        claimed.deployment_id
    );
    assert_eq!(one::<String>(&mut fleet.portal, &listed).await, "", "what only waits is not listed");
    // Tried: an object that holds less, or more, than the rows that are there.
    for wrong in [2, 4] {
        assert!(!record(&mut fleet, &claimed, wrong).await, "{wrong}");
    }
    assert!(record(&mut fleet, &claimed, 3).await);
    let told = "a 1 t complete 3 s3://logs/p/x.tlog.zst 3 [[0, 60, 0, 3]]";
    assert_eq!(one::<String>(&mut fleet.portal, &listed).await, told);

    let two = fleet.database.cluster("two").await;
    let scope = tendril_broker::operator::grants::Scope::Cluster(two.id);
    let mut other = connect(&fleet.database.portal(scope).await.url).await;
    assert_eq!(sqlstate(&mut other, &listed).await, "TD002");
    // Neither portals nor runners may take part in the archive's work.
    let mut runner = fleet.database.runner(fleet.cluster.token.reveal()).await;
    for session in [&mut fleet.portal, &mut runner] {
        for sql in [
            "select tendril_core.archive_claim('0190abcd-0000-7000-8000-000000000001', '1 min', 5)",
            "select * from tendril_core.log_archives",
            "select tendril_core.removal_due()",
        ] {
            assert_eq!(sqlstate(session, sql).await, "42501", "{sql}");
        }
    }
}

#[tokio::test]
async fn an_archive_once_named_is_required_until_an_operator_says_otherwise() {
    let database = TestDatabase::create().await;
    let mut operator = database.operator().await;
    let removable = "select count(*) from tendril_core.removable_log_days()";
    let old = "create table tendril_core.log_day_20200101 (like tendril.log_inbox including defaults including constraints);
        alter table tendril.log_inbox attach partition tendril_core.log_day_20200101 for values from ('2020-01-01') to ('2020-01-02');
        insert into tendril_core.log_archives (attempt_id, deployment_id, cluster_id, claim_day)
          select gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), '2020-01-01'";
    run(&mut operator, old).await;
    assert_eq!(one::<i64>(&mut operator, removable).await, 1);
    run(&mut operator, "select tendril_core.archive_announce('s3://logs/p')").await;
    assert_eq!(one::<i64>(&mut operator, removable).await, 0);
    run(&mut operator, "update tendril_core.settings set archive_required = false").await;
    assert_eq!(one::<i64>(&mut operator, removable).await, 1);
    for wrong in ["archive_url = 'http://logs'", "logs_kept = '1 h'"] {
        let refused = sqlstate(&mut operator, &format!("update tendril_core.settings set {wrong}")).await;
        assert_eq!(refused, "23514", "{wrong}");
    }
}
