//! Submit, list, decide.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::service::{Service, exec, id, read};

#[tokio::test]
async fn one_key_queues_once_also_when_it_is_sent_by_many_at_once() {
    let service = Service::new().await;
    let token = service.master().await;
    let key = id();
    let snapshot = exec();
    let all = (0..8).map(|_| service.submit(&token, key, &snapshot));
    let replies = futures_util::future::join_all(all).await;
    let created = replies.iter().filter(|(status, _)| *status == StatusCode::CREATED).count();
    let again = replies.iter().filter(|(status, _)| *status == StatusCode::OK).count();
    assert_eq!((created, again), (1, 7), "{replies:?}");
    assert!(replies.iter().all(|(_, reply)| reply["id"] == json!(key)));
    let (_, listed) = service.get("/api/deployments", &token).await;
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    service.end().await;
}

#[tokio::test]
async fn one_key_with_another_body_is_refused() {
    let service = Service::new().await;
    let token = service.master().await;
    let other = service.database.cluster("two").await;
    let key = id();
    assert_eq!(service.submit(&token, key, &exec()).await.0, StatusCode::CREATED);
    // Tried: another snapshot, the same with one more key, another cluster, somebody else's id.
    let mut more = exec();
    more["approval"] = json!("required");
    let body = json!({"cluster_id": other.id, "config_snapshot": exec()});
    let elsewhere =
        service.request(Method::POST, "/api/deployments", &token).header("Idempotency-Key", key.to_string());
    let stranger = service.token(&["submit"], tendril_broker::operator::tokens::Reach::Clusters(vec![other.id])).await;
    let theirs =
        service.request(Method::POST, "/api/deployments", &stranger).header("Idempotency-Key", key.to_string());
    for (status, reply) in [
        service.submit(&token, key, &json!({"jobs": [{"name": "b", "kind": "exec", "argv": ["true"]}]})).await,
        service.submit(&token, key, &more).await,
        read(elsewhere.json(&body).send().await.unwrap()).await,
        read(theirs.json(&body).send().await.unwrap()).await,
    ] {
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{reply}");
        assert_eq!(reply["type"], "urn:tendril:problem:idempotency-key-reused");
        assert_eq!(reply["problems"][0]["path"], "Idempotency-Key");
    }
    // The same in another order of keys is the same.
    let text = format!(
        r#"{{"config_snapshot": {{"jobs": [{{"reading": true, "argv": ["true"], "kind": "exec", "name": "a"}}]}}, "cluster_id": "{}"}}"#,
        service.cluster.id
    );
    let request = service.request(Method::POST, "/api/deployments", &token).header("Idempotency-Key", key.to_string());
    let request = request.header("Content-Type", "application/json").body(text);
    assert_eq!(read(request.send().await.unwrap()).await.0, StatusCode::OK);
    service.end().await;
}

#[tokio::test]
async fn a_request_that_was_taken_is_answered_alike_when_the_cluster_takes_nothing_more() {
    let service = Service::new().await;
    let token = service.master().await;
    let key = id();
    assert_eq!(service.submit(&token, key, &exec()).await.0, StatusCode::CREATED);
    let mut operator = service.database.operator().await;
    tendril_broker::operator::clusters::revoke(&mut operator, service.cluster.id, true).await.unwrap();
    assert_eq!(service.submit(&token, key, &exec()).await.0, StatusCode::OK);
    let (status, reply) = service.submit(&token, id(), &exec()).await;
    assert_eq!((status, &reply["sqlstate"]), (StatusCode::CONFLICT, &json!("TD003")));
    service.end().await;
}

