//! Runners that are gone are forgotten, and a cluster has a bound of those that are there.

use serde_json::json;
use uuid::Uuid;

use crate::fleet::{Fleet, Runner, connect, exec, id, one, refused, run, sqlstate};

/// As if the runner had been silent for that long.
async fn age(fleet: &mut Fleet, runner: &Runner, silent_for: &str) {
    let sql = format!(
        "update tendril_core.runners set registered_at = registered_at - interval '{silent_for}',
                left_at = left_at - interval '{silent_for}' where id = '{0}';
         update tendril_core.runner_leases set lease_expires_at = lease_expires_at - interval '{silent_for}',
                heartbeat_at = heartbeat_at - interval '{silent_for}' where runner_id = '{0}';
         update tendril_core.log_writers set backend_start = backend_start - interval '{silent_for}'",
        runner.id
    );
    run(&mut fleet.operator, &sql).await;
}

/// Whether the broker knows the runner and its lease.
async fn known(fleet: &mut Fleet, runner: Uuid) -> (bool, bool) {
    let runners = format!("select exists (select from tendril_core.runners where id = '{runner}')");
    let leases = format!("select exists (select from tendril_core.runner_leases where runner_id = '{runner}')");
    (one(&mut fleet.operator, &runners).await, one(&mut fleet.operator, &leases).await)
}

fn register(runner: Uuid) -> String {
    let info = json!({"name": "test", "version": "0", "labels": [], "slots": 1, "log_writer": id()});
    format!("select tendril.runner_register('{runner}', 1, '{info}')")
}

fn leave(runner: Uuid) -> String {
    format!("select tendril.runner_leave('{runner}')")
}

#[tokio::test]
async fn runners_that_are_long_gone_are_forgotten_with_lease_and_log_writer() {
    let mut fleet = Fleet::new().await;
    let (mut crashed, mut left, live, recent) =
        (fleet.runner().await, fleet.runner().await, fleet.runner().await, fleet.runner().await);
    crashed.take_over().await;
    run(&mut left.session, &leave(left.id)).await;
    for (runner, silent_for) in [(&crashed, "31 days"), (&left, "31 days"), (&recent, "29 days")] {
        age(&mut fleet, runner, silent_for).await;
    }
    assert_eq!(fleet.database.duty("runners").await, 2);
    assert_eq!(known(&mut fleet, crashed.id).await, (false, false));
    assert_eq!(known(&mut fleet, left.id).await, (false, false));
    assert_eq!(known(&mut fleet, live.id).await, (true, true));
    assert_eq!(known(&mut fleet, recent.id).await, (true, true));
    assert_eq!(one::<i64>(&mut fleet.operator, "select count(*) from tendril_core.log_writers").await, 0);
    // How long they are remembered is a setting.
    run(&mut fleet.operator, "update tendril_core.settings set runners_kept = '7 days'").await;
    assert_eq!(fleet.database.duty("runners").await, 1);
    let too_short = "update tendril_core.settings set runners_kept = '1 h'";
    assert_eq!(sqlstate(&mut fleet.operator, too_short).await, "23514");
    // Who comes back after all is told what to do, and may do it.
    let beat = format!("select tendril.runner_heartbeat('{}', 0, '{{}}')", crashed.id);
    let stranger = refused(&mut crashed.session, &beat).await;
    assert_eq!((stranger.sqlstate.as_str(), stranger.hint.as_deref()), ("TD002", Some("register first")));
    run(&mut crashed.session, &register(crashed.id)).await;
    run(&mut crashed.session, &beat).await;
}

#[tokio::test]
async fn a_runner_that_an_unfinished_attempt_or_a_held_key_names_is_never_forgotten() {
    let mut fleet = Fleet::new().await;
    let mut runner = fleet.runner().await;
    let deployment = fleet.deploy(crate::fleet::apply_at("x")).await;
    runner.perform("success").await;
    let claimed = runner.claim_one().await;
    runner.start(&claimed).await;
    fleet.lose(&runner).await;
    assert_eq!(fleet.job(deployment, "apply").await, "UNKNOWN");
    age(&mut fleet, &runner, "400 days").await;
    assert_eq!(fleet.database.duty("runners").await, 0, "its attempt is not finished");
    run(&mut fleet.operator, &format!("select tendril.declare_lost('{deployment}', 'apply', 'sure')")).await;
    assert_eq!(fleet.database.duty("runners").await, 0, "its key is held");
    assert_eq!(known(&mut fleet, runner.id).await, (true, true));
    let release = format!("select tendril.key_release('{}', 'local://p/x#default', 'sure')", fleet.cluster.id);
    run(&mut fleet.operator, &release).await;
    assert_eq!(fleet.database.duty("runners").await, 1);
    // What it did is still told, and a late report is still taken.
    let state = fleet.state(deployment).await;
    assert_eq!(state.status, "FAILED");
    assert_eq!(runner.finish(&claimed, "success").await, "noted");
}

