//! What is refused for being too much, and how things go on.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tendril_broker::portal::api_token::ApiToken;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::events::Events;
use crate::service::{Service, exec, id, read};

#[tokio::test]
async fn an_oversized_body_is_refused_before_it_is_read() {
    let service = Service::with("[limits]\nbody_bytes = 2048\n").await;
    let token = service.master().await;
    let body = json!({"cluster_id": service.cluster.id, "config_snapshot": {"x": "x".repeat(4096)}});
    let (status, reply) = service.post("/api/deployments", &token, &body).await;
    assert_eq!(
        (status, &reply["type"]),
        (StatusCode::PAYLOAD_TOO_LARGE, &json!("urn:tendril:problem:too-large")),
        "{reply}"
    );
    assert_eq!(service.submit(&token, id(), &exec()).await.0, StatusCode::CREATED);
    service.end().await;
}

#[tokio::test]
async fn who_has_no_token_that_holds_is_told_before_any_of_the_body_is_taken() {
    let service = Service::new().await;
    // Tried: a token that nobody made, with the head of a large body of which not one byte comes.
    let mut client = TcpStream::connect(service.base.strip_prefix("http://").unwrap()).await.unwrap();
    let head = format!(
        "POST /api/deployments HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\nContent-Length: 2000000\r\n\r\n",
        ApiToken::generate().unwrap().reveal()
    );
    client.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    tokio::time::timeout(Duration::from_secs(20), client.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer, b"HTTP/1.1 401");
    service.end().await;
}

#[tokio::test]
async fn a_token_that_asks_too_often_is_told_when_to_come_back() {
    let service = Service::with("[limits]\nrequests_per_s = 1\nburst = 3\n").await;
    let (loud, quiet) = (service.master().await, service.master().await);
    let mut refused = None;
    for _ in 0..20 {
        let response = service.request(Method::GET, "/api/clusters", &loud).send().await.unwrap();
        if response.status() == StatusCode::TOO_MANY_REQUESTS {
            refused = Some(response);
            break;
        }
    }
    let refused = refused.unwrap();
    assert!(refused.headers()["retry-after"].to_str().unwrap().parse::<u64>().unwrap() >= 1);
    assert_eq!(read(refused).await.1["type"], "urn:tendril:problem:rate-limited");
    assert_eq!(service.get("/api/clusters", &quiet).await.0, StatusCode::OK);
    service.end().await;
}

#[tokio::test]
async fn other_origins_may_call_only_when_the_settings_name_them() {
    for (settings, allowed) in
        [("", None), ("[cors]\norigins = [\"https://portal.example\"]\n", Some("https://portal.example"))]
    {
        let service = Service::with(settings).await;
        for origin in ["https://portal.example", "https://evil.example"] {
            let request = service.client.request(Method::OPTIONS, format!("{}/api/clusters", service.base));
            let request = request.header("Origin", origin).header("Access-Control-Request-Method", "GET");
            let response = request.send().await.unwrap();
            let told =
                response.headers().get("access-control-allow-origin").map(|value| value.to_str().unwrap().to_owned());
            assert_eq!(told.as_deref(), allowed.filter(|allowed| *allowed == origin), "{settings} {origin}");
        }
        service.end().await;
    }
}

#[tokio::test]
async fn what_is_no_route_or_no_method_is_a_problem_like_all_others() {
    let service = Service::new().await;
    let token = service.master().await;
    for (method, path, code, kind) in [
        (Method::GET, "/api/nothing", 404, "not-found"),
        (Method::GET, "/", 404, "not-found"),
        (Method::DELETE, "/api/deployments", 405, "method-not-allowed"),
        (Method::GET, "/api/deployments/x", 400, "bad-request"),
        (Method::GET, "/api/deployments/x/logs", 400, "bad-request"),
    ] {
        let (status, reply) = read(service.request(method, path, &token).send().await.unwrap()).await;
        assert_eq!(
            (status.as_u16(), reply["type"].as_str()),
            (code, Some(format!("urn:tendril:problem:{kind}").as_str())),
            "{path}"
        );
    }
    service.end().await;
}

#[tokio::test]
async fn a_database_that_is_away_is_said_so_and_nothing_of_it_is_shown() {
    let (base, stop, task) =
        crate::service::serve("postgres://nobody:hunter2@127.0.0.1:9/none", "[database]\npatience_s = 1\n").await;
    let client = reqwest::Client::new();
    assert_eq!(client.get(format!("{base}/healthz")).send().await.unwrap().status(), StatusCode::OK);
    assert_eq!(client.get(format!("{base}/readyz")).send().await.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
    let token = format!("tapi1_{}", "0".repeat(64));
    let response = client.get(format!("{base}/api/clusters")).bearer_auth(token).send().await.unwrap();
    assert!(response.headers().contains_key("retry-after"));
    let (status, reply) = read(response).await;
    assert_eq!((status, &reply["type"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("urn:tendril:problem:unavailable")));
    assert!(!reply.to_string().contains("hunter2") && !reply.to_string().contains("127.0.0.1"), "{reply}");
    stop.cancel();
    task.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_role_that_may_not_present_tokens_is_not_ready() {
    let service = Service::new().await;
    let master = service.master().await;
    // Tried: a portal's role with another grant, a role without any.
    let portal = service.database.portal(tendril_broker::operator::grants::Scope::All).await;
    let bare = service.database.login_role().await;
    for url in [portal.url, bare.url] {
        let (base, stop, task) = crate::service::serve(&url, "").await;
        let ready = service.client.get(format!("{base}/readyz")).send().await.unwrap();
        assert_eq!(ready.status(), StatusCode::SERVICE_UNAVAILABLE);
        let asked = service.client.get(format!("{base}/api/clusters")).bearer_auth(&master).send().await.unwrap();
        let (status, reply) = read(asked).await;
        assert_eq!(
            (status, &reply["type"]),
            (StatusCode::INTERNAL_SERVER_ERROR, &json!("urn:tendril:problem:internal"))
        );
        stop.cancel();
        task.await.unwrap().unwrap();
    }
    assert_eq!(service.client.get(format!("{}/readyz", service.base)).send().await.unwrap().status(), StatusCode::OK);
    service.end().await;
}

#[tokio::test]
async fn an_end_that_is_asked_for_ends_streams_and_answers_what_is_under_way() {
    let service = Service::new().await;
    let token = service.master().await;
    let deployment = service.deploy(&token).await;
    let events = Events::open(&service, &token, deployment, None).await;
    service.stop.cancel();
    let rest = tokio::time::timeout(Duration::from_secs(10), events.rest()).await.unwrap();
    assert!(rest.is_empty(), "{rest:?}");
    tokio::time::timeout(Duration::from_secs(10), service.task).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn figures_are_by_route_and_never_by_what_is_asked_for() {
    let service = Service::new().await;
    let token = service.master().await;
    for _ in 0..3 {
        service.get(&format!("/api/deployments/{}", id()), &token).await;
    }
    service.get("/api/whatever", &token).await;
    let (_, text) = service.get("/metrics", "x").await;
    let Value::String(text) = text else { panic!("{text}") };
    let line = r#"tendril_api_requests_total{route="/api/deployments/{id}",method="GET",status="404"} 3"#;
    assert!(text.contains(line), "{text}");
    assert!(text.contains(r#"route="none""#) && !text.contains("whatever"));
    assert!(text.trim_end().ends_with("# EOF"));
    service.end().await;
}