#[tokio::test]
async fn what_is_wrong_in_a_submit_is_named_by_its_path() {
    let service = Service::new().await;
    let token = service.master().await;
    let send = async |text: String, kind: &str| {
        let request = service.request(Method::POST, "/api/deployments", &token).header("Content-Type", kind.to_owned());
        read(request.body(text).send().await.unwrap()).await
    };
    let cluster = service.cluster.id;
    let snapshot = |snapshot: Value| json!({"cluster_id": cluster, "config_snapshot": snapshot}).to_string();
    // Tried: no JSON, a wrong type, keys that are not known here and in the snapshot, one that is missing, two that are
    // wrong, a NUL, an unknown cluster.
    for (text, code, path) in [
        ("{\"cluster_id\": ".to_owned(), 400, "cluster_id"),
        (json!({"cluster_id": 7, "config_snapshot": {}}).to_string(), 422, "cluster_id"),
        (json!({"cluster_id": cluster, "config_snapshot": [], "x": 1}).to_string(), 422, "config_snapshot"),
        (json!({"cluster_id": cluster, "config_snapshot": {}, "when": 1}).to_string(), 422, "when"),
        (snapshot(json!({})), 422, "config_snapshot"),
        (
            snapshot(json!({"jobs": [{"name": "a", "kind": "exec", "argv": "true"}]})),
            422,
            "config_snapshot.jobs[0].argv",
        ),
        (snapshot(json!({"jobs": [{"name": "a", "kind": "exec", "argv": ["a\u{0}b"]}]})), 422, ""),
        (json!({"cluster_id": id(), "config_snapshot": exec()}).to_string(), 404, "cluster_id"),
    ] {
        let (status, reply) = send(text.clone(), "application/json").await;
        assert_eq!(status.as_u16(), code, "{text}: {reply}");
        let paths: Vec<&str> = reply["problems"]
            .as_array()
            .map_or(Vec::new(), |all| all.iter().filter_map(|one| one["path"].as_str()).collect());
        assert!(path.is_empty() || paths.contains(&path), "{text}: {reply}");
    }
    let two = snapshot(json!({"action": "x", "priority": 1000}));
    assert!(send(two, "application/json; charset=utf-8").await.1["problems"].as_array().unwrap().len() >= 2);
    let (status, reply) = send(snapshot(exec()), "text/plain").await;
    assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{reply}");
    let request = service.request(Method::POST, "/api/deployments", &token).header("Idempotency-Key", "once");
    let (status, reply) = read(request.json(&json!({})).send().await.unwrap()).await;
    assert_eq!((status, &reply["problems"][0]["path"]), (StatusCode::BAD_REQUEST, &json!("Idempotency-Key")));
    service.end().await;
}

#[tokio::test]
async fn lists_are_read_page_by_page_without_anything_twice() {
    let service = Service::new().await;
    let token = service.master().await;
    for _ in 0..7 {
        service.deploy(&token).await;
    }
    let (mut cursor, mut seen) = (String::new(), Vec::new());
    loop {
        let (status, page) = service.get(&format!("/api/deployments?limit=3{cursor}"), &token).await;
        assert_eq!(status, StatusCode::OK, "{page}");
        seen.extend(page["items"].as_array().unwrap().iter().map(|item| item["id"].to_string()));
        let Some(next) = page["next"].as_str() else { break };
        // What comes meanwhile stands before the first page.
        service.deploy(&token).await;
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen.len(), 7);
    assert_eq!(seen.iter().collect::<std::collections::BTreeSet<_>>().len(), 7);
    let (_, cancelled) = service.get("/api/deployments?status=CANCELLED", &token).await;
    assert_eq!(cancelled["items"], json!([]));
    // Tried: bounds, words that are none, keys that are not known, a foreign cursor.
    for (query, path) in [
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("limit=many", "limit"),
        ("status=DONE", "status"),
        ("cluster_id=7", "cluster_id"),
        ("cursor=7", "cursor"),
        ("order=asc", "order"),
    ] {
        let (status, reply) = service.get(&format!("/api/deployments?{query}"), &token).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{query}: {reply}");
        assert!(reply["detail"].as_str().unwrap().contains(path), "{query}: {reply}");
    }
    for name in ["two", "three"] {
        service.database.cluster(name).await;
    }
    let (_, first) = service.get("/api/clusters?limit=2", &token).await;
    let (_, rest) =
        service.get(&format!("/api/clusters?limit=2&cursor={}", first["next"].as_str().unwrap()), &token).await;
    assert_eq!((first["items"].as_array().unwrap().len(), rest["items"].as_array().unwrap().len()), (2, 1));
    assert!(rest.get("next").is_none());
    service.end().await;
}

