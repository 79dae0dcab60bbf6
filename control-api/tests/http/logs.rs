//! Logs: a part by position, and streams.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};
use tendril_broker::operator::tokens::Reach;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::events::Events;
use crate::service::{Service, id};

fn range(from: i64, to: i64) -> Vec<i64> {
    (from..to).collect()
}

#[tokio::test]
async fn a_log_is_read_by_position_to_its_end() {
    let service = Service::new().await;
    let token = service.master().await;
    let (mut hand, claimed) = service.running(&token).await;
    let path = format!("/api/deployments/{}/logs", claimed.deployment_id);
    let (status, empty) = service.get(&path, &token).await;
    assert_eq!((status, &empty["chunks"], &empty["over"]), (StatusCode::OK, &json!([]), &json!(false)), "{empty}");
    hand.print(&claimed, 0, 3).await;
    let (_, first) = service.get(&path, &token).await;
    assert_eq!(first["chunks"].as_array().unwrap().len(), 3);
    assert_eq!(first["chunks"][2]["log_chunk"], "line 2\n");
    assert_eq!(first["position"], json!({claimed.lease.attempt_id.to_string(): 2}));
    hand.print(&claimed, 3, 5).await;
    hand.finish(&claimed, 4).await;
    let after = |position: &Value| format!("{path}?after={}", position.to_string().replace('"', "%22"));
    let (_, second) = service.get(&after(&first["position"]), &token).await;
    assert_eq!(second["chunks"].as_array().unwrap().len(), 2, "{second}");
    let (_, third) = service.get(&after(&second["position"]), &token).await;
    assert_eq!((&third["chunks"], &third["over"]), (&json!([]), &json!(true)));
    // Tried: what is no position, and one that names what is no attempt of the deployment.
    assert_eq!(service.get(&format!("{path}?after=7"), &token).await.0, StatusCode::BAD_REQUEST);
    let stranger = json!({id().to_string(): 1});
    let (status, reply) = service.get(&after(&stranger), &token).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(reply["problems"][0]["path"].as_str().unwrap().starts_with("position."), "{reply}");
    service.end().await;
}

#[tokio::test]
async fn a_stream_tells_what_is_stored_and_what_comes_and_ends_at_the_logs_end() {
    let service = Service::new().await;
    let token = service.master().await;
    let (mut hand, claimed) = service.running(&token).await;
    hand.print(&claimed, 0, 5).await;
    let mut events = Events::open(&service, &token, claimed.deployment_id, None).await;
    assert_eq!(events.seqs(5).await, range(0, 5));
    for from in [5, 6, 7] {
        hand.print(&claimed, from, from + 1).await;
        assert_eq!(events.seqs(1).await, [from]);
    }
    // The end is told only after the last line, whichever comes first.
    hand.finish(&claimed, 9).await;
    hand.print(&claimed, 8, 10).await;
    assert_eq!(events.seqs(2).await, [8, 9]);
    let end = events.next().await.unwrap();
    assert_eq!(end.kind, "end");
    assert_eq!(serde_json::from_str::<Value>(&end.data).unwrap(), json!({"status": "SUCCESS", "logs_complete": true}));
    assert!(events.next().await.is_none());
    // Of one that has ended a stream tells all, and ends.
    let all = Events::open(&service, &token, claimed.deployment_id, None).await.rest().await;
    assert_eq!((all.len(), all[10].kind.as_str()), (11, "end"));
    service.end().await;
}

#[tokio::test]
async fn a_stream_of_what_has_ended_says_whether_a_log_lost_its_end() {
    let service = Service::new().await;
    let token = service.master().await;
    let (mut hand, claimed) = service.running(&token).await;
    hand.print(&claimed, 0, 2).await;
    hand.finish(&claimed, 4).await;
    // Tried: records 2 to 4 never came, and the broker has given up waiting for them.
    let close =
        format!("update tendril_core.attempts set log_state = 'incomplete' where id = '{}'", claimed.lease.attempt_id);
    let closed = sqlx::query(sqlx::AssertSqlSafe(close)).execute(&mut service.database.operator().await).await;
    assert_eq!(closed.unwrap().rows_affected(), 1);
    let all = Events::open(&service, &token, claimed.deployment_id, None).await.rest().await;
    assert_eq!((all.len(), all[2].kind.as_str()), (3, "end"));
    assert_eq!(
        serde_json::from_str::<Value>(&all[2].data).unwrap(),
        json!({"status": "SUCCESS", "logs_complete": false})
    );
    service.end().await;
}

