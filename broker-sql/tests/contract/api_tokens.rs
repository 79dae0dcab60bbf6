//! API tokens: what a program may that presents them, and what it may without.

use serde_json::{Value, json};
use sqlx::Connection;
use sqlx::postgres::PgConnection;
use tendril_broker::operator::grants::Scope;
use tendril_broker::portal::api_token::ApiToken;
use tendril_broker::portal::submission::{self, Submission};
use uuid::Uuid;

use crate::fleet::{Fleet, connect, id, one, reading, refused, row, run, sqlstate};
use crate::program::broker;

fn digest(of: &str) -> String {
    format!("sha256('{of}')")
}

/// A token whose text is its name.
async fn token(fleet: &mut Fleet, name: &str, scopes: &str, reach: &str) {
    let sql = format!("select tendril.token_create('{name}', {}, '{{{scopes}}}', {reach})", digest(name));
    run(&mut fleet.operator, &sql).await;
}

async fn program(fleet: &Fleet) -> PgConnection {
    connect(&fleet.database.portal(Scope::Tokens).await.url).await
}

async fn count(session: &mut PgConnection, table: &str) -> i64 {
    one(session, &format!("select count(*) from tendril.{table}")).await
}

#[tokio::test]
async fn a_presented_token_sees_what_it_may_and_its_role_nothing() {
    let mut fleet = Fleet::new().await;
    let other = fleet.database.cluster("two").await;
    let mine = fleet.deploy_jobs(&[reading("a")]).await;
    let one_cluster = format!("array['{}'::uuid]", fleet.cluster.id);
    token(&mut fleet, "all", "read", "null, null, true").await;
    token(&mut fleet, "one", "read,submit", &one_cluster).await;
    token(&mut fleet, "two", "read", &format!("array['{}'::uuid]", other.id)).await;
    token(&mut fleet, "ann", "read", "null, 'ann'").await;
    run(&mut fleet.operator, "update tendril.clusters set user_id = 'ann' where name = 'two'").await;
    let mut program = program(&fleet).await;
    assert_eq!((count(&mut program, "clusters").await, count(&mut program, "deployments").await), (0, 0));
    for (name, clusters, deployments) in [("all", 2, 1), ("one", 1, 1), ("two", 1, 0), ("ann", 1, 0), ("none", 0, 0)] {
        let mut transaction = program.begin().await.unwrap();
        let presented: Option<Value> =
            one(&mut transaction, &format!("select tendril.token_present({}, 'read')", digest(name))).await;
        assert_eq!(presented.is_some(), name != "none", "{name}");
        assert_eq!(count(&mut transaction, "clusters").await, clusters, "{name}");
        for table in ["deployments", "jobs"] {
            assert_eq!(count(&mut transaction, table).await, deployments, "{name} {table}");
        }
        let read = sqlx::query("select tendril.status($1)").bind(mine).execute(&mut *transaction).await;
        assert_eq!(read.is_ok(), deployments == 1, "{name}");
        transaction.rollback().await.unwrap();
        // With the transaction ends what was presented.
        assert_eq!(count(&mut program, "clusters").await, 0, "{name}");
    }
    // A scope that it lacks opens nothing.
    let mut transaction = program.begin().await.unwrap();
    let presented: Value =
        one(&mut transaction, &format!("select tendril.token_present({}, 'submit')", digest("all"))).await;
    assert_eq!((&presented["allowed"], count(&mut transaction, "clusters").await), (&json!(false), 0));
}

#[tokio::test]
async fn only_a_role_with_its_grant_presents_tokens() {
    let mut fleet = Fleet::new().await;
    token(&mut fleet, "all", "read,logs", "null, null, true").await;
    let other = fleet.database.cluster("two").await;
    let mut portal = connect(&fleet.database.portal(Scope::Cluster(other.id)).await.url).await;
    let mine = fleet.deploy_jobs(&[reading("a")]).await;
    for call in [
        format!("select tendril.token_present({}, 'read')", digest("all")),
        format!("select tendril.tokens_refused('{{{mine}}}', array[{}])", digest("all")),
        format!("select * from tendril.token_tail('{{{mine}}}', array[{}])", digest("all")),
    ] {
        assert_eq!(sqlstate(&mut portal, &call).await, "TD004", "{call}");
    }
    // A portal that sets what the program sets is who it was: it neither gains nor loses.
    let hex: String = one(&mut fleet.operator, &format!("select encode({}, 'hex')", digest("all"))).await;
    run(&mut portal, &format!("select set_config('tendril.api_token', '{hex}', false)")).await;
    assert_eq!((count(&mut portal, "clusters").await, count(&mut portal, "deployments").await), (1, 0));
    // So is a runner.
    let mut runner = fleet.runner().await;
    run(&mut runner.session, &format!("select set_config('tendril.api_token', '{hex}', false)")).await;
    assert_eq!(runner.claim(1).await.len(), 1);
    // And an operator who presents what is nobody's is the operator.
    run(&mut fleet.operator, &format!("select set_config('tendril.api_token', '{hex}', false)")).await;
    assert_eq!(count(&mut fleet.operator, "clusters").await, 2);
    // The scope stands alone: such a role must see nothing by itself.
    let role = fleet.database.portal(Scope::Tokens).await.role;
    let grant = format!("select tendril.portal_grant('{role}', 'all')");
    assert_eq!(sqlstate(&mut fleet.operator, &grant).await, "TD003");
    for call in ["token_create('x', sha256('x'), '{read}', null, null, true)", "token_revoke('all')"] {
        assert_eq!(sqlstate(&mut portal, &format!("select tendril.{call}")).await, "42501", "{call}");
    }
}

