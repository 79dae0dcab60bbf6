//! What is counted for Prometheus is what there is.

use serde_json::{Value, json};
use sqlx::postgres::PgConnection;
use tendril_broker::testing::figures;

use crate::fleet::{Claimed, Fleet, Runner, apply_at, exec, limited, needing, one, reading, row, run};

/// Numbers that are the same at each run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % sides
    }
}

async fn tomorrow(session: &mut PgConnection) -> String {
    one(
        session,
        "select to_char(clock_timestamp() at time zone 'UTC' + interval '1 day', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')",
    )
    .await
}

fn something(dice: &mut Dice, later: &str) -> Value {
    let key = format!("s{}", dice.roll(3));
    match dice.roll(9) {
        0 => json!({"jobs": [exec("a"), needing(exec("b"), &["a"]), reading("c")]}),
        1 => json!({"priority": dice.roll(101), "jobs": [reading("a")]}),
        2 => apply_at(&key),
        3 => json!({"run_after": later, "jobs": [reading("a")]}),
        4 => json!({"concurrency": {"key": key}, "jobs": [reading("a"), exec("b")]}),
        5 => {
            let mut asks = exec("a");
            asks["approval"] = json!("required");
            json!({"jobs": [asks, needing(reading("b"), &["a"])]})
        }
        6 => json!({"jobs": [limited(reading("a"), json!({"max_attempts": 2}))]}),
        7 => {
            let mut snapshot = apply_at(&key);
            snapshot["approval"] = json!("required");
            snapshot
        }
        _ => json!({"jobs": [exec("a")]}),
    }
}

struct World {
    fleet: Fleet,
    runners: Vec<(Runner, Vec<Claimed>)>,
    dice: Dice,
    later: String,
}

impl World {
    /// One thing that a portal, a runner, an operator or `serve` does; what is refused is refused.
    async fn step(&mut self) {
        match self.dice.roll(16) {
            0..=3 => {
                let snapshot = something(&mut self.dice, &self.later);
                let done = sqlx::raw_sql(sqlx::AssertSqlSafe(self.fleet.insert(crate::fleet::id(), &snapshot)));
                drop(done.execute(&mut self.fleet.portal).await);
            }
            4..=6 => {
                let at = self.dice.roll(self.runners.len());
                let (runner, held) = &mut self.runners[at];
                runner.claim_no += 1;
                held.extend(runner.try_claim(3).await.unwrap_or_default());
            }
            7..=10 => self.finish().await,
            11 => {
                let at = self.dice.roll(self.runners.len());
                let (runner, held) = &mut self.runners[at];
                held.clear();
                self.fleet.lose(runner).await;
                runner.heartbeat(&[]).await;
            }
            12 => self.portal("cancel", "").await,
            13 => self.portal("approve", "").await,
            14 => {
                let until = ["null", "clock_timestamp() + interval '1 h'"][self.dice.roll(2)];
                self.portal("snooze", &format!(", {until}")).await;
            }
            _ => {
                for duty in ["unpark", "fold", "deadlines"] {
                    self.fleet.database.duty(duty).await;
                }
            }
        }
    }

    async fn finish(&mut self) {
        let at = self.dice.roll(self.runners.len());
        let outcome = ["success", "failure", "timeout", "released"][self.dice.roll(4)];
        let (runner, held) = &mut self.runners[at];
        let Some(claimed) = held.pop() else { return };
        // Whoever was lost meanwhile is refused; their report becomes a note.
        let started = sqlx::raw_sql(sqlx::AssertSqlSafe(crate::fleet::start_sql(&claimed)));
        drop(started.execute(&mut runner.session).await);
        drop(runner.append(&claimed, 0, 0, "text").await);
        runner.report(&claimed, json!({"outcome": outcome, "log_end": 0})).await;
    }

    async fn portal(&mut self, function: &str, more: &str) {
        let sql = format!(
            "select tendril.{function}(id{more}) from tendril.deployments where ended_at is null order by md5(id::text || {}) limit 1",
            self.dice.roll(1000)
        );
        drop(sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut self.fleet.portal).await);
    }
}

