//! Who goes first, who waits and for what, and that nobody stands in another's way.

use serde_json::{Value, json};

use crate::fleet::{Fleet, apply_at, exec, id, needing, one, reading, refused, run, sqlstate};

/// Names of the deployments' jobs in the order in which single claims get them.
async fn order(fleet: &Fleet, count: usize) -> Vec<String> {
    let mut runner = fleet.runner().await;
    let mut names = Vec::new();
    for _ in 0..count {
        names.push(runner.claim_one().await.job);
    }
    names
}

fn urgent(name: &str, priority: i64) -> Value {
    json!({"priority": priority, "jobs": [reading(name)]})
}

#[tokio::test]
async fn the_smaller_priority_goes_first_and_waiting_makes_up_for_it() {
    let mut fleet = Fleet::new().await;
    fleet.deploy(urgent("idle", 50)).await;
    fleet.deploy(urgent("plain", 20)).await;
    let mut own = reading("own");
    own["priority"] = json!(0);
    // A job's own word counts more than the snapshot's.
    fleet.deploy(json!({"priority": 60, "jobs": [own]})).await;
    assert_eq!(order(&fleet, 3).await, ["own", "plain", "idle"]);
    // A point is a minute (`ageing`): what has waited for 31 minutes goes before what is 30 points more urgent.
    for (waited_min, first) in [(31, "old"), (29, "new")] {
        fleet.deploy(urgent("old", 50)).await;
        let aged = format!("update tendril_core.queue set rank = rank - {waited_min}::bigint * 60000000");
        run(&mut fleet.operator, &aged).await;
        fleet.deploy(urgent("new", 20)).await;
        assert_eq!(order(&fleet, 2).await[0], first, "after {waited_min} minutes");
    }
    for bad in [json!(-1), json!(101), json!(1.5), json!("high")] {
        let sql = fleet.insert(id(), &json!({"priority": bad, "jobs": [reading("a")]}));
        let refusal = refused(&mut fleet.portal, &sql).await;
        assert_eq!(refusal.sqlstate, "TD001", "{bad}");
        assert!(refusal.message.starts_with("config_snapshot.priority: "), "{bad}: {}", refusal.message);
    }
}

#[tokio::test]
async fn a_deployment_of_many_jobs_leaves_every_other_its_turn() {
    let mut fleet = Fleet::new().await;
    let many: Vec<Value> = (0..6).map(|n| reading(&format!("many{n}"))).collect();
    fleet.deploy_jobs(&many).await;
    fleet.deploy_jobs(&[reading("few0"), reading("few1")]).await;
    fleet.deploy_jobs(&[reading("single")]).await;
    let order = order(&fleet, 9).await;
    assert_eq!(order, ["many0", "few0", "single", "many1", "few1", "many2", "many3", "many4", "many5"]);
    // What becomes ready later stands behind those of its deployment that wait.
    let mut jobs = vec![reading("root")];
    jobs.extend((0..3).map(|n| needing(reading(&format!("leaf{n}")), &["root"])));
    fleet.deploy_jobs(&jobs).await;
    let mut runner = fleet.runner().await;
    runner.perform("success").await;
    fleet.deploy_jobs(&[reading("other")]).await;
    let order: Vec<String> = runner.claim(4).await.into_iter().map(|claimed| claimed.job).collect();
    assert_eq!(order, ["leaf0", "other", "leaf1", "leaf2"]);
}

