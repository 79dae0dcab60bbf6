//! Starts and ends of many attempts in one call: for each what a call of its own would have come to.

use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use crate::fleet::{
    Claimed, Fleet, Runner, apply_at, exec, id, limited, needing, one, reading, refused, run, sqlstate,
};

/// How many are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// By a call for each.
    Each,
    /// By one call.
    Set,
}

/// An element of the arrays: whose start or end it is, and its report.
#[derive(Clone)]
struct Ask {
    attempt: Option<Uuid>,
    fence: Option<i64>,
    report: Option<Value>,
}

impl Ask {
    fn start(claimed: &Claimed) -> Self {
        Self { attempt: Some(claimed.attempt_id), fence: Some(claimed.fence), report: None }
    }

    fn end(claimed: &Claimed, report: Value) -> Self {
        Self { report: Some(report), ..Self::start(claimed) }
    }

    fn well(claimed: &Claimed) -> Self {
        Self::end(claimed, ended("success"))
    }
}

fn ended(outcome: &str) -> Value {
    json!({"outcome": outcome, "log_end": -1, "child_dead": true})
}

/// How `verb` (start, finish) of each came to an end, in words; ids are told by their place among those that were asked.
async fn ask(session: &mut PgConnection, way: Way, verb: &str, asks: &[Ask]) -> Vec<String> {
    let (report, reports) = if verb == "finish" { (", $3", ", $3") } else { ("", "") };
    let mut answers = Vec::new();
    match way {
        Way::Each => {
            let sql = format!("select coalesce(nullif(tendril.runner_{verb}($1, $2{report})::text, ''), 'started')");
            for ask in asks {
                let query =
                    sqlx::query_scalar::<_, String>(AssertSqlSafe(sql.clone())).bind(ask.attempt).bind(ask.fence);
                let query = if verb == "finish" { query.bind(&ask.report) } else { query };
                answers.push(query.fetch_one(&mut *session).await.unwrap_or_else(|error| {
                    let error = error.into_database_error().unwrap();
                    let hint = error.downcast_ref::<sqlx::postgres::PgDatabaseError>().hint();
                    format!("{} {} {}", error.code().unwrap(), error.message(), hint.unwrap_or_default())
                }));
            }
        }
        Way::Set => {
            let sql = format!(
                "select n, attempt_id, coalesce(answer, format('%s %s %s', code, message, hint))
                   from tendril.runner_{verb}_all($1, $2{reports})"
            );
            let query = sqlx::query_as::<_, (i32, Option<Uuid>, String)>(AssertSqlSafe(sql))
                .bind(asks.iter().map(|ask| ask.attempt).collect::<Vec<_>>())
                .bind(asks.iter().map(|ask| ask.fence).collect::<Vec<_>>());
            let reports: Vec<_> = asks.iter().map(|ask| ask.report.clone()).collect();
            let query = if verb == "finish" { query.bind(reports) } else { query };
            for (at, (n, attempt, answer)) in query.fetch_all(session).await.unwrap().into_iter().enumerate() {
                assert_eq!((n as usize, attempt), (at + 1, asks[at].attempt), "a row for each, in their order");
                answers.push(answer);
            }
        }
    }
    let named = |answer: String| {
        let ids = asks.iter().enumerate().filter_map(|(at, ask)| ask.attempt.map(|id| (at, id)));
        ids.fold(answer, |answer, (at, id)| answer.replace(&id.to_string(), &format!("attempt {at}")))
    };
    answers.into_iter().map(named).collect()
}

