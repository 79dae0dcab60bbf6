//! Calls with many attempts wait for no deployment, job or attempt, and for keys and log writers in their order: so in a circle with nobody.

use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;
use tendril_broker::connect::Address;
use tendril_broker::runner::{Broker, BrokerError, Disposition, Lease, Outcome, Registration, Report};
use tokio::task::JoinSet;

use crate::fleet::{Claimed, Fleet, Runner, connect, exec, finish_sql, id, one, run, start_sql};
use crate::keys::planned;
use crate::queue::until_waiting;

const DONE: &str = r#"{"outcome": "success", "log_end": -1}"#;

async fn claimed(fleet: &mut Fleet, jobs: usize) -> (Runner, Vec<Claimed>) {
    for _ in 0..jobs {
        fleet.deploy_jobs(&[exec("a")]).await;
    }
    let mut runner = fleet.runner().await;
    let claimed = runner.claim(i32::try_from(jobs).unwrap()).await;
    assert_eq!(claimed.len(), jobs);
    (runner, claimed)
}

/// Another session of the runner's credential, in which any wait for a lock is an error.
async fn impatient(fleet: &Fleet) -> PgConnection {
    let mut session = connect(&fleet.database.runner_url(fleet.cluster.token.reveal())).await;
    run(&mut session, "set lock_timeout = '100ms'").await;
    session
}

fn arrays(attempts: &[Claimed]) -> String {
    let ids: Vec<_> = attempts.iter().map(|claimed| claimed.attempt_id.to_string()).collect();
    let fences: Vec<_> = attempts.iter().map(|claimed| claimed.fence.to_string()).collect();
    format!("'{{{}}}', '{{{}}}'", ids.join(","), fences.join(","))
}

fn start_all(attempts: &[Claimed]) -> String {
    format!("select answer from tendril.runner_start_all({})", arrays(attempts))
}

fn finish_all(attempts: &[Claimed]) -> String {
    let count = attempts.len();
    format!(
        "select answer from tendril.runner_finish_all({}, array_fill('{DONE}'::jsonb, array[{count}]))",
        arrays(attempts)
    )
}

async fn answers(session: &mut PgConnection, sql: String) -> Vec<String> {
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(session).await.unwrap()
}

#[tokio::test]
async fn what_a_portal_has_locked_is_busy_and_holds_up_no_other() {
    let mut fleet = Fleet::new().await;
    let (mut runner, all) = claimed(&mut fleet, 3).await;
    run(&mut runner.session, "set lock_timeout = '100ms'").await;
    run(&mut fleet.portal, &format!("begin; select tendril.cancel('{}')", all[1].deployment_id)).await;
    assert_eq!(answers(&mut runner.session, start_all(&all)).await, ["started", "busy", "started"]);
    assert_eq!(answers(&mut runner.session, finish_all(&all)).await, ["accepted", "busy", "accepted"]);
    // Nor does the portal wait for it, whatever it cancels next.
    run(&mut fleet.portal, &format!("rollback; begin; select tendril.cancel('{}')", all[1].deployment_id)).await;
    run(&mut runner.session, &format!("begin; {}", finish_all(&all[..1]))).await;
    run(&mut fleet.portal, "commit").await;
    run(&mut runner.session, "commit").await;
    let refused = "select code from tendril.runner_start_all";
    let code: String = one(&mut runner.session, &format!("{refused}({})", arrays(&all[1..2]))).await;
    assert_eq!(code, "TD013", "now it is asked");
}

#[tokio::test]
async fn calls_with_the_same_attempts_in_another_order_do_not_wait_for_each_other() {
    let mut fleet = Fleet::new().await;
    let (_runner, all) = claimed(&mut fleet, 4).await;
    for call in [start_all, finish_all as fn(&[Claimed]) -> String] {
        let (mut one, mut other) = (impatient(&fleet).await, impatient(&fleet).await);
        run(&mut one, "begin").await;
        run(&mut other, "begin").await;
        let these = |attempts: [usize; 2]| call(&attempts.map(|at| all[at].clone()));
        assert!(answers(&mut one, these([0, 1])).await.iter().all(|answer| answer != "busy"));
        assert!(answers(&mut other, these([3, 2])).await.iter().all(|answer| answer != "busy"));
        assert_eq!(answers(&mut one, these([2, 3])).await, ["busy"; 2]);
        assert_eq!(answers(&mut other, these([1, 0])).await, ["busy"; 2]);
        run(&mut one, "commit").await;
        run(&mut other, "commit").await;
    }
    let states = "select array_agg(distinct state)::text from tendril_core.jobs";
    assert_eq!(one::<String>(&mut fleet.operator, states).await, "{SUCCESS}");
}

