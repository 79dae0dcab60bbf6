//! Who may do what.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::json;
use tendril_broker::operator::tokens::{self, Issue, Reach};
use tendril_broker::portal::api_token::ApiToken;

use crate::service::{ALL, Service, exec, id, read};

const BAD: &str = "tapi1_0000000000000000000000000000000000000000000000000000000000000000";

#[tokio::test]
async fn without_a_token_that_holds_nothing_is_told() {
    let service = Service::new().await;
    let master = service.master().await;
    let deployment = service.deploy(&master).await;
    for path in ["/api/clusters", "/api/deployments", &format!("/api/deployments/{deployment}/logs")] {
        // Tried: none, no bearer, no token of ours, a runner's, one that nobody has.
        let bare = service.client.get(format!("{}{path}", service.base));
        let runners = service.cluster.token.reveal();
        for request in [
            bare.try_clone().unwrap(),
            bare.try_clone().unwrap().basic_auth("a", Some(&master)),
            bare.try_clone().unwrap().bearer_auth("x"),
            bare.try_clone().unwrap().bearer_auth(runners),
            bare.try_clone().unwrap().bearer_auth(BAD),
        ] {
            let response = request.send().await.unwrap();
            assert_eq!(response.headers()["www-authenticate"], "Bearer");
            assert_eq!(response.headers()["content-type"], "application/problem+json");
            let (status, body) = read(response).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{path}");
            assert_eq!(body["type"], "urn:tendril:problem:unauthorized");
        }
    }
    service.end().await;
}

#[tokio::test]
async fn a_revoked_token_and_an_expired_one_are_nobodys() {
    let service = Service::new().await;
    let mut operator = service.database.operator().await;
    let token = ApiToken::generate().unwrap();
    let mut issue = Issue {
        name: "short".into(),
        hash: token.hash(),
        scopes: vec!["read".into()],
        reach: Reach::All,
        user_id: None,
        expires_in: Some("1 day".into()),
    };
    tokens::create(&mut operator, &issue).await.unwrap();
    assert_eq!(service.get("/api/clusters", token.reveal()).await.0, StatusCode::OK);
    tokens::revoke(&mut operator, "short").await.unwrap();
    assert_eq!(service.get("/api/clusters", token.reveal()).await.0, StatusCode::UNAUTHORIZED);

    // The name is free again; the shortest life is over before it is looked at.
    let short = ApiToken::generate().unwrap();
    (issue.hash, issue.expires_in) = (short.hash(), Some("1 microsecond".into()));
    tokens::create(&mut operator, &issue).await.unwrap();
    assert_eq!(service.get("/api/clusters", short.reveal()).await.0, StatusCode::UNAUTHORIZED);
    let listed: Vec<_> = tokens::list(&mut operator).await.unwrap().into_iter().map(|token| token.status).collect();
    assert_eq!(listed, ["expired", "revoked"]);
    service.end().await;
}

#[tokio::test]
async fn a_token_does_what_its_scopes_say_and_nothing_else() {
    let service = Service::new().await;
    let master = service.master().await;
    let deployment = service.deploy(&master).await;
    let of = |tail: &str| format!("/api/deployments/{deployment}{tail}");
    let submit = json!({"cluster_id": service.cluster.id, "config_snapshot": exec()});
    let routes = [
        (Method::GET, "/api/clusters".to_owned(), "read"),
        (Method::GET, "/api/deployments".to_owned(), "read"),
        (Method::GET, of(""), "read"),
        (Method::GET, of("/artifacts"), "read"),
        (Method::GET, of("/logs"), "logs"),
        (Method::POST, "/api/deployments".to_owned(), "submit"),
        (Method::POST, of("/retry"), "submit"),
        (Method::POST, of("/approve"), "approve"),
        (Method::POST, of("/reject"), "approve"),
        (Method::POST, of("/cancel"), "cancel"),
    ];
    for scope in ALL {
        let token = service.token(&[scope], Reach::All).await;
        for (method, path, needed) in &routes {
            let request = service.request(method.clone(), path, &token);
            let request =
                if path == "/api/deployments" && method == Method::POST { request.json(&submit) } else { request };
            let (status, body) = read(request.send().await.unwrap()).await;
            assert_eq!(status == StatusCode::FORBIDDEN, scope != *needed, "{scope} {method} {path}: {body}");
            if status == StatusCode::FORBIDDEN {
                assert_eq!(body["type"], "urn:tendril:problem:forbidden");
                assert!(body["detail"].as_str().unwrap().contains(needed));
            }
        }
    }
    service.end().await;
}

