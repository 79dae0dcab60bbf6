//! Claims: the same number again, races, order, labels, keys.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tendril_broker::runner::API_VERSION;

use crate::fleet::{Fleet, apply_at, exec, one, reading, refusal, refused, run, sqlstate, start_sql};

#[tokio::test]
async fn the_same_claim_number_returns_the_same_attempts() {
    let mut fleet = Fleet::new().await;
    for _ in 0..3 {
        fleet.deploy_jobs(&[exec("a")]).await;
    }
    let mut runner = fleet.runner().await;
    let ids = |claimed: Vec<crate::fleet::Claimed>| claimed.iter().map(|c| (c.attempt_id, c.fence)).collect::<Vec<_>>();
    let first = ids(runner.claim(2).await);
    assert_eq!(first.len(), 2);
    assert_eq!(ids(runner.claim_again(2).await), first);
    // Also when the lease has run out meanwhile, and with another number of slots.
    fleet.silence(&runner).await;
    assert_eq!(ids(runner.claim_again(8).await), first);
    // A claim that found nothing finds nothing again, even if there is something by now.
    runner.heartbeat(&[]).await;
    runner.claim(0).await;
    assert_eq!(runner.claim_again(8).await.len(), 0);
}

#[tokio::test]
async fn claim_numbers_only_rise() {
    let mut fleet = Fleet::new().await;
    let mut runner = fleet.runner().await;
    runner.claim_no = 16;
    // A database that lost the last numbers of a runner in a failover or a crash serves it all the same.
    assert_eq!(runner.claim(1).await.len(), 0);
    fleet.deploy_jobs(&[exec("a")]).await;
    for old in [16, 1, 0, -1] {
        runner.claim_no = old;
        assert_eq!(refusal(runner.try_claim(1).await.unwrap_err()).sqlstate, "TD012", "claim {old} after 17");
    }
    runner.claim_no = 17;
    assert_eq!(runner.claim(1).await.len(), 1);
}

#[tokio::test]
async fn racing_claims_give_each_job_once_and_each_fence_once() {
    let mut fleet = Fleet::new().await;
    let snapshot = json!({"jobs": (0..50).map(|n| reading(&format!("j{n}"))).collect::<Vec<_>>()});
    fleet.deploy(snapshot).await;
    let racers = 4;
    let barrier = std::sync::Arc::new(tokio::sync::Barrier::new(racers));
    let mut racing = tokio::task::JoinSet::new();
    for _ in 0..racers {
        let mut runner = fleet.runner().await;
        let barrier = barrier.clone();
        racing.spawn(async move {
            let mut mine = Vec::new();
            barrier.wait().await;
            loop {
                let claimed = runner.claim(3).await;
                if claimed.is_empty() {
                    return mine;
                }
                mine.extend(claimed);
            }
        });
    }
    let claimed: Vec<_> = racing.join_all().await.into_iter().flatten().collect();
    // A claim passes over what another has locked, and may then find nothing: what is left is claimed at the end.
    let mut last = fleet.runner().await;
    let rest = last.claim(50).await;
    assert_eq!(claimed.len() + rest.len(), 50);
    let jobs: BTreeSet<_> = claimed.iter().chain(&rest).map(|c| &c.job).collect();
    let fences: BTreeSet<_> = claimed.iter().chain(&rest).map(|c| c.fence).collect();
    assert_eq!((jobs.len(), fences.len()), (50, 50));
}

#[tokio::test]
async fn a_claim_waits_for_nobodys_open_transaction() {
    let mut fleet = Fleet::new().await;
    let held = fleet.deploy_jobs(&[exec("a")]).await;
    fleet.deploy_jobs(&[exec("b")]).await;
    // A portal has cancelled and not committed yet; a runner's claim is open as well.
    run(&mut fleet.portal, &format!("begin; select tendril.cancel('{held}')")).await;
    let mut runner = fleet.runner().await;
    run(&mut runner.session, "set statement_timeout = '5s'").await;
    assert_eq!(runner.claim(9).await.iter().map(|c| c.job.as_str()).collect::<Vec<_>>(), ["b"]);
    run(&mut fleet.portal, "rollback").await;
    assert_eq!(runner.claim(9).await.iter().map(|c| c.job.as_str()).collect::<Vec<_>>(), ["a"]);
}