/// All that is kept of jobs, without what differs from one run to the next: ids, moments, and how far apart these are.
async fn kept(fleet: &mut Fleet) -> Value {
    let sql = "
      with d as (select id, row_number() over (order by created_at, id) as n from tendril.deployments)
      select jsonb_build_object(
        'deployments', (select jsonb_agg(jsonb_build_array(d.n, x.status, x.error_message, x.outputs, x.engine, x.engine_version, x.waiting_for,
             x.started_at is null, x.ended_at is null, x.cancel_requested_at is null) order by d.n) from d join tendril.deployments x on x.id = d.id),
        'jobs', (select jsonb_agg(jsonb_build_array(d.n, j.name, j.state, j.reason, j.result, j.needs_left, j.attempts, j.max_attempts, j.requires, j.needs_approval,
             j.doubted, j.attempt_id is null, j.started_at is null, j.ended_at is null, j.deadline_at is null, j.expires_at is null,
             j.run_after is null, j.cancel_requested_at is null, j.queued_at is null) order by d.n, j.name) from d join tendril_core.jobs j on j.deployment_id = d.id),
        'attempts', (select jsonb_agg(jsonb_build_array(d.n, j.name, a.ordinal, a.outcome, a.report, a.log_end, a.log_state, a.started_at is null, a.ended_at is null,
             a.superseded_at is null) order by d.n, j.name, a.ordinal)
             from d join tendril_core.jobs j on j.deployment_id = d.id join tendril_core.attempts a on a.job_id = j.id),
        'keys', (select jsonb_agg(jsonb_build_array(h.state_key, d.n, j.name) order by h.state_key)
             from tendril_core.held_keys h join tendril_core.jobs j on j.id = h.job_id join d on d.id = j.deployment_id),
        'queue', (select jsonb_agg(jsonb_build_array(d.n, j.name) order by d.n, j.name)
             from tendril_core.queue q join tendril_core.jobs j on j.id = q.job_id join d on d.id = j.deployment_id),
        'parked', (select jsonb_agg(jsonb_build_array(d.n, j.name, p.why) order by d.n, j.name)
             from tendril_core.parked p join tendril_core.jobs j on j.id = p.job_id join d on d.id = j.deployment_id),
        'notes', (select jsonb_agg(jsonb_build_array(d.n, j.name, o.what, o.report) order by d.n, j.name, o.noted_at)
             from tendril_core.attempt_notes o join tendril_core.attempts a on a.id = o.attempt_id
             join tendril_core.jobs j on j.id = a.job_id join d on d.id = j.deployment_id),
        'depth', (select jsonb_agg(to_jsonb(q) order by q.kind, q.state, q.priority, q.waits)
             from (select kind, state, priority, waits, sum(n) as n from tendril_core.queue_deltas group by 1, 2, 3, 4 having sum(n) <> 0) q),
        'happened', (select jsonb_agg(to_jsonb(q) order by q.kind, q.what, q.label)
             from (select kind, what, case when what = 'end' then label end as label, sum(n) as n from tendril_core.happening_deltas group by 1, 2, 3) q))";
    one(&mut fleet.operator, sql).await
}

/// The element of a deployment's only, or first, job.
fn of(claimed: &[Claimed], deployment: Uuid) -> &Claimed {
    claimed.iter().find(|claimed| claimed.deployment_id == deployment).unwrap()
}

/// A fleet with attempts in each state in which somebody may ask for their start, and who asks.
async fn starts() -> (Fleet, Runner, Vec<Ask>) {
    let mut fleet = Fleet::new().await;
    let mut runner = fleet.runner().await;
    // One that its lease has run out for, one that was judged lost before its start, and one after it.
    let (mut quiet, mut lost) = (fleet.runner().await, fleet.runner().await);
    fleet.deploy_jobs(&[exec("quiet")]).await;
    let quiets = quiet.claim_one().await;
    fleet.deploy_jobs(&[exec("superseded")]).await;
    let superseded = lost.claim_one().await;
    fleet.deploy_jobs(&[exec("unknown")]).await;
    let unknown = lost.claim_one().await;
    lost.start(&unknown).await;
    assert_eq!(fleet.lose(&lost).await, 2);
    fleet.silence(&quiet).await;
    let mut applies = Vec::new();
    for path in ["held", "released", "expired"] {
        applies.push(fleet.deploy(apply_at(path)).await);
    }
    let labels = ["kind=terraform.plan", "place=p"];
    let mut planner = fleet.runner_of(&fleet.cluster, &labels).await;
    for plan in planner.claim(9).await {
        planner.finish(&plan, "success").await;
    }
    let mut singles = Vec::new();
    for name in ["plain", "cancelled", "started", "doubted", "shown-as-queued", "ended"] {
        singles.push(fleet.deploy_jobs(&[exec(name)]).await);
    }
    let pair = fleet.deploy_jobs(&[exec("one"), exec("two")]).await;
    // The lost one's first job is there again.
    let claimed = runner.claim(99).await;
    run(&mut fleet.portal, &format!("select tendril.cancel('{}')", singles[1])).await;
    runner.start(of(&claimed, singles[2])).await;
    runner.start(of(&claimed, singles[5])).await;
    runner.finish(of(&claimed, singles[5]), "success").await;
    let (doubted, shown, released, expired) = (singles[3], singles[4], applies[1], applies[2]);
    let sql = format!(
        "update tendril_core.jobs set doubted = true where deployment_id = '{doubted}';
         update tendril.deployments set status = 'QUEUED' where id = '{shown}';
         delete from tendril_core.held_keys where state_key = 'local://p/released#default';
         update tendril_core.jobs set expires_at = '2026-01-01' where deployment_id = '{expired}' and name = 'apply';"
    );
    assert_ne!(released, expired);
    run(&mut fleet.operator, &sql).await;
    let two = fleet.database.cluster("two").await;
    let mut stranger = fleet.runner_of(&two, &["kind=exec"]).await;
    let foreign = fleet
        .insert(id(), &json!({"jobs": [exec("foreign")]}))
        .replace(&fleet.cluster.id.to_string(), &two.id.to_string());
    run(&mut fleet.portal, &foreign).await;
    let foreign = stranger.claim_one().await;
    let mut asks: Vec<Ask> =
        singles.iter().chain(&applies).map(|deployment| Ask::start(of(&claimed, *deployment))).collect();
    asks.extend(claimed.iter().filter(|claimed| claimed.deployment_id == pair).map(Ask::start));
    asks.extend([&quiets, &superseded, &unknown, &foreign].map(Ask::start));
    let plain = asks[0].clone();
    asks.extend([
        plain.clone(),
        Ask { fence: plain.fence.map(|fence| fence + 1), ..plain.clone() },
        Ask { fence: None, ..plain.clone() },
        Ask { attempt: None, ..plain.clone() },
        Ask { attempt: Some(Uuid::from_u128(7)), ..plain },
    ]);
    (fleet, runner, asks)
}