#[tokio::test]
async fn a_position_that_is_made_up_keeps_no_line_from_other_streams() {
    let service = Service::new().await;
    let token = service.master().await;
    let (mut hand, claimed) = service.running(&token).await;
    // Tried: who comes first says to have read far more than was ever printed.
    let made_up = json!({claimed.lease.attempt_id.to_string(): 1_000_000}).to_string();
    let _liar = Events::open(&service, &token, claimed.deployment_id, Some(&made_up)).await;
    let mut events = Events::open(&service, &token, claimed.deployment_id, None).await;
    hand.print(&claimed, 0, 2).await;
    // Comments that it lives would keep a stream without lines open for ever.
    let heard = tokio::time::timeout(Duration::from_secs(30), events.seqs(2)).await;
    assert_eq!(heard.expect("the lines came"), [0, 1]);
    service.end().await;
}

#[tokio::test]
async fn a_stream_goes_on_exactly_behind_the_last_event_with_nothing_lost_or_twice() {
    let service = Service::new().await;
    let token = service.master().await;
    let (mut hand, claimed) = service.running(&token).await;
    let deployment = claimed.deployment_id;
    let writing = tokio::spawn(async move {
        let mut from = 0;
        while from < 600 {
            hand.print(&claimed, from, from + 7).await;
            from += 7;
        }
        hand.finish(&claimed, from - 1).await;
        from
    });
    // A client that is cut off again and again, each time after another number of events.
    let (mut seqs, mut last, mut ended) = (Vec::new(), None::<String>, false);
    let mut takes = [1, 2, 3, 5, 8, 13, 21, 34, 55].into_iter().cycle();
    while !ended {
        let mut events = Events::open(&service, &token, deployment, last.as_deref()).await;
        for _ in 0..takes.next().unwrap() {
            let event = events.next().await.unwrap();
            if event.kind == "end" {
                ended = true;
                break;
            }
            seqs.push(event.seq());
            last = event.id;
        }
    }
    let written = writing.await.unwrap();
    assert_eq!(seqs, range(0, written));
    service.end().await;
}

#[tokio::test]
async fn many_watchers_of_many_deployments_each_hear_their_own_whole_and_one_look_serves_them_all() {
    let service = Service::new().await;
    let token = service.master().await;
    let mut hand = None;
    let mut all = Vec::new();
    for _ in 0..4 {
        service.deploy(&token).await;
    }
    for _ in 0..4 {
        if hand.is_none() {
            hand = Some(crate::service::Hand::new(&service).await);
        }
        all.push(hand.as_mut().unwrap().claim().await);
    }
    let mut hand = hand.unwrap();
    let mut watchers = Vec::new();
    for claimed in all.iter().flat_map(|claimed| std::iter::repeat_n(claimed, 25)) {
        watchers.push(Events::open(&service, &token, claimed.deployment_id, None).await);
    }
    let readers = watchers.into_iter().map(|watcher| tokio::spawn(watcher.rest()));
    let readers: Vec<_> = readers.collect();
    for from in (0..40).step_by(4) {
        for claimed in &all {
            hand.print(claimed, from, from + 4).await;
        }
    }
    for claimed in &all {
        hand.finish(claimed, 39).await;
    }
    for reader in readers {
        let events = reader.await.unwrap();
        let seqs: Vec<i64> = events[..40].iter().map(super::events::Event::seq).collect();
        assert_eq!(seqs, range(0, 40));
        assert_eq!((events.len(), events[40].kind.as_str()), (41, "end"));
    }
    // Each chunk was found once, not once for each of the 25 who watch.
    let metrics = service.client.get(format!("{}/metrics", service.base)).send().await.unwrap().text().await.unwrap();
    let chunks = metrics.lines().find_map(|line| line.strip_prefix("tendril_api_log_chunks_total ")).unwrap();
    assert!(chunks.parse::<u64>().unwrap() <= 160, "{chunks}");
    service.end().await;
}

