//! Each log is archived once, by whichever replica, however often things break in between.

use std::time::Duration;

use serde_json::Value;
use tendril_broker::archive::{self, Archived, Sizes};
use tendril_broker::portal::logs::LogReader;
use tokio::time::timeout;

use crate::fleet::{Fleet, exec, id, one, row, run};
use crate::program::{Running, command};
use crate::service::{Door, Service};
use crate::shelf::{SMALL, archive_all, at_work, close, closed_log, noise, pool, read_all, state_of, told};

const PATIENCE: Duration = Duration::from_secs(20);

/// `serve` with the archive, and what else its environment says.
fn serve(fleet: &Fleet, service: &Service, more: &[(&str, &str)]) -> Running {
    let mut command = command(&fleet.database.url(), &["serve"]);
    command.envs(service.environment()).env("AWS_EC2_METADATA_DISABLED", "true");
    for (name, value) in more {
        match *value {
            "" => command.env_remove(name),
            value => command.env(name, value),
        };
    }
    Running::run(command)
}

/// Asks again until the answer is yes.
async fn until<F: AsyncFnMut() -> bool>(what: &str, mut ask: F) {
    let asked = async {
        while !ask().await {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, asked).await.unwrap_or_else(|_| panic!("did not happen: {what}"));
}

async fn until_all_are_stored(fleet: &mut Fleet) {
    let waiting = "select count(*) from tendril_core.log_archives where state = 'waiting'";
    until("all is archived", async || one::<i64>(&mut fleet.operator, waiting).await == 0).await;
}

async fn everything_is_due(fleet: &mut Fleet) {
    run(&mut fleet.operator, "update tendril_core.log_archives set due_at = '-infinity' where state = 'waiting'").await;
}

#[tokio::test]
async fn two_replicas_archive_each_log_once() {
    let mut fleet = Fleet::new().await;
    let service = Service::start().await;
    let mut before = Vec::new();
    for lines in 1..=12 {
        let claimed = closed_log(&mut fleet, lines).await;
        before.push((claimed.deployment_id, read_all(&mut fleet, LogReader::new(claimed.deployment_id)).await.0));
    }
    let mut replicas = [serve(&fleet, &service, &[]), serve(&fleet, &service, &[])];
    for replica in &mut replicas {
        timeout(PATIENCE, replica.says("closed logs are archived")).await.expect("it says so");
    }
    until_all_are_stored(&mut fleet).await;
    assert_eq!(service.requests("PUT").len(), 12, "each object was sent once");
    assert_eq!(service.objects().0.len(), 12);
    let url: String = one(&mut fleet.operator, "select archive_url from tendril_core.settings").await;
    assert_eq!(url, "s3://logs/p");
    for (deployment, before) in before {
        let (after, _) = read_all(&mut fleet, LogReader::new(deployment)).await;
        assert_eq!(told(&after), told(&before));
    }
}

#[tokio::test]
async fn what_a_killed_replica_was_sending_is_sent_again_and_recorded_once() {
    let mut fleet = Fleet::new().await;
    let service = Service::start().await;
    let claimed = closed_log(&mut fleet, 40).await;
    service.set(Door::Silent("PUT"));
    let first = serve(&fleet, &service, &[]);
    timeout(PATIENCE, service.sees(1, "PUT")).await.unwrap();
    first.signal("KILL").await;
    first.end().await;
    assert_eq!(state_of(&mut fleet, claimed.attempt_id).await, "waiting");
    service.set(Door::Open);
    // Nobody else takes it while the lease of the dead one lives.
    let pool = pool(&fleet).await;
    assert_eq!(archive::claim(&pool, id(), PATIENCE, 9).await.unwrap().len(), 0);
    everything_is_due(&mut fleet).await;
    let _second = serve(&fleet, &service, &[]);
    until_all_are_stored(&mut fleet).await;
    let (objects, left) = service.objects();
    assert_eq!((objects.len(), left.len()), (1, 0), "{left:?}");
    let tries: i32 = one(&mut fleet.operator, "select tries from tendril_core.log_archives").await;
    assert_eq!(tries, 2);
}

#[tokio::test]
async fn what_a_stopped_replica_was_sending_another_one_sends_at_once() {
    let mut fleet = Fleet::new().await;
    let service = Service::start().await;
    let claimed = closed_log(&mut fleet, 40).await;
    service.set(Door::Silent("PUT"));
    let first = serve(&fleet, &service, &[]);
    timeout(PATIENCE, service.sees(1, "PUT")).await.unwrap();
    // Tried: SIGTERM while the service owes an answer. Nobody shortens the lease of ten minutes.
    first.signal("TERM").await;
    assert_eq!(timeout(PATIENCE, first.end()).await.unwrap().code(), Some(0));
    let lease = "select claimed_by is null and due_at <= clock_timestamp() from tendril_core.log_archives";
    assert!(one::<bool>(&mut fleet.operator, lease).await, "it is nobody's, and due");
    service.set(Door::Open);
    let _second = serve(&fleet, &service, &[]);
    until_all_are_stored(&mut fleet).await;
    assert_eq!(state_of(&mut fleet, claimed.attempt_id).await, "stored");
    assert_eq!(service.objects().0.len(), 1);
}

#[tokio::test]
async fn a_large_object_goes_in_parts_and_what_a_crash_left_of_them_is_let_go() {
    let mut fleet = Fleet::new().await;
    let service = Service::start().await;
    let store = service.archive_without_prefix().await;
    // 16 MB that compress to three quarters: three parts of the size that S3 wants at least.
    let sizes = Sizes { part: 5 << 20, ..Sizes::default() };
    let (mut runner, claimed) = at_work(&mut fleet).await;
    for batch in 0..8 {
        let rows = (batch * 100..batch * 100 + 100).map(|seq| row(&claimed, seq, seq, &noise(seq)));
        runner.copy(&rows.collect::<Vec<_>>()).await.unwrap();
    }
    close(&fleet, &mut runner, &claimed, 800).await;
    let (before, _) = read_all(&mut fleet, LogReader::new(claimed.deployment_id)).await;
    let pool = pool(&fleet).await;
    let claim = id();
    let log = archive::claim(&pool, claim, PATIENCE, 1).await.unwrap().remove(0);
    service.set(Door::Silent("partNumber=2"));
    let sending = tokio::spawn({
        let (pool, store) = (pool.clone(), store.clone());
        async move { archive::archive(&pool, &store, &log, claim, sizes).await }
    });
    timeout(PATIENCE, service.sees(1, "partNumber=2")).await.unwrap();
    sending.abort();
    assert!(sending.await.unwrap_err().is_cancelled());
    let upload: String = one(&mut fleet.operator, "select upload_id from tendril_core.log_archives").await;
    service.set(Door::Open);
    everything_is_due(&mut fleet).await;
    let done = archive_all(&fleet, &store, sizes).await;
    let [Archived::Stored(record)] = done.as_slice() else {
        panic!("{done:?}");
    };
    assert!(record.object_bytes > 10 << 20, "{} bytes", record.object_bytes);
    assert_eq!(service.requests("DELETE").len(), 1);
    assert!(service.requests("DELETE")[0].contains(&upload));
    let (objects, left) = service.objects();
    assert_eq!((objects.len(), left.len()), (1, 0), "{left:?}");
    let (after, _) = read_all(&mut fleet, LogReader::new(claimed.deployment_id)).await;
    assert_eq!(told(&after), told(&before));
}

#[tokio::test]
async fn an_archive_that_is_away_delays_logs_and_nothing_else() {
    let mut fleet = Fleet::new().await;
    let service = Service::start().await;
    let claimed = closed_log(&mut fleet, 5).await;
    service.set(Door::Sick("PUT"));
    let mut replica = serve(&fleet, &service, &[]);
    let said = timeout(PATIENCE, replica.says("cannot reach the archive")).await.expect("it says so");
    assert!(said.contains("s3://logs/p/"), "{said}");
    // Jobs go on, and their logs wait, too.
    let deployment = fleet.deploy_jobs(&[exec("a")]).await;
    fleet.runner().await.perform("success").await;
    assert_eq!(fleet.status(deployment).await, "SUCCESS");
    let trouble = "select count(*) from tendril_core.log_archives where trouble like '%cannot reach%' and due_at > clock_timestamp()";
    until("the failure is recorded", async || one::<i64>(&mut fleet.operator, trouble).await == 1).await;
    let lag: i64 = one(&mut fleet.operator, "select waiting from tendril_core.archive_lag()").await;
    assert_eq!(lag, 1);
    service.set(Door::Open);
    everything_is_due(&mut fleet).await;
    until_all_are_stored(&mut fleet).await;
    assert_eq!(state_of(&mut fleet, claimed.attempt_id).await, "stored");
}

/// What the environment says, the place that the error names, and its word.
type Wrong<'a> = (&'a [(&'a str, &'a str)], &'a str, &'a str);