#[tokio::test]
async fn starts_in_one_call_come_to_what_calls_for_each_come_to() {
    let mut came = Vec::new();
    for way in [Way::Each, Way::Set] {
        let (mut fleet, mut runner, asks) = starts().await;
        let answers = ask(&mut runner.session, way, "start", &asks).await;
        // A lost reply: all of it again.
        let again = ask(&mut runner.session, way, "start", &asks).await;
        // In another history.
        run(&mut fleet.operator, "update tendril.clusters set origin = 'before'").await;
        let later = ask(&mut runner.session, way, "start", &asks).await;
        came.push((answers, again, later, kept(&mut fleet).await));
    }
    let (set, each) = (came.pop().unwrap(), came.pop().unwrap());
    assert_eq!(set, each);
    let words: Vec<&str> = set.0.iter().map(|answer| answer.split(' ').next().unwrap()).collect();
    let expected = [
        "started", "TD013", "started", "TD005", "started", "TD005", "started", "TD005", "TD013", "started", "started",
        "TD006", "TD005", "TD006", "TD002", "started", "TD002", "TD002", "TD002", "TD002",
    ];
    assert_eq!(words, expected, "{:#?}", set.0);
    assert_eq!(set.1, set.0, "the same again says the same");
    // Of all that could still start.
    assert_eq!(set.2.iter().filter(|answer| answer.starts_with("TD015")).count(), 6, "{:#?}", set.2);
}

fn judged() -> Value {
    let mut snapshot = apply_at("judged");
    snapshot["jobs"] = json!([
        {"name": "plan", "kind": "terraform.plan"},
        {"name": "rules", "kind": "policy", "argv": ["./rules"], "needs": ["plan"]},
        {"name": "apply", "kind": "terraform.apply", "needs": ["plan", "rules"]}]);
    snapshot
}

fn keyed(job: Value) -> Value {
    json!({"concurrency": {"key": "k", "limit": 1}, "jobs": [job]})
}

/// The report of a success with more to it.
fn well_with(more: Value) -> Value {
    let mut report = ended("success");
    report.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    report
}

/// Deployments of one job each.
async fn singles(fleet: &mut Fleet) -> Vec<Uuid> {
    let mut singles = Vec::new();
    for snapshot in [
        json!({"jobs": [exec("plain")]}),
        json!({"jobs": [exec("failed")]}),
        json!({"jobs": [exec("cancelled")]}),
        json!({"jobs": [exec("late")]}),
        json!({"jobs": [exec("released")]}),
        json!({"jobs": [exec("barred")]}),
        json!({"jobs": [limited(reading("tried-again"), json!({"max_attempts": 3}))]}),
        json!({"jobs": [exec("with-outputs")]}),
        keyed(exec("limited")),
        keyed(exec("waits-for-the-limit")),
        json!({"jobs": [exec("no-report")]}),
        json!({"jobs": [exec("no-bool")]}),
        json!({"jobs": [exec("ended")]}),
    ] {
        singles.push(fleet.deploy(snapshot).await);
    }
    singles
}

