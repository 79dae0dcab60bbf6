//! Jobs and neighbours that mean harm.

use crate::fleet::Fleet;
use serde_json::json;

#[tokio::test]
async fn a_job_cannot_read_the_runners_environment_or_memory() {
    let mut fleet = Fleet::new().await;
    fleet.without_root();
    let runner = fleet.runner("a", &[]).await;
    let script = format!(
        "for p in {} $PPID; do for f in environ mem maps cmdline; do head -c 100000 /proc/$p/$f | tr '\\0' '\\n'; done; \
         ls /proc/$p/fd; kill -CONT $p; done; ls /proc; true",
        runner.pid()
    );
    let deployment =
        fleet.submit(&json!({"jobs": [{"name": "nosy", "kind": "exec", "argv": ["/bin/bash", "-c", script]}]})).await;
    let status = fleet.ended(deployment).await;
    assert_eq!(status["status"], "SUCCESS", "{status:#}");
    let log = fleet.whole_log(deployment).await;
    assert!(log.matches("Permission denied").count() == 11 && !log.contains("TENDRIL_"), "{log}");
    assert_eq!(log.matches("Operation not permitted").count(), 2, "{log}");
    runner.end().await;
}

#[tokio::test]
async fn a_flood_of_forged_rings_does_not_become_a_flood_of_claims() {
    let fleet = Fleet::new().await;
    let runner = fleet.runner("a", &[]).await;
    let rings = "tendril_runner_doorbell_rings_total ";
    let figure = |metrics: &str, name: &str| {
        let line = metrics.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.rsplit(' ').next().and_then(|count| count.parse::<u64>().ok()).unwrap_or(0)
    };
    while figure(&runner.get("/metrics").await, rings) == 0 {
        fleet.ring(1).await;
    }
    let claims = "tendril_runner_call_seconds_count{call=\"claim\"}";
    let before = figure(&runner.get("/metrics").await, claims);
    let took = fleet.ring(3000).await;
    let after = figure(&runner.get("/metrics").await, claims);
    // Fifty wake-ups a second, and the few looks that belong to the last of them.
    let most = 50 * (took.as_secs() + 1) + 20;
    assert!(after - before <= most, "{} claims in {took:?}", after - before);
    runner.end().await;
}
