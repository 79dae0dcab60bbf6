//! Attacks as a portal's role that may see one cluster: by plain SQL, which it may write as it likes.

use serde_json::json;
use sqlx::postgres::PgConnection;
use tendril_broker::operator::grants::Scope;
use uuid::Uuid;

use crate::fleet::{connect, exec, one, refused, run, sqlstate};
use crate::siege::{MEANWHILE, Siege};

/// A portal of cluster two, at the work of cluster one.
async fn attacker(siege: &Siege) -> (PgConnection, Uuid) {
    let two = siege.fleet.database.cluster("two").await.id;
    let portal = siege.fleet.database.portal(Scope::Cluster(two)).await;
    (connect(&portal.url).await, two)
}

#[tokio::test]
async fn forged_rows_are_refused_whatever_they_are_written_with() {
    let mut siege = Siege::begin().await;
    let victims = siege.fleet.deploy_jobs(&[exec("a")]).await;
    let (mut session, two) = attacker(&siege).await;
    let (one_, snapshot) = (siege.fleet.cluster.id, json!({"jobs": [exec("a")]}));
    let insert =
        |columns: &str, values: String| format!("insert into tendril.deployments ({columns}) values ({values})");
    for (sql, code) in [
        (insert("cluster_id, config_snapshot", format!("'{one_}', '{snapshot}'")), "TD002"),
        // Among good rows.
        (insert("cluster_id, config_snapshot", format!("'{two}', '{snapshot}'), ('{one_}', '{snapshot}'")), "TD002"),
        (insert("cluster_id, config_snapshot, user_id", format!("'{two}', '{snapshot}', 'ann'")), "42501"),
        (insert("cluster_id, config_snapshot, created_at", format!("'{two}', '{snapshot}', now()")), "42501"),
        (insert("cluster_id, config_snapshot, status", format!("'{two}', '{snapshot}', 'SUCCESS'")), "TD001"),
        (format!("insert into tendril.deployments select * from tendril.deployments where id = '{victims}'"), "42501"),
        (
            format!(
                "{} on conflict (id) do update set status = 'QUEUED'",
                insert("id, cluster_id, config_snapshot", format!("'{victims}', '{two}', '{snapshot}'"))
            ),
            "TD004",
        ),
        ("copy tendril.deployments (cluster_id) from stdin".into(), "0A000"),
        ("delete from tendril.deployments".into(), "42501"),
        ("truncate tendril.deployments".into(), "42501"),
        ("update tendril.deployments set cluster_id = cluster_id".into(), "42501"),
        ("update tendril.clusters set name = 'x'".into(), "42501"),
        ("insert into tendril.deployment_logs (seq) values (1)".into(), "42501"),
        ("insert into tendril.live_logs (seq) values (1)".into(), "42501"),
        ("alter table tendril.deployments disable row level security".into(), "42501"),
        ("create policy mine on tendril.deployments using (true)".into(), "42501"),
        (
            "create trigger t before insert on tendril.deployments execute function tendril.portal_user()".into(),
            "42501",
        ),
        (format!("set role {}", siege.fleet.cluster.role), "42501"),
        ("set session authorization postgres".into(), "42501"),
    ] {
        let refusal = refused(&mut session, &sql).await;
        assert_eq!(refusal.sqlstate, code, "{sql}: {refusal:?}");
    }
    // The neighbour submits all the while: what counts are the two clusters that were written at.
    let there = format!("select count(*) from tendril.deployments where cluster_id in ('{one_}', '{two}')");
    assert_eq!(one::<i64>(&mut siege.fleet.portal, &there).await, 1);
    let untouched = format!("select count(*) from tendril.deployments where id = '{victims}' and status = 'QUEUED'");
    assert_eq!(one::<i64>(&mut siege.fleet.portal, &untouched).await, 1);
    siege.end().await;
}

#[tokio::test]
async fn rows_of_others_reach_no_function_operator_or_error_of_the_portals_own() {
    let mut siege = Siege::begin().await;
    siege.fleet.deploy_jobs(&[exec("secretive")]).await;
    let mut runner = siege.fleet.runner().await;
    let claimed = runner.claim_one().await;
    runner.take_over().await;
    runner.append(&claimed, 0, 0, "their line").await.unwrap();
    let (mut session, _) = attacker(&siege).await;
    // A function so cheap that the planner would like to call it before the policy, and that fails on whatever it is shown.
    run(
        &mut session,
        "create function pg_temp.shown(text) returns boolean cost 0.0000001 language plpgsql as
           $$ begin raise exception using errcode = 'XX999', message = $1; end $$;
         create function pg_temp.is(text, text) returns boolean cost 0.0000001 language plpgsql as
           $$ begin raise exception using errcode = 'XX999', message = $1; end $$;
         create operator pg_temp.~~~ (leftarg = text, rightarg = text, function = pg_temp.is)",
    )
    .await;
    for table in [
        "clusters",
        "deployments",
        "deployment_logs",
        "live_logs",
        "jobs",
        "queue",
        "runners",
        "limits",
        "dead_letters",
        "schedules",
        "artifacts",
    ] {
        for condition in [
            "pg_temp.shown(t::text)",
            "t::text operator(pg_temp.~~~) 'x'",
            "1 / (length(t::text) - length(t::text)) = 1",
            "cast(t::text as integer) = 1",
        ] {
            let sql = format!("select count(*) from tendril.{table} t where {condition}");
            let own = i64::from(table == "clusters");
            // Of its own cluster's row it hears, and of no other.
            match sqlx::query_scalar::<_, i64>(sqlx::AssertSqlSafe(sql.clone())).fetch_one(&mut session).await {
                Ok(rows) => assert_eq!(rows, 0, "{sql}"),
                Err(error) => {
                    let said = error.to_string();
                    assert!(own == 1 && !said.contains("neighbour") && !said.contains("\"one\""), "{sql}: {said}");
                }
            }
        }
    }
    let statistics = "select count(*) from pg_stats where schemaname in ('tendril', 'tendril_core')";
    assert_eq!(one::<i64>(&mut session, statistics).await, 0);
    siege.end().await;
}

#[tokio::test]
async fn what_a_portal_locks_and_leaves_open_holds_up_nobody() {
    let mut siege = Siege::begin().await;
    let (mut session, two) = attacker(&siege).await;
    for mode in ["row exclusive", "share", "share row exclusive", "exclusive", "access exclusive"] {
        for table in ["deployments", "clusters", "deployment_logs"] {
            let sql = format!("begin; lock table tendril.{table} in {mode} mode");
            assert_eq!(sqlstate(&mut session, &sql).await, "42501", "{sql}");
            run(&mut session, "rollback").await;
        }
    }
    // Open, and left so: a submit, what it may lock of rows, a cancel, and the weakest lock on a table, which it does get.
    let snapshot = json!({"jobs": [exec("a")]});
    run(
        &mut session,
        &format!(
            "begin; insert into tendril.deployments (cluster_id, config_snapshot) values ('{two}', '{snapshot}');
             select count(*) from (select from tendril.deployments for update) locked;
             lock table tendril.deployments in access share mode;
             select tendril.cancel(id) from tendril.deployments"
        ),
    )
    .await;
    siege.neighbour.goes_on(MEANWHILE).await;
    for duty in
        ["expire", "deadlines", "explain", "clusters", "fold", "unpark", "log_windows", "credentials", "partitions"]
    {
        run(&mut siege.fleet.operator, &format!("set lock_timeout = '2 s'; select tendril_core.duty_{duty}()")).await;
    }
    run(&mut session, "commit").await;
    siege.end().await;
}