#[tokio::test]
async fn ends_that_want_the_same_log_writers_go_one_after_the_other() {
    let mut fleet = Fleet::new().await;
    let (mut one, mut ones) = claimed(&mut fleet, 2).await;
    let (mut other, others) = claimed(&mut fleet, 2).await;
    one.take_over().await;
    other.take_over().await;
    // Each set has an attempt of either writer, in opposite orders, while a third session has one of the writers.
    let sets = [vec![ones.remove(0), others[0].clone()], vec![others[1].clone(), ones.remove(0)]];
    let mut third = fleet.database.operator().await;
    let writer = one.writer.max(other.writer);
    run(&mut third, &format!("begin; select from tendril_core.log_writers where id = '{writer}' for update")).await;
    let mut ending = JoinSet::new();
    for (mut session, set) in [(one.session, sets[0].clone()), (other.session, sets[1].clone())] {
        ending.spawn(async move { answers(&mut session, finish_all(&set)).await });
    }
    until_waiting(&mut fleet, "%finish_all%").await;
    run(&mut third, "rollback").await;
    while let Some(ended) = ending.join_next().await {
        assert_eq!(ended.unwrap(), ["accepted"; 2]);
    }
}

/// A runner's typed calls, and what it has claimed.
async fn broker(fleet: &mut Fleet, jobs: usize) -> (Broker, Vec<(Lease, uuid::Uuid)>) {
    for _ in 0..jobs {
        fleet.deploy_jobs(&[exec("a")]).await;
    }
    let token = fleet.cluster.token.reveal();
    let url = fleet.database.runner_url(token);
    let address = Address::parse(&format!("postgres://{}", url.rsplit_once('@').unwrap().1)).unwrap();
    let broker = Broker::new(address.connector(&token.parse().unwrap()).unwrap(), id(), 3).unwrap();
    let (name, labels, slots) = ("typed".to_owned(), vec!["kind=exec".to_owned()], u32::try_from(jobs).unwrap());
    let registration = Registration { name, version: "0".into(), place: None, labels, slots, log_writer: id() };
    broker.register(&registration).await.unwrap();
    let claimed = broker.claim(1, i32::try_from(jobs).unwrap()).await.unwrap();
    assert_eq!(claimed.len(), jobs);
    (broker, claimed.into_iter().map(|claimed| (claimed.lease, claimed.deployment_id)).collect())
}

fn success() -> Report {
    Report {
        outcome: Outcome::Success,
        log_end: -1,
        child_dead: true,
        error: None,
        permanent: false,
        result: json!({"outputs": {"it's": "\\ \"quoted\" {braced}, ü"}}),
        commands: Value::Null,
    }
}

