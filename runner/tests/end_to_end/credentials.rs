//! Credentials that change under real runners: rotated without a pause, drained, and taken at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use uuid::Uuid;

use crate::barriers::Gate;
use crate::fleet::{Fleet, until};

/// For so long the tries of a runner are counted whose credential is gone.
const WATCHED: Duration = Duration::from_secs(20);

/// A way to the database that counts who comes.
struct Door {
    url: String,
    came: Arc<AtomicUsize>,
}

impl Door {
    async fn before(url: &str) -> Self {
        let (scheme, rest) = url.split_once("://").expect("a URL");
        let (host, database) = rest.split_once('/').expect("a URL with a database");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let (came, host) = (Arc::new(AtomicUsize::new(0)), host.to_owned());
        let counter = came.clone();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::Relaxed);
                let host = host.clone();
                tokio::spawn(async move {
                    if let Ok(mut server) = TcpStream::connect(&host).await {
                        drop(tokio::io::copy_bidirectional(&mut client, &mut server).await);
                    }
                });
            }
        });
        Self { url: format!("{scheme}://127.0.0.1:{port}/{database}"), came }
    }

    fn came(&self) -> usize {
        self.came.load(Ordering::Relaxed)
    }
}

/// A job that says so and then waits at a gate.
async fn gated(fleet: &Fleet, gate: &Gate) -> Uuid {
    let script = format!("echo ready; read < {}; echo done", gate.path());
    let deployment =
        fleet.submit(&json!({"jobs": [{"name": "long", "kind": "exec", "argv": ["/bin/bash", "-c", script]}]})).await;
    fleet.line(deployment, |line| (line == "ready").then_some(())).await;
    deployment
}

/// Lets so much time go by: what is counted in it is a rate, and no event ends it.
async fn watch_for(time: Duration) {
    drop(tokio::time::timeout(time, std::future::pending::<()>()).await);
}

async fn quick(fleet: &Fleet) -> Value {
    let deployment = fleet.submit(&json!({"jobs": [{"name": "x", "kind": "exec", "argv": ["/bin/true"]}]})).await;
    fleet.ended(deployment).await
}

/// Lets a drain be over, as `serve` does, and has the roles dropped.
async fn end_drain(fleet: &Fleet) {
    fleet
        .operate(
            "update tendril_core.cluster_credentials set drain_until = clock_timestamp() - interval '1 s' where status = 'draining'",
        )
        .await;
    for _ in 0..2 {
        fleet.operate("select tendril_core.duty_credentials()").await;
    }
}

#[tokio::test]
async fn a_rotation_pauses_no_work_and_loses_none() {
    let fleet = Fleet::new().await;
    let (url, _) = fleet.door();
    let mut old = fleet.runner("old", &[]).await;
    let gate = fleet.gate();
    let long = gated(&fleet, &gate).await;
    assert_eq!(quick(&fleet).await["status"], "SUCCESS");
    let rotate = format!("select tendril.cluster_rotate('{}') ->> 'token'", fleet.cluster());
    let token = fleet.ask(&rotate).await;
    // Both generations at once: the new one takes what comes, the old one ends what it has.
    let mut new = fleet.runner_by("new", &url, &token);
    new.said("registered").await;
    for _ in 0..5 {
        let status = quick(&fleet).await;
        assert_eq!((&status["status"], &status["jobs"][0]["attempts"]), (&json!("SUCCESS"), &json!(1)), "{status:#}");
    }
    old.said("the credential is being drained").await;
    gate.open();
    let status = fleet.ended(long).await;
    assert_eq!((&status["status"], &status["jobs"][0]["attempts"]), (&json!("SUCCESS"), &json!(1)), "{status:#}");
    assert_eq!(fleet.whole_log(long).await, "ready\ndone\n");
    end_drain(&fleet).await;
    old.said("the credential was revoked; results").await;
    assert_eq!(quick(&fleet).await["status"], "SUCCESS");
    // A pod of the old generation goes away as any other.
    old.terminate();
    assert!(old.exited().await.success());
    new.end().await;
}

