//! An archive that is away holds up nothing that is in the database, and one that refuses says what it wants.

use std::time::Duration;

use serde_json::json;
use tendril_broker::archive::{Archived, Sizes};
use tendril_broker::portal::logs::LogReader;
use tendril_broker::portal::{Event, Watch};
use tokio::time::timeout;
use uuid::Uuid;

use crate::fleet::{Claimed, Fleet, Runner, reading, run};
use crate::program::{Running, command};
use crate::service::{BUCKET, Door, Service};
use crate::shelf::{SMALL, age, announce, archive_all, closed_log, print, read_all, removal_is_due};

const PATIENCE: Duration = Duration::from_secs(60);

/// A deployment of two jobs: the log of one is archived and has left the database, the other one prints.
async fn half_archived(fleet: &mut Fleet, service: &Service) -> (Runner, Claimed, Claimed) {
    announce(fleet).await;
    fleet.deploy_jobs(&[reading("old"), reading("young")]).await;
    let mut runner = fleet.runner().await;
    let mut claimed = runner.claim(2).await;
    claimed.sort_by(|a, b| a.job.cmp(&b.job));
    let [mut old, young] = <[Claimed; 2]>::try_from(claimed).unwrap_or_else(|_| panic!("two were there"));
    runner.take_over().await;
    print(&mut runner, &old, 100).await;
    runner.report(&old, json!({"outcome": "success", "log_end": 99})).await;
    assert_eq!(fleet.database.duty("log_windows").await, 1);
    let done = archive_all(fleet, &service.archive().await, SMALL).await;
    assert!(matches!(done.as_slice(), [Archived::Stored(_)]), "{done:?}");
    age(fleet, &mut old, 40).await;
    removal_is_due(fleet).await;
    assert_eq!(tendril_broker::archive::days::remove_due(&mut fleet.operator).await.unwrap().len(), 1);
    runner.append(&young, 0, 0, "young line 0\n").await.unwrap();
    (runner, old, young)
}

fn following(fleet: &Fleet, service: &Service, deployment: Uuid) -> Running {
    let mut logs = command(&fleet.database.url(), &["logs", &deployment.to_string(), "--follow"]);
    logs.envs(service.environment());
    Running::run(logs)
}

#[tokio::test]
async fn who_follows_reads_on_while_the_archive_is_away_and_what_lies_there_once_it_is_back() {
    let mut fleet = Fleet::new().await;
    let service = Service::start().await;
    let (mut runner, old, young) = half_archived(&mut fleet, &service).await;
    let mut end = 0;
    // Tried: an archive that answers 503, and one that does not answer at all.
    for door in [Door::Sick("GET"), Door::Silent("GET")] {
        service.set(door);
        let mut logs = following(&fleet, &service, old.deployment_id);
        timeout(PATIENCE, logs.prints("young line 0")).await.expect("what is in the database");
        let said = timeout(PATIENCE, logs.says("cannot reach the archive")).await.expect("it says so");
        assert!(said.contains("s3://logs/p/") && said.contains("hint: ") && said.contains("waits"), "{said}");
        end += 1;
        let line = format!("young line {end}");
        runner.append(&young, end, end, &format!("{line}\n")).await.unwrap();
        timeout(PATIENCE, logs.prints(&line)).await.expect("what happens meanwhile");
        if door == Door::Sick("GET") {
            logs.signal("TERM").await;
            assert_eq!(timeout(PATIENCE, logs.end()).await.unwrap().code(), Some(130));
            continue;
        }
        // All has ended, but not all was read.
        runner.report(&young, json!({"outcome": "success", "log_end": end})).await;
        service.set(Door::Open);
        for number in 0..100 {
            timeout(PATIENCE, logs.prints(&format!("old | {number} "))).await.expect("what is archived");
        }
        assert_eq!(timeout(PATIENCE, logs.end()).await.unwrap().code(), Some(0));
    }
}

