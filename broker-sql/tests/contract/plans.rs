//! What the statements touch that every submit, claim, start, heartbeat, finish, batch of log rows and look makes, as
//! auto_explain counts it inside the functions. A session keeps its plans for as long as it lives: they were made when the
//! queue was short, as it is most of the time, and have to be good when a thousand jobs come at once.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use sqlx::postgres::PgConnection;

use crate::fleet::{
    Claimed, Fleet, Runner, apply_at, connect, exec, finish_sql, id, needing, one, row, run, start_sql,
};

/// More often than Postgres tries custom plans, before it takes the generic one.
const TURNS: usize = 7;

/// Rows that a statement may touch for a handful of jobs. The tables have thousands.
const FEW: u64 = 250;

/// A fleet whose sessions may be explained; none without a superuser.
async fn fleet() -> Option<(Fleet, String)> {
    let fleet = Fleet::new().await;
    let superuser = fleet.database.superuser_url();
    if superuser.is_none() {
        eprintln!("NOTE: TENDRIL_TEST_SUPERUSER_URL is not set; no plan was read");
    }
    Some((fleet, superuser?))
}

/// So many deployments of a graph that wait.
async fn submit(fleet: &mut Fleet, count: usize) {
    let snapshot = json!({"jobs": [exec("a"), needing(exec("b"), &["a"])]});
    let cluster = fleet.cluster.id;
    let sql = format!(
        "insert into tendril.deployments (cluster_id, config_snapshot) select '{cluster}', '{snapshot}' from generate_series(1, {count})"
    );
    run(&mut fleet.portal, &sql).await;
}

/// So many deployments that have ended, each with a log.
async fn history(fleet: &mut Fleet, count: usize) {
    submit(fleet, count).await;
    let mut runner = fleet.runner().await;
    runner.take_over().await;
    let claimed = runner.claim(i32::try_from(count).unwrap()).await;
    let rows: Vec<String> = claimed.iter().map(|claimed| row(claimed, 0, 0, "x")).collect();
    runner.copy(&rows).await.unwrap();
    let report = json!({"outcome": "failure", "log_end": 0});
    let ends: Vec<String> =
        claimed.iter().map(|one| format!("{};{}", start_sql(one), finish_sql(one, &report))).collect();
    run(&mut runner.session, &ends.join(";")).await;
}

/// A history, a short queue, and statistics that say so.
async fn quiet(fleet: &mut Fleet) {
    history(fleet, 1000).await;
    submit(fleet, 60).await;
    run(&mut fleet.operator, ANALYZE).await;
}

const ANALYZE: &str = "analyze tendril_core.queue; analyze tendril_core.jobs; analyze tendril_core.job_needs; \
                       analyze tendril_core.attempts; analyze tendril.deployments; analyze tendril.deployment_logs";

/// A session of the same role that explains what it runs. Only a superuser may load auto_explain: it becomes the role then.
async fn explaining(superuser: &str, session: &mut PgConnection) -> PgConnection {
    let role: String = one(session, "select session_user::text").await;
    let mut explaining = connect(superuser).await;
    run(
        &mut explaining,
        &format!(
            "load 'auto_explain'; set auto_explain.log_min_duration = 0; set auto_explain.log_nested_statements = on;
             set auto_explain.log_analyze = on; set auto_explain.log_timing = off; set auto_explain.log_level = 'notice';
             set client_min_messages = 'notice'; set session authorization {role}"
        ),
    )
    .await;
    explaining
}

#[tokio::test]
async fn the_pick_reads_the_queue_in_claim_order() {
    let Some((mut fleet, superuser)) = fleet().await else { return };
    submit(&mut fleet, 1000).await;
    run(&mut fleet.operator, ANALYZE).await;
    let mut runner = fleet.runner().await;
    runner.session = explaining(&superuser, &mut runner.session).await;
    let seen = notices::capture();
    for _ in 0..TURNS {
        assert_eq!(runner.claim(5).await.len(), 5);
    }
    let plans = seen.take();
    let picks: Vec<_> = plans.iter().filter(|plan| plan.contains("select q.job_id from tendril_core.queue")).collect();
    assert_eq!(picks.len(), TURNS, "one for each claim: {plans:?}");
    for plan in picks {
        assert!(plan.contains("Index Scan using queue_in_claim_order"), "{plan}");
        for bad in ["Seq Scan", "Hash Join", "Merge Join", "Sort", "Bitmap", "JIT"] {
            assert!(!plan.contains(bad), "{bad} in {plan}");
        }
    }
}

