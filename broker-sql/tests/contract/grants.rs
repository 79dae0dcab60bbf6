//! What portals see and submit.

use serde_json::json;
use sqlx::postgres::PgConnection;
use tendril_broker::operator::grants::Scope;
use tendril_broker::operator::{clusters, migration};
use tendril_broker::testing::TestDatabase;
use uuid::Uuid;

use crate::fleet::{Fleet, connect, exec, one, reading, refused, run, sqlstate};

const SEEN: &str = "select coalesce(string_agg(name, ' ' order by name), '') from tendril.clusters";
const DEPLOYMENTS: &str = "select count(*) from tendril.deployments";

fn insert(cluster: Uuid) -> String {
    format!(
        "insert into tendril.deployments (cluster_id, config_snapshot) values ('{cluster}', '{}') returning id",
        json!({"jobs": [exec("a")]})
    )
}

#[tokio::test]
async fn a_role_without_a_grant_sees_and_does_nothing() {
    let fleet = Fleet::new().await;
    let mut nobody = connect(&fleet.database.login_role().await.url).await;
    for sql in [
        "select from tendril.deployments",
        "select from tendril.clusters",
        "select from tendril.queue",
        "select from tendril_core.jobs",
        "select tendril.status(gen_random_uuid())",
        "select tendril.cluster_create('x')",
    ] {
        assert_eq!(sqlstate(&mut nobody, sql).await, "42501", "{sql}");
    }
}

#[tokio::test]
async fn a_grant_of_one_cluster_sees_and_submits_there_and_nowhere_else() {
    let mut fleet = Fleet::new().await;
    let two = fleet.database.cluster("two").await;
    let portal = fleet.database.portal(Scope::Cluster(fleet.cluster.id)).await;
    let mut session = connect(&portal.url).await;
    let mine: Uuid = one(&mut session, &insert(fleet.cluster.id)).await;
    let theirs: Uuid = one(&mut fleet.portal, &insert(two.id)).await;
    assert_eq!(sqlstate(&mut session, &insert(two.id)).await, "TD002");
    assert_eq!(one::<String>(&mut session, SEEN).await, "one");
    assert_eq!(one::<i64>(&mut session, DEPLOYMENTS).await, 1);
    for view in ["jobs", "queue"] {
        let rows: i64 = one(&mut session, &format!("select count(*) from tendril.{view}")).await;
        assert_eq!(rows, 1, "{view}");
    }
    // The same answer for what is not there and for what is somebody else's.
    let nowhere = Uuid::from_u128(1);
    for call in ["status('{}')", "cancel('{}')", "approve('{}')", "retry('{}')", "logs_after('{}')"] {
        let sql = |id: Uuid| format!("select tendril.{}", call.replace("{}", &id.to_string()));
        let (absent, foreign) = (refused(&mut session, &sql(nowhere)).await, refused(&mut session, &sql(theirs)).await);
        assert_eq!(absent.sqlstate, "TD002");
        assert_eq!(
            absent.message.replace(&nowhere.to_string(), ""),
            foreign.message.replace(&theirs.to_string(), ""),
            "{call}"
        );
    }
    // An id that somebody else has taken is refused, not overwritten.
    let taken =
        format!("select tendril.submit('{}', '{}', '{theirs}')", fleet.cluster.id, json!({"jobs": [exec("a")]}));
    assert_eq!(refused(&mut session, &taken).await.message, format!("deployment {theirs} is somebody else's"));
    // A second cluster may be granted beside the first.
    run(&mut fleet.operator, &format!("select tendril.portal_grant('{}', 'cluster', '{}')", portal.role, two.id)).await;
    assert_eq!(one::<String>(&mut session, SEEN).await, "one two");
    run(&mut session, &format!("select tendril.cancel('{mine}'), tendril.cancel('{theirs}')")).await;
}

