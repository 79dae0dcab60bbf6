//! A tenant that is to go, and does what it can to stay.

use sqlx::Connection;
use tendril_broker::operator::clusters;

use crate::fleet::{connect, one, run, sqlstate};
use crate::siege::Siege;

#[tokio::test]
async fn a_session_that_logs_in_while_its_credential_is_taken_does_not_outlive_it() {
    let mut siege = Siege::begin().await;
    let (cluster, role) = (siege.fleet.cluster.id, siege.fleet.cluster.role.clone());
    let mut revoker = siege.fleet.database.operator().await;
    run(&mut revoker, &format!("begin; select tendril.cluster_revoke('{cluster}', true)")).await;
    // Its sessions are ended, and the commit is yet to come: the role still logs in.
    let mut late = connect(&siege.attackers_url()).await;
    run(&mut late, "begin isolation level repeatable read; select 1").await;
    run(&mut revoker, "commit").await;
    // It has nothing left but itself.
    assert_eq!(sqlstate(&mut late, "select tendril.log_takeover(gen_random_uuid())").await, "42501");
    let gone = format!("select not exists (select from pg_roles where rolname = '{role}')");
    siege.until("serve has dropped the role", &gone).await;
    assert!(late.ping().await.is_err(), "a session of a role that is gone could be ended by nobody but a superuser");
    siege.end().await;
}

#[tokio::test]
async fn revoke_now_waits_for_nothing_that_the_tenant_holds() {
    let mut siege = Siege::begin().await;
    let mut attacker = siege.fleet.runner().await;
    // Its cluster's row, in a transaction that it does not end.
    let witness = r#"{"incarnation": 1, "fence": 0, "runners": [], "open": [], "ended": []}"#;
    let sql = format!("begin; select tendril.runner_witness('{}', '{witness}')", attacker.id);
    run(&mut attacker.session, &sql).await;
    run(&mut siege.fleet.operator, "set lock_timeout = '100ms'").await;
    let revoked = clusters::revoke(&mut siege.fleet.operator, siege.fleet.cluster.id, true).await.unwrap();
    assert!(revoked.ended);
    assert!(attacker.session.ping().await.is_err());
    siege.end().await;
}

#[tokio::test]
async fn a_tenant_that_changes_its_own_role_locks_out_nobody_but_itself() {
    let mut siege = Siege::begin().await;
    let old = siege.fleet.cluster.clone();
    let role = &old.role;
    let mut attacker = connect(&siege.attackers_url()).await;
    run(
        &mut attacker,
        &format!(
            "alter role {role} password 'mine'; alter role {role} set search_path = pg_temp;
             alter role {role} set default_transaction_isolation = 'serializable'"
        ),
    )
    .await;
    // Not its own to change: how many connections it has, until when it is good, what it may.
    for change in ["connection limit 1000", "valid until 'infinity'", "createrole", "superuser", "replication"] {
        assert_eq!(sqlstate(&mut attacker, &format!("alter role {role} {change}")).await, "42501", "{change}");
    }
    let rotated = clusters::rotate(&mut siege.fleet.operator, old.id, Some("0 s")).await.unwrap();
    let mut runner = siege.fleet.runner_of(&rotated, &["kind=exec"]).await;
    runner.heartbeat(&[]).await;
    let ended = format!("select status = 'ended' from tendril_core.cluster_credentials where role_name = '{role}'");
    siege.until("the old one is ended", &ended).await;
    assert!(attacker.ping().await.is_err());
    let isolation: String = one(&mut runner.session, "show default_transaction_isolation").await;
    assert_eq!(isolation, "read committed", "settings died with the role");
    siege.end().await;
}