#[tokio::test]
async fn a_cluster_has_a_bound_of_live_runners_and_is_told_what_to_do() {
    let mut fleet = Fleet::new().await;
    run(&mut fleet.operator, "update tendril_core.settings set runners_max = 2").await;
    let (mut first, mut second) = (fleet.runner().await, fleet.runner().await);
    let third = id();
    let refusal = refused(&mut first.session, &register(third)).await;
    assert_eq!(refusal.sqlstate, "TD011");
    assert_eq!(refusal.message, "the cluster has 2 runners online, and may have 2");
    assert_eq!(
        refusal.hint.as_deref(),
        Some("stop some; leases of those that crashed run out within 30 s; an operator can raise runners_max")
    );
    assert_eq!(known(&mut fleet, third).await, (false, false));
    run(&mut fleet.operator, "update tendril_core.settings set runners_max = 1").await;
    let fewer = refused(&mut first.session, &register(third)).await;
    assert_eq!(fewer.message, "the cluster has 2 runners online, and may have 1");
    run(&mut fleet.operator, "update tendril_core.settings set runners_max = 2").await;
    // Who is known may say so again; other clusters have a bound of their own.
    let again = register(second.id);
    run(&mut second.session, &again).await;
    let other = fleet.database.cluster("other").await;
    fleet.runner_of(&other, &[]).await;
    // A crash makes room when its lease has run out, a goodbye at once; who left has no place reserved.
    fleet.silence(&second).await;
    run(&mut first.session, &register(third)).await;
    assert_eq!(sqlstate(&mut first.session, &register(id())).await, "TD011");
    run(&mut first.session, &leave(third)).await;
    let fourth = id();
    run(&mut first.session, &register(fourth)).await;
    assert_eq!(sqlstate(&mut first.session, &register(third)).await, "TD011");
    run(&mut first.session, &leave(fourth)).await;
    run(&mut first.session, &register(third)).await;
    let left = format!("select left_at is null from tendril_core.runners where id = '{third}'");
    assert!(one::<bool>(&mut fleet.operator, &left).await, "it is back");
}

#[tokio::test]
async fn registering_and_leaving_in_a_loop_leaves_few_rows() {
    let mut fleet = Fleet::new().await;
    run(&mut fleet.operator, "update tendril_core.settings set runners_max = 3").await;
    let mut busy = fleet.runner().await;
    fleet.deploy_jobs(&[exec("a")]).await;
    let claimed = busy.claim_one().await;
    busy.start(&claimed).await;
    fleet.lose(&busy).await;
    age(&mut fleet, &busy, "2 days").await;
    for _ in 0..40 {
        let runner = id();
        run(&mut busy.session, &register(runner)).await;
        run(&mut busy.session, &leave(runner)).await;
    }
    let rows: i64 = one(&mut fleet.operator, "select count(*) from tendril_core.runners").await;
    assert!(rows <= 7, "{rows} runners are remembered");
    assert_eq!(known(&mut fleet, busy.id).await, (true, true), "what still holds something is not among the forgotten");
    // The same for the writers of logs.
    for _ in 1..=12 {
        run(&mut busy.session, &format!("select tendril.log_takeover('{}')", id())).await;
    }
    let refusal = refused(&mut busy.session, &format!("select tendril.log_takeover('{}')", id())).await;
    assert_eq!((refusal.sqlstate.as_str(), refusal.message.as_str()), ("TD011", "the cluster has 12 log writers"));
    // Those that were taken over only now are spared: their runner may be about to register.
    let writers = "select count(*) from tendril_core.log_writers";
    fleet.database.duty("runners").await;
    assert_eq!(one::<i64>(&mut fleet.operator, writers).await, 12);
    age(&mut fleet, &busy, "1 h").await;
    fleet.database.duty("runners").await;
    assert_eq!(one::<i64>(&mut fleet.operator, writers).await, 0);
    busy.take_over().await;
    busy.append(&claimed, 0, 0, "still heard\n").await.unwrap();
}

#[tokio::test]
async fn a_runner_that_comes_back_while_it_is_forgotten_is_there_afterwards() {
    let mut fleet = Fleet::new().await;
    let mut runner = fleet.runner().await;
    age(&mut fleet, &runner, "31 days").await;
    // The tenant has it locked: the duty waits for nobody, and comes again.
    run(&mut runner.session, &format!("begin; {}", register(runner.id))).await;
    let mut serve = connect(&fleet.database.url()).await;
    run(&mut serve, "set lock_timeout = '5s'").await;
    assert_eq!(one::<i64>(&mut serve, "select tendril_core.duty_runners()").await, 0);
    run(&mut runner.session, "commit").await;
    assert_eq!(known(&mut fleet, runner.id).await, (true, true));
    // And the other way round: it registers while the duty has not committed.
    run(&mut serve, "begin").await;
    let forgotten = one::<i64>(&mut serve, "select tendril_core.duty_runners()").await;
    assert_eq!(forgotten, 1);
    let pid: i32 = one(&mut runner.session, "select pg_backend_pid()").await;
    let again = register(runner.id);
    let registering = tokio::spawn(async move {
        run(&mut runner.session, &again).await;
        runner
    });
    let waits = format!("select coalesce(wait_event_type = 'Lock', false) from pg_stat_activity where pid = {pid}");
    while !one::<bool>(&mut fleet.operator, &waits).await {
        tokio::task::yield_now().await;
    }
    run(&mut serve, "commit").await;
    let runner = registering.await.unwrap();
    assert_eq!(known(&mut fleet, runner.id).await, (true, true));
}
