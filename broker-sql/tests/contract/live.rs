//! Live log lines of watched deployments.

use serde_json::json;
use tendril_broker::operator::grants::Scope;

use crate::fleet::{Fleet, connect, id, one, reading, row, run, sqlstate};
use crate::logs::at_work;

const LIVE: &str = "select coalesce(string_agg(log_chunk, '' order by attempt_id, seq), '') from tendril.live_logs";

#[tokio::test]
async fn only_watched_deployments_are_copied_and_only_while_somebody_watches() {
    let mut fleet = Fleet::new().await;
    let (mut runner, a, _) = at_work(&mut fleet).await;
    fleet.deploy_jobs(&[reading("c")]).await;
    let c = runner.claim_one().await;
    runner.append(&a, 0, 0, "before\n").await.unwrap();
    let watch = format!("select tendril.watch_logs('{}')", a.deployment_id);
    run(&mut fleet.portal, &watch).await;
    runner.copy(&[row(&a, 1, 1, "watched\n"), row(&c, 0, 0, "not\n")]).await.unwrap();
    assert_eq!(one::<String>(&mut fleet.portal, LIVE).await, "watched\n");
    // Renewed, and then left to run out.
    run(&mut fleet.operator, "update tendril_core.log_watches set expires_at = clock_timestamp() + interval '1 s'")
        .await;
    run(&mut fleet.portal, &watch).await;
    let left = "select extract(epoch from min(expires_at) - clock_timestamp())::float8 from tendril_core.log_watches";
    assert!(one::<f64>(&mut fleet.operator, left).await > 30.0);
    run(&mut fleet.operator, "update tendril_core.log_watches set expires_at = clock_timestamp()").await;
    runner.append(&a, 2, 2, "after\n").await.unwrap();
    assert_eq!(one::<String>(&mut fleet.portal, LIVE).await, "watched\n");
    // What is old goes, and so does the watch.
    run(&mut fleet.operator, "update tendril.live_logs set stored_at = stored_at - interval '61 s'").await;
    assert_eq!(fleet.database.duty("live_logs").await, 1);
    let left = "select (select count(*) from tendril.live_logs) + (select count(*) from tendril_core.log_watches)";
    assert_eq!(one::<i64>(&mut fleet.operator, left).await, 0);
    // The log itself has all of it.
    let all: i64 = one(&mut fleet.portal, "select count(*) from tendril.deployment_logs").await;
    assert_eq!(all, 4);
}

#[tokio::test]
async fn of_a_flood_only_the_newest_chunks_are_live_and_a_refused_batch_leaves_none() {
    let mut fleet = Fleet::new().await;
    let (mut runner, a, b) = at_work(&mut fleet).await;
    run(&mut fleet.portal, &format!("select tendril.watch_logs('{}')", a.deployment_id)).await;
    let flood: Vec<String> = (0..500).map(|seq| row(&a, seq, seq, "x\n")).collect();
    runner.copy(&[flood.as_slice(), &[row(&b, 1, 1, "x")]].concat()).await.unwrap_err();
    assert_eq!(one::<i64>(&mut fleet.portal, "select count(*) from tendril.live_logs").await, 0);
    runner.copy(&flood).await.unwrap();
    let newest: String =
        one(&mut fleet.portal, "select min(seq) || '-' || max(seq) || ':' || count(*) from tendril.live_logs").await;
    assert_eq!(newest, "450-499:50");
    // Of many attempts each has some.
    let jobs: Vec<_> = (0..60).map(|n| reading(&format!("j{n}"))).collect();
    let many = fleet.deploy_jobs(&jobs).await;
    let claimed = runner.claim(60).await;
    run(&mut fleet.portal, &format!("select tendril.watch_logs('{many}')")).await;
    let rows: Vec<String> = claimed.iter().flat_map(|one| (0..40).map(|seq| row(one, seq, seq, "x\n"))).collect();
    runner.copy(&rows).await.unwrap();
    let sql = format!(
        "select count(*) || ' of ' || count(distinct attempt_id) from tendril.live_logs where deployment_id = '{many}'"
    );
    assert_eq!(one::<String>(&mut fleet.portal, &sql).await, "500 of 60");
}