#[tokio::test]
async fn what_waits_for_a_word_goes_on_or_ends_by_one_that_bears_the_tokens_name() {
    let service = Service::new().await;
    let token = service.master().await;
    let waiting = json!({"jobs": [{"name": "a", "kind": "exec", "argv": ["true"], "approval": "required"}]});
    let mut ids = Vec::new();
    for _ in 0..2 {
        ids.push(service.submit(&token, id(), &waiting).await.1["id"].as_str().unwrap().to_owned());
    }
    let (status, reply) =
        service.post(&format!("/api/deployments/{}/approve", ids[0]), &token, &json!({"reason": "right"})).await;
    assert_eq!((status, &reply["jobs"]), (StatusCode::OK, &json!(1)), "{reply}");
    let (_, shown) = service.get(&format!("/api/deployments/{}", ids[0]), &token).await;
    let approval = &shown["jobs"][0]["approval"];
    assert_eq!((&approval["decision"], &approval["reason"]), (&json!("approved"), &json!("right")));
    assert!(approval["actor"].as_str().unwrap().starts_with("token t-"), "{approval}");
    let (status, reply) = service.post(&format!("/api/deployments/{}/approve", ids[0]), &token, &json!({})).await;
    assert_eq!((status, &reply["type"]), (StatusCode::CONFLICT, &json!("urn:tendril:problem:conflict")), "{reply}");

    let (status, _) = service.post(&format!("/api/deployments/{}/reject", ids[1]), &token, &json!({"job": "a"})).await;
    assert_eq!(status, StatusCode::OK);
    let (_, shown) = service.get(&format!("/api/deployments/{}", ids[1]), &token).await;
    assert_eq!(shown["status"], "CANCELLED");
    service.end().await;
}

#[tokio::test]
async fn what_was_cancelled_is_done_again_once_for_each_key() {
    let service = Service::new().await;
    let token = service.master().await;
    let old = service.deploy(&token).await;
    let cancel = format!("/api/deployments/{old}/cancel");
    let (status, reply) = service.post(&format!("/api/deployments/{old}/retry"), &token, &json!({})).await;
    assert_eq!(status, StatusCode::CONFLICT, "{reply}");
    // Without a body, and then again.
    let (status, reply) = read(service.request(Method::POST, &cancel, &token).send().await.unwrap()).await;
    assert_eq!((status, &reply["status"]), (StatusCode::OK, &json!("CANCELLED")), "{reply}");
    assert_eq!(service.post(&cancel, &token, &json!({"reason": "twice"})).await.0, StatusCode::CONFLICT);
    let key = id();
    for _ in 0..2 {
        let request = service.request(Method::POST, &format!("/api/deployments/{old}/retry"), &token);
        let (status, reply) = read(request.header("Idempotency-Key", key.to_string()).send().await.unwrap()).await;
        assert_eq!((status, &reply["id"]), (StatusCode::CREATED, &json!(key)), "{reply}");
    }
    let request = service.request(Method::POST, &format!("/api/deployments/{old}/retry"), &token);
    let (status, reply) = read(request.header("Idempotency-Key", old.to_string()).send().await.unwrap()).await;
    assert_eq!(
        (status, &reply["type"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("urn:tendril:problem:idempotency-key-reused"))
    );
    let (_, listed) = service.get("/api/deployments", &token).await;
    assert_eq!(listed["items"].as_array().unwrap().len(), 2);
    service.end().await;
}

#[tokio::test]
async fn artifacts_are_listed_and_it_is_said_why_they_cannot_be_read() {
    let service = Service::new().await;
    let token = service.master().await;
    let (hand, claimed) = service.running(&token).await;
    hand.leave_artifact(&claimed, "plan", b"sealed").await;
    let (status, list) = service.get(&format!("/api/deployments/{}/artifacts", claimed.deployment_id), &token).await;
    assert_eq!(status, StatusCode::OK, "{list}");
    let one = &list["items"][0];
    assert_eq!((&one["name"], &one["job"], &one["size_bytes"]), (&json!("plan"), &json!("a"), &json!(6)));
    assert!(list["content"].as_str().unwrap().contains("only the cluster's runners hold"));
    service.end().await;
}