#[tokio::test]
async fn log_rows_and_runners_are_seen_by_those_who_see_their_cluster() {
    let mut fleet = Fleet::new().await;
    let portal = fleet.database.portal(Scope::Cluster(fleet.cluster.id)).await;
    let mut own = connect(&fleet.database.portal(Scope::Own).await.url).await;
    let mut nobody = connect(&portal.url).await;
    // The same work in two clusters, of which the portal may see the first.
    let clusters = [fleet.cluster.clone(), fleet.database.cluster("two").await];
    let mut deployments = Vec::new();
    for (cluster, text) in clusters.iter().zip(["ours", "theirs"]) {
        fleet.cluster = cluster.clone();
        let mut runner = fleet.runner_of(cluster, &["kind=exec"]).await;
        deployments.push(fleet.deploy_jobs(&[reading("a")]).await);
        let claimed = runner.claim_one().await;
        runner.take_over().await;
        runner.append(&claimed, 0, 0, text).await.unwrap();
    }
    let rows = "select coalesce(string_agg(log_chunk, ' '), '') from tendril.deployment_logs";
    let runners = "select count(*) from tendril.runners";
    assert_eq!((one::<String>(&mut nobody, rows).await.as_str(), one::<i64>(&mut nobody, runners).await), ("ours", 1));
    // Tried: to name the others' rows by what is known of them.
    let theirs = format!("{rows} where deployment_id = '{}' or cluster_id = '{}'", deployments[1], clusters[1].id);
    assert_eq!(one::<String>(&mut nobody, &theirs).await, "");
    assert_eq!((one::<String>(&mut own, rows).await.as_str(), one::<i64>(&mut own, runners).await), ("", 0));
    assert_eq!(one::<i64>(&mut fleet.portal, runners).await, 2);
    assert_eq!(sqlstate(&mut nobody, "select from tendril.log_inbox").await, "42501");
}

#[tokio::test]
async fn a_revoked_grant_ends_at_once() {
    let mut fleet = Fleet::new().await;
    let portal = fleet.database.portal(Scope::All).await;
    let mut session = connect(&portal.url).await;
    assert_eq!(one::<String>(&mut session, SEEN).await, "one");
    run(&mut fleet.operator, &format!("select tendril.portal_revoke('{}')", portal.role)).await;
    assert_eq!(sqlstate(&mut session, SEEN).await, "42501");
    let again = refused(&mut fleet.operator, &format!("select tendril.portal_revoke('{}')", portal.role)).await;
    assert_eq!(again.sqlstate, "TD002");
}

#[tokio::test]
async fn bad_grants_are_refused_by_name() {
    let mut fleet = Fleet::new().await;
    let role = fleet.database.login_role().await.role;
    for (arguments, code, message) in [
        (format!("'{role}', 'some'"), "TD001", "scope: some is none"),
        (format!("'{role}', 'cluster'"), "TD001", "scope: cluster needs a cluster's id"),
        (format!("'{role}', 'all', '{}'", fleet.cluster.id), "TD001", "scope: all names no cluster"),
        (
            format!("'{role}', 'cluster', '{}'", Uuid::from_u128(1)),
            "TD002",
            "there is no cluster 00000000-0000-0000-0000-000000000001",
        ),
        ("'nobody_here', 'all'".into(), "TD002", "there is no role nobody_here on this server"),
    ] {
        let refusal = refused(&mut fleet.operator, &format!("select tendril.portal_grant({arguments})")).await;
        assert_eq!((refusal.sqlstate.as_str(), refusal.message.as_str()), (code, message));
    }
}

/// A database as Supabase makes it: `auth.uid()` reads the claims of the request, an authenticator takes the role of
/// whoever asks.
async fn supabase() -> (TestDatabase, PgConnection, PgConnection, String) {
    let database = TestDatabase::empty().await;
    let mut operator = database.operator().await;
    run(
        &mut operator,
        "create schema auth;
         create function auth.uid() returns uuid language sql stable as
           $$ select nullif(coalesce(nullif(current_setting('request.jwt.claims', true), ''), '{}')::jsonb ->> 'sub', '')::uuid $$",
    )
    .await;
    migration::migrate(&mut operator).await.unwrap();
    // Roles are of the server: a name of its own for each test.
    let authenticated = format!("authenticated_{}", database.name());
    run(&mut operator, &format!("create role {authenticated} nologin; grant usage on schema auth to {authenticated}"))
        .await;
    database.adopt_role(&authenticated);
    let authenticator = database.login_role().await;
    run(&mut operator, &format!("grant {authenticated} to {}", authenticator.role)).await;
    run(&mut operator, &format!("select tendril.portal_grant('{authenticated}', 'own')")).await;
    let session = connect(&authenticator.url).await;
    (database, operator, session, authenticated)
}