#[tokio::test]
async fn watches_are_bounded_by_cluster_and_by_user_and_a_foreign_deployment_is_absent() {
    let mut fleet = Fleet::new().await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(fleet.deploy_jobs(&[reading("a")]).await);
    }
    let watch = |id| format!("select tendril.watch_logs('{id}')");
    run(&mut fleet.operator, "update tendril_core.settings set log_watches_user = 1, log_watches_max = 2").await;
    // A service that speaks for nobody is bound by the cluster alone; renewing is no new watch.
    for id in [ids[0], ids[1], ids[0]] {
        run(&mut fleet.portal, &watch(id)).await;
    }
    assert_eq!(sqlstate(&mut fleet.portal, &watch(ids[2])).await, "TD011");
    let user = "create or replace function tendril.portal_user() returns text language sql stable as $$ select nullif(current_setting('my.who', true), '') $$";
    run(&mut fleet.operator, &format!("{user}; update tendril_core.settings set log_watches_max = 100")).await;
    run(&mut fleet.portal, "set my.who = 'alice'").await;
    run(&mut fleet.portal, &watch(ids[0])).await;
    assert_eq!(sqlstate(&mut fleet.portal, &watch(ids[1])).await, "TD011");
    run(&mut fleet.portal, &format!("set my.who = 'bob'; {}", watch(ids[1]))).await;
    // Somebody else's, and nobody's.
    let two = fleet.database.cluster("two").await;
    let mut stranger = connect(&fleet.database.portal(Scope::Cluster(two.id)).await.url).await;
    for other in [ids[0], id()] {
        assert_eq!(sqlstate(&mut stranger, &watch(other)).await, "TD002");
    }
    assert_eq!(sqlstate(&mut fleet.portal, "select tendril.watch_logs(null)").await, "TD002");
}

#[tokio::test]
async fn live_rows_are_seen_by_those_who_see_the_deployment_and_written_by_nobody() {
    let mut fleet = Fleet::new().await;
    let (mut runner, a, _) = at_work(&mut fleet).await;
    run(&mut fleet.portal, &format!("select tendril.watch_logs('{}')", a.deployment_id)).await;
    runner.append(&a, 0, 0, "ours\n").await.unwrap();
    let two = fleet.database.cluster("two").await;
    let mut stranger = connect(&fleet.database.portal(Scope::Cluster(two.id)).await.url).await;
    let mut friend = connect(&fleet.database.portal(Scope::Cluster(fleet.cluster.id)).await.url).await;
    assert_eq!(one::<String>(&mut stranger, LIVE).await, "");
    assert_eq!(one::<String>(&mut friend, LIVE).await, "ours\n");
    for sql in [
        "insert into tendril.live_logs select * from tendril.live_logs",
        "update tendril.live_logs set log_chunk = ''",
        "delete from tendril.live_logs",
        "truncate tendril.live_logs",
    ] {
        assert_eq!(sqlstate(&mut friend, sql).await, "42501", "{sql}");
        assert_eq!(sqlstate(&mut runner.session, sql).await, "42501", "{sql}");
    }
    for sql in
        ["select * from tendril.live_logs".to_owned(), format!("select tendril.watch_logs('{}')", a.deployment_id)]
    {
        assert_eq!(sqlstate(&mut runner.session, &sql).await, "42501", "{sql}");
    }
    // The key tells nothing, since the keys of deleted rows are told to whoever follows.
    let key: serde_json::Value = one(
        &mut fleet.operator,
        "select jsonb_agg(a.attname) from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any (i.indkey)
          where i.indrelid = 'tendril.live_logs'::regclass and i.indisprimary",
    )
    .await;
    assert_eq!(key, json!(["id"]));
}