#[tokio::test]
async fn a_foreign_tenants_deployment_is_not_there_whatever_one_does_with_it() {
    let service = Service::new().await;
    let other = service.database.cluster("two").await;
    let master = service.master().await;
    let theirs = service.deploy(&master).await;
    let mine = service.token(&ALL, Reach::Clusters(vec![other.id])).await;
    for path in ["", "/logs", "/artifacts"] {
        let (status, foreign) = service.get(&format!("/api/deployments/{theirs}{path}"), &mine).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{path}");
        let (_, absent) = service.get(&format!("/api/deployments/{}{path}", id()), &mine).await;
        assert_eq!((&foreign["type"], &foreign["title"]), (&absent["type"], &absent["title"]));
    }
    for action in ["cancel", "approve", "reject", "retry"] {
        let (status, _) = service.post(&format!("/api/deployments/{theirs}/{action}"), &mine, &json!({})).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{action}");
    }
    assert_eq!(service.submit(&mine, id(), &exec()).await.0, StatusCode::NOT_FOUND, "a submit to their cluster");
    let (_, clusters) = service.get("/api/clusters", &mine).await;
    assert_eq!(clusters["items"].as_array().unwrap().len(), 1);
    assert_eq!(clusters["items"][0]["id"], json!(other.id));
    let (_, deployments) = service.get("/api/deployments", &mine).await;
    assert_eq!(deployments["items"], json!([]));
    let (_, asked) = service.get(&format!("/api/deployments?cluster_id={}", service.cluster.id), &mine).await;
    assert_eq!(asked["items"], json!([]));
    service.end().await;
}

#[tokio::test]
async fn a_users_token_sees_and_submits_what_is_that_users() {
    let service = Service::new().await;
    let mut operator = service.database.operator().await;
    let clusters = tendril_broker::operator::clusters::create(&mut operator, "anns", Some("ann")).await.unwrap();
    let master = service.master().await;
    let others = service.deploy(&master).await;
    let ann = service.token_of(&ALL, Reach::Own, Some("ann")).await;
    let body = json!({"cluster_id": clusters.id, "config_snapshot": exec()});
    let (status, submitted) = service.post("/api/deployments", &ann, &body).await;
    assert_eq!(status, StatusCode::CREATED, "{submitted}");
    let (_, listed) = service.get("/api/deployments", &ann).await;
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    assert_eq!(listed["items"][0]["user_id"], "ann");
    assert_eq!(service.get(&format!("/api/deployments/{others}"), &ann).await.0, StatusCode::NOT_FOUND);
    assert_eq!(service.submit(&ann, id(), &exec()).await.0, StatusCode::NOT_FOUND, "a cluster that is not ann's");

    // A token of a cluster that is bob's submits in bob's name.
    let bob = service.token_of(&ALL, Reach::Clusters(vec![service.cluster.id]), Some("bob")).await;
    let (_, submitted) = service.submit(&bob, id(), &exec()).await;
    let (_, shown) = service.get(&format!("/api/deployments/{}", submitted["id"].as_str().unwrap()), &bob).await;
    assert_eq!(shown["user_id"], "bob");
    service.end().await;
}

#[tokio::test]
async fn the_apis_own_role_sees_nothing_without_a_token() {
    let service = Service::new().await;
    let master = service.master().await;
    let deployment = service.deploy(&master).await;
    let mut session = <sqlx::PgConnection as sqlx::Connection>::connect(&service.portal.url).await.unwrap();
    for table in ["clusters", "deployments", "deployment_logs", "jobs", "runners", "artifacts"] {
        let sql = format!("select count(*) from tendril.{table}");
        let seen: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&mut session).await.unwrap();
        assert_eq!(seen, 0, "{table}");
    }
    // Nor does a word in the setting help, or a digest that is nobody's.
    let forged = "select set_config('tendril.api_token', $1, false), (select count(*) from tendril.deployments) as n";
    for word in ["x", &"0".repeat(64)] {
        sqlx::query(forged).bind(word).execute(&mut session).await.unwrap();
        let seen: i64 =
            sqlx::query_scalar("select count(*) from tendril.deployments").fetch_one(&mut session).await.unwrap();
        assert_eq!(seen, 0);
        let read = sqlx::query("select tendril.status($1)").bind(deployment).execute(&mut session).await;
        assert!(read.is_err());
    }
    let hashes = sqlx::query("select hash from tendril_core.api_tokens").execute(&mut session).await;
    assert!(hashes.is_err(), "digests are read by nobody");
    drop(session);
    service.end().await;
}

#[tokio::test]
async fn a_stream_ends_within_seconds_when_its_token_is_revoked() {
    let service = Service::new().await;
    let master = service.master().await;
    let (_hand, claimed) = service.running(&master).await;
    let mut operator = service.database.operator().await;
    let token = ApiToken::generate().unwrap();
    let issue = Issue {
        name: "watcher".into(),
        hash: token.hash(),
        scopes: vec!["logs".into()],
        reach: Reach::All,
        user_id: None,
        expires_in: None,
    };
    tokens::create(&mut operator, &issue).await.unwrap();
    let path = format!("/api/deployments/{}/logs", claimed.deployment_id);
    let request = service.request(Method::GET, &path, token.reveal()).header("Accept", "text/event-stream");
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    // A second watcher with a good token, that goes on.
    let request = service.request(Method::GET, &path, &master).header("Accept", "text/event-stream");
    let mut kept = request.send().await.unwrap();
    tokens::revoke(&mut operator, "watcher").await.unwrap();
    let rest = tokio::time::timeout(Duration::from_secs(20), response.text()).await.unwrap().unwrap();
    assert!(rest.contains("event: refused"), "{rest}");
    let mut hand = _hand;
    hand.print(&claimed, 0, 1).await;
    let heard = tokio::time::timeout(Duration::from_secs(20), kept.chunk()).await.unwrap().unwrap().unwrap();
    assert!(String::from_utf8_lossy(&heard).contains("event: log"), "{heard:?}");
    drop(kept);
    service.end().await;
}