#[tokio::test]
async fn a_plain_read_gives_what_the_database_has_and_then_says_what_is_missing() {
    let mut fleet = Fleet::new().await;
    let service = Service::start().await;
    let (.., young) = half_archived(&mut fleet, &service).await;
    service.set(Door::Sick("GET"));
    let id = young.deployment_id.to_string();
    for more in [&[][..], &["--json"]] {
        let mut logs = command(&fleet.database.url(), &[&["logs", id.as_str()], more].concat());
        let told = logs.envs(service.environment()).output().await.unwrap();
        let (out, err) = (String::from_utf8(told.stdout).unwrap(), String::from_utf8(told.stderr).unwrap());
        assert_eq!(told.status.code(), Some(4), "{err}");
        assert!(out.contains("young line 0") && out.lines().count() == 1, "{out}");
        assert!(err.contains("cannot reach the archive s3://logs/p/") && err.contains("look at the endpoint"), "{err}");
    }
    // The same reader goes on from there.
    let mut reader = LogReader::new(young.deployment_id).with_archive(Some(service.archive().await));
    while reader.next(&mut fleet.portal).await.is_ok() {}
    service.set(Door::Open);
    let (rest, reader) = read_all(&mut fleet, reader).await;
    assert_eq!((rest.first().unwrap().seq, rest.last().unwrap().seq_to), (0, 99));
    assert!(rest.iter().all(|chunk| chunk.job == "old") && reader.troubles().is_empty());
}

#[tokio::test]
async fn who_follows_a_log_learns_of_its_end_from_the_log() {
    let mut fleet = Fleet::new().await;
    fleet.deploy_jobs(&[reading("a")]).await;
    let mut runner = fleet.runner().await;
    let claimed = runner.claim_one().await;
    runner.take_over().await;
    // Nobody is asked for the status while lines come.
    let revoke = "do $$ begin execute format('revoke execute on function tendril.status(uuid) from %I', \
                  tendril_core.group_role('portal')); end $$";
    run(&mut fleet.operator, revoke).await;
    let mut watch = Watch::new(claimed.deployment_id).logs_only();
    for seq in 0..3 {
        runner.append(&claimed, seq, seq, "a line\n").await.unwrap();
        let events = watch.next(&mut fleet.portal).await.unwrap();
        assert!(matches!(events.as_slice(), [Event::Log(chunk)] if chunk.seq == seq), "{events:?}");
    }
    run(&mut fleet.operator, &revoke.replace("revoke", "grant").replace(" from ", " to ")).await;
    // Ended, while its last row is on its way.
    runner.report(&claimed, json!({"outcome": "success", "log_end": 3})).await;
    runner.append(&claimed, 3, 3, "the last line\n").await.unwrap();
    let events = watch.next(&mut fleet.portal).await.unwrap();
    let [Event::Log(chunk), Event::End(ending)] = events.as_slice() else {
        panic!("{events:?}");
    };
    assert!(chunk.seq == 3 && ending.logs_complete && ending.state.is_final());
}

/// What the service answers, what `serve` and `logs` then say, and which remedy.
type Answer<'a> = (Door, &'a str, &'a str);

/// As AWS words it.
const ANSWERS: [Answer<'static>; 4] = [
    (
        Door::Answers(404, "NoSuchBucket", "The specified bucket does not exist"),
        "NoSuchBucket: The specified bucket does not exist (HTTP 404)",
        "create the bucket, or name the right one (TENDRIL_ARCHIVE_URL)",
    ),
    (
        Door::Answers(403, "SignatureDoesNotMatch", "The request signature we calculated does not match"),
        "SignatureDoesNotMatch: The request signature",
        "check the credentials (AWS_ACCESS_KEY_ID",
    ),
    (
        Door::Answers(403, "AccessDenied", "Access Denied"),
        "AccessDenied: Access Denied (HTTP 403)",
        "allow s3:PutObject",
    ),
    (
        Door::Answers(301, "PermanentRedirect", "The bucket you are attempting to access must be addressed otherwise"),
        "(HTTP 301); the bucket is in eu-central-1",
        "set TENDRIL_ARCHIVE_REGION to the bucket's own region",
    ),
];