#[tokio::test]
async fn a_runners_statements_touch_few_rows_however_long_the_queue_has_grown() {
    let Some((mut fleet, superuser)) = fleet().await else { return };
    quiet(&mut fleet).await;
    let mut runner = fleet.runner().await;
    runner.take_over().await;
    runner.session = explaining(&superuser, &mut runner.session).await;
    // A takeover looks into the list of sessions, where one that a superuser began does not show.
    let pid: i32 = one(&mut runner.session, "select pg_backend_pid()").await;
    run(
        &mut fleet.operator,
        &format!("update tendril_core.log_writers set pid = {pid} where id = '{}'", runner.writer),
    )
    .await;
    for _ in 0..TURNS {
        lifetime(&mut runner).await;
    }
    submit(&mut fleet, 2000).await;
    for n in 0..TURNS {
        fleet.deploy(apply_at(&format!("s{n}"))).await;
    }
    // The plans of those come first.
    run(
        &mut fleet.operator,
        "update tendril_core.queue set rank = 0 where state_key is null and requires @> '{place=p}'",
    )
    .await;
    let seen = notices::capture();
    for _ in 0..3 * TURNS {
        lifetime(&mut runner).await;
    }
    let plans = seen.take();
    for statement in [
        "select q.job_id from tendril_core.queue",
        "insert into tendril_core.held_keys",
        "insert into tendril_core.attempts",
        "update tendril_core.jobs j set state = 'STARTED'",
        "update tendril_core.runner_leases set lease_expires_at",
        "update tendril_core.attempts set progress",
        "update tendril_core.attempts a set ended_at",
        "with parts as",
        "insert into tendril_core.artifacts",
        "where a.log_writer = p_writer",
    ] {
        assert!(plans.iter().any(|plan| plan.contains(statement)), "no plan of: {statement}");
    }
    assert_few(&plans, FEW);
}

/// Everything that a runner asks for on the way of a claim of a few jobs. Each second one starts and ends them together.
async fn lifetime(runner: &mut Runner) {
    let claimed = runner.claim(4).await;
    assert_eq!(claimed.len(), 4);
    let held: Vec<&Claimed> = claimed.iter().collect();
    runner.heartbeat(&held).await;
    let together = runner.claim_no % 2 == 0;
    let list = |what: &dyn Fn(&Claimed) -> String| claimed.iter().map(what).collect::<Vec<_>>().join(",");
    let arrays =
        format!("'{{{}}}', '{{{}}}'", list(&|one| one.attempt_id.to_string()), list(&|one| one.fence.to_string()));
    if together {
        run(&mut runner.session, &format!("select tendril.runner_start_all({arrays})")).await;
    }
    for one_of_them in &claimed {
        let (attempt, fence) = (one_of_them.attempt_id, one_of_them.fence);
        if !together {
            runner.start(one_of_them).await;
        }
        runner.append(one_of_them, 0, 0, "x").await.unwrap();
        for sql in [
            format!("select tendril.runner_progress('{attempt}', {fence}, '{{}}')"),
            format!("select tendril.runner_artifact_put('{attempt}', {fence}, 'x', 'x', 'x')"),
            format!("select * from tendril.runner_artifact_get('{attempt}', 'x')"),
            format!("select tendril.log_positions('{}')", runner.writer),
            format!("select tendril.runner_wait('{}')", runner.id),
        ] {
            run(&mut runner.session, &sql).await;
        }
        if !together {
            runner.report(one_of_them, json!({"outcome": "success", "log_end": 0})).await;
        }
    }
    if together {
        let reports = r#"array_fill('{"outcome": "success", "log_end": 0}'::jsonb, array[4])"#;
        run(&mut runner.session, &format!("select tendril.runner_finish_all({arrays}, {reports})")).await;
    }
}