#[tokio::test]
async fn a_start_waits_for_no_claim_and_a_heartbeat_for_both() {
    let mut fleet = Fleet::new().await;
    fleet.deploy_jobs(&[exec("a")]).await;
    fleet.deploy_jobs(&[exec("b")]).await;
    let mut runner = fleet.runner().await;
    let first = runner.claim_one().await;
    // Another session of the same runner claims on, and has not committed yet.
    let mut other = fleet.database.runner(fleet.cluster.token.reveal()).await;
    run(&mut other, &format!("begin; select tendril.runner_claim('{}', 2, 1)", runner.id)).await;
    run(&mut runner.session, "set lock_timeout = '5s'").await;
    runner.start(&first).await;
    // Whatever moves the lease is kept away by an open claim, and by an open start.
    let beat = format!("set lock_timeout = '50ms'; select tendril.runner_heartbeat('{}', 1, '{{}}')", runner.id);
    assert_eq!(sqlstate(&mut runner.session, &beat).await, "55P03");
    run(&mut other, "commit").await;
    runner.claim_no = 2;
    let second = runner.claim_again(1).await.remove(0);
    run(&mut other, &format!("begin; {}", start_sql(&second))).await;
    assert_eq!(sqlstate(&mut runner.session, &beat).await, "55P03");
    run(&mut other, "commit").await;
    assert_eq!(runner.heartbeat(&[&first, &second]).await["held"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn jobs_come_by_priority_and_then_in_the_order_of_arrival() {
    let mut fleet = Fleet::new().await;
    for name in ["r1", "r2"] {
        fleet.deploy_jobs(&[reading(name)]).await;
    }
    fleet
        .deploy(json!({"template": {"name": "t"}, "stateless": true, "jobs": [
        {"name": "plan", "kind": "terraform.plan"}, {"name": "apply", "kind": "terraform.apply", "needs": ["plan"]}]}))
        .await;
    let mut runner = fleet.runner().await;
    let order: Vec<String> = runner.claim(9).await.into_iter().map(|c| c.job).collect();
    assert_eq!(order, ["r1", "r2", "plan"]);
    run(&mut fleet.operator, "select 1").await;
    fleet.deploy_jobs(&[exec("later")]).await;
    let plan = &runner.claim_again(9).await[2];
    runner.finish(plan, "success").await;
    assert_eq!(runner.claim_one().await.job, "apply", "an apply goes before what arrived earlier");
}

#[tokio::test]
async fn only_a_runner_with_all_labels_gets_a_job() {
    let mut fleet = Fleet::new().await;
    fleet.deploy(json!({"jobs": [exec("a")], "labels": ["gpu", "zone=eu"]})).await;
    for labels in [&["kind=exec"][..], &["kind=exec", "gpu"], &["gpu", "zone=eu"], &["kind=exec", "gpu", "zone=us"]] {
        let mut runner = fleet.runner_of(&fleet.cluster, labels).await;
        assert_eq!(runner.claim(1).await.len(), 0, "{labels:?}");
    }
    let mut runner = fleet.runner_of(&fleet.cluster, &["zone=eu", "kind=exec", "gpu"]).await;
    assert_eq!(runner.claim(1).await.len(), 1);
}

#[tokio::test]
async fn a_claim_needs_a_live_lease() {
    let mut fleet = Fleet::new().await;
    fleet.deploy_jobs(&[exec("a")]).await;
    let mut runner = fleet.runner().await;
    fleet.silence(&runner).await;
    runner.claim_no = 1;
    let refusal = refusal(runner.try_claim(1).await.unwrap_err());
    assert_eq!((refusal.sqlstate.as_str(), refusal.hint.as_deref()), ("TD006", Some("send a heartbeat first")));
    runner.heartbeat(&[]).await;
    assert_eq!(runner.claim_again(1).await.len(), 1);
}

#[tokio::test]
async fn one_mutating_run_per_state_key_and_the_others_are_parked() {
    let mut fleet = Fleet::new().await;
    let first = fleet.deploy(apply_at("same")).await;
    let second = fleet.deploy(apply_at("same")).await;
    let third = fleet.deploy(apply_at("same")).await;
    let other = fleet.deploy(apply_at("other")).await;
    let mut runner = fleet.runner().await;
    for plan in runner.claim(9).await {
        runner.finish(&plan, "success").await;
    }
    let applies = runner.claim(9).await;
    let deployments: BTreeSet<_> = applies.iter().map(|c| c.deployment_id).collect();
    assert_eq!(deployments, BTreeSet::from([first, other]));
    let parked = "select count(*) from tendril_core.parked";
    assert_eq!(one::<i64>(&mut fleet.operator, parked).await, 2);
    assert_eq!(runner.claim(9).await.len(), 0);
    let holder = applies.iter().find(|c| c.deployment_id == first).unwrap();
    runner.start(holder).await;
    runner.finish(holder, "failure").await;
    let next = runner.claim(9).await;
    assert_eq!(
        next.iter().map(|c| c.deployment_id).collect::<Vec<_>>(),
        [second],
        "in the order of arrival, one at a time"
    );
    assert_eq!(fleet.job(third, "apply").await, "QUEUED");
    assert_eq!(one::<i64>(&mut fleet.operator, parked).await, 1);
    // A parked job can be cancelled.
    run(&mut fleet.portal, &format!("select tendril.cancel('{third}')")).await;
    assert_eq!(one::<i64>(&mut fleet.operator, parked).await, 0);
}

#[tokio::test]
async fn two_clusters_do_not_share_keys() {
    let mut fleet = Fleet::new().await;
    fleet.deploy(apply_at("same")).await;
    let two = fleet.database.cluster("two").await;
    let labels = ["kind=terraform.plan", "kind=terraform.apply", "place=p"];
    let mut runners = [fleet.runner().await, fleet.runner_of(&two, &labels).await];
    fleet.cluster = two;
    fleet.deploy(apply_at("same")).await;
    for runner in &mut runners {
        runner.perform("success").await;
        assert_eq!(runner.claim(1).await.len(), 1);
    }
}

#[tokio::test]
async fn a_parked_job_whose_key_was_freed_past_it_comes_back() {
    let mut fleet = Fleet::new().await;
    fleet.deploy(apply_at("same")).await;
    let second = fleet.deploy(apply_at("same")).await;
    let mut runner = fleet.runner().await;
    for plan in runner.claim(9).await {
        runner.finish(&plan, "success").await;
    }
    let holder = runner.claim_one().await;
    runner.start(&holder).await;
    assert_eq!(runner.claim(9).await.len(), 0, "the second is parked");
    // A cancel that is open while the key is freed, and is then rolled back.
    run(&mut fleet.portal, &format!("begin; select tendril.cancel('{second}')")).await;
    runner.finish(&holder, "success").await;
    run(&mut fleet.portal, "rollback").await;
    assert_eq!(runner.claim(9).await.len(), 0);
    assert_eq!(fleet.database.duty("unpark").await, 1);
    assert_eq!(runner.claim_one().await.deployment_id, second);
    assert_eq!(fleet.database.duty("unpark").await, 0);
}

#[tokio::test]
async fn a_claim_shows_the_deployment_as_processing_even_if_it_was_locked() {
    let mut fleet = Fleet::new().await;
    let deployment = fleet.deploy_jobs(&[reading("a")]).await;
    let mut runner = fleet.runner().await;
    run(&mut fleet.operator, &format!("begin; select from tendril.deployments where id = '{deployment}' for update"))
        .await;
    runner.claim_one().await;
    run(&mut fleet.operator, "commit").await;
    fleet.database.duty("explain").await;
    assert_eq!(fleet.status(deployment).await, "PROCESSING");
}

#[tokio::test]
async fn a_runner_of_another_protocol_is_refused_with_what_to_do() {
    let fleet = Fleet::new().await;
    let mut session = fleet.database.runner(fleet.cluster.token.reveal()).await;
    let info = json!({"name": "n", "version": "0", "labels": [], "slots": 1, "log_writer": "018f0000-0000-7000-8000-0000000000aa"});
    let register = |api: i32, info: &Value| {
        format!("select tendril.runner_register('018f0000-0000-7000-8000-000000000001', {api}, '{info}')")
    };
    for (api, hint) in [(0, "upgrade the runner"), (API_VERSION + 1, "migrate the broker first")] {
        let refusal = refused(&mut session, &register(api, &info)).await;
        assert_eq!((refusal.sqlstate.as_str(), refusal.hint.as_deref()), ("TD010", Some(hint)));
    }
    for bad in [
        json!({}),
        json!({"name": "n", "version": "0", "labels": "x", "slots": 1, "log_writer": "018f0000-0000-7000-8000-0000000000aa"}),
        json!({"name": "n", "version": "0", "labels": [], "slots": "many", "log_writer": "018f0000-0000-7000-8000-0000000000aa"}),
        json!({"name": "n", "version": "0", "labels": [], "slots": 1, "log_writer": "x"}),
        json!([]),
    ] {
        assert_eq!(sqlstate(&mut session, &register(1, &bad)).await, "TD001", "{bad}");
    }
    let mut large = info.clone();
    large["labels"] = json!((0..9000).map(|n| format!("label{n}")).collect::<Vec<_>>());
    assert_eq!(sqlstate(&mut session, &register(1, &large)).await, "TD011");
    run(&mut session, &register(1, &info)).await;
    run(&mut session, &register(1, &info)).await;
}
