//! `serve`: the real program, one replica, two and none.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use crate::fleet::{Fleet, exec, one, reading, run};
use crate::program::{Running, broker};

/// Longer than anything here takes; a test that gets so far has failed.
const PATIENCE: Duration = Duration::from_secs(60);

async fn get(address: &str, path: &str) -> (u16, String) {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    let code = reply.split(' ').nth(1).unwrap().parse().unwrap();
    (code, reply.split_once("\r\n\r\n").unwrap().1.to_owned())
}

/// A free port, as far as one can know.
async fn free_address() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string()
}

/// Asks again until the answer is as wanted.
async fn until<F, T>(what: &str, mut ask: F)
where
    F: AsyncFnMut() -> T,
    T: Into<bool>,
{
    let asked = async {
        while !ask().await.into() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, asked).await.unwrap_or_else(|_| panic!("did not happen: {what}"));
}

#[tokio::test]
async fn serve_beats_does_its_duties_and_answers() {
    let mut fleet = Fleet::new().await;
    let deployment = fleet.deploy_jobs(&[exec("a")]).await;
    let address = free_address().await;
    let url = fleet.database.url();
    let mut serve = Running::start(&url, &["serve", "--listen", &address, "--log-json", "--interval-ms", "100"]);
    let line: Value = serde_json::from_str(&serve.says("serving").await).unwrap();
    assert_eq!(line["level"], "INFO");
    // Its work shows in what portals read.
    until("waiting_for is filled", async || {
        let sql = format!("select waiting_for = 'a runner: none of the cluster is online' from tendril.deployments where id = '{deployment}'");
        one::<Option<bool>>(&mut fleet.portal, &sql).await == Some(true)
    })
    .await;
    until("ready", async || get(&address, "/readyz").await.0 == 200).await;
    assert_eq!(get(&address, "/healthz").await, (200, "alive\n".into()));
    for name in [
        "tendril_broker_duty_runs_total{duty=\"expire\"}",
        "tendril_broker_duty_seconds_bucket{",
        "tendril_broker_duty_last_success_timestamp_seconds{",
        "tendril_broker_pulses_total{by=\"this\"}",
        "tendril_runners_online{",
        "tendril_queue_oldest_seconds{",
        "cluster=\"one\",kind=\"exec\",state=\"QUEUED\",waiting_for=\"\",priority=\"20\"} 1",
    ] {
        // A duty's first turn, or the next look at the queue, may still be to come.
        until(name, async || get(&address, "/metrics").await.1.contains(name)).await;
    }
    let doctor = broker(&url, &["doctor", "--json"]).await.json();
    let pulse = doctor["findings"].as_array().unwrap().iter().find(|finding| finding["check"] == "pulse").unwrap();
    assert_eq!(pulse["level"], "ok");
    let asked = Instant::now();
    serve.signal("TERM").await;
    assert_eq!(serve.end().await.code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(2), "it took {:?} to end", asked.elapsed());
}

#[tokio::test]
async fn what_has_not_happened_yet_is_told_as_none_so_that_its_first_time_is_seen_to_rise() {
    let fleet = Fleet::new().await;
    let _runner = fleet.runner().await;
    let nobody = fleet.database.cluster("nobody").await;
    let address = free_address().await;
    let mut serve = Running::start(&fleet.database.url(), &["serve", "--listen", &address]);
    serve.says("serving").await;
    let of_cluster = format!("cluster_id=\"{}\",cluster=\"one\"", fleet.cluster.id);
    for series in [
        format!("tendril_dead_letters{{{of_cluster},kind=\"exec\"}} 0.0\n"),
        format!("tendril_dead_letters{{{of_cluster},kind=\"terraform.plan\"}} 0.0\n"),
        format!("tendril_attempts_total{{{of_cluster},kind=\"exec\",outcome=\"success\"}} 0\n"),
        format!("tendril_attempts_total{{{of_cluster},kind=\"terraform.apply\",outcome=\"outcome_unknown\"}} 0\n"),
        format!("tendril_leases_lost_total{{{of_cluster}}} 0\n"),
        "tendril_figures_backlog{of=\"queue\"} 0.0\n".into(),
        "tendril_figures_backlog{of=\"happenings\"} 0.0\n".into(),
    ] {
        until(&series, async || get(&address, "/metrics").await.1.contains(&series)).await;
    }
    // And what cannot happen is not told: by a kind that no runner takes, by one that only reads or never does, where there was no runner.
    let told = get(&address, "/metrics").await.1;
    for series in [
        format!("{of_cluster},kind=\"policy\""),
        format!("{of_cluster},kind=\"terraform.plan\",outcome=\"outcome_unknown\""),
        format!("tendril_dead_letters{{{of_cluster},kind=\"terraform.apply\""),
    ] {
        assert!(!told.contains(&series), "{series}");
    }
    let of_nobody = told.lines().filter(|line| line.contains(&nobody.id.to_string())).count();
    assert_eq!(of_nobody, 6, "what there is of a cluster without a runner: {told}");
    serve.signal("TERM").await;
    serve.end().await;
}