/// How the jobs of those are said to have ended; one of two that share a limit was claimed.
fn of_singles(claimed: &[Claimed], singles: &[Uuid]) -> Vec<Ask> {
    let asks = |deployment: Uuid, report: Value| Ask::end(of(claimed, deployment), report);
    vec![
        asks(singles[0], ended("success")),
        asks(singles[1], json!({"outcome": "failure", "log_end": 3, "error": "exit 1"})),
        asks(singles[2], ended("cancelled")),
        asks(singles[3], ended("timeout")),
        asks(singles[4], ended("released")),
        asks(singles[5], json!({"outcome": "released", "log_end": -1, "permanent": true, "error": "no"})),
        asks(singles[6], ended("failure")),
        asks(
            singles[7],
            well_with(
                json!({"log_end": 41, "result": {"outputs": {"x": 1}, "engine": "terraform", "engine_version": "1.2.3"}}),
            ),
        ),
        asks(singles[8], ended("success")),
        asks(singles[10], json!({"outcome": "success"})),
        asks(singles[11], json!({"outcome": "released", "log_end": -1, "permanent": "maybe"})),
        asks(singles[12], ended("success")),
    ]
}

/// A fleet with attempts in each state in which somebody may report their end, and who does.
async fn ends() -> (Fleet, Runner, Vec<Ask>) {
    let mut fleet = Fleet::new().await;
    let labels = ["kind=exec", "kind=terraform.plan", "kind=terraform.apply", "kind=policy", "place=p"];
    let mut runner = fleet.runner_of(&fleet.cluster, &labels).await;
    let mut lost = fleet.runner().await;
    fleet.deploy_jobs(&[exec("superseded")]).await;
    let superseded = lost.claim_one().await;
    fleet.deploy_jobs(&[exec("unknown")]).await;
    let unknown = lost.claim_one().await;
    lost.start(&unknown).await;
    assert_eq!(fleet.lose(&lost).await, 2);
    // An apply with another one behind it, one whose child may live on, and a policy that has read its plan.
    let mut applies = Vec::new();
    for path in ["wanted", "wanted", "doubtful", "wanted-too"] {
        applies.push(fleet.deploy(apply_at(path)).await);
    }
    let rules = fleet.deploy(judged()).await;
    for plan in runner.claim(9).await.iter().filter(|claimed| claimed.kind == "terraform.plan") {
        runner.finish(plan, "success").await;
    }
    let plan = fleet.deploy(apply_at("planned")).await;
    let diamond = [exec("a"), needing(exec("b"), &["a"]), needing(exec("c"), &["a"]), needing(exec("d"), &["b", "c"])];
    let diamond = fleet.deploy_jobs(&diamond).await;
    let top = runner.claim(99).await;
    runner.start(of(&top, diamond)).await;
    runner.finish(of(&top, diamond), "success").await;
    let singles = singles(&mut fleet).await;
    let mut claimed = runner.claim(99).await;
    claimed.extend(top);
    run(&mut fleet.portal, &format!("select tendril.cancel('{}')", singles[2])).await;
    for one in [0, 1, 3, 7, 8] {
        runner.start(of(&claimed, singles[one])).await;
    }
    runner.finish(of(&claimed, singles[12]), "success").await;
    for apply in claimed.iter().filter(|claimed| claimed.kind == "terraform.apply") {
        runner.start(apply).await;
    }
    let mut all = of_singles(&claimed, &singles);
    all.extend([
        Ask::end(of(&claimed, rules), well_with(json!({"result": {"verdict": "approval", "reason": "opens port 22"}}))),
        Ask::end(of(&claimed, plan), well_with(json!({"result": {"engine": "tofu", "engine_version": "1.9.0"}}))),
        Ask::well(&superseded),
        Ask::well(&unknown),
    ]);
    // Of the two that wait for the same state one was claimed.
    let held =
        claimed.iter().filter(|claimed| claimed.kind == "terraform.apply" && applies.contains(&claimed.deployment_id));
    all.extend(held.map(|apply| match apply.state_key.as_deref() {
        Some("local://p/doubtful#default") => Ask::end(apply, well_with(json!({"child_dead": false}))),
        _ => Ask::well(apply),
    }));
    let middle = claimed.iter().filter(|claimed| claimed.deployment_id == diamond && claimed.job != "a");
    all.extend(middle.map(Ask::well));
    let plain = all[0].clone();
    all.extend([
        plain.clone(),
        Ask { fence: plain.fence.map(|fence| fence + 1), ..plain.clone() },
        Ask { attempt: Some(Uuid::from_u128(7)), ..plain.clone() },
        Ask { attempt: None, ..plain.clone() },
        Ask { report: None, ..plain },
    ]);
    (fleet, runner, all)
}

