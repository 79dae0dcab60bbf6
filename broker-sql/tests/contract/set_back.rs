//! The database was set back in time: what runners know of it, and what is left to people.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::fleet::{
    Claimed, Fleet, Runner, apply_at, exec, id, needing, one, reading, refused, run, sqlstate, start_sql,
};
use crate::program::broker;

/// As after a restore: the same rows, in another history.
async fn set_back(fleet: &mut Fleet) {
    run(&mut fleet.operator, "update tendril.clusters set origin = 'before'").await;
    run(&mut fleet.operator, "update tendril_core.runner_leases set witnessed = 'before'").await;
}

/// The doubt has lasted for a minute more.
async fn a_minute_passes(fleet: &mut Fleet) {
    run(&mut fleet.operator, "update tendril.clusters set doubted_at = doubted_at - interval '1 min', heard_at = heard_at - interval '1 min'").await;
    run(&mut fleet.operator, "select tendril_core.duty_doubts()").await;
}

/// What a runner says that has seen nothing which the database does not know.
fn witness() -> Value {
    json!({"incarnation": 1, "fence": 0, "runners": [], "open": [], "ended": []})
}

fn with(mut witness: Value, key: &str, value: Value) -> Value {
    witness[key] = value;
    witness
}

/// An attempt that the broker had acknowledged as ended.
fn ended((attempt, fence): (Uuid, i64), deployment: Uuid) -> Value {
    json!([{"attempt_id": attempt, "fence": fence, "deployment_id": deployment, "job": "a", "outcome": "success",
        "ended_at": "2026-11-21T10:00:00Z"}])
}

/// An attempt that is held, and what its runner says of its start.
fn open(claimed: &Claimed, started: Option<bool>) -> Value {
    let mut open = json!({"attempt_id": claimed.attempt_id, "fence": claimed.fence});
    if let Some(started) = started {
        open["started"] = json!(started);
    }
    json!([open])
}

fn witness_sql(runner: &Runner, witness: &Value) -> String {
    format!("select tendril.runner_witness('{}', '{witness}')", runner.id)
}

async fn present(runner: &mut Runner, witness: &Value) -> Value {
    let sql = witness_sql(runner, witness);
    one(&mut runner.session, &sql).await
}

async fn incarnation(fleet: &mut Fleet) -> i64 {
    one(&mut fleet.operator, "select incarnation from tendril.clusters").await
}

#[tokio::test]
async fn nothing_is_started_in_a_new_history_until_all_runners_have_said_what_they_know() {
    let mut fleet = Fleet::new().await;
    let deployment = fleet.deploy_jobs(&[exec("a")]).await;
    let (mut first, mut second) = (fleet.runner().await, fleet.runner().await);
    let claimed = first.claim_one().await;
    set_back(&mut fleet).await;
    assert_eq!(sqlstate(&mut first.session, &start_sql(&claimed)).await, "TD015");
    present(&mut first, &with(witness(), "fence", json!(claimed.fence))).await;
    assert_eq!(sqlstate(&mut first.session, &start_sql(&claimed)).await, "TD015", "the other one may know more");
    // What only reads does no harm when it is done twice.
    fleet.deploy_jobs(&[reading("b")]).await;
    first.perform("success").await;
    a_minute_passes(&mut fleet).await;
    assert_eq!(sqlstate(&mut first.session, &start_sql(&claimed)).await, "TD015", "it is still waited for");
    assert_eq!(present(&mut first, &witness()).await["doubted"], json!(true));
    // The last one to speak ends it, also where nobody serves.
    assert_eq!(present(&mut second, &witness()).await["doubted"], json!(false));
    first.start(&claimed).await;
    assert_eq!(first.finish(&claimed, "success").await, "accepted");
    assert_eq!(fleet.status(deployment).await, "SUCCESS");
    assert_eq!(incarnation(&mut fleet).await, 1, "nothing was lost");
}

#[tokio::test]
async fn the_next_process_of_a_place_speaks_for_those_before_it() {
    let mut fleet = Fleet::new().await;
    fleet.deploy_jobs(&[exec("a")]).await;
    let (gone, mut next) = (fleet.runner().await, fleet.runner().await);
    let claimed = next.claim_one().await;
    set_back(&mut fleet).await;
    present(&mut next, &with(witness(), "runners", json!([gone.id]))).await;
    a_minute_passes(&mut fleet).await;
    next.start(&claimed).await;
}