#[tokio::test]
async fn nothing_runs_before_its_moment() {
    let mut fleet = Fleet::new().await;
    let deployment = fleet.deploy(json!({"run_after": "2026-01-31T06:00:00Z", "jobs": [reading("past")]})).await;
    let mut runner = fleet.runner().await;
    assert_eq!(runner.perform("success").await.deployment_id, deployment, "its time has come long ago");
    let later: String = one(
        &mut fleet.operator,
        "select to_char(clock_timestamp() at time zone 'UTC' + interval '2 days', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')",
    )
    .await;
    let snapshot = json!({"run_after": later, "jobs": [reading("a"), needing(reading("b"), &["a"])]});
    let deployment = fleet.deploy(snapshot).await;
    assert!(runner.claim(1).await.is_empty());
    assert_eq!(runner.heartbeat(&[]).await["work"], false, "and nobody is told to come for it");
    assert_eq!(fleet.database.duty("unpark").await, 0);
    let waits = fleet.waiting_for(deployment).await.unwrap();
    assert_eq!(waits, format!("its time: not before {}", later.replace('T', " ").replace('Z', " UTC")));
    let come = "update tendril_core.jobs set run_after = clock_timestamp() where run_after is not null;
                update tendril_core.parked set run_after = clock_timestamp()";
    run(&mut fleet.operator, come).await;
    assert_eq!(fleet.database.duty("unpark").await, 1);
    assert_eq!(runner.perform("success").await.job, "a");
    assert_eq!(runner.claim_one().await.job, "b");
    // Tried: no zone, no moment of the calendar, no text, years ahead.
    for bad in [json!("2026-01-31T06:00:00"), json!("2026-13-31T06:00:00Z"), json!(7), json!("2999-01-31T06:00:00Z")] {
        let sql = fleet.insert(id(), &json!({"run_after": bad, "jobs": [reading("a")]}));
        let refusal = refused(&mut fleet.portal, &sql).await;
        assert_eq!(refusal.sqlstate, "TD001", "{bad}");
        assert!(refusal.message.starts_with("config_snapshot.run_after: "), "{bad}: {}", refusal.message);
    }
}

#[tokio::test]
async fn what_is_snoozed_waits_and_can_be_woken() {
    let mut fleet = Fleet::new().await;
    let deployment = fleet.deploy_jobs(&[reading("a"), reading("b"), needing(reading("c"), &["b"])]).await;
    let mut runner = fleet.runner().await;
    let snooze = |until: &str, job: &str| format!("select tendril.snooze('{deployment}', {until}, {job})");
    let soon = "clock_timestamp() + interval '1 h'";
    // Rolled back it has never been.
    run(&mut fleet.portal, &format!("begin; {}; rollback", snooze(soon, "null"))).await;
    assert_eq!(runner.claim_one().await.job, "a");
    assert_eq!(one::<i32>(&mut fleet.portal, &snooze(soon, "null")).await, 2, "what runs is not snoozed");
    assert!(runner.claim(9).await.is_empty());
    assert!(fleet.state(deployment).await.jobs[1].waiting_for.as_ref().unwrap().starts_with("its time: not before "));
    // One is woken, and what needs it is not.
    assert_eq!(one::<i32>(&mut fleet.portal, &snooze("null", "'b'")).await, 1);
    assert_eq!(runner.perform("success").await.job, "b");
    assert!(runner.claim(9).await.is_empty(), "c became ready, and its time has not come");
    assert_eq!(one::<i32>(&mut fleet.portal, &snooze("'-infinity'", "null")).await, 1);
    assert_eq!(runner.perform("success").await.job, "c");
    for (until, job, state) in [
        ("null", "'nobody'", "TD003"),
        ("null", "null", "TD003"),
        ("'infinity'", "null", "TD001"),
        ("clock_timestamp() + interval '2 years'", "null", "TD001"),
    ] {
        assert_eq!(sqlstate(&mut fleet.portal, &snooze(until, job)).await, state, "{until} {job}");
    }
    let absent = format!("select tendril.snooze('{}', null)", id());
    assert_eq!(sqlstate(&mut fleet.portal, &absent).await, "TD002");
    // A snoozed job can be cancelled.
    let other = fleet.deploy_jobs(&[exec("a")]).await;
    run(&mut fleet.portal, &format!("select tendril.snooze('{other}', {soon}); select tendril.cancel('{other}')"))
        .await;
    assert_eq!(fleet.status(other).await, "CANCELLED");
    assert_eq!(one::<i64>(&mut fleet.operator, "select count(*) from tendril_core.parked").await, 0);
}

#[tokio::test]
async fn a_state_has_one_job_in_the_queue_and_the_others_aside() {
    let mut fleet = Fleet::new().await;
    for _ in 0..5 {
        fleet.deploy(apply_at("same")).await;
    }
    let mut runner = fleet.runner().await;
    for plan in runner.claim(9).await {
        runner.finish(&plan, "success").await;
    }
    let aside = "select (select count(*) from tendril_core.queue) || '/' || (select count(*) from tendril_core.parked)";
    assert_eq!(one::<String>(&mut fleet.operator, aside).await, "1/4", "before anybody has claimed");
    let other = fleet.deploy_jobs(&[exec("other")]).await;
    assert_eq!(runner.claim(9).await.len(), 2);
    assert_eq!(fleet.job(other, "other").await, "CLAIMED");
    // While one of them can be taken the next is not let in by the clock.
    assert_eq!(fleet.database.duty("unpark").await, 0);
}