#[tokio::test]
async fn a_bucket_that_refuses_is_said_by_name_with_a_remedy() {
    let mut fleet = Fleet::new().await;
    let service = Service::start().await;
    let (.., young) = half_archived(&mut fleet, &service).await;
    closed_log(&mut fleet, 5).await;
    let url = fleet.database.url();
    for (door, words, remedy) in ANSWERS {
        service.set(door);
        let due = "update tendril_core.log_archives set due_at = '-infinity' where state = 'waiting'";
        run(&mut fleet.operator, due).await;
        let mut serve = command(&url, &["serve"]);
        serve.envs(service.environment());
        let mut serve = Running::run(serve);
        let said = timeout(PATIENCE, serve.says("it is tried again")).await.expect("it says so");
        assert!(said.contains("refuses") && said.contains(words) && said.contains(remedy), "{said}");
        serve.signal("TERM").await;
        assert_eq!(serve.end().await.code(), Some(0));
        // Who follows is told at once, too: waiting would not mend it.
        for more in [&[][..], &["--follow"]] {
            let mut logs = command(&url, &[&["logs", &young.deployment_id.to_string()], more].concat());
            let told = timeout(PATIENCE, logs.envs(service.environment()).output()).await.unwrap().unwrap();
            let (out, err) = (String::from_utf8(told.stdout).unwrap(), String::from_utf8(told.stderr).unwrap());
            assert_eq!(told.status.code(), Some(1), "{err}");
            assert!(out.contains("young line 0"), "{out}");
            assert!(err.contains(words) && err.contains(remedy), "{err}");
        }
        let mut doctor = command(&url, &["doctor", "--json"]);
        let told = doctor.envs(service.environment()).output().await.unwrap();
        let found: serde_json::Value = serde_json::from_slice(&told.stdout).unwrap();
        let bucket = found["findings"].as_array().unwrap().iter().find(|finding| finding["check"] == "archive_bucket");
        let bucket = bucket.expect("it looks at the bucket");
        assert_eq!((bucket["level"].as_str(), told.status.code()), (Some("fail"), Some(1)), "{bucket}");
        assert!(bucket["message"].as_str().unwrap().contains(words), "{bucket}");
        assert!(bucket["remedy"].as_str().unwrap().contains(remedy), "{bucket}");
    }
    service.set(Door::Open);
    let done = archive_all(&fleet, &service.archive().await, Sizes::default()).await;
    assert!(matches!(done.as_slice(), []), "they wait for their pauses: {done:?}");
}

#[tokio::test]
async fn doctor_tries_what_archiving_needs_and_tells_when_it_cannot() {
    let mut fleet = Fleet::new().await;
    let service = Service::start().await;
    let url = fleet.database.url();
    let found = async |more: &[(&str, &str)]| {
        let mut doctor = command(&url, &["doctor", "--json"]);
        doctor.envs(service.environment());
        for (name, value) in more {
            match *value {
                "" => doctor.env_remove(name),
                value => doctor.env(name, value),
            };
        }
        let told = doctor.output().await.unwrap();
        let found: serde_json::Value = serde_json::from_slice(&told.stdout).unwrap();
        let bucket = found["findings"].as_array().unwrap().iter().find(|finding| finding["check"] == "archive_bucket");
        bucket.map(|bucket| format!("{}: {} -> {}", bucket["level"], bucket["message"], bucket["remedy"]))
    };
    let good = found(&[]).await.unwrap();
    assert!(good.starts_with("\"ok\"") && good.contains("s3://logs/p"), "{good}");
    let (put, deleted) = (service.requests("PUT /logs/p/tendril-doctor"), service.requests("DELETE"));
    assert_eq!((put.len(), deleted.len()), (1, 1), "one object, and the parts of another that are let go");
    // Tried: another secret; an address where nobody listens; another archive than the one that serve uses; none at all.
    let refused = found(&[("AWS_SECRET_ACCESS_KEY", "other")]).await.unwrap();
    assert!(refused.starts_with("\"fail\"") && refused.contains("SignatureDoesNotMatch"), "{refused}");
    let nobody = found(&[("TENDRIL_ARCHIVE_ENDPOINT", "http://127.0.0.1:1")]).await.unwrap();
    assert!(nobody.starts_with("\"fail\"") && nobody.contains("Connection refused"), "{nobody}");
    announce(&mut fleet).await;
    let other = found(&[("TENDRIL_ARCHIVE_URL", &format!("s3://{BUCKET}/q"))]).await.unwrap();
    assert!(other.starts_with("\"warn\"") && other.contains("s3://logs/p") && other.contains("s3://logs/q"), "{other}");
    let unseen = found(&[("TENDRIL_ARCHIVE_URL", "")]).await.unwrap();
    assert!(unseen.starts_with("\"ok\"") && unseen.contains("was not looked at"), "{unseen}");
}