#[tokio::test]
async fn a_runner_that_registered_in_the_lost_time_has_the_time_of_a_lease_to_speak() {
    let mut fleet = Fleet::new().await;
    let queued = fleet.deploy_jobs(&[exec("a")]).await;
    let mut known = fleet.runner().await;
    let claimed = known.claim_one().await;
    set_back(&mut fleet).await;
    present(&mut known, &witness()).await;
    run(&mut fleet.operator, "select tendril_core.duty_doubts()").await;
    assert_eq!(
        sqlstate(&mut known.session, &start_sql(&claimed)).await,
        "TD015",
        "all that the database knows of have spoken"
    );
    let mut forgotten = fleet.runner().await;
    present(&mut forgotten, &with(witness(), "ended", ended((id(), 1), queued))).await;
    a_minute_passes(&mut fleet).await;
    assert_eq!(sqlstate(&mut known.session, &start_sql(&claimed)).await, "TD005");
}

#[tokio::test]
async fn what_may_have_been_done_in_a_lost_time_waits_for_people() {
    let mut fleet = Fleet::new().await;
    let queued = fleet.deploy_jobs(&[exec("a"), needing(exec("b"), &["a"])]).await;
    let mut runner = fleet.runner().await;
    // The runner has done it; the database forgot.
    let lost = (id(), 1);
    let told = present(&mut runner, &with(witness(), "ended", ended(lost, queued))).await;
    assert_eq!(told, json!({"incarnation": 2, "doubted": false, "resend": [], "lost": [lost.0]}));
    assert_eq!(fleet.status(queued).await, "AWAITING_APPROVAL");
    let waits = fleet.waiting_for(queued).await.expect("it waits");
    assert!(waits.contains("ended as success at 2026-11-21 10:00:00 UTC"), "{waits}");
    assert!(runner.claim(10).await.is_empty());
    // The same witness again, after a lost reply, changes nothing, and neither does an older one.
    let again = present(&mut runner, &with(witness(), "ended", ended(lost, queued))).await;
    assert_eq!(again["incarnation"], json!(2));

    run(&mut fleet.portal, &format!("select tendril.approve('{queued}', 'a', 'nothing was there')")).await;
    runner.perform("success").await;
    assert_eq!(fleet.job(queued, "b").await, "AWAITING_APPROVAL", "it was waiting too");
    let later = fleet.deploy_jobs(&[exec("a")]).await;
    runner.perform("success").await;
    assert_eq!(fleet.status(later).await, "SUCCESS", "what is submitted now is not in doubt");
}

#[tokio::test]
async fn a_lost_end_is_asked_for_again_and_a_claim_of_before_is_not_started() {
    let mut fleet = Fleet::new().await;
    let (begun, claimed_only) = (fleet.deploy_jobs(&[exec("a")]).await, fleet.deploy_jobs(&[exec("a")]).await);
    let mut runner = fleet.runner().await;
    let [first, second] = runner.claim(2).await.try_into().expect("two jobs");
    runner.start(&first).await;
    let told = present(&mut runner, &with(witness(), "ended", ended((first.attempt_id, first.fence), begun))).await;
    assert_eq!(told["resend"], json!([first.attempt_id]));
    assert_eq!(runner.finish(&first, "success").await, "accepted");
    assert_eq!(fleet.status(begun).await, "SUCCESS");
    let refusal = refused(&mut runner.session, &start_sql(&second)).await;
    assert_eq!(refusal.sqlstate, "TD005");
    runner.heartbeat(&[]).await;
    assert_eq!(fleet.job(claimed_only, "a").await, "AWAITING_APPROVAL");
    run(&mut fleet.portal, &format!("select tendril.approve('{claimed_only}')")).await;
    runner.perform("success").await;
    assert_eq!(fleet.status(claimed_only).await, "SUCCESS");
}

#[tokio::test]
async fn a_fence_or_an_incarnation_from_the_future_shows_a_lost_time_too() {
    for (key, value, incarnation_after) in [("fence", json!(1_000_000_000), 2), ("incarnation", json!(7), 8)] {
        let mut fleet = Fleet::new().await;
        let queued = fleet.deploy_jobs(&[exec("a")]).await;
        let mut runner = fleet.runner().await;
        present(&mut runner, &with(witness(), key, value)).await;
        assert_eq!(fleet.status(queued).await, "AWAITING_APPROVAL", "{key}");
        assert_eq!(incarnation(&mut fleet).await, incarnation_after, "{key}");
        let fences = "select last_value < 1000000 from tendril_core.fences";
        assert!(one::<bool>(&mut fleet.operator, fences).await, "the sequence follows nobody's word");
    }
}