#[tokio::test]
async fn a_credential_that_drains_ends_what_it_has_and_starts_nothing() {
    let fleet = Fleet::new().await;
    let mut runner = fleet.runner("a", &[]).await;
    let (gate, second) = (fleet.gate(), fleet.another_gate("second"));
    let long = gated(&fleet, &gate).await;
    let next = json!({"jobs": [
        {"name": "first", "kind": "exec", "argv": ["/bin/bash", "-c", format!("echo ready; read < {}", second.path())]},
        {"name": "next", "kind": "exec", "argv": ["/bin/true"], "needs": ["first"]}]});
    let next = fleet.submit(&next).await;
    fleet.line(next, |line| (line == "ready").then_some(())).await;
    fleet.operate(&format!("select tendril.cluster_revoke('{}')", fleet.cluster())).await;
    runner.said("the credential is being drained").await;
    gate.open();
    second.open();
    assert_eq!(fleet.ended(long).await["status"], "SUCCESS");
    assert_eq!(fleet.whole_log(long).await, "ready\ndone\n");
    until("the first of two", async || (fleet.status(next).await["jobs"][0]["state"] == "SUCCESS").then_some(())).await;
    end_drain(&fleet).await;
    runner.said("the credential was revoked; results").await;
    // What was ready to begin then was not begun, and is not waited for: its cluster is gone.
    let status = fleet.ended(next).await;
    assert_eq!(
        (&status["jobs"][0]["state"], &status["jobs"][1]["state"]),
        (&json!("SUCCESS"), &json!("CANCELLED")),
        "{status:#}"
    );
    runner.end().await;
}

/// A revocation takes rights before it ends sessions: what a session hears in between is not the broker's last word.
#[tokio::test]
async fn a_result_that_meets_a_revocation_half_way_is_not_given_up() {
    let fleet = Fleet::new().await;
    let mut runner = fleet.runner("a", &[]).await;
    let gate = fleet.gate();
    let long = gated(&fleet, &gate).await;
    let right = |give: &str, to: &str| {
        format!(
            "do $$ begin execute format('{give} execute on function tendril.runner_finish(uuid, bigint, jsonb),
                 tendril.runner_finish_all(uuid[], bigint[], jsonb[]) {to} %I', tendril_core.group_role('runner')); end $$"
        )
    };
    fleet.operate(&right("revoke", "from")).await;
    gate.open();
    fleet.appears(&runner.state(), "report.json").await;
    runner.said("the broker has not answered").await;
    fleet.operate(&right("grant", "to")).await;
    // Another process of the place would tell it as well; this one still holds it.
    runner.terminate();
    runner.said("running=1").await;
    assert_eq!(fleet.status(long).await["status"], "PROCESSING");
    runner.killed().await;
    let next = fleet.runner("a", &[]).await;
    assert_eq!(fleet.ended(long).await["status"], "SUCCESS");
    next.end().await;
}

#[tokio::test]
async fn a_runner_whose_credential_is_gone_says_so_once_and_where_its_results_lie_and_hardly_asks_again() {
    let fleet = Fleet::new().await;
    let (url, token) = fleet.door();
    let door = Door::before(&url).await;
    let mut runner = fleet.runner_by("a", &door.url, &token);
    runner.said("registered").await;
    let gate = fleet.gate();
    let long = gated(&fleet, &gate).await;
    fleet.operate(&format!("select tendril.cluster_revoke('{}', true)", fleet.cluster())).await;
    runner.said("the credential was revoked; results").await;
    // What changes the world goes on, and its end is kept.
    gate.open();
    runner.spooled("done").await;
    fleet.appears(&runner.state(), "report.json").await;
    // Each of its loops has found out; from here on it is counted.
    let mut before = door.came();
    until("quiet", async || {
        watch_for(Duration::from_secs(3)).await;
        let came = door.came();
        (std::mem::replace(&mut before, came) == came).then_some(())
    })
    .await;
    let said = runner.all_said();
    watch_for(WATCHED).await;
    let tries = door.came() - before;
    assert!(tries <= 4, "{tries} tries in {WATCHED:?}:\n{}", runner.all_said());
    assert!(runner.all_said().lines().count() <= said.lines().count() + 4, "{}", runner.all_said());
    let said = runner.all_said();
    let told: Vec<&str> = said.lines().filter(|line| line.contains("the credential was revoked; results")).collect();
    assert_eq!(told.len(), 1, "{said}");
    let kept = runner.state().join("work");
    assert!(told[0].contains(&kept.display().to_string()), "{}", told[0]);
    assert!(kept.join(".").is_dir(), "the place that it names is there");
    assert_eq!(fleet.status(long).await["status"], "PROCESSING", "nobody was told of the end");
    runner.terminate();
    runner.said("shutting down").await;
    runner.terminate();
    runner.said("interrupting what runs").await;
    runner.terminate();
    assert!(runner.exited().await.success());
}