#[tokio::test]
async fn a_claim_does_not_read_what_is_blocked_however_much_it_is() {
    let Some((mut fleet, superuser)) = fleet().await else { return };
    let cluster = fleet.cluster.id;
    // More urgent than what can run: without a runner that has the label, before its moment, behind a state's first.
    for key in [r#""labels": ["gpu=yes"]"#, r#""run_after": "2999-01-01T00:00:00Z""#] {
        let snapshot = format!(r#"{{"priority": 0, {key}, "jobs": [{}]}}"#, exec("a"));
        let year = snapshot.replace(
            "2999-01-01T00:00:00Z",
            "' || to_char(now() + interval '1 day', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') || '",
        );
        let sql = format!(
            "insert into tendril.deployments (cluster_id, config_snapshot) select '{cluster}', ('{year}')::jsonb from generate_series(1, 1000)"
        );
        run(&mut fleet.portal, &sql).await;
    }
    submit(&mut fleet, 60).await;
    run(&mut fleet.operator, ANALYZE).await;
    let mut runner = fleet.runner().await;
    runner.session = explaining(&superuser, &mut runner.session).await;
    let seen = notices::capture();
    for _ in 0..TURNS {
        let claimed = runner.claim(4).await;
        assert_eq!(claimed.len(), 4);
        assert_eq!(runner.heartbeat(&claimed.iter().collect::<Vec<_>>()).await["work"], true);
        for one_of_them in &claimed {
            if one_of_them.mutating {
                runner.start(one_of_them).await;
            }
            runner.finish(one_of_them, "success").await;
        }
    }
    let plans = seen.take();
    assert!(plans.iter().any(|plan| plan.contains("select q.class, q.rank, q.requires")));
    assert_few(&plans, FEW);
}

#[tokio::test]
async fn the_duties_of_each_second_do_not_read_the_history() {
    let Some((mut fleet, superuser)) = fleet().await else { return };
    quiet(&mut fleet).await;
    let mut operator = explaining(&superuser, &mut fleet.operator).await;
    for _ in 0..TURNS {
        duties(&mut operator).await;
    }
    history(&mut fleet, 1000).await;
    fleet.runner().await.claim(20).await;
    let seen = notices::capture();
    for _ in 0..TURNS {
        duties(&mut operator).await;
    }
    let plans = seen.take();
    assert!(plans.iter().any(|plan| plan.contains("select a.deployment_id from tendril_core.attempts")));
    // What is unfinished they do read; there are 4000 jobs.
    assert_few(&plans, 1000);
}

/// Once each, all that are due each second, but for the counting of what has happened.
async fn duties(operator: &mut PgConnection) {
    run(operator, "select tendril_core.pulse(); update tendril_core.duties set ran_at = '-infinity'").await;
    for duty in ["expire", "deadlines", "explain", "clusters", "sessions", "unpark"] {
        run(operator, &format!("select tendril_core.run_duty('{duty}')")).await;
    }
}

#[tokio::test]
async fn a_portals_statements_touch_few_rows_in_a_database_with_a_history() {
    let Some((mut fleet, superuser)) = fleet().await else { return };
    history(&mut fleet, 1000).await;
    submit(&mut fleet, 1000).await;
    fleet.database.duty("fold").await;
    run(&mut fleet.operator, ANALYZE).await;
    let mut portal = explaining(&superuser, &mut fleet.portal).await;
    let seen = notices::capture();
    for _ in 0..TURNS {
        visit(&fleet, &mut portal).await;
    }
    let plans = seen.take();
    for statement in
        ["insert into tendril_core.jobs", "insert into tendril_core.queue", "insert into tendril_core.job_needs"]
    {
        assert!(plans.iter().any(|plan| plan.contains(statement)), "no plan of: {statement}");
    }
    assert_few(&plans, FEW);
}

#[tokio::test]
async fn a_submit_touches_few_rows_however_many_came_before() {
    let Some((mut fleet, superuser)) = fleet().await else { return };
    quiet(&mut fleet).await;
    let mut portal = explaining(&superuser, &mut fleet.portal).await;
    for _ in 0..TURNS {
        visit(&fleet, &mut portal).await;
    }
    history(&mut fleet, 1000).await;
    submit(&mut fleet, 1000).await;
    let seen = notices::capture();
    for _ in 0..TURNS {
        visit(&fleet, &mut portal).await;
    }
    let plans: Vec<String> = seen.take().into_iter().filter(|plan| plan.contains("from submitted ")).collect();
    assert!(plans.len() >= 4 * TURNS, "{}", plans.len());
    assert_few(&plans, FEW);
}

/// A submit of a graph, and everything that a portal asks of it.
async fn visit(fleet: &Fleet, portal: &mut PgConnection) {
    let snapshot = json!({"jobs": [exec("a"), needing(exec("b"), &["a"])]});
    let id = id();
    for sql in [
        format!("{} on conflict (id) do nothing", fleet.insert(id, &snapshot)),
        format!("select status, waiting_for, outputs from tendril.deployments where id = '{id}'"),
        format!("select tendril.status('{id}')"),
        format!("select * from tendril.logs_after('{id}')"),
        format!("select * from tendril.tail(array['{id}']::uuid[])"),
        format!("select * from tendril.jobs where deployment_id = '{id}'"),
        "select * from tendril.queue_depth()".to_owned(),
        format!("select tendril.cancel('{id}')"),
        format!("select tendril.retry('{id}')"),
    ] {
        run(portal, &sql).await;
    }
}

#[tokio::test]
async fn a_tail_of_many_logs_reads_by_index_in_their_days_alone_however_large_the_table() {
    let Some((mut fleet, superuser)) = fleet().await else { return };
    history(&mut fleet, 1000).await;
    run(&mut fleet.operator, ANALYZE).await;
    let ids: Vec<String> = {
        let mut runner = fleet.runner().await;
        runner.take_over().await;
        submit(&mut fleet, 20).await;
        let claimed = runner.claim(20).await;
        let rows: Vec<String> =
            claimed.iter().flat_map(|claimed| (0..200).map(|seq| row(claimed, seq, seq, "x"))).collect();
        runner.copy(&rows).await.unwrap();
        claimed.iter().map(|claimed| format!("'{}'", claimed.deployment_id)).collect()
    };
    let sql = format!("select * from tendril.tail(array[{}]::uuid[], '{{}}', 100)", ids.join(","));
    let mut portal = explaining(&superuser, &mut fleet.portal).await;
    let seen = notices::capture();
    for _ in 0..TURNS {
        run(&mut portal, &sql).await;
    }
    let plans: Vec<String> = seen.take().into_iter().filter(|plan| plan.contains("log_inbox")).collect();
    assert_eq!(plans.len(), 2 * TURNS, "what has news, and the page");
    assert_few(&plans, FEW);
    for plan in &plans {
        let scans = || plan.lines().filter(|line| line.contains(" on log_day_"));
        assert!(scans().all(|line| line.contains("Index")), "{plan}");
        let looked_into: BTreeSet<&str> = scans()
            .filter(|line| !line.contains("never executed"))
            .filter_map(|line| line.split(" on ").nth(1)?.split(' ').next())
            .collect();
        // Two if it is midnight just now.
        assert!((1..=2).contains(&looked_into.len()), "{plan}");
    }
}

/// No statement touches more than a few rows, and none is compiled.
fn assert_few(plans: &[String], few: u64) {
    let mut worst = BTreeMap::new();
    for plan in plans {
        let most = plan.lines().map(touched).max().unwrap_or(0);
        if most > few || plan.contains("JIT:") {
            worst.insert(statement(plan), (most, plan));
        }
    }
    let said: Vec<String> = worst.values().map(|(most, plan)| format!("{most} rows:\n{plan}")).collect();
    assert!(said.is_empty(), "{}", said.join("\n"));
}

/// Rows that went through a node of a plan, or were read and dropped there.
fn touched(line: &str) -> u64 {
    let number = |text: &str, name: &str| {
        let digits: String = text.split(name).nth(1)?.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<u64>().ok()
    };
    let dropped =
        ["Rows Removed by Filter: ", "Rows Removed by Join Filter: "].iter().find_map(|name| number(line, name));
    let passed =
        line.split("(actual").nth(1).and_then(|actual| Some(number(actual, "rows=")? * number(actual, "loops=")?));
    passed.or(dropped).unwrap_or(0)
}

fn statement(plan: &str) -> String {
    plan.lines().skip(1).take_while(|line| !line.contains("(cost=")).map(str::trim).collect::<Vec<_>>().join(" ")
}

/// What the server says beside its answers reaches us as events of the driver, on the thread that asked.
mod notices {
    use std::cell::RefCell;
    use std::sync::Once;

    use tracing::field::{Field, Visit};
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Metadata, Subscriber};

    thread_local! {
        static HEARD: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
    }

    /// From here on this thread's notices are kept.
    pub struct Seen;

    impl Seen {
        pub fn take(&self) -> Vec<String> {
            HEARD.with_borrow_mut(Option::take).unwrap_or_default()
        }
    }

    /// One subscriber for all threads: with one each, what one of them leaves silences the others for a moment.
    pub fn capture() -> Seen {
        static INSTALLED: Once = Once::new();
        INSTALLED.call_once(|| tracing::subscriber::set_global_default(Capture).unwrap());
        HEARD.set(Some(Vec::new()));
        Seen
    }

    struct Capture;

    impl Subscriber for Capture {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            metadata.target().starts_with("sqlx")
        }
        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }
        fn record(&self, _: &Id, _: &Record<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn event(&self, event: &Event<'_>) {
            event.record(&mut Text);
        }
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }

    struct Text;

    impl Visit for Text {
        fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
            if field.name() == "message" {
                let said = format!("{value:?}").replace("\\n", "\n");
                HEARD.with_borrow_mut(|heard| heard.iter_mut().for_each(|heard| heard.push(said.clone())));
            }
        }
    }
}