#[tokio::test]
async fn runners_that_are_not_heard_again_are_waited_for_so_long_and_then_people_decide() {
    let mut fleet = Fleet::new().await;
    let queued = fleet.deploy_jobs(&[exec("a")]).await;
    let (_silent, mut heard) = (fleet.runner().await, fleet.runner().await);
    set_back(&mut fleet).await;
    present(&mut heard, &witness()).await;
    assert_eq!(one::<i64>(&mut fleet.operator, "select tendril_core.duty_doubts()").await, 0, "its time is not over");
    run(&mut fleet.operator, "update tendril.clusters set doubted_at = doubted_at - interval '1 h'").await;
    assert_eq!(one::<i64>(&mut fleet.operator, "select tendril_core.duty_doubts()").await, 1);
    assert_eq!(fleet.status(queued).await, "AWAITING_APPROVAL");
    let why = "select quarantine_reason from tendril.clusters";
    assert_eq!(one::<String>(&mut fleet.operator, why).await, "not all runners of that time were heard again");
}

#[tokio::test]
async fn an_operator_who_has_restored_says_so_and_only_that_cluster_waits() {
    let mut fleet = Fleet::new().await;
    let other = fleet.database.cluster("other").await;
    let queued = fleet.deploy_jobs(&[exec("a")]).await;
    let elsewhere: Uuid =
        one(&mut fleet.portal, &format!("select tendril.submit('{}', '{}')", other.id, json!({"jobs": [exec("a")]})))
            .await;
    let cluster = fleet.cluster.id;
    let told: Value =
        one(&mut fleet.operator, &format!("select tendril.after_restore('{cluster}', 'a snapshot of noon')")).await;
    assert_eq!((&told["incarnation"], &told["jobs"]), (&json!(2), &json!(1)));
    assert_eq!(
        (fleet.status(queued).await.as_str(), fleet.status(elsewhere).await.as_str()),
        ("AWAITING_APPROVAL", "QUEUED")
    );
    let waits = fleet.waiting_for(queued).await.expect("it waits");
    assert!(waits.contains("a snapshot of noon"), "{waits}");
}

#[tokio::test]
async fn the_operators_program_shows_a_doubt_and_ends_it() {
    let mut fleet = Fleet::new().await;
    let queued = fleet.deploy_jobs(&[exec("a")]).await;
    let _silent = fleet.runner().await;
    set_back(&mut fleet).await;
    let url = fleet.database.url();
    let examined = broker(&url, &["doctor"]).await;
    assert!(examined.out.contains("no change is started in one (1 runners unheard"), "{}", examined.out);
    let told = broker(&url, &["after-restore", "--cluster", "one", "--reason", "restored", "--json"]).await;
    let told: Value = serde_json::from_str(&told.out).unwrap();
    assert_eq!((&told[0]["name"], &told[0]["jobs"]), (&json!("one"), &json!(1)));
    assert_eq!(fleet.status(queued).await, "AWAITING_APPROVAL");
    let examined = broker(&url, &["doctor"]).await;
    assert!(examined.out.contains("runners agree with this history"), "{}", examined.out);
    let told = broker(&url, &["after-restore"]).await;
    assert!(told.out.contains("CLUSTER") && told.out.contains("approve"), "{}", told.out);
}

#[tokio::test]
async fn a_witness_that_is_none_is_refused_and_changes_nothing() {
    let mut fleet = Fleet::new().await;
    let queued = fleet.deploy_jobs(&[exec("a")]).await;
    let mut runner = fleet.runner().await;
    // Tried: nothing, other types, words for numbers and ids, too much; somebody else's runner.
    for bad in [
        json!({}),
        json!([]),
        with(witness(), "fence", json!("many")),
        with(witness(), "open", json!({})),
        with(witness(), "runners", json!(["me"])),
        with(witness(), "open", json!([{"attempt_id": "none"}])),
        with(witness(), "open", json!([{"attempt_id": id(), "fence": 1, "started": "perhaps"}])),
    ] {
        let sql = witness_sql(&runner, &bad);
        assert_eq!(sqlstate(&mut runner.session, &sql).await, "TD001", "{bad}");
    }
    let sql = witness_sql(&runner, &with(witness(), "noise", json!("x".repeat(1 << 20))));
    assert_eq!(sqlstate(&mut runner.session, &sql).await, "TD011");
    let sql = format!("select tendril.runner_witness('{}', '{}')", id(), witness());
    assert_eq!(sqlstate(&mut runner.session, &sql).await, "TD002");
    assert_eq!(fleet.status(queued).await, "QUEUED");
}