#[tokio::test]
async fn folded_figures_are_what_a_real_count_comes_to_after_any_work() {
    let mut fleet = Fleet::new().await;
    let later = tomorrow(&mut fleet.operator).await;
    let mut runners = Vec::new();
    for _ in 0..3 {
        let mut runner = fleet.runner().await;
        runner.take_over().await;
        runners.push((runner, Vec::new()));
    }
    let mut world = World { fleet, runners, dice: Dice(7), later };
    for turn in 0..400 {
        world.step().await;
        if turn % 80 == 79 {
            let wrong = figures::differences(&mut world.fleet.operator).await.unwrap();
            assert!(wrong.is_empty(), "after {turn} steps:\n{}", wrong.join("\n"));
        }
    }
    // The work was such that there was something to be wrong about.
    let states: i64 = one(
        &mut world.fleet.operator,
        "select count(distinct (state, waits)) from tendril_core.queue_depth where n > 0",
    )
    .await;
    assert!(states >= 7, "{states} sorts of waiting and running");
    let happened: i64 = one(
        &mut world.fleet.operator,
        "select count(distinct (what, case what when 'end' then label end)) from tendril_core.happenings",
    )
    .await;
    assert!(happened >= 10, "{happened} sorts of happenings");
    // And a wrong figure is found.
    run(
        &mut world.fleet.operator,
        "update tendril_core.queue_depth set n = n + 1 where state = 'QUEUED' and waits = ''",
    )
    .await;
    assert!(!figures::differences(&mut world.fleet.operator).await.unwrap().is_empty());
}

#[tokio::test]
async fn what_can_run_is_told_from_what_waits() {
    let mut fleet = Fleet::new().await;
    let later = tomorrow(&mut fleet.operator).await;
    fleet.deploy(json!({"run_after": later, "jobs": [reading("later")]})).await;
    fleet.deploy_jobs(&[reading("now"), exec("too")]).await;
    for _ in 0..3 {
        fleet.deploy(json!({"concurrency": {"key": "one"}, "jobs": [reading("limited")]})).await;
    }
    let read = "select sum(jobs) || ' ' || sum(runnable) from tendril.queue where state = 'QUEUED'";
    for folded in [false, true] {
        assert_eq!(one::<String>(&mut fleet.portal, read).await, "6 3", "folded: {folded}");
        fleet.database.duty("fold").await;
    }
    let parked = "select string_agg(waits || '=' || n, ' ' order by waits) from tendril_core.queue_depth where state = 'QUEUED' and n > 0 and kind = 'exec'";
    assert_eq!(one::<String>(&mut fleet.operator, parked).await, "=3 later=1 limit=2");
    let pause = format!("select tendril.pause('{}')", fleet.cluster.id);
    run(&mut fleet.operator, &pause).await;
    assert_eq!(one::<String>(&mut fleet.portal, read).await, "6 0", "nothing of a paused cluster can run");
    let resume = format!("select tendril.resume('{}')", fleet.cluster.id);
    run(&mut fleet.operator, &resume).await;
    assert_eq!(one::<String>(&mut fleet.portal, read).await, "6 3");
}

#[tokio::test]
async fn the_oldest_is_as_old_as_its_wait() {
    let mut fleet = Fleet::new().await;
    fleet.deploy_jobs(&[reading("old")]).await;
    run(
        &mut fleet.operator,
        "update tendril_core.jobs set queued_at = queued_at - interval '1 h', created_at = created_at - interval '1 h'",
    )
    .await;
    fleet.deploy_jobs(&[reading("new")]).await;
    let age = "select (extract(epoch from clock_timestamp() - oldest) / 10)::bigint * 10 from tendril_core.queue_depth where state = 'QUEUED'";
    fleet.database.duty("fold").await;
    let seconds: i64 = one(&mut fleet.operator, age).await;
    assert!((3600..3660).contains(&seconds), "{seconds}");
    let mut runner = fleet.runner().await;
    assert_eq!(runner.claim_one().await.job, "old");
    fleet.database.duty("fold").await;
    let seconds: i64 = one(&mut fleet.operator, age).await;
    assert!(seconds < 60, "{seconds}: the one that is left is young");
}