#[tokio::test]
async fn wrong_credentials_are_said_by_name() {
    let mut fleet = Fleet::new().await;
    let service = Service::start().await;
    closed_log(&mut fleet, 5).await;
    // Tried: another secret, an unknown key, no credentials at all. This server has no word for a bucket that is not there.
    let wrong: [Wrong<'_>; 3] = [
        (&[("AWS_SECRET_ACCESS_KEY", "other")], "s3://logs/p/", "SignatureDoesNotMatch"),
        (&[("AWS_ACCESS_KEY_ID", "nobody")], "s3://logs/p/", "HTTP 403"),
        (&[("AWS_ACCESS_KEY_ID", ""), ("AWS_SECRET_ACCESS_KEY", "")], "s3://logs/p/", "no credentials were found"),
    ];
    for (environment, place, word) in wrong {
        everything_is_due(&mut fleet).await;
        let mut replica = serve(&fleet, &service, environment);
        let said = timeout(PATIENCE, replica.says("it is tried again")).await.expect("it says so");
        assert!(said.contains(place) && said.contains(word) && said.contains("hint="), "{said}");
        replica.signal("TERM").await;
        replica.end().await;
        let trouble = format!("select trouble like '%{place}%{word}%' from tendril_core.log_archives");
        until("it is recorded", async || one::<Option<bool>>(&mut fleet.operator, &trouble).await == Some(true)).await;
    }
    let found = crate::program::broker(&fleet.database.url(), &["doctor", "--json"]).await.json();
    let archive = found["findings"].as_array().unwrap().iter().find(|finding| finding["check"] == "archive").unwrap();
    assert_eq!(archive["level"], Value::from("warn"));
    assert!(archive["message"].as_str().unwrap().contains("s3://logs/p/"), "{archive}");
    let bad = crate::program::broker(&fleet.database.url(), &["serve", "--archive", "http://logs"]).await;
    assert_eq!(bad.code, 2);
    assert!(bad.err.contains("s3://BUCKET/PREFIX"), "{}", bad.err);
}

