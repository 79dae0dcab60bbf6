//! Sessions that hold something: each is ended in its time or is harmless, and the neighbour never waits.

use sqlx::Connection;
use tendril_broker::testing::hostile::{Harm, Hostile};

use crate::fleet::{connect, run, sqlstate};
use crate::siege::{MEANWHILE, Siege};

/// Short times, so that no test waits for long; those of an installation are 10 s and 30 s.
const SHORT: &str = "update tendril_core.settings set session_max_age = '1 s', copy_max_age = '2 s'";

/// Sessions of a cluster's runners that have a transaction open.
fn open_for(seconds: f64) -> String {
    format!(
        "select count(*) = 0 from pg_stat_activity a join tendril_core.cluster_credentials k on k.role_name = a.usename
          join tendril.clusters c on c.id = k.cluster_id
         where c.name = 'one' and a.xact_start < clock_timestamp() - interval '{seconds} s'"
    )
}

#[tokio::test]
async fn transactions_that_are_held_open_are_ended_and_hold_nobody_up() {
    let mut siege = Siege::begin().await;
    run(&mut siege.fleet.operator, SHORT).await;
    for harm in [Harm::Transactions, Harm::Copies] {
        let hostile = Hostile::begin(&siege.attackers_url(), harm, 4);
        let goal = 12;
        while hostile.done().logins < goal {
            siege.neighbour.goes_on(1).await;
        }
        // With room for the watch's own second and for a machine that is busy.
        siege.until("none is open for long", &open_for(8.0)).await;
        let done = hostile.end().await;
        assert!(done.logins >= goal && done.statements >= goal - 4, "{harm:?}: {done:?}");
    }
    siege.end().await;
}

#[tokio::test]
async fn idle_sessions_are_bounded_by_the_credential_and_left_alone() {
    let mut siege = Siege::begin().await;
    run(&mut siege.fleet.operator, SHORT).await;
    let url = siege.attackers_url();
    let mut idle = Vec::new();
    while idle.len() < 16 {
        idle.push(connect(&url).await);
    }
    // All that a tenant can hold without a transaction: listening, plans, cursors that have been materialised.
    for (number, session) in idle.iter_mut().enumerate() {
        let sql = format!(
            "listen a{number}; prepare p as select 1; begin; declare c cursor with hold for select generate_series(1, 10000); commit"
        );
        run(session, &sql).await;
    }
    let Err(sqlx::Error::Database(error)) = sqlx::PgConnection::connect(&url).await else {
        panic!("a seventeenth connection was let in");
    };
    assert_eq!(error.code().as_deref(), Some("53300"));
    siege.neighbour.goes_on(MEANWHILE).await;
    for session in &mut idle {
        session.ping().await.unwrap();
    }
    siege.end().await;
}

#[tokio::test]
async fn a_transaction_cannot_be_left_behind_by_preparing_it() {
    let siege = Siege::begin().await;
    let mut attacker = connect(&siege.attackers_url()).await;
    let sql = "begin; select tendril.log_takeover('00000000-0000-7000-8000-000000000007'); prepare transaction 'left'";
    // Off unless an operator has turned it on, of which doctor warns.
    assert_eq!(sqlstate(&mut attacker, sql).await, "55000");
    siege.end().await;
}

#[tokio::test]
async fn nobody_ends_or_cancels_anothers_session() {
    let mut siege = Siege::begin().await;
    let mut attacker = connect(&siege.attackers_url()).await;
    let sessions = "select a.pid from pg_stat_activity a where a.usename ~ '^(r_|portal_)' and a.usename <> session_user and a.datname = current_database()";
    for how in ["pg_terminate_backend", "pg_cancel_backend"] {
        let sql = format!("select {how}(pid) from ({sessions}) others");
        assert_eq!(sqlstate(&mut attacker, &sql).await, "42501", "{how}");
    }
    // What others are doing is not shown, only that they are there.
    let shown = format!(
        "select count(*) from pg_stat_activity where pid in ({sessions}) and (query not like '%insufficient privilege%' or client_addr is not null)"
    );
    assert_eq!(crate::fleet::one::<i64>(&mut attacker, &shown).await, 0);
    siege.neighbour.goes_on(1).await;
    siege.end().await;
}