#[tokio::test]
async fn ends_in_one_call_come_to_what_calls_for_each_come_to() {
    let mut came = Vec::new();
    for way in [Way::Each, Way::Set] {
        let (mut fleet, mut runner, asks) = ends().await;
        let answers = ask(&mut runner.session, way, "finish", &asks).await;
        let after = kept(&mut fleet).await;
        let again = ask(&mut runner.session, way, "finish", &asks).await;
        came.push((answers, after, again, kept(&mut fleet).await));
    }
    let (set, each) = (came.pop().unwrap(), came.pop().unwrap());
    assert_eq!(set.0, each.0);
    assert_eq!(set.1, each.1);
    assert_eq!((set.2, set.3), (each.2, each.3), "a second time, after a lost reply");
    let words: Vec<&str> = set.0.iter().map(|answer| answer.split(' ').next().unwrap()).collect();
    let expected = [
        "accepted", "accepted", "accepted", "accepted", "accepted", "accepted", "accepted", "accepted", "accepted",
        "TD001", "22P02", "again", "accepted", "accepted", "noted", "accepted", "accepted", "accepted", "accepted",
        "accepted", "accepted", "again", "TD002", "TD002", "TD002", "TD001",
    ];
    assert_eq!(words, expected, "{:#?}", set.0);
}

#[tokio::test]
async fn a_thousand_go_in_one_call_and_no_more() {
    let mut fleet = Fleet::new().await;
    let deploy = format!(
        "insert into tendril.deployments (cluster_id, config_snapshot)
         select '{}', '{}' from generate_series(1, 1000)",
        fleet.cluster.id,
        json!({"jobs": [exec("a")]})
    );
    run(&mut fleet.portal, &deploy).await;
    let mut runner = fleet.runner().await;
    let mut claimed = Vec::new();
    while claimed.len() < 1000 {
        claimed.extend(runner.claim(1000).await);
    }
    let starts: Vec<Ask> = claimed.iter().map(Ask::start).collect();
    assert_eq!(ask(&mut runner.session, Way::Set, "start", &starts).await, vec!["started"; 1000]);
    let ends: Vec<Ask> = claimed.iter().map(Ask::well).collect();
    assert_eq!(ask(&mut runner.session, Way::Set, "finish", &ends).await, vec!["accepted"; 1000]);
    let well = "select count(*) from tendril.deployments where status = 'SUCCESS'";
    assert_eq!(one::<i64>(&mut fleet.operator, well).await, 1000);
    assert!(ask(&mut runner.session, Way::Set, "start", &[]).await.is_empty());
    assert!(ask(&mut runner.session, Way::Set, "finish", &[]).await.is_empty());
    let many =
        "array_fill('00000000-0000-7000-8000-000000000000'::uuid, array[1001]), array_fill(1::bigint, array[1001])";
    let refusal = refused(&mut runner.session, &format!("select tendril.runner_start_all({many})")).await;
    assert_eq!(
        (refusal.sqlstate.as_str(), refusal.message.as_str()),
        ("TD011", "attempts, fences: have more than 1000 elements")
    );
}

#[tokio::test]
async fn arrays_that_do_not_belong_together_are_refused() {
    let fleet = Fleet::new().await;
    let mut runner = fleet.runner().await;
    for call in [
        "runner_start_all('{}', '{1}')",
        "runner_start_all(null, '{}')",
        "runner_start_all('{}', null)",
        "runner_finish_all('{}', '{}', '{null}')",
        "runner_finish_all('{}', '{1}', '{}')",
        "runner_finish_all(null, null, null)",
    ] {
        assert_eq!(sqlstate(&mut runner.session, &format!("select tendril.{call}")).await, "TD001", "{call}");
    }
    run(&mut runner.session, "begin isolation level repeatable read").await;
    assert_eq!(sqlstate(&mut runner.session, "select tendril.runner_start_all('{}', '{}')").await, "TD007");
}
