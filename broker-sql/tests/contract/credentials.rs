//! Clusters' credentials: made, rotated, drained, revoked.

use serde_json::json;
use sqlx::Connection;
use tendril_broker::operator::clusters;

use crate::fleet::{Fleet, connect, exec, id, one, reading, refused, run, sqlstate, start_sql};

async fn login(url: &str) -> Result<(), String> {
    match sqlx::PgConnection::connect(url).await {
        Ok(_) => Ok(()),
        Err(sqlx::Error::Database(error)) => Err(error.code().unwrap_or_default().into_owned()),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn the_printed_token_logs_in_by_scram_and_a_wrong_one_does_not() {
    let fleet = Fleet::new().await;
    let url = fleet.database.runner_url(fleet.cluster.token.reveal());
    assert_eq!(login(&url).await, Ok(()));
    let mut wrong = fleet.cluster.token.reveal().to_owned();
    let last = if wrong.ends_with('0') { '1' } else { '0' };
    wrong.pop();
    wrong.push(last);
    assert_eq!(login(&fleet.database.runner_url(&wrong)).await, Err("28P01".into()));
}

#[tokio::test]
async fn the_secret_is_stored_nowhere() {
    let mut fleet = Fleet::new().await;
    let secret = fleet.cluster.token.reveal().rsplit('.').next().unwrap().to_owned();
    let tables: Vec<String> = sqlx::query_scalar(
        "select format('%I.%I', nspname, relname) from pg_class c join pg_namespace n on n.oid = c.relnamespace
          where nspname in ('tendril', 'tendril_core') and relkind in ('r', 'p')",
    )
    .fetch_all(&mut fleet.operator)
    .await
    .unwrap();
    for table in tables {
        let hits: i64 =
            one(&mut fleet.operator, &format!("select count(*) from {table} t where t::text like '%{secret}%'")).await;
        assert_eq!(hits, 0, "{table}");
    }
    if let Some(url) = fleet.database.superuser_url() {
        let mut superuser = connect(&url).await;
        let stored: String =
            one(&mut superuser, &format!("select rolpassword from pg_authid where rolname = '{}'", fleet.cluster.role))
                .await;
        assert!(stored.starts_with("SCRAM-SHA-256$4096:") && !stored.contains(&secret), "{stored}");
    }
}

#[tokio::test]
async fn a_name_is_given_once_per_user_and_has_a_form() {
    let mut fleet = Fleet::new().await;
    let taken = clusters::create(&mut fleet.operator, "one", None).await.unwrap_err();
    assert_eq!(taken.refusal().unwrap().message, "there is a cluster one already");
    clusters::create(&mut fleet.operator, "one", Some("ann")).await.unwrap();
    for bad in ["", " x", "a/b", &"x".repeat(64), "a\nb"] {
        let refusal = clusters::create(&mut fleet.operator, bad, None).await.unwrap_err();
        assert_eq!(refusal.refusal().unwrap().sqlstate, "TD001", "{bad:?}");
    }
    assert_eq!(sqlstate(&mut fleet.operator, "select tendril.cluster_create(null)").await, "TD001");
    // A revoked cluster's name is free again.
    clusters::revoke(&mut fleet.operator, fleet.cluster.id, true).await.unwrap();
    clusters::create(&mut fleet.operator, "one", None).await.unwrap();
}

#[tokio::test]
async fn after_a_rotation_the_old_credential_finishes_what_it_holds_and_takes_nothing_new() {
    let mut fleet = Fleet::new().await;
    fleet.deploy_jobs(&[exec("a"), exec("b"), reading("c")]).await;
    let mut old = fleet.runner().await;
    let claimed = old.claim(2).await;
    old.start(&claimed[0]).await;
    old.take_over().await;
    let rotated = clusters::rotate(&mut fleet.operator, fleet.cluster.id, None).await.unwrap();
    assert_eq!((rotated.generation, rotated.id), (2, fleet.cluster.id));
    assert_ne!(rotated.role, fleet.cluster.role);
    // Tried with the old one: claim, start, register; a heartbeat tells it why.
    old.claim_no += 1;
    assert_eq!(crate::fleet::refusal(old.try_claim(1).await.unwrap_err()).sqlstate, "TD008");
    assert_eq!(sqlstate(&mut old.session, &start_sql(&claimed[1])).await, "TD006");
    let info = json!({"name": "n", "version": "0", "labels": [], "slots": 1, "log_writer": id()});
    let register = format!("select tendril.runner_register('{}', 1, '{info}')", id());
    assert_eq!(refused(&mut old.session, &register).await.message, "the credential is being drained");
    old.claim_no -= 1;
    assert_eq!(old.heartbeat(&[&claimed[0], &claimed[1]]).await["draining"], json!(true));
    // What it holds it may finish: logs, artifacts, the result.
    old.append(&claimed[0], 0, 0, "x").await.unwrap();
    old.report(&claimed[0], json!({"outcome": "success", "log_end": 0})).await;
    old.finish(&claimed[1], "released").await;
    // The new one works beside it.
    let mut new = fleet.runner_of(&rotated, &["kind=exec"]).await;
    assert_eq!(new.claim(9).await.len(), 2);
    // Two generations at once, no third.
    let third = clusters::rotate(&mut fleet.operator, fleet.cluster.id, None).await.unwrap_err();
    assert_eq!(third.refusal().unwrap().sqlstate, "TD003");
    assert_eq!(fleet.database.duty("credentials").await, 0);
    run(&mut fleet.operator, "update tendril_core.cluster_credentials set drain_until = clock_timestamp() - interval '1 s' where generation = 1").await;
    assert_eq!(fleet.database.duty("credentials").await, 1);
    assert!(old.session.ping().await.is_err());
    let url = fleet.database.runner_url(fleet.cluster.token.reveal());
    assert_eq!(login(&url).await, Err("28000".into()), "the role may not log in any more");
    assert_eq!(fleet.database.duty("credentials").await, 0);
    assert_eq!(login(&url).await, Err("28P01".into()), "the role is gone");
    assert_eq!(
        clusters::rotate(&mut fleet.operator, fleet.cluster.id, None).await.unwrap().generation,
        3,
        "a name is never used again"
    );
}

#[tokio::test]
async fn a_drain_may_be_given_a_length() {
    let mut fleet = Fleet::new().await;
    clusters::rotate(&mut fleet.operator, fleet.cluster.id, Some("5 min")).await.unwrap();
    let drains: bool = one(
        &mut fleet.operator,
        "select drain_until between clock_timestamp() + interval '4 min' and clock_timestamp() + interval '6 min'
           from tendril_core.cluster_credentials where generation = 1",
    )
    .await;
    assert!(drains);
    let bad = clusters::rotate(&mut fleet.operator, fleet.cluster.id, Some("soon")).await.unwrap_err();
    assert_eq!(bad.refusal().unwrap().message, "invalid input syntax for type interval: \"soon\"");
}

#[tokio::test]
async fn revoke_drains_and_revoke_now_ends_sessions() {
    let mut fleet = Fleet::new().await;
    fleet.deploy_jobs(&[exec("a"), exec("b")]).await;
    let mut runner = fleet.runner().await;
    let claimed = runner.claim_one().await;
    runner.start(&claimed).await;
    let revoked = clusters::revoke(&mut fleet.operator, fleet.cluster.id, false).await.unwrap();
    assert!(!revoked.ended);
    runner.claim_no += 1;
    assert_eq!(crate::fleet::refusal(runner.try_claim(1).await.unwrap_err()).sqlstate, "TD008");
    assert_eq!(runner.finish(&claimed, "success").await, "accepted");
    assert_eq!(
        clusters::rotate(&mut fleet.operator, fleet.cluster.id, None).await.unwrap_err().refusal().unwrap().sqlstate,
        "TD003"
    );
    assert!(clusters::revoke(&mut fleet.operator, fleet.cluster.id, true).await.unwrap().ended);
    assert!(runner.session.ping().await.is_err());
    let status: String = one(&mut fleet.portal, "select status from tendril.clusters").await;
    assert_eq!(status, "REVOKED");
    // Job b would wait for ever: nobody can claim it any more.
    fleet.database.duty("credentials").await;
    let status: String =
        one(&mut fleet.portal, "select status || ': ' || cancel_reason from tendril.deployments").await;
    assert_eq!(status, "CANCELLED: its cluster was revoked");
    let unknown = clusters::revoke(&mut fleet.operator, id(), false).await.unwrap_err();
    assert_eq!(unknown.refusal().unwrap().sqlstate, "TD002");
}

#[tokio::test]
async fn a_role_that_a_tenant_changed_goes_with_its_settings() {
    let mut fleet = Fleet::new().await;
    let mut runner = fleet.runner().await;
    let role = fleet.cluster.role.clone();
    // It may change its own password and settings, and make objects of its own that are dropped with it.
    run(
        &mut runner.session,
        &format!(
            "alter role {role} set statement_timeout = 0; alter role {role} password 'mine';
             create temp table t (x int); select lo_create(0); select pg_advisory_lock(1)"
        ),
    )
    .await;
    clusters::revoke(&mut fleet.operator, fleet.cluster.id, true).await.unwrap();
    fleet.database.duty("credentials").await;
    let left: i64 = one(&mut fleet.operator, &format!("select count(*) from pg_roles where rolname = '{role}'")).await;
    assert_eq!(left, 0);
}