#[tokio::test]
async fn who_lost_the_claim_records_nothing() {
    let mut fleet = Fleet::new().await;
    let service = Service::start().await;
    let store = service.archive().await;
    closed_log(&mut fleet, 30).await;
    let pool = pool(&fleet).await;
    let (slow, quick) = (id(), id());
    let first = archive::claim(&pool, slow, PATIENCE, 1).await.unwrap().remove(0);
    everything_is_due(&mut fleet).await;
    let second = archive::claim(&pool, quick, PATIENCE, 1).await.unwrap().remove(0);
    for sizes in [SMALL, Sizes::default()] {
        let done = archive::archive(&pool, &store, &first, slow, sizes).await.unwrap();
        assert_eq!(done, Archived::Superseded);
    }
    assert_eq!(service.objects().0.len(), 0, "who lost the claim sends nothing");
    assert!(matches!(archive::archive(&pool, &store, &second, quick, SMALL).await.unwrap(), Archived::Stored(_)));
    // Recording it a second time is refused, also by who did it.
    assert_eq!(archive::archive(&pool, &store, &second, quick, SMALL).await.unwrap(), Archived::Superseded);
}

#[tokio::test]
async fn an_empty_log_needs_no_object_and_a_giant_row_no_memory() {
    let mut fleet = Fleet::new().await;
    let service = Service::start().await;
    let store = service.archive().await;
    let (mut runner, claimed) = at_work(&mut fleet).await;
    // Closed by its window, with nothing stored: only a look tells that it is empty.
    run(&mut fleet.operator, "update tendril_core.settings set log_window = '1 min'").await;
    runner.report(&claimed, serde_json::json!({"outcome": "success", "log_end": 7})).await;
    run(&mut fleet.operator, "update tendril_core.attempts set ended_at = ended_at - interval '1 h'").await;
    assert_eq!(fleet.database.duty("log_windows").await, 1);
    assert_eq!(archive_all(&fleet, &store, SMALL).await, [Archived::Empty]);
    assert_eq!(state_of(&mut fleet, claimed.attempt_id).await, "empty");
    // A row that the check would not let in today: 1 MB in one chunk.
    let (mut runner, claimed) = at_work(&mut fleet).await;
    let off = |what| format!("alter table tendril.log_inbox {what} trigger log_check");
    run(&mut fleet.operator, &off("disable")).await;
    runner.copy(&[row(&claimed, 0, 0, &"x".repeat(1_000_000)), row(&claimed, 1, 1, "behind it\n")]).await.unwrap();
    run(&mut fleet.operator, &off("enable")).await;
    close(&fleet, &mut runner, &claimed, 2).await;
    let done = archive_all(&fleet, &store, Sizes::default()).await;
    let [Archived::Stored(record)] = done.as_slice() else {
        panic!("{done:?}");
    };
    assert!(record.text_bytes < 201_000, "{} bytes", record.text_bytes);
}
