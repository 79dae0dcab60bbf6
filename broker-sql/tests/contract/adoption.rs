//! The next process of a place answers for an attempt whose runner was lost.

use serde_json::json;

use crate::fleet::{Claimed, Fleet, Runner, exec, id, one, refused, run, sqlstate};

/// The next process of a runner's place: another runner with the same spool.
async fn heir(fleet: &Fleet, of: &Runner) -> Runner {
    let session = fleet.database.runner(fleet.cluster.token.reveal()).await;
    let mut heir = Runner { session, id: id(), writer: of.writer, claim_no: 0, epoch: 0 };
    let info = json!({"name": "heir", "version": "0", "labels": ["kind=exec"], "slots": 8, "log_writer": heir.writer});
    run(&mut heir.session, &format!("select tendril.runner_register('{}', 2, '{info}')", heir.id)).await;
    heir
}

async fn adopt(runner: &mut Runner, claimed: &Claimed) -> String {
    let sql = adopt_sql(runner, claimed);
    one(&mut runner.session, &sql).await
}

fn adopt_sql(runner: &Runner, claimed: &Claimed) -> String {
    format!("select tendril.runner_adopt('{}', '{}', {})", runner.id, claimed.attempt_id, claimed.fence)
}

#[tokio::test]
async fn the_next_process_of_a_place_holds_what_its_lost_runner_held() {
    let mut fleet = Fleet::new().await;
    let deployment = fleet.deploy_jobs(&[exec("a")]).await;
    let mut lost = fleet.runner().await;
    let claimed = lost.claim_one().await;
    lost.start(&claimed).await;
    fleet.lose(&lost).await;
    assert_eq!(fleet.job(deployment, "a").await, "UNKNOWN");
    let mut next = heir(&fleet, &lost).await;
    for _ in 0..2 {
        // Asked again after a lost reply it is the same.
        assert_eq!(adopt(&mut next, &claimed).await, "adopted");
    }
    let state = fleet.state(deployment).await;
    assert_eq!((state.jobs[0].state.as_str(), state.error_message), ("STARTED", None));
    // From now on it hears of requests to stop, and its own silence counts.
    run(&mut fleet.portal, &format!("select tendril.cancel('{deployment}', 'enough')")).await;
    let reply = next.heartbeat(&[&claimed]).await;
    assert_eq!((&reply["held"], &reply["cancel"]), (&json!([claimed.attempt_id]), &json!([claimed.attempt_id])));
    assert_eq!(lost.heartbeat(&[]).await["held"], json!([]), "the lost one gives up what is not its own any more");
    assert_eq!(fleet.job(deployment, "a").await, "STARTED");
    assert_eq!(next.finish(&claimed, "cancelled").await, "accepted");
    assert_eq!(fleet.status(deployment).await, "CANCELLED");
    let note = "select what from tendril_core.attempt_notes";
    assert!(one::<String>(&mut fleet.operator, note).await.contains("of the same place goes on with it"));
    assert_eq!(adopt(&mut next, &claimed).await, "ended");
}

#[tokio::test]
async fn an_adopted_attempt_that_its_new_holder_does_not_name_is_lost_again() {
    let mut fleet = Fleet::new().await;
    let deployment = fleet.deploy_jobs(&[exec("a")]).await;
    let mut lost = fleet.runner().await;
    let claimed = lost.claim_one().await;
    lost.start(&claimed).await;
    let mut next = heir(&fleet, &lost).await;
    adopt(&mut next, &claimed).await;
    next.heartbeat(&[]).await;
    assert_eq!(fleet.job(deployment, "a").await, "UNKNOWN");
    fleet.silence(&next).await;
    assert_eq!(adopt(&mut next, &claimed).await, "adopted");
    assert_eq!(fleet.job(deployment, "a").await, "STARTED");
}

#[tokio::test]
async fn what_the_job_has_gone_on_without_is_not_adopted_and_its_report_is_a_note() {
    let mut fleet = Fleet::new().await;
    let deployment = fleet.deploy_jobs(&[exec("a")]).await;
    let mut lost = fleet.runner().await;
    let claimed = lost.claim_one().await;
    lost.start(&claimed).await;
    fleet.lose(&lost).await;
    run(&mut fleet.operator, &format!("select tendril.declare_lost('{deployment}', 'a', 'the machine burned')")).await;
    let mut next = heir(&fleet, &lost).await;
    assert_eq!(adopt(&mut next, &claimed).await, "superseded");
    assert_eq!(next.finish(&claimed, "success").await, "noted");
    assert_eq!(fleet.status(deployment).await, "FAILED");
}

#[tokio::test]
async fn nobody_but_the_next_process_of_the_place_adopts_anything() {
    let mut fleet = Fleet::new().await;
    fleet.deploy_jobs(&[exec("a")]).await;
    let mut lost = fleet.runner().await;
    let claimed = lost.claim_one().await;
    lost.start(&claimed).await;
    // Tried: another place of the cluster, another cluster, a runner that never registered, a fence that was never given.
    let mut other = fleet.runner().await;
    let sql = adopt_sql(&other, &claimed);
    let refusal = refused(&mut other.session, &sql).await;
    assert_eq!(refusal.sqlstate, "TD002");
    assert!(refusal.message.contains("belongs to another place"), "{}", refusal.message);
    let two = fleet.database.cluster("two").await;
    let mut stranger = fleet.runner_of(&two, &["kind=exec"]).await;
    let sql = adopt_sql(&stranger, &claimed);
    assert_eq!(sqlstate(&mut stranger.session, &sql).await, "TD002");
    let unknown = Runner { session: other.session, id: id(), writer: lost.writer, claim_no: 0, epoch: 0 };
    let (mut session, sql) = (lost.session, adopt_sql(&unknown, &claimed));
    assert_eq!(sqlstate(&mut session, &sql).await, "TD002");
    let forged = Claimed { fence: claimed.fence + 1, ..claimed.clone() };
    let lost = Runner { session, ..unknown };
    let mut next = heir(&fleet, &lost).await;
    let sql = adopt_sql(&next, &forged);
    assert_eq!(sqlstate(&mut next.session, &sql).await, "TD002");
}