#[tokio::test]
async fn one_tail_serves_many_tokens_and_refuses_what_a_token_may_not_read() {
    let mut fleet = Fleet::new().await;
    let other = fleet.database.cluster("two").await;
    for _ in 0..2 {
        fleet.deploy_jobs(&[reading("a")]).await;
    }
    let mut runner = fleet.runner().await;
    let [a, b] = <[_; 2]>::try_from(runner.claim(2).await).unwrap();
    runner.take_over().await;
    runner.copy(&[row(&a, 0, 0, "a\n"), row(&b, 0, 0, "b\n")]).await.unwrap();
    runner.report(&b, json!({"outcome": "success", "log_end": 0})).await;
    token(&mut fleet, "good", "logs", "null, null, true").await;
    token(&mut fleet, "blind", "read", "null, null, true").await;
    token(&mut fleet, "foreign", "logs", &format!("array['{}'::uuid]", other.id)).await;
    let mut program = program(&fleet).await;
    let mut tail = async |of: &[(Uuid, &str)], position: &str| -> Vec<String> {
        let ids: Vec<String> = of.iter().map(|(id, _)| id.to_string()).collect();
        let hashes: Vec<String> = of.iter().map(|(_, name)| digest(name)).collect();
        let sql = format!(
            "select coalesce(log_chunk, at_end || coalesce(' ' || status, '')) from tendril.token_tail('{{{}}}', array[{}], '{position}')",
            ids.join(","),
            hashes.join(",")
        );
        let mut said: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_all(&mut program).await.unwrap();
        said.sort();
        said
    };
    let (first, second) = (a.deployment_id, b.deployment_id);
    assert_eq!(tail(&[(first, "good"), (second, "good")], "{}").await, ["a\n", "b\n", "complete SUCCESS"]);
    for bad in ["blind", "foreign", "nobody"] {
        assert_eq!(
            tail(&[(first, bad), (second, "good")], "{}").await,
            ["b\n", "complete SUCCESS", "refused"],
            "{bad}"
        );
    }
    assert_eq!(tail(&[(id(), "good")], "{}").await, ["refused"], "a deployment that is not there");
    let behind = format!(r#"{{"{}": 0}}"#, a.attempt_id);
    assert_eq!(tail(&[(first, "good")], &behind).await, Vec::<String>::new());
    // One that has ended, whose log has no end: after a while that is said.
    runner.report(&a, json!({"outcome": "failure", "log_end": 9})).await;
    assert_eq!(tail(&[(first, "good")], &behind).await, Vec::<String>::new());
    let past = format!("update tendril.deployments set ended_at = ended_at - interval '6 s' where id = '{first}'");
    run(&mut fleet.operator, &past).await;
    assert_eq!(tail(&[(first, "good")], &behind).await, ["ended FAILED"]);
    run(&mut fleet.operator, "select tendril.token_revoke('good')").await;
    assert_eq!(tail(&[(first, "good")], &behind).await, ["refused"]);
    // Tried: lists that do not fit together, and too many.
    let uneven = format!("select tendril.tokens_refused('{{{first}}}', '{{}}')");
    assert_eq!(sqlstate(&mut program, &uneven).await, "TD011");
    let many = "select * from tendril.token_tail(array(select gen_random_uuid() from generate_series(1, 1001)), array(select sha256('a') from generate_series(1, 1001)))";
    assert_eq!(sqlstate(&mut program, many).await, "TD011");
}

#[tokio::test]
async fn a_token_that_makes_no_sense_is_refused_by_name() {
    let mut fleet = Fleet::new().await;
    let stranger = id();
    for (arguments, code, word) in [
        ("'a', sha256('a'), '{fly}', null, null, true".to_owned(), "TD001", "scopes"),
        ("'a', sha256('a'), '{}', null, null, true".to_owned(), "TD001", "scopes"),
        ("'a', '\\x00', '{read}', null, null, true".to_owned(), "TD001", "hash"),
        ("'', sha256('a'), '{read}', null, null, true".to_owned(), "TD001", "name"),
        ("'a', sha256('a'), '{read}'".to_owned(), "TD001", "clusters"),
        (format!("'a', sha256('a'), '{{read}}', array['{stranger}'::uuid], null, true"), "TD001", "clusters"),
        (format!("'a', sha256('a'), '{{read}}', array['{stranger}'::uuid]"), "TD002", "no cluster"),
        ("'a', sha256('a'), '{read}', null, null, true, '-1 day'".to_owned(), "TD001", "expires_in"),
    ] {
        let refusal = refused(&mut fleet.operator, &format!("select tendril.token_create({arguments})")).await;
        assert_eq!(refusal.sqlstate, code, "{arguments}: {refusal:?}");
        assert!(refusal.message.contains(word), "{arguments}: {refusal:?}");
    }
    token(&mut fleet, "a", "read", "null, null, true").await;
    let again = "select tendril.token_create('a', sha256('b'), '{read}', null, null, true)";
    assert_eq!(sqlstate(&mut fleet.operator, again).await, "TD003");
    run(&mut fleet.operator, "select tendril.token_revoke('a')").await;
    assert_eq!(sqlstate(&mut fleet.operator, "select tendril.token_revoke('a')").await, "TD002");
    run(&mut fleet.operator, again).await;
}

#[tokio::test]
async fn what_was_submitted_is_known_again_also_after_its_template_was_registered() {
    let mut fleet = Fleet::new().await;
    let snapshot = json!({"template": {"name": "hello", "version": "1.0.0"}, "stateless": true});
    let submission = Submission { id: id(), cluster: fleet.cluster.id, snapshot };
    assert_eq!(submission::is_submitted(&mut fleet.portal, &submission).await.unwrap(), None);
    submission::submit(&mut fleet.portal, &submission).await.unwrap();
    let record = r#"{"name": "hello", "version": "1.0.0", "engine": {}, "inputs": {"type": "object"}}"#;
    run(&mut fleet.operator, &format!("select tendril.template_register('{record}')")).await;
    assert_eq!(submission::is_submitted(&mut fleet.portal, &submission).await.unwrap(), Some(true));
    let other = Submission { snapshot: json!({"template": {"name": "hello"}}), ..submission.clone() };
    assert_eq!(submission::is_submitted(&mut fleet.portal, &other).await.unwrap(), Some(false));
    // Nobody else learns that it is there.
    let two = fleet.database.cluster("two").await;
    let mut stranger = connect(&fleet.database.portal(Scope::Cluster(two.id)).await.url).await;
    assert_eq!(submission::is_submitted(&mut stranger, &submission).await.unwrap(), None);
}

#[tokio::test]
async fn the_program_makes_a_token_shows_it_once_and_revokes_it() {
    let fleet = Fleet::new().await;
    let url = fleet.database.url();
    let made = broker(
        &url,
        &[
            "--json",
            "token",
            "create",
            "ci",
            "--scope",
            "read",
            "--scope",
            "logs",
            "--cluster",
            "one",
            "--expires-in",
            "1 day",
        ],
    )
    .await;
    assert_eq!(made.code, 0, "{}", made.err);
    let text = made.json()["token"].as_str().unwrap().to_owned();
    let hash = text.parse::<ApiToken>().unwrap().hash();
    let mut program = program(&fleet).await;
    let presented: Option<Value> = sqlx::query_scalar("select tendril.token_present($1, 'read')")
        .bind(hash.as_bytes())
        .fetch_one(&mut program)
        .await
        .unwrap();
    assert_eq!(presented.unwrap()["name"], "ci");
    let listed = broker(&url, &["--json", "token", "list"]).await;
    let one = &listed.json()[0];
    assert_eq!(
        (&one["status"], &one["clusters"], &one["reach"]),
        (&json!("active"), &json!(["one"]), &json!("clusters"))
    );
    assert!(one["last_used_at"].is_string() && !listed.out.contains(&text));
    assert!(broker(&url, &["token", "list"]).await.out.contains("ci"));
    assert_eq!(broker(&url, &["token", "revoke", "ci"]).await.code, 0);
    assert_eq!(broker(&url, &["token", "revoke", "ci"]).await.code, 1);
    // Tried: no scope, an unknown one, no reach, two that exclude each other, a cluster that is not there.
    for (arguments, code) in [
        (&["--all"][..], 2),
        (&["--scope", "fly", "--all"], 2),
        (&["--scope", "read"], 2),
        (&["--scope", "read", "--all", "--cluster", "one"], 2),
        (&["--scope", "read", "--cluster", "nowhere"], 1),
    ] {
        let ran = broker(&url, &[&["token", "create", "x"], arguments].concat()).await;
        assert_eq!(ran.code, code, "{arguments:?}: {}", ran.err);
    }
}
