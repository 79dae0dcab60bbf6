//! What each mode of a pooler lets through.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Row};
use tendril_broker::connect::{Address, ConnectError};
use tendril_broker::operator::grants::Scope;
use tendril_broker::testing::neighbour::Neighbour;
use tendril_broker::testing::pooler::{Mode, Pooler};
use tendril_broker::testing::{TestDatabase, run};

/// Statements as a portal sends them to such a pooler: whole, and without prepared ones that outlive a transaction.
async fn word(session: &mut PgConnection, sql: &str) -> String {
    let rows = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).fetch_all(session).await;
    let rows = rows.unwrap_or_else(|error| panic!("{sql}: {error}"));
    rows.last().unwrap().get(0)
}

async fn require(url: &str, token: &str) -> Result<(), ConnectError> {
    let (_, at) = url.rsplit_once('@').unwrap();
    let token = token.parse().unwrap();
    Address::parse(&format!("postgres://{at}")).unwrap().connector(&token).unwrap().require_sessions().await
}

#[tokio::test]
async fn a_runner_works_through_session_mode_and_loses_nothing() {
    let database = TestDatabase::create().await;
    let Some(pooler) = Pooler::start(&database, Mode::Session, 16).await else { return };
    let token = database.cluster("one").await.token;
    let url = pooler.through(&database.runner_url(token.reveal()));
    require(&url, token.reveal()).await.unwrap();
    // Claims, starts, heartbeats, logs with their takeover, finishes.
    let mut neighbour = Neighbour::at_work_through(&database, "two", |url| pooler.through(url)).await;
    neighbour.goes_on(20).await;
    neighbour.unharmed().await;
}

#[tokio::test]
async fn a_runner_at_a_pooler_in_transaction_mode_is_told_so_before_it_begins() {
    let database = TestDatabase::create().await;
    let Some(pooler) = Pooler::start(&database, Mode::Transaction, 16).await else { return };
    let token = database.cluster("one").await.token;
    let url = database.runner_url(token.reveal());
    // The server itself is none.
    require(&url, token.reveal()).await.unwrap();
    let error = require(&pooler.through(&url), token.reveal()).await.unwrap_err();
    assert!(matches!(error, ConnectError::Pooled { .. }), "{error:?}");
    let said = error.to_string();
    assert!(said.contains("transaction mode") && said.contains("session mode"), "{said}");
}

#[tokio::test]
async fn a_pooler_whose_sessions_take_turns_is_found_out_too() {
    let database = TestDatabase::create().await;
    let Some(pooler) = Pooler::start(&database, Mode::RoundRobin, 16).await else { return };
    let token = database.cluster("one").await.token;
    let url = pooler.through(&database.runner_url(token.reveal()));
    // Others of the role have been here, and have left so many sessions that take turns.
    for free in 1..=4 {
        let mut others = Vec::new();
        for _ in 0..free {
            let mut other = PgConnection::connect(&url).await.unwrap();
            word(&mut other, "begin; select 'busy'").await;
            others.push(other);
        }
        for other in &mut others {
            word(other, "rollback; select 'free'").await;
        }
        let error = require(&url, token.reveal()).await.unwrap_err();
        assert!(matches!(error, ConnectError::Pooled { .. }), "beside {free}: {error:?}");
    }
}

#[tokio::test]
async fn portals_submit_and_follow_through_transaction_mode_without_seeing_each_other() {
    let database = TestDatabase::empty().await;
    let mut operator = database.operator().await;
    let user = "create schema tendril; create function tendril.portal_user() returns text language sql stable as
        $$ select nullif(current_setting('app.user', true), '') $$";
    run(&mut operator, user).await;
    tendril_broker::operator::migration::migrate(&mut operator).await.unwrap();
    run(&mut operator, "select tendril_core.ensure_partitions()").await;
    let Some(pooler) = Pooler::start(&database, Mode::Transaction, 2).await else { return };
    let portal = database.portal(Scope::Own).await;
    let mut users = Vec::new();
    // Eight users of one portal, who share two sessions of the server's.
    for number in 0..8 {
        let user = format!("user-{number}");
        let cluster = tendril_broker::operator::clusters::create(&mut operator, &user, Some(&user)).await.unwrap().id;
        let url = pooler.through(&portal.url);
        users.push(tokio::spawn(async move {
            let mut session = PgConnection::connect(&url).await.unwrap();
            let as_user = format!("begin; select set_config('app.user', '{user}', true)");
            for count in 1..=20 {
                let submit = format!(
                    "{as_user}; insert into tendril.deployments (cluster_id, config_snapshot)
                       values ('{cluster}', '{{\"jobs\": [{{\"name\": \"a\", \"kind\": \"exec\", \"argv\": [\"true\"]}}]}}'); commit; select 'sent'"
                );
                assert_eq!(word(&mut session, &submit).await, "sent");
                let seen = format!(
                    "{as_user}; select count(*) || ' of ' || coalesce(string_agg(distinct cluster_id::text, ','), '') from tendril.deployments"
                );
                assert_eq!(word(&mut session, &seen).await, format!("{count} of {cluster}"));
                word(&mut session, "rollback; select 'done'").await;
            }
        }));
    }
    for user in users {
        user.await.unwrap();
    }
    // Nothing of an identity stays with a session that others get.
    let mut session = PgConnection::connect(&pooler.through(&portal.url)).await.unwrap();
    assert_eq!(word(&mut session, "select count(*)::text from tendril.deployments").await, "0");
}

#[tokio::test]
async fn a_pooler_that_ends_tls_or_passwords_cannot_be_bound_to_and_says_so() {
    let database = TestDatabase::create().await;
    let Some(pooler) = Pooler::start(&database, Mode::Session, 16).await else { return };
    let token = database.cluster("one").await.token;
    let url = pooler.through(&database.runner_url(token.reveal()));
    let error = require(&format!("{url}?channel_binding=require"), token.reveal()).await.unwrap_err();
    assert!(matches!(error, ConnectError::Tls { .. }) && error.to_string().contains("channel binding"), "{error:?}");
}
