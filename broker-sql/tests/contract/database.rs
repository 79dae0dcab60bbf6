//! The test databases themselves.

use sqlx::Connection;
use tendril_broker::operator::grants::Scope;
use tendril_broker::testing::TestDatabase;

#[tokio::test]
async fn a_test_database_has_the_schema_and_is_gone_afterwards() {
    let database = TestDatabase::create().await;
    let portal = database.portal(Scope::All).await;
    let cluster = database.cluster("one").await;
    let mut runner = database.runner(cluster.token.reveal()).await;
    let who: String = sqlx::query_scalar("select session_user::text").fetch_one(&mut runner).await.unwrap();
    assert_eq!(who, cluster.role);
    let name = database.name().to_owned();
    // Open sessions of a runner do not keep it alive.
    drop(database);
    let other = TestDatabase::empty().await;
    let left: Vec<String> = sqlx::query_scalar(
        "select datname::text from pg_database where datname = $1 union all select rolname from pg_roles where rolname in ($2, $3)",
    )
    .bind(&name)
    .bind(&cluster.role)
    .bind(&portal.role)
    .fetch_all(&mut other.operator().await)
    .await
    .unwrap();
    assert_eq!(left, Vec::<String>::new());
    assert!(runner.ping().await.is_err());
}
