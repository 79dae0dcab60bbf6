//! Every query of every dashboard, and all that alerts ask for, on a real Prometheus that scrapes a real broker and a real
//! runner at work.
//!
//! `./dev test` builds Prometheus, and says where by `TENDRIL_TEST_PROMETHEUS`; broker and runner lie beside this test.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails here, and says where")]

mod fleet;
mod queries;
mod server;

use fleet::Fleet;
use queries::{Query, alerts, queries_of_dashboards, selectors};
use server::Prometheus;
use std::time::Duration;

/// Until everything has brought data.
const PATIENCE: Duration = Duration::from_secs(120);

const LOOK_EVERY: Duration = Duration::from_millis(500);

#[tokio::test]
async fn every_query_of_dashboards_and_alerts_brings_data_from_a_fleet_at_work() {
    let Some(program) = server::program() else { return };
    let fleet = Fleet::start().await;
    let prometheus = Prometheus::start(&program, &fleet).await;
    let mut open = queries_of_dashboards();
    for alert in alerts() {
        prometheus.ask(&alert.text).await.unwrap_or_else(|error| panic!("{}: {error}", alert.of));
        let parts = selectors(&alert.text);
        assert!(!parts.is_empty(), "{}", alert.of);
        open.extend(parts.into_iter().map(|text| Query { of: alert.of.clone(), text }));
    }
    let answered = async {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        while !open.is_empty() {
            looks.tick().await;
            fleet.submit().await;
            let mut still = Vec::new();
            for query in open.drain(..) {
                match prometheus.ask(&query.text).await {
                    Ok(true) => {}
                    Ok(false) => still.push(query),
                    Err(error) => panic!("{}: {}: {error}", query.of, query.text),
                }
            }
            open = still;
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, answered).await.is_ok();
    let silent: Vec<String> = open.iter().map(|query| format!("{}: {}", query.of, query.text)).collect();
    assert!(in_time, "no data for:\n{}\n{}", silent.join("\n"), fleet.said());
    // Tried as well: a question that makes no sense, and one about nothing.
    assert!(prometheus.ask("sum(").await.is_err());
    assert!(!prometheus.ask("tendril_made_up").await.unwrap());
}