#[tokio::test]
async fn an_end_is_not_forgotten_because_a_heartbeat_came_before_the_witness() {
    let mut fleet = Fleet::new().await;
    let deployment = fleet.deploy_jobs(&[exec("a")]).await;
    let mut runner = fleet.runner().await;
    let claimed = runner.claim_one().await;
    // The start and the end are lost, the claim is not; the runner holds it no more.
    set_back(&mut fleet).await;
    runner.heartbeat(&[]).await;
    let told =
        present(&mut runner, &with(witness(), "ended", ended((claimed.attempt_id, claimed.fence), deployment))).await;
    assert_eq!(told["lost"], json!([claimed.attempt_id]));
    assert_eq!(fleet.status(deployment).await, "AWAITING_APPROVAL");
    assert!(runner.claim(1).await.is_empty());
}

#[tokio::test]
async fn a_runner_that_has_not_heard_of_a_new_incarnation_is_believed_in_the_next_history() {
    let mut fleet = Fleet::new().await;
    let mut runner = fleet.runner().await;
    present(&mut runner, &witness()).await;
    let cluster = fleet.cluster.id;
    run(&mut fleet.operator, &format!("select tendril.after_restore('{cluster}')")).await;
    let queued = fleet.deploy_jobs(&[exec("a")]).await;
    set_back(&mut fleet).await;
    present(&mut runner, &with(witness(), "ended", ended((id(), 1), queued))).await;
    assert_eq!(fleet.status(queued).await, "AWAITING_APPROVAL");
}

#[tokio::test]
async fn a_silent_runner_is_waited_for_although_it_is_judged_lost() {
    let mut fleet = Fleet::new().await;
    let queued = fleet.deploy_jobs(&[exec("a")]).await;
    let (silent, mut heard) = (fleet.runner().await, fleet.runner().await);
    set_back(&mut fleet).await;
    // The backup is an hour old.
    run(&mut fleet.operator, "update tendril_core.runner_leases set heartbeat_at = heartbeat_at - interval '1 h'")
        .await;
    heard.heartbeat(&[]).await;
    present(&mut heard, &witness()).await;
    fleet.lose(&silent).await;
    a_minute_passes(&mut fleet).await;
    assert_ne!(
        one::<String>(&mut fleet.operator, "select origin from tendril.clusters").await,
        one::<String>(&mut fleet.operator, "select tendril_core.origin()").await,
        "it is still waited for"
    );
    assert_eq!(fleet.status(queued).await, "QUEUED");
}

#[tokio::test]
async fn a_made_up_incarnation_does_not_keep_an_operator_from_saying_that_they_have_restored() {
    let mut fleet = Fleet::new().await;
    let mut runner = fleet.runner().await;
    present(&mut runner, &with(witness(), "incarnation", json!(i64::MAX - 1))).await;
    run(&mut fleet.operator, "select tendril.after_restore()").await;
}

#[tokio::test]
async fn a_locked_deployment_of_one_tenant_does_not_hold_up_the_doubt_of_another() {
    let mut fleet = Fleet::new().await;
    let other = fleet.database.cluster("other").await;
    let mut heard = fleet.runner_of(&other, &["kind=exec"]).await;
    let _silent = fleet.runner().await;
    let queued = fleet.deploy_jobs(&[exec("a")]).await;
    set_back(&mut fleet).await;
    present(&mut heard, &witness()).await;
    run(
        &mut fleet.operator,
        "update tendril.clusters set doubted_at = now() - interval '1 h', heard_at = now() - interval '1 h'",
    )
    .await;
    let mut holder = fleet.database.operator().await;
    run(&mut holder, &format!("begin; select from tendril.deployments where id = '{queued}' for update")).await;
    run(&mut fleet.operator, "set lock_timeout = '2s'").await;
    run(&mut fleet.operator, "select tendril_core.duty_doubts()").await;
    let agreed = format!("select origin = tendril_core.origin() from tendril.clusters where id = '{}'", other.id);
    assert!(one::<bool>(&mut fleet.operator, &agreed).await);
}