#[tokio::test]
async fn a_slow_reader_is_cut_off_and_holds_nobody_up() {
    let service = Service::with("[logs]\nslow_reader_s = 1\nslow_reader_batches = 4\n").await;
    let token = service.master().await;
    let (mut hand, claimed) = service.running(&token).await;
    // One that asks for the stream and never takes any of it.
    let mut stuck = TcpStream::connect(service.base.strip_prefix("http://").unwrap()).await.unwrap();
    let head = format!(
        "GET /api/deployments/{}/logs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nAccept: text/event-stream\r\n\r\n",
        claimed.deployment_id
    );
    stuck.write_all(head.as_bytes()).await.unwrap();
    let mut events = Events::open(&service, &token, claimed.deployment_id, None).await;
    // More than any socket's buffers hold.
    let text = format!("{}\n", "x".repeat(16_000));
    let mut seqs = Vec::new();
    for from in (0..1600).step_by(32) {
        hand.print_texts(&claimed, from, &vec![text.clone(); 32]).await;
        seqs.extend(events.seqs(32).await);
    }
    assert_eq!(seqs, range(0, 1600), "who reads is not held up");
    hand.finish(&claimed, 1599).await;
    assert_eq!(events.next().await.unwrap().kind, "end");
    // Its connection is ended: what is left of it is less than all, without the end.
    let mut taken = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(60), stuck.read_to_end(&mut taken)).await;
    assert!(read.is_ok(), "the connection was not ended");
    assert!(!String::from_utf8_lossy(&taken).contains("event: end"), "{} bytes", taken.len());
    assert!(taken.len() < 1600 * 16_000);
    service.end().await;
}

#[tokio::test]
async fn a_stream_on_which_nothing_happens_says_that_it_lives() {
    let service = Service::with("[logs]\nheartbeat_s = 1\n").await;
    let token = service.master().await;
    let deployment = service.deploy(&token).await;
    let mut events = Events::open(&service, &token, deployment, None).await;
    assert_eq!(events.comment().await, ": alive");
    service.end().await;
}

#[tokio::test]
async fn a_stream_outlives_a_database_that_ends_its_sessions() {
    let service = Service::new().await;
    let token = service.master().await;
    let (mut hand, claimed) = service.running(&token).await;
    let mut events = Events::open(&service, &token, claimed.deployment_id, None).await;
    hand.print(&claimed, 0, 2).await;
    assert_eq!(events.seqs(2).await, [0, 1]);
    let ended = "select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name = 'tendril-api' and datname = current_database()";
    let ended: i64 = sqlx::query_scalar(ended).fetch_one(&mut service.database.operator().await).await.unwrap();
    assert!(ended > 0);
    hand.print(&claimed, 2, 4).await;
    assert_eq!(events.seqs(2).await, [2, 3]);
    service.end().await;
}

#[tokio::test]
async fn streams_are_bounded_for_each_token() {
    let service = Service::with("[limits]\nwatchers_per_token = 2\n").await;
    let (token, other) = (service.master().await, service.token(&["logs"], Reach::All).await);
    let deployment = service.deploy(&token).await;
    let _first = Events::open(&service, &token, deployment, None).await;
    let _second = Events::open(&service, &token, deployment, None).await;
    let path = format!("/api/deployments/{deployment}/logs");
    let request = service.request(reqwest::Method::GET, &path, &token).header("Accept", "text/event-stream");
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(response.headers().contains_key("retry-after"));
    let _theirs = Events::open(&service, &other, deployment, None).await;
    service.stop.cancel();
}
