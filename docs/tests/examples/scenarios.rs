//! What every example has to do, in each language.

use crate::folder;
use crate::portal::Portal;
use crate::program::Example;
use crate::runner::FakeRunner;
use tendril_broker::operator::grants::Scope;
use uuid::Uuid;

async fn a_deployment_is_followed_to_its_end_with_every_log_line(example: &Example) {
    let portal = Portal::open().await;
    let mut runner = FakeRunner::start(&portal.database, portal.cluster.token.reveal()).await;
    let mut program = portal.submit(example, &folder().join("snapshot.json"), None);

    let plan = runner.claim().await;
    runner.write(&plan, 0, "Plan: 1 to add\n").await;
    // It is shown while the job still runs.
    program.wait_for("Plan: 1 to add").await;
    runner.write(&plan, 1, "planned, as one says: \u{e4}\u{4e16}\u{1f600}\n").await;
    runner.finish(&plan, 1).await;
    let apply = runner.claim().await;
    runner.broker.start(&apply.lease).await.unwrap();
    runner.write(&apply, 0, "Creating\n").await;
    program.wait_for("PROCESSING").await;
    runner.finish(&apply, 1).await;
    // A finish may overtake the last rows: the end is where the log ends, not where the deployment does.
    program.wait_for("SUCCESS").await;
    runner.write(&apply, 1, "Apply complete!\n").await;

    let done = program.finish().await;
    assert_eq!(done.code, Some(0), "{}", done.text());
    let lines = ["Plan: 1 to add", "planned, as one says: \u{e4}\u{4e16}\u{1f600}", "Creating", "Apply complete!"];
    assert_eq!(done.lines_like(&lines), lines, "{}", done.text());
}

async fn a_refused_snapshot_is_told_with_the_path_of_every_wrong_key(example: &Example) {
    let portal = Portal::open().await;
    let dir = tempfile::tempdir().unwrap();
    let bad = dir.path().join("bad.json");
    // Tried: a kind that does not exist, and a need that no job meets.
    let snapshot = r#"{"jobs": [{"name": "a", "kind": "nonsense"}, {"name": "b", "kind": "exec", "argv": ["true"], "needs": ["c"]}]}"#;
    std::fs::write(&bad, snapshot).unwrap();
    let done = portal.submit(example, &bad, None).finish().await;
    assert!(done.code.is_some_and(|code| code != 0), "{}", done.text());
    for word in ["TD001", "config_snapshot.jobs[0].kind", "nonsense", "config_snapshot.jobs[1].needs[0]"] {
        assert!(done.text().contains(word), "{word} is missing in:\n{}", done.text());
    }
    assert!(portal.deployments().await.is_empty());
}

async fn a_cancelled_deployment_ends_and_an_id_that_is_sent_twice_queues_once(example: &Example) {
    let portal = Portal::open().await;
    let snapshot = folder().join("snapshot.json");
    let id = Uuid::from_u128(0x0198_0000_0000_7000_8000_0000_0000_0001);
    let mut program = portal.submit(example, &snapshot, Some(id));
    program.wait_for("QUEUED").await;
    let cancelled = example.cancel(&portal.url, id).finish().await;
    assert!(cancelled.code == Some(0) && cancelled.text().contains("CANCELLED"), "{}", cancelled.text());
    let done = program.finish().await;
    assert!(done.code.is_some_and(|code| code != 0) && done.text().contains("CANCELLED"), "{}", done.text());

    // As after a lost reply: nothing is queued, and what became of it is told.
    let again = portal.submit(example, &snapshot, Some(id)).finish().await;
    assert!(again.text().contains("CANCELLED"), "{}", again.text());
    let listed = portal.deployments().await;
    assert_eq!(listed.iter().map(|deployment| deployment.id).collect::<Vec<_>>(), [id]);
    let again = example.cancel(&portal.url, id).finish().await;
    assert!(again.code != Some(0) && again.text().contains("TD003"), "{}", again.text());
}

async fn an_id_of_somebody_else_is_neither_queued_nor_followed(example: &Example) {
    let portal = Portal::open().await;
    let snapshot = folder().join("snapshot.json");
    let id = Uuid::from_u128(0x0198_0000_0000_7000_8000_0000_0000_0002);
    let mut first = portal.submit(example, &snapshot, Some(id));
    first.wait_for("QUEUED").await;
    let cluster = portal.database.cluster("other").await.id;
    let other = portal.database.portal(Scope::Cluster(cluster)).await;
    let done = example.submit(&other.url, cluster, &snapshot, Some(id)).finish().await;
    assert!(done.code != Some(0) && done.text().contains("somebody else's"), "{}", done.text());
    assert!(!done.text().contains("QUEUED"), "{}", done.text());
}

macro_rules! languages {
    ($($language:ident)*) => {$(
        mod $language {
            use super::*;

            #[tokio::test]
            async fn a_deployment_is_followed_to_its_end_with_every_log_line() {
                let Some(example) = Example::$language() else { return };
                super::a_deployment_is_followed_to_its_end_with_every_log_line(&example).await;
            }

            #[tokio::test]
            async fn a_refused_snapshot_is_told_with_the_path_of_every_wrong_key() {
                let Some(example) = Example::$language() else { return };
                super::a_refused_snapshot_is_told_with_the_path_of_every_wrong_key(&example).await;
            }

            #[tokio::test]
            async fn a_cancelled_deployment_ends_and_an_id_that_is_sent_twice_queues_once() {
                let Some(example) = Example::$language() else { return };
                super::a_cancelled_deployment_ends_and_an_id_that_is_sent_twice_queues_once(&example).await;
            }

            #[tokio::test]
            async fn an_id_of_somebody_else_is_neither_queued_nor_followed() {
                let Some(example) = Example::$language() else { return };
                super::an_id_of_somebody_else_is_neither_queued_nor_followed(&example).await;
            }
        }
    )*};
}

languages! { psql node python go }