#[tokio::test]
async fn a_start_that_the_database_forgot_is_taken_on_and_a_lost_runner_has_nothing_queued_again() {
    let mut fleet = Fleet::new().await;
    let (mut runner, mut other) = (fleet.runner().await, fleet.runner().await);
    let changing = fleet.deploy(apply_at("a")).await;
    runner.perform("success").await;
    let claimed = runner.claim_one().await;
    let waiting = fleet.deploy_jobs(&[exec("a")]).await;
    // The claim is known, its start is not: what the runner does now may have changed the world.
    set_back(&mut fleet).await;
    let told = present(&mut runner, &with(witness(), "open", open(&claimed, Some(true)))).await;
    assert_eq!(told, json!({"incarnation": 2, "doubted": false, "resend": [], "lost": []}));
    assert_eq!(fleet.job(changing, &claimed.job).await, "STARTED");
    assert_eq!(fleet.status(waiting).await, "AWAITING_APPROVAL", "what else was lost nobody knows");
    let why = "select quarantine_reason from tendril.clusters";
    assert_eq!(
        one::<String>(&mut fleet.operator, why).await,
        "a runner knows the starts of 1 attempts that it does not"
    );

    assert_eq!(fleet.lose(&runner).await, 1);
    assert_eq!(fleet.job(changing, &claimed.job).await, "UNKNOWN");
    assert!(other.claim(8).await.is_empty());
    let keys = "select count(*) from tendril_core.held_keys";
    assert_eq!(one::<i64>(&mut fleet.operator, keys).await, 1, "nobody else may change that state");
    let overdue = "select deadline_at > now() from tendril_core.jobs where state = 'UNKNOWN'";
    assert!(one::<bool>(&mut fleet.operator, overdue).await, "its own deadline ends it, should nobody be heard again");
    // The same again, after a lost reply, and by the next process of the place, changes nothing.
    for speaker in [&mut runner, &mut other] {
        let again = with(with(witness(), "open", open(&claimed, Some(true))), "incarnation", json!(2));
        assert_eq!(present(speaker, &again).await["incarnation"], json!(2));
    }
    runner.heartbeat(&[&claimed]).await;
    assert_eq!(fleet.job(changing, &claimed.job).await, "STARTED");
    assert_eq!(runner.finish(&claimed, "success").await, "accepted");
    assert_eq!(fleet.status(changing).await, "SUCCESS");
    assert_eq!(one::<i64>(&mut fleet.operator, keys).await, 0);
}

#[tokio::test]
async fn a_forgotten_start_takes_its_key_from_who_has_only_claimed_and_not_from_who_has_started() {
    for the_other_starts in [false, true] {
        let mut fleet = Fleet::new().await;
        let (mut runner, mut other) = (fleet.runner().await, fleet.runner().await);
        let (first, second) = (fleet.deploy(apply_at("a")).await, fleet.deploy(apply_at("a")).await);
        for plan in runner.claim(9).await {
            runner.finish(&plan, "success").await;
        }
        let forgotten = runner.claim_one().await;
        fleet.lose(&runner).await;
        let next = other.claim_one().await;
        assert_eq!(next.state_key, forgotten.state_key);
        if the_other_starts {
            other.start(&next).await;
        }
        set_back(&mut fleet).await;
        present(&mut runner, &with(witness(), "open", open(&forgotten, Some(true)))).await;
        let holder: Uuid = one(&mut fleet.operator, "select attempt_id from tendril_core.held_keys").await;
        assert_eq!(holder, if the_other_starts { next.attempt_id } else { forgotten.attempt_id });
        if the_other_starts {
            assert_eq!(other.finish(&next, "success").await, "accepted");
            continue;
        }
        // Its start is refused, it drops the work: the key stays with whoever may be at it.
        assert_eq!(sqlstate(&mut other.session, &start_sql(&next)).await, "TD005");
        other.heartbeat(&[]).await;
        for deployment in [first, second] {
            run(&mut fleet.portal, &format!("select tendril.approve('{deployment}')")).await;
        }
        assert!(other.claim(8).await.is_empty(), "it may run still");
        let report = json!({"outcome": "success", "log_end": -1, "child_dead": true});
        assert_eq!(runner.report(&forgotten, report).await, "noted");
        assert_eq!(other.claim(8).await.len(), 1);
    }
}

