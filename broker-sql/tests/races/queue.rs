//! Places in the queue, while others are at it.

use std::collections::BTreeSet;

use serde_json::json;

use crate::fleet::{Fleet, reading, run};

#[tokio::test]
async fn what_others_have_just_picked_hides_nothing_of_any_class() {
    let mut fleet = Fleet::new().await;
    for n in 0..24 {
        let labels: &[&str] = if n % 2 == 0 { &[] } else { &["place=p"] };
        fleet.deploy(json!({"labels": labels, "jobs": [reading("a")]})).await;
    }
    // More than a claim looks at beyond what it wants.
    let (mut first, mut second) = (fleet.runner().await, fleet.runner().await);
    run(&mut first.session, &format!("begin; select tendril.runner_claim('{}', 1, 21)", first.id)).await;
    run(&mut second.session, "set lock_timeout = '2s'").await;
    let rest: BTreeSet<_> = second.claim(8).await.iter().map(|claimed| claimed.deployment_id).collect();
    assert_eq!(rest.len(), 3, "all that is left, at once");
    run(&mut first.session, "commit").await;
    first.claim_no = 1;
    let taken: BTreeSet<_> = first.claim_again(21).await.iter().map(|claimed| claimed.deployment_id).collect();
    assert_eq!((taken.len(), taken.intersection(&rest).count()), (21, 0));
}

#[tokio::test]
async fn a_snooze_waits_for_a_claim_that_is_under_way_and_leaves_what_it_took() {
    let mut fleet = Fleet::new().await;
    let deployment = fleet.deploy_jobs(&[reading("a"), reading("b")]).await;
    let mut runner = fleet.runner().await;
    run(&mut runner.session, &format!("begin; select tendril.runner_claim('{}', 1, 1)", runner.id)).await;
    let snooze = format!("select tendril.snooze('{deployment}', clock_timestamp() + interval '1 h')");
    let mut portal = fleet.database.operator().await;
    let asked = tokio::spawn(async move { crate::fleet::one::<i32>(&mut portal, &snooze).await });
    let waits = "select count(*) > 0 from pg_stat_activity where wait_event_type = 'Lock' and query like 'select tendril.snooze%'";
    while !crate::fleet::one::<bool>(&mut fleet.operator, waits).await {
        tokio::task::yield_now().await;
    }
    run(&mut runner.session, "commit").await;
    assert_eq!(asked.await.unwrap(), 1, "the one that was claimed is not snoozed");
    let jobs = fleet.jobs(deployment).await;
    assert_eq!((jobs["a"].as_str(), jobs["b"].as_str()), ("STARTED", "QUEUED"));
}
