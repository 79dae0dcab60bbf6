//! The OpenAPI document against what is answered: every operation with valid and with hostile values.

use std::collections::BTreeSet;

use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Map, Value, json};

use crate::service::{Service, exec, id};

/// Of each operation so many requests with every kind of value for everything that it takes.
const METHODS: [&str; 5] = ["get", "post", "put", "delete", "patch"];

/// Values that nobody would send in good faith, for texts.
fn hostile() -> Vec<String> {
    let mut values: Vec<String> = [
        "",
        " ",
        "0",
        "-1",
        "null",
        "true",
        "{}",
        "[]",
        "\"",
        "'; drop table x; --",
        "../../etc/passwd",
        "%00",
        "é\u{202e}x",
        "9223372036854775808",
        "1e400",
        "NaN",
        "00000000-0000-0000-0000-000000000000",
    ]
    .map(str::to_owned)
    .into();
    values.push("x".repeat(5000));
    values
}

/// The same for bodies.
fn hostile_bodies(cluster: &str) -> Vec<String> {
    let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
    let with = |snapshot: &str| format!(r#"{{"cluster_id": "{cluster}", "config_snapshot": {snapshot}}}"#);
    let mut bodies: Vec<String> = [
        "",
        " ",
        "{",
        "null",
        "true",
        "7",
        "\"x\"",
        "[]",
        "[{}]",
        "{}",
        r#"{"a": 1}"#,
        r#"{"reason": 7}"#,
        r#"{"job": {}}"#,
        r#"{"reason": "a\u0000b"}"#,
        r#"{"reason": "\ud800"}"#,
        r#"{"reason": "x", "reason": "y"}"#,
        "{\"reason\": \"\u{1f600}\u{202e}\"}",
        r#"{"job": "none"}"#,
    ]
    .map(str::to_owned)
    .into();
    bodies.push(format!(r#"{{"reason": "{}"}}"#, "x".repeat(5000)));
    bodies.push(format!(r#"{{"reason": {deep}}}"#));
    for snapshot in [
        "{}",
        "null",
        "[]",
        r#"{"template": {"name": "\u0000"}}"#,
        r#"{"jobs": []}"#,
        r#"{"priority": 1e400}"#,
        r#"{"priority": 12345678901234567890123}"#,
        r#"{"jobs": [{"name": "a", "kind": "exec", "argv": ["\u0000"]}]}"#,
        r#"{"jobs": [{"name": "A B", "kind": "x", "needs": ["a", "a"]}], "labels": [1]}"#,
        r#"{"run_after": "2026-99-99T99:99:99Z", "template": {"name": "hello"}, "stateless": true}"#,
        &deep,
    ] {
        bodies.push(with(snapshot));
    }
    bodies.push(with(&exec().to_string()));
    bodies
}

/// What may be put into a parameter: hostile values and, where there is one, a right one.
fn values(parameter: &Value, deployment: &str) -> Vec<String> {
    let mut values = hostile();
    values.extend(match parameter["name"].as_str().unwrap() {
        "id" => vec![deployment.to_owned(), id().to_string()],
        "limit" => vec!["1".into(), "500".into(), "501".into()],
        "status" => vec!["QUEUED".into(), "queued".into()],
        "cluster_id" | "cursor" | "Idempotency-Key" => {
            vec![id().to_string(), format!("1767225600000000.{}", id().simple())]
        }
        "after" | "Last-Event-ID" => vec!["{}".into(), json!({ id().to_string(): 1 }).to_string()],
        other => panic!("the test does not know the parameter {other}; add a right value for it"),
    });
    values
}

struct Operation {
    method: Method,
    path: String,
    spec: Value,
}

fn operations(document: &Value) -> Vec<Operation> {
    let paths = document["paths"].as_object().unwrap();
    let of = |(path, item): (&String, &Value)| {
        let found = METHODS.iter().filter_map(|method| item.get(method).map(|spec| (*method, spec)));
        let found = found.map(|(method, spec)| Operation {
            method: method.to_uppercase().parse().unwrap(),
            path: path.clone(),
            spec: spec.clone(),
        });
        found.collect::<Vec<_>>()
    };
    paths.iter().flat_map(of).collect()
}

fn parameters(spec: &Value, place: &str) -> Vec<Value> {
    spec["parameters"].as_array().into_iter().flatten().filter(|one| one["in"] == place).cloned().collect()
}

/// All requests that an operation is tried with.
fn requests(service: &Service, operation: &Operation, token: &str, deployment: &str) -> Vec<RequestBuilder> {
    let path = |id: &str| operation.path.replace("{id}", &percent(id));
    let right = path(deployment);
    let base = |path: &str| service.request(operation.method.clone(), path, token);
    let mut all = vec![base(&right)];
    for parameter in parameters(&operation.spec, "path") {
        // An empty segment is another address.
        let values = values(&parameter, deployment).into_iter().filter(|value| !value.is_empty());
        all.extend(values.map(|value| base(&path(&value))));
    }
    for parameter in parameters(&operation.spec, "query") {
        let name = parameter["name"].as_str().unwrap();
        all.extend(
            values(&parameter, deployment)
                .into_iter()
                .map(|value| base(&format!("{right}?{name}={}", percent(&value)))),
        );
    }
    all.push(base(&format!("{right}?surprise=1")));
    for parameter in parameters(&operation.spec, "header") {
        let name = parameter["name"].as_str().unwrap().to_owned();
        let sendable = values(&parameter, deployment).into_iter().filter(|value| value.bytes().all(|byte| byte != 0));
        all.extend(sendable.map(|value| {
            base(&right).header(&name, reqwest::header::HeaderValue::from_bytes(value.as_bytes()).unwrap())
        }));
    }
    if operation.method == Method::POST {
        for body in hostile_bodies(&service.cluster.id.to_string()) {
            all.push(base(&right).header("Content-Type", "application/json").body(body.clone()));
            all.push(base(&right).body(body));
        }
    }
    // Without a token, and with one that is none.
    all.push(service.client.request(operation.method.clone(), format!("{}{right}", service.base)));
    all.push(service.client.request(operation.method.clone(), format!("{}{right}", service.base)).bearer_auth("x"));
    all
}

fn percent(text: &str) -> String {
    text.bytes()
        .map(|byte| {
            if byte.is_ascii_alphanumeric() || b"-._".contains(&byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

/// What is wrong with an answer, by the document.
fn complaint(document: &Value, operation: &Operation, status: StatusCode, kind: &str, body: &str) -> Option<String> {
    let Some(documented) = operation.spec["responses"].get(status.as_str()) else {
        return Some("the status is not documented".into());
    };
    let kind = kind.split(';').next().unwrap_or_default();
    let Some(content) = documented["content"].get(kind) else {
        return Some(format!("the type {kind} is not documented for it"));
    };
    if !kind.ends_with("json") {
        return None;
    }
    let Ok(body) = serde_json::from_str::<Value>(body) else { return Some("the body is no JSON".into()) };
    let mut schema = Map::from_iter([("components".to_owned(), document["components"].clone())]);
    schema.extend(content["schema"].as_object().unwrap().clone());
    let validator = jsonschema::validator_for(&Value::Object(schema)).unwrap();
    validator.iter_errors(&body).next().map(|error| format!("{}: {error}", error.instance_path()))
}

#[tokio::test]
async fn every_operation_answers_as_the_document_says_whatever_is_asked() {
    let service = Service::with(
        "[limits]\nrequests_per_s = 100000\nburst = 100000\nstrangers_per_s = 100000\nbody_bytes = 65536\n",
    )
    .await;
    let token = service.master().await;
    let document = service.get("/api/openapi.json", &token).await.1;
    // Something of everything, so that answers are not empty.
    let (mut hand, claimed) = service.running(&token).await;
    hand.print(&claimed, 0, 3).await;
    hand.leave_artifact(&claimed, "plan", b"sealed").await;
    hand.finish(&claimed, 2).await;
    let deployment = claimed.deployment_id.to_string();
    let (mut wrong, mut count, mut statuses) = (Vec::new(), 0, BTreeSet::new());
    for operation in operations(&document) {
        for request in requests(&service, &operation, &token, &deployment) {
            let request = request.build().unwrap();
            let asked = format!("{} {} {:?}", request.method(), request.url(), request.headers());
            let body = request
                .body()
                .and_then(|body| body.as_bytes())
                .map(|bytes| String::from_utf8_lossy(bytes).into_owned());
            let response = service.client.execute(request).await.unwrap();
            let status = response.status();
            let kind = response.headers().get("content-type").map_or("", |kind| kind.to_str().unwrap()).to_owned();
            let text = response.text().await.unwrap();
            (count, _) = (count + 1, statuses.insert(status.as_u16()));
            let complaint = match status.is_server_error() {
                true => Some("a defect".to_owned()),
                false => complaint(&document, &operation, status, &kind, &text),
            };
            wrong.extend(complaint.map(|complaint| format!("{complaint}: {status}\n  {asked}\n  {body:?}\n  {text}")));
        }
    }
    assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong[..wrong.len().min(12)].join("\n"));
    // The walk has been somewhere.
    for status in [200, 201, 400, 401, 404, 409, 415, 422] {
        assert!(statuses.contains(&status), "{status} was never answered");
    }
    assert!(count > 300, "{count}");
    service.end().await;
}

#[tokio::test]
async fn the_document_is_whole() {
    let document = serde_json::to_value(tendril_api::document()).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    let (mut ids, page) = (BTreeSet::new(), include_str!("../../../docs/API.md"));
    for Operation { method, path, spec } in operations(&document) {
        let at = format!("{method} {path}");
        assert!(ids.insert(spec["operationId"].as_str().unwrap().to_owned()), "{at}: its operationId is another's");
        assert!(spec["summary"].is_string() || spec["description"].is_string(), "{at}");
        assert!(page.contains(&format!("`{method} {path}`")), "docs/API.md lacks {at}");
        if path.starts_with("/api/") && path != "/api/openapi.json" {
            let scope = spec["security"][0]["token"][0].as_str();
            assert!(scope.is_some_and(|scope| crate::service::ALL.contains(&scope)), "{at} names no scope");
            for status in ["400", "401", "403", "429", "500", "503", "504"] {
                assert!(spec["responses"].get(status).is_some(), "{at} lacks {status}");
            }
        }
    }
    // Every type of problem that the page lists, and no other, is in the source.
    let source = include_str!("../../src/problem.rs");
    let listed: BTreeSet<&str> =
        page.lines().filter_map(|line| line.strip_prefix("| `urn:tendril:problem:")?.split('`').next()).collect();
    assert!(listed.len() >= 12);
    let parts = source.split("StatusCode::").filter_map(|part| part.split_once(", \"")?.1.split('"').next());
    let raised: BTreeSet<&str> =
        parts.filter(|kind| kind.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')).collect();
    assert_eq!(listed, raised);
}