#[tokio::test]
async fn happenings_are_counted_once_with_their_seconds() {
    let mut fleet = Fleet::new().await;
    fleet.deploy_jobs(&[exec("a"), reading("b")]).await;
    run(&mut fleet.operator, "update tendril_core.jobs set queued_at = queued_at - interval '2 min', created_at = created_at - interval '2 min'").await;
    let mut runner = fleet.runner().await;
    runner.take_over().await;
    let claimed = runner.claim(2).await;
    for job in &claimed {
        if job.mutating {
            runner.start(job).await;
            runner.start(job).await;
        }
        runner.copy(&[row(job, 0, 0, "abc"), row(job, 1, 1, "de")]).await.unwrap();
        runner.report(job, json!({"outcome": "success", "log_end": 1})).await;
        assert_eq!(runner.report(job, json!({"outcome": "success", "log_end": 1})).await, "again");
    }
    fleet.database.duty("fold_happenings").await;
    assert_eq!(fleet.lose(&runner).await, 0, "it held nothing, and its lease is lost all the same");
    assert_eq!(fleet.lose(&runner).await, 0);
    fleet.database.duty("fold_happenings").await;
    let told: String = one(
        &mut fleet.operator,
        "select string_agg(what || ' ' || sums, ', ' order by what) from (select what, sum(n) || case what when 'log' then '/' || sum(total) else '' end as sums
           from tendril_core.happenings group by what) h",
    )
    .await;
    assert_eq!(told, "claim 2, end 2, lag 2, lease 1, log 4/10, run 2, start 1");
    // Two minutes lie between 60 and 300 s, the seventh and eighth bound.
    let bucket: String =
        one(&mut fleet.operator, "select label from tendril_core.happenings where what = 'claim'").await;
    assert_eq!(bucket, "8");
    let bounds: bool = one(
        &mut fleet.operator,
        "select (tendril_core.histogram_bounds())[8] = 60 and (tendril_core.histogram_bounds())[9] = 300",
    )
    .await;
    assert!(bounds);
}

#[tokio::test]
async fn a_burst_is_added_up_in_one_go() {
    let mut fleet = Fleet::new().await;
    let cluster = fleet.cluster.id;
    // Twice as many come as go, over some hours: what is left is half of them, with its oldest.
    let burst = format!(
        "insert into tendril_core.queue_deltas (cluster_id, kind, state, priority, since, n)
           select '{cluster}', 'exec', 'STARTED', 20, to_timestamp(n % 1000 * 10), case n % 3 when 0 then -1 else 1 end from generate_series(1, 60000) n;
         insert into tendril_core.happening_deltas (cluster_id, kind, what, label, n, total)
           select '{cluster}', 'exec', 'run', (n % 13)::text, 1, 0.5 from generate_series(1, 60000) n"
    );
    run(&mut fleet.operator, &burst).await;
    for duty in ["fold", "fold_happenings"] {
        assert_eq!(fleet.database.duty(duty).await, 60_000, "{duty}");
        assert_eq!(fleet.database.duty(duty).await, 0, "{duty}");
    }
    let queue = "select n || ' ' || oldest from tendril_core.queue_depth";
    run(&mut fleet.operator, "set timezone = 'UTC'").await;
    assert_eq!(one::<String>(&mut fleet.operator, queue).await, "20000 1970-01-01 00:00:00+00");
    let ages = "select sum(n)::bigint from tendril_core.queue_ages";
    assert_eq!(one::<i64>(&mut fleet.operator, ages).await, 20_000);
    let runs = "select sum(n) || ' ' || sum(total) || ' ' || count(*) from tendril_core.happenings where what = 'run'";
    assert_eq!(one::<String>(&mut fleet.operator, runs).await, "60000 30000 13");
}