#[tokio::test]
async fn starts_and_ends_of_a_runner_go_together_and_each_has_its_own_answer() {
    let mut fleet = Fleet::new().await;
    let (broker, all) = broker(&mut fleet, 30).await;
    run(&mut fleet.portal, &format!("select tendril.cancel('{}')", all[7].1)).await;
    let mut portal = fleet.database.operator().await;
    run(&mut portal, &format!("begin; select tendril.cancel('{}')", all[11].1)).await;
    let mut starting = JoinSet::new();
    for (at, (lease, _)) in all.iter().copied().enumerate() {
        let broker = broker.clone();
        starting.spawn(async move { (at, broker.start(&lease).await) });
    }
    let mut refused = Vec::new();
    // All but the one that waits for the portal.
    for _ in 1..all.len() {
        let (at, started) = starting.join_next().await.unwrap().unwrap();
        if let Err(error) = started {
            assert!(matches!(error, BrokerError::CancelRequested), "{error}");
            refused.push(at);
        }
    }
    assert_eq!(refused, [7]);
    until_waiting(&mut fleet, "-- runner_start\n%").await;
    run(&mut portal, "rollback").await;
    let (last, started) = starting.join_next().await.unwrap().unwrap();
    assert!(last == 11 && started.is_ok(), "{last} {started:?}");
    // What was started together was started in one transaction.
    let few = "select count(distinct xmin::text) < 20 from tendril_core.attempts where started_at is not null";
    assert!(one::<bool>(&mut fleet.operator, few).await);
    let report = success();
    let ends = all.iter().map(|(lease, _)| broker.finish(lease, &report));
    for ended in futures_util::future::join_all(ends).await {
        assert_eq!(ended.unwrap(), Disposition::Accepted);
    }
    let again = all.iter().map(|(lease, _)| broker.finish(lease, &report));
    for ended in futures_util::future::join_all(again).await {
        assert_eq!(ended.unwrap(), Disposition::Again);
    }
    let kept = format!(
        "select count(*) from tendril.deployments where status = 'SUCCESS' and outputs = '{}'",
        report.result["outputs"].to_string().replace('\'', "''")
    );
    assert_eq!(one::<i64>(&mut fleet.operator, &kept).await, 30);
    let unknown = Lease { fence: -1, ..all[0].0 };
    assert!(matches!(broker.start(&unknown).await, Err(BrokerError::Refused { code, .. }) if code == "TD002"));
    // A report that others would wait for goes by itself, and a wrong one is refused to its sender alone.
    let large = Report { result: json!("x".repeat(100_000)), ..success() };
    assert_eq!(broker.finish(&all[0].0, &large).await.unwrap(), Disposition::Again);
    let wrong = Report { log_end: -7, ..success() };
    let (wrong, right) = tokio::join!(broker.finish(&all[0].0, &wrong), broker.finish(&all[1].0, &report));
    assert!(matches!(wrong, Err(BrokerError::Refused { code, .. }) if code == "TD001"));
    assert_eq!(right.unwrap(), Disposition::Again);
    broker.close();
    assert!(broker.start(&all[0].0).await.is_err_and(|error| error.is_passing()), "as each call on a closed pool");
}

/// What a caller does again and again with the same attempts.
async fn ask_all(mut session: PgConnection, calls: Vec<String>) -> Vec<sqlx::Error> {
    let mut failed = Vec::new();
    for call in calls {
        failed.extend(sqlx::raw_sql(AssertSqlSafe(call)).execute(&mut session).await.err());
    }
    failed
}

#[tokio::test]
async fn sets_and_single_calls_and_cancels_in_all_orders_end_every_job_once() {
    let mut fleet = Fleet::new().await;
    planned(&mut fleet, &["s1", "s2", "s3", "s4", "s1", "s2", "s3", "s4"]).await;
    let (mut runner, mut all) = claimed(&mut fleet, 13).await;
    all.extend(runner.claim(99).await);
    let report: Value = json!({"outcome": "success", "log_end": -1});
    let order = |by: usize| (0..all.len()).map(move |n| n * by % 17);
    assert_eq!(all.len(), 17, "thirteen, and one of each state");
    let cancels = all
        .iter()
        .rev()
        .step_by(5)
        .map(|claimed| format!("select tendril.cancel('{}')", claimed.deployment_id))
        .collect();
    let mut calls: Vec<Vec<String>> = vec![cancels];
    // 17 is prime: each of these is an order of all.
    for by in [1, 5, 7, 16] {
        let set: Vec<Claimed> = order(by).map(|at| all[at].clone()).collect();
        calls.push((0..6).flat_map(|_| [start_all(&set), finish_all(&set)]).collect());
    }
    calls.push(order(11).flat_map(|at| [start_sql(&all[at]), finish_sql(&all[at], &report)]).collect());
    let mut asking = JoinSet::new();
    for (at, calls) in calls.into_iter().enumerate() {
        let session = match at {
            0 => connect(&fleet.database.url()).await,
            _ => connect(&fleet.database.runner_url(fleet.cluster.token.reveal())).await,
        };
        asking.spawn(ask_all(session, calls));
    }
    while let Some(failed) = asking.join_next().await {
        for error in failed.unwrap() {
            let code = error.as_database_error().and_then(|error| error.code()).unwrap_or_default().into_owned();
            // Ended before, or cancelled: what a single call may say. No deadlock.
            assert!(["TD003", "TD005", "TD013"].contains(&code.as_str()), "{error}");
        }
    }
    let open = "select count(*) from tendril_core.jobs where attempt_id is not null and state not in ('SUCCESS', 'FAILED', 'CANCELLED')";
    assert_eq!(one::<i64>(&mut fleet.operator, open).await, 0);
    let twice = "select count(*) from tendril_core.jobs where attempts > 1";
    assert_eq!(one::<i64>(&mut fleet.operator, twice).await, 0);
}