#[tokio::test]
async fn sigterm_ends_serve_in_time_even_while_the_database_holds_it_up() {
    let mut fleet = Fleet::new().await;
    let url = fleet.database.url();
    let mut serve = Running::start(&url, &["serve"]);
    serve.says("serving").await;
    // Somebody has locked what the duties need; they wait for it.
    run(&mut fleet.operator, "begin; lock table tendril_core.duties in access exclusive mode").await;
    let mut other = fleet.database.operator().await;
    until("a duty waits", async || {
        one::<i64>(
            &mut other,
            "select count(*) from pg_locks where not granted and relation = 'tendril_core.duties'::regclass",
        )
        .await
            > 0
    })
    .await;
    let asked = Instant::now();
    serve.signal("TERM").await;
    assert_eq!(serve.end().await.code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(2), "it took {:?} to end", asked.elapsed());
}

#[tokio::test]
async fn a_lost_runners_work_is_done_with_two_replicas_and_when_one_of_them_dies() {
    let mut fleet = Fleet::new().await;
    run(&mut fleet.operator, "update tendril_core.settings set lease_ttl = '1 s', heartbeat_interval = '100 ms'").await;
    let url = fleet.database.url();
    let mut replicas = [Running::start(&url, &["serve"]), Running::start(&url, &["serve"])];
    for replica in &mut replicas {
        replica.says("serving").await;
    }
    let [first, second] = replicas;
    first.signal("KILL").await;
    let deployment = fleet.deploy_jobs(&[reading("a")]).await;
    let mut runner = fleet.runner().await;
    runner.claim_one().await;
    until("the silent runner is judged", async || fleet.job(deployment, "a").await == "QUEUED").await;
    // Each lost attempt was judged once.
    let lost: i64 = one(&mut fleet.operator, "select count(*) from tendril_core.attempts where outcome = 'lost'").await;
    assert_eq!(lost, 1);
    second.signal("TERM").await;
    second.end().await;
    drop(first);
}

#[tokio::test]
async fn without_serve_nobody_is_judged_and_work_goes_on() {
    let mut fleet = Fleet::new().await;
    let deployment = fleet.deploy_jobs(&[exec("a")]).await;
    let mut runner = fleet.runner().await;
    let mut silent = fleet.runner().await;
    fleet.silence(&silent).await;
    assert_eq!(fleet.database.duty("expire").await, 0, "without a pulse there is no judgement");
    silent.heartbeat(&[]).await;
    runner.perform("success").await;
    assert_eq!(fleet.status(deployment).await, "SUCCESS");
}

#[tokio::test]
async fn serve_outlives_its_connections() {
    let mut fleet = Fleet::new().await;
    let mut serve = Running::start(&fleet.database.url(), &["serve", "--interval-ms", "100"]);
    serve.says("serving").await;
    let ours = "from pg_stat_activity where application_name = 'tendril-broker serve' and datname = current_database()";
    for _ in 0..3 {
        // Each beat is newer than the last one that was seen; then the line is cut again.
        let seen: String = one(&mut fleet.operator, "select at::text from tendril_core.pulse").await;
        let newer = format!("select at > '{seen}' from tendril_core.pulse");
        until("it beats", async || one::<bool>(&mut fleet.operator, &newer).await).await;
        run(&mut fleet.operator, &format!("select pg_terminate_backend(pid, 5000) {ours}")).await;
        serve.says("works again").await;
    }
    serve.signal("INT").await;
    assert_eq!(serve.end().await.code(), Some(0));
}

#[tokio::test]
async fn serve_does_not_start_where_it_cannot_serve() {
    let database = tendril_broker::testing::TestDatabase::empty().await;
    let url = database.url();
    let no_schema = broker(&url, &["serve"]).await;
    assert_eq!(no_schema.code, 5);
    assert!(no_schema.err.contains("run `tendril-broker migrate`"), "{}", no_schema.err);
    let held = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = broker(&url, &["serve", "--listen", &held.local_addr().unwrap().to_string()]).await;
    assert_eq!(taken.code, 1);
    assert!(taken.err.contains("cannot listen at"), "{}", taken.err);
    assert_eq!(broker(&url, &["serve", "--interval-ms", "2500"]).await.code, 2);
    assert_eq!(broker(&url, &["serve", "--listen", "nowhere"]).await.code, 2);
    assert_eq!(broker(&url.replace("://", "://x"), &["serve"]).await.code, 4, "a wrong login is no outage");
}

#[tokio::test]
async fn serve_waits_for_a_database_that_is_down() {
    let address = free_address().await;
    let mut serve = Running::start("postgres://x:y@127.0.0.1:1/z", &["serve", "--listen", &address]);
    serve.says("it is tried again").await;
    let (code, text) = get(&address, "/readyz").await;
    assert_eq!((code, text.as_str()), (503, "the database has not been reached yet\n"));
    serve.signal("TERM").await;
    assert_eq!(serve.end().await.code(), Some(0));
}