/// A request as PostgREST makes it.
fn request(role: &str, user: &str, sql: &str) -> String {
    format!(
        "begin; set local role {role}; select set_config('request.jwt.claims', '{{\"sub\": \"{user}\"}}', true); {sql}; commit"
    )
}

const ALICE: &str = "11111111-1111-4111-8111-111111111111";
const BOB: &str = "22222222-2222-4222-8222-222222222222";

#[tokio::test]
async fn supabase_users_see_and_submit_what_is_their_own() {
    let (_database, mut operator, mut session, authenticated) = supabase().await;
    let mut ids = Vec::new();
    for (name, user) in [("alices", ALICE), ("bobs", BOB)] {
        ids.push(clusters::create(&mut operator, name, Some(user)).await.unwrap().id);
    }
    let count = |table: &str, expected: i64| {
        format!(
            "do $$ begin if (select count(*) from {table}) <> {expected} then raise exception '% rows', (select count(*) from {table}); end if; end $$"
        )
    };
    run(&mut session, &request(&authenticated, ALICE, &insert(ids[0]))).await;
    run(&mut session, &request(&authenticated, BOB, &format!("{}; {}", insert(ids[1]), insert(ids[1])))).await;
    for (user, deployments) in [(ALICE, 1), (BOB, 2), ("33333333-3333-4333-8333-333333333333", 0)] {
        let seen = i64::from(deployments > 0);
        for (table, rows) in [
            ("tendril.clusters", seen),
            ("tendril.deployments", deployments),
            ("tendril.jobs", deployments),
            ("tendril.queue", seen),
        ] {
            run(&mut session, &request(&authenticated, user, &count(table, rows))).await;
        }
    }
    let owners: String =
        one(&mut operator, "select string_agg(distinct user_id, ' ' order by user_id) from tendril.deployments").await;
    assert_eq!(owners, format!("{ALICE} {BOB}"));
    // Alice at Bob's cluster and at Bob's deployment; nobody at all.
    let bobs: Uuid =
        one(&mut operator, &format!("select min(id::text)::uuid from tendril.deployments where user_id = '{BOB}'"))
            .await;
    for (user, sql) in [
        (ALICE, insert(ids[1])),
        (ALICE, format!("select tendril.cancel('{bobs}')")),
        (ALICE, format!("select tendril.logs_after('{bobs}')")),
        ("", insert(ids[0])),
    ] {
        assert_eq!(sqlstate(&mut session, &request(&authenticated, user, &sql)).await, "TD002", "{user} {sql}");
        run(&mut session, "rollback").await;
    }
    // Without taking the role there is nothing to see: membership alone is no grant.
    assert_eq!(one::<String>(&mut session, SEEN).await, "");
}

#[tokio::test]
async fn a_portal_user_function_of_ones_own_survives_migrations() {
    let database = TestDatabase::empty().await;
    let mut operator = database.operator().await;
    run(
        &mut operator,
        "create schema tendril; create function tendril.portal_user() returns text language sql stable as $$ select current_setting('app.user', true) $$",
    )
    .await;
    migration::migrate(&mut operator).await.unwrap();
    let portal = database.portal(Scope::Own).await;
    let cluster = clusters::create(&mut operator, "c", Some("ann")).await.unwrap();
    let mut session = connect(&portal.url).await;
    assert_eq!(one::<String>(&mut session, SEEN).await, "");
    run(&mut session, "select set_config('app.user', 'ann', false)").await;
    assert_eq!(one::<String>(&mut session, SEEN).await, "c");
    one::<Uuid>(&mut session, &insert(cluster.id)).await;
}