/// A runner that had claimed an apply when the database was set back, and whose lease has run out before it has spoken; another one.
async fn given_up() -> (Fleet, [Runner; 2], Uuid, Claimed) {
    let mut fleet = Fleet::new().await;
    let (mut runner, other) = (fleet.runner().await, fleet.runner().await);
    let changing = fleet.deploy(apply_at("a")).await;
    runner.perform("success").await;
    let claimed = runner.claim_one().await;
    set_back(&mut fleet).await;
    fleet.lose(&runner).await;
    (fleet, [runner, other], changing, claimed)
}

#[tokio::test]
async fn a_forgotten_start_whose_claim_was_given_up_holds_its_key_and_people_decide() {
    let (mut fleet, [mut runner, mut other], changing, claimed) = given_up().await;
    assert_eq!(fleet.job(changing, &claimed.job).await, "QUEUED");
    let told = present(&mut runner, &with(witness(), "open", open(&claimed, Some(true)))).await;
    assert_eq!(told["lost"], json!([claimed.attempt_id]));
    assert_eq!(fleet.job(changing, &claimed.job).await, "AWAITING_APPROVAL");
    let waits = fleet.waiting_for(changing).await.expect("it waits");
    assert!(waits.contains("attempt 1, which had been given up, has started"), "{waits}");
    run(&mut fleet.portal, &format!("select tendril.approve('{changing}')")).await;
    runner.heartbeat(&[]).await;
    assert!(other.claim(8).await.is_empty(), "it may run still");
    assert_eq!(
        runner.report(&claimed, json!({"outcome": "success", "log_end": -1, "child_dead": true})).await,
        "noted"
    );
    other.perform("success").await;
    assert_eq!(fleet.status(changing).await, "SUCCESS");
}

#[tokio::test]
async fn a_forgotten_start_whose_end_was_noted_holds_no_key() {
    let (mut fleet, [mut runner, mut other], changing, claimed) = given_up().await;
    // Sent together, and overtaken: the witness was written down while the report waited for its answer.
    let told = with(witness(), "open", open(&claimed, Some(true)));
    let report = json!({"outcome": "success", "log_end": -1, "child_dead": true});
    assert_eq!(runner.report(&claimed, report).await, "noted");
    present(&mut runner, &told).await;
    assert_eq!(fleet.job(changing, &claimed.job).await, "AWAITING_APPROVAL", "people decide");
    let keys = "select count(*) from tendril_core.held_keys";
    assert_eq!(one::<i64>(&mut fleet.operator, keys).await, 0, "nothing of it is left to end");
    run(&mut fleet.portal, &format!("select tendril.approve('{changing}')")).await;
    other.perform("success").await;
    assert_eq!(fleet.status(changing).await, "SUCCESS");
}

#[tokio::test]
async fn what_a_runner_does_not_say_of_a_start_is_left_to_people() {
    let mut fleet = Fleet::new().await;
    let queued = fleet.deploy_jobs(&[exec("a")]).await;
    let (mut runner, mut other) = (fleet.runner().await, fleet.runner().await);
    let claimed = runner.claim_one().await;
    // In one and the same history it says nothing: the start is just being asked for.
    let before = with(with(witness(), "incarnation", json!(1)), "open", open(&claimed, None));
    present(&mut runner, &before).await;
    set_back(&mut fleet).await;
    present(&mut other, &witness()).await;
    present(&mut runner, &before).await;
    assert_eq!(incarnation(&mut fleet).await, 1, "nothing else is in doubt");
    fleet.lose(&runner).await;
    assert_eq!(fleet.job(queued, "a").await, "AWAITING_APPROVAL");
    assert!(other.claim(1).await.is_empty());
}

#[tokio::test]
async fn a_start_that_was_only_asked_for_is_neither_taken_on_nor_left_to_people() {
    let mut fleet = Fleet::new().await;
    let queued = fleet.deploy_jobs(&[exec("a")]).await;
    let mut runner = fleet.runner().await;
    let claimed = runner.claim_one().await;
    set_back(&mut fleet).await;
    present(&mut runner, &with(witness(), "open", open(&claimed, Some(false)))).await;
    assert_eq!(fleet.job(queued, "a").await, "CLAIMED");
    a_minute_passes(&mut fleet).await;
    runner.start(&claimed).await;
    assert_eq!(runner.finish(&claimed, "success").await, "accepted");
}
