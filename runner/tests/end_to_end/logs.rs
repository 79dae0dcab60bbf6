//! The shipper against a real Postgres, without the rest of the runner.

use crate::fleet::Fleet;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use tendril_broker::runner::{Broker, Claimed, Registration};
use tendril_runner::attempt_log::AttemptLog;
use tendril_runner::chance;
use tendril_runner::config::Logs;
use tendril_runner::logs::Stream;
use tendril_runner::metrics::Metrics;
use tendril_runner::ship::Shipper;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Claims two jobs of one deployment as a runner that has this log writer.
async fn claim_two(fleet: &Fleet, writer: Uuid) -> (Uuid, [Claimed; 2]) {
    let broker = Broker::new(fleet.connector(), chance::id(), 2).expect("a broker");
    let registration = Registration {
        name: "shipper".into(),
        version: "0".into(),
        place: None,
        labels: vec!["kind=exec".into()],
        slots: 2,
        log_writer: writer,
    };
    broker.register(&registration).await.expect("registered");
    let job = |name| json!({"name": name, "kind": "exec", "reading": true, "argv": ["true"]});
    let deployment = fleet.submit(&json!({"jobs": [job("first"), job("second")]})).await;
    let claimed = broker.claim(1, 2).await.expect("claimed");
    (deployment, claimed.try_into().expect("both"))
}

fn print(log: &AttemptLog, text: &str) {
    log.push(Stream::Stdout, text.as_bytes());
    log.finish();
}

#[tokio::test]
async fn rows_of_a_day_that_is_stored_no_more_do_not_keep_the_others_from_theirs() {
    let fleet = Fleet::new().await;
    let writer = chance::id();
    let (deployment, [mut old, new]) = claim_two(&fleet, writer).await;
    // Claimed long ago: its partition is gone, and Postgres refuses the whole batch before any check looks at it.
    old.claim_day = time::Date::from_calendar_date(2001, time::Month::January, 1).expect("a day");
    let shipper = Shipper::new(Logs::default(), writer, Arc::new(Metrics::default()));
    print(&shipper.open(&old), "too late\n");
    print(&shipper.open(&new), "in time\n");
    let end = CancellationToken::new();
    end.cancel();
    let shipped = tokio::time::timeout(fleet.patience(), shipper.run(&fleet.connector(), end)).await;
    assert!(shipped.is_ok(), "it sends the same rows for ever");
    assert_eq!(fleet.log(deployment).await, "in time\n");
}

#[tokio::test]
async fn many_loud_attempts_are_stored_whole_and_in_turn() {
    let fleet = Fleet::new().await;
    let writer = chance::id();
    let (deployment, claimed) = claim_two(&fleet, writer).await;
    let shipper = Shipper::new(Logs::default(), writer, Arc::new(Metrics::default()));
    let text: String = (0..30_000).map(|n| format!("line {n:08} of many, with some length to it\n")).collect();
    for one in &claimed {
        print(&shipper.open(one), &text);
    }
    let end = CancellationToken::new();
    end.cancel();
    let shipped = tokio::time::timeout(fleet.patience(), shipper.run(&fleet.connector(), end)).await;
    assert!(shipped.is_ok() && shipper.is_idle());
    let mut by_attempt = BTreeMap::<Uuid, String>::new();
    for (attempt, chunk) in fleet.chunks(deployment).await {
        by_attempt.entry(attempt).or_default().push_str(&chunk);
    }
    assert!(by_attempt.len() == 2 && by_attempt.values().all(|stored| *stored == text));
}