#[tokio::test]
async fn a_retry_belongs_to_who_asked_first_unless_somebody_says_who_asks() {
    let database = TestDatabase::empty().await;
    let mut operator = database.operator().await;
    run(
        &mut operator,
        "create schema tendril; create function tendril.portal_user() returns text language sql stable as $$ select nullif(current_setting('app.user', true), '') $$",
    )
    .await;
    migration::migrate(&mut operator).await.unwrap();
    let cluster = clusters::create(&mut operator, "c", Some("owner")).await.unwrap();
    let mut service = connect(&database.portal(Scope::All).await.url).await;
    // Ann asked; the retries come from a service that names nobody, from one that names Bob, and once more from the first.
    run(&mut service, "select set_config('app.user', 'ann', false)").await;
    let mut failed: Uuid = one(&mut service, &insert(cluster.id)).await;
    for (asks, user) in [("", "ann"), ("bob", "bob"), ("", "bob")] {
        run(&mut service, &format!("select set_config('app.user', '{asks}', false)")).await;
        run(&mut service, &format!("select tendril.cancel('{failed}')")).await;
        failed = one(&mut service, &format!("select tendril.retry('{failed}')")).await;
        let owner = format!("select user_id from tendril.deployments where id = '{failed}'");
        assert_eq!(one::<String>(&mut service, &owner).await, user, "asked by {asks:?}");
    }
    // A deployment that nobody was named for is the cluster's user's, and so is its retry.
    let nobodys: Uuid = one(&mut service, &insert(cluster.id)).await;
    run(&mut service, &format!("select tendril.cancel('{nobodys}')")).await;
    let again: Uuid = one(&mut service, &format!("select tendril.retry('{nobodys}')")).await;
    let owner = format!("select user_id from tendril.deployments where id = '{again}'");
    assert_eq!(one::<String>(&mut service, &owner).await, "owner");
}

#[tokio::test]
async fn a_portals_role_reaches_nothing_behind_the_surface() {
    let mut fleet = Fleet::new().await;
    let cluster = fleet.cluster.id;
    for sql in [
        "select from tendril_core.jobs".to_owned(),
        "select from tendril_core.portal_grants".into(),
        "select tendril_core.is_owner()".into(),
        "select tendril.cluster_create('x')".into(),
        format!("select tendril.cluster_rotate('{cluster}')"),
        format!("select tendril.cluster_revoke('{cluster}')"),
        "select tendril.portal_grant(current_user::text, 'all')".into(),
        "select tendril.template_register('{}')".into(),
        format!("select tendril.declare_lost('{cluster}', 'a', '')"),
        format!("select tendril.key_release('{cluster}', 'a', '')"),
        format!("select tendril.runner_register('{cluster}', 1, '{{}}')"),
        format!("select tendril.log_takeover('{cluster}')"),
        "insert into tendril.log_inbox (seq) values (1)".into(),
        "copy tendril.log_inbox from stdin".into(),
        format!("set role {}", fleet.cluster.role),
    ] {
        assert_eq!(sqlstate(&mut fleet.portal, &sql).await, "42501", "{sql}");
    }
}

#[tokio::test]
async fn a_service_may_be_given_cluster_creation_and_nothing_more() {
    let mut fleet = Fleet::new().await;
    let service = fleet.database.login_role().await;
    run(
        &mut fleet.operator,
        &format!(
            "grant usage on schema tendril to {0}; grant execute on function tendril.cluster_create(text, text) to {0}",
            service.role
        ),
    )
    .await;
    let mut session = connect(&service.url).await;
    let token: String = one(&mut session, "select tendril.cluster_create('made-by-service', 'ann') ->> 'token'").await;
    let mut runner = fleet.database.runner(&token).await;
    assert_eq!(one::<i32>(&mut runner, "select 1").await, 1);
    assert_eq!(sqlstate(&mut session, "select from tendril.clusters").await, "42501");
}
