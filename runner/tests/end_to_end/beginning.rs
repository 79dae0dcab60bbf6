//! What a runner needs before it takes work, and how it says what is missing.

use crate::fleet::{Fleet, until};
use serde_json::json;
use tendril_broker::testing::TestDatabase;
use tendril_broker::testing::pooler::Mode;

#[tokio::test]
async fn a_runner_claims_nothing_that_it_may_not_start_yet() {
    let fleet = Fleet::new().await;
    // They wait already when the runner registers, and its first heartbeat is not answered yet.
    let jobs: Vec<_> =
        (0..8).map(|n| json!({"name": format!("job{n}"), "kind": "exec", "argv": ["/bin/true"]})).collect();
    let deployment = fleet.submit(&json!({"jobs": jobs})).await;
    let runner = fleet.runner("a", &[]).await;
    let status = fleet.ended(deployment).await;
    assert_eq!(status["status"], "SUCCESS");
    let claims: Vec<_> = status["jobs"].as_array().expect("jobs").iter().map(|job| &job["attempts"]).collect();
    assert!(claims.iter().all(|count| **count == 1), "{claims:?}");
    runner.end().await;
}

#[tokio::test]
async fn a_wrong_token_ends_the_runner_at_once_with_words() {
    let fleet = Fleet::new().await;
    let mut runner = fleet.stranger().await;
    assert!(!runner.exited().await.success());
    let said = runner.all_said();
    assert!(said.contains("refuses role r_") && !said.contains("0000000000"), "{said}");
}

#[tokio::test]
async fn a_runner_works_through_a_pooler_in_session_mode_and_ends_at_once_at_one_in_transaction_mode() {
    let fleet = Fleet::new().await;
    let (url, token) = fleet.door();
    let Some(pooler) = fleet.pooler(Mode::Transaction).await else { return };
    let mut runner = fleet.runner_by("refused", &pooler.through(&url), &token);
    assert_eq!(runner.exited().await.code(), Some(1));
    let said = runner.all_said();
    assert!(said.contains("transaction mode") && said.contains("use a pooler's session mode"), "{said}");
    let Some(pooler) = fleet.pooler(Mode::Session).await else { return };
    let mut runner = fleet.runner_by("a", &pooler.through(&url), &token);
    runner.said("registered").await;
    let argv = ["/usr/bin/seq", "1000"];
    let deployment = fleet.submit(&json!({"jobs": [{"name": "x", "kind": "exec", "argv": argv}]})).await;
    assert_eq!(fleet.ended(deployment).await["status"], "SUCCESS");
    assert_eq!(fleet.whole_log(deployment).await.lines().count(), 1000);
    runner.end().await;
}

#[tokio::test]
async fn a_database_that_is_not_the_brokers_ends_the_runner_at_once_with_what_to_do() {
    let fleet = Fleet::new().await;
    // Tried: a database without the schema, and one that has it and does not know the token's role.
    for (database, words) in [
        (TestDatabase::empty().await, ["schema \"tendril\" does not exist", "tendril-broker migrate"]),
        (TestDatabase::create().await, ["is not a runner's credential", "use the token that cluster create"]),
    ] {
        let mut runner = fleet.lost(&database).await;
        assert_eq!(runner.exited().await.code(), Some(1));
        let said = runner.all_said();
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
    }
}

#[tokio::test]
async fn a_runner_that_waits_for_its_broker_lives_and_is_not_ready() {
    let mut fleet = Fleet::new().await;
    fleet.read_only(true).await;
    let mut runner = fleet.second("a");
    runner.said("cannot register yet").await;
    assert_eq!(runner.get("/healthz").await, "alive\n");
    for path in ["/readyz", "/metrics"] {
        let answer = runner.get(path).await;
        assert!(answer.starts_with("not registered yet"), "{path}: {answer}");
    }
    fleet.read_only(false).await;
    until("the runner is ready", async || (runner.get("/readyz").await == "ready\n").then_some(())).await;
    runner.end().await;
}

#[tokio::test]
async fn a_runner_has_as_many_open_files_as_it_may_and_its_commands_have_the_usual_number() {
    let mut fleet = Fleet::new().await;
    fleet.limit_open_files(300, 700);
    let mut runner = fleet.runner("a", &[]).await;
    runner.said("open_files=700").await;
    let argv = ["/bin/bash", "-c", "echo $(ulimit -Sn) $(ulimit -Hn)"];
    let deployment = fleet.submit(&json!({"jobs": [{"name": "x", "kind": "exec", "argv": argv}]})).await;
    assert_eq!(fleet.ended(deployment).await["status"], "SUCCESS");
    assert_eq!(fleet.whole_log(deployment).await, "300 700\n");
    runner.end().await;
}

#[tokio::test]
async fn a_runner_that_has_too_few_open_files_for_its_spool_says_so_and_loses_nothing_of_it() {
    let mut fleet = Fleet::new().await;
    let runner = fleet.runner("a", &[]).await;
    let spool = runner.state().join("spool").join(fleet.cluster().simple().to_string());
    runner.end().await;
    // As after a long outage: more segments than a process may open. Tried: all of them whole and empty.
    let names: Vec<_> = (0x1000..0x1100).map(|number| spool.join(format!("{number:08x}.seg"))).collect();
    names.iter().for_each(|name| std::fs::write(name, "").expect("a segment"));
    fleet.limit_open_files(100, 200);
    let mut runner = fleet.second("a");
    assert_eq!(runner.exited().await.code(), Some(1));
    let said = runner.all_said();
    assert!(said.contains("Too many open files") && said.contains("raise the limit of open files"), "{said}");
    assert!(names.iter().all(|name| name.exists()), "it may be opened by another process");
    fleet.limit_open_files(100, 2000);
    fleet.runner("a", &[]).await.end().await;
}
