//! Deployments by the clock, drift, and dead letters that are done again.

use serde_json::{Value, json};
use tendril_broker::operator::grants::Scope;
use uuid::Uuid;

use crate::fleet::{Fleet, apply_at, connect, exec, id, limited, needing, one, reading, refused, run, sqlstate};
use crate::program::{broker, broker_fed};

fn set(cluster: Uuid, name: &str, cron: &str, snapshot: &Value, options: &Value) -> String {
    format!("select tendril.schedule_set('{cluster}', '{name}', '{cron}', '{snapshot}', '{options}')")
}

async fn times(fleet: &mut Fleet, cron: &str, zone: &str, after: &str) -> String {
    let sql = format!(
        "select string_agg(to_char(t at time zone 'UTC', 'MM-DD HH24:MI'), ', ') from tendril.cron_times('{cron}', '{zone}', '{after}', 3) t"
    );
    one(&mut fleet.portal, &sql).await
}

#[tokio::test]
async fn moments_follow_the_calendar_and_the_clock_of_their_zone() {
    let mut fleet = Fleet::new().await;
    for (cron, zone, after, expected) in [
        // The clocks skip half past two, and have it twice.
        ("30 2 * * *", "Europe/Berlin", "2026-03-28 00:00Z", "03-28 01:30, 03-29 01:30, 03-30 00:30"),
        ("30 2 * * *", "Europe/Berlin", "2026-10-24 00:00Z", "10-24 00:30, 10-25 00:30, 10-26 01:30"),
        ("0 * * * *", "Europe/Berlin", "2026-03-28 23:30Z", "03-29 00:00, 03-29 01:00, 03-29 02:00"),
        ("@hourly", "Europe/Berlin", "2026-10-24 23:30Z", "10-25 00:00, 10-25 01:00, 10-25 02:00"),
        ("0 9 * * mon-fri", "America/New_York", "2026-11-20 23:30Z", "11-23 14:00, 11-24 14:00, 11-25 14:00"),
        // Day and weekday both: either.
        ("0 0 13 * 5", "UTC", "2026-11-10 00:00Z", "11-13 00:00, 11-20 00:00, 11-27 00:00"),
        ("*/20 8-9,17 * * *", "Asia/Kolkata", "2026-11-10 02:30Z", "11-10 02:50, 11-10 03:10, 11-10 03:30"),
        ("0 0 29 feb *", "UTC", "2026-01-01 00:00Z", "02-29 00:00, 02-29 00:00, 02-29 00:00"),
        ("59 23 31 12 7", "UTC", "2026-12-26 00:00Z", "12-27 23:59, 12-31 23:59, 12-05 23:59"),
    ] {
        assert_eq!(times(&mut fleet, cron, zone, after).await, expected, "{cron} {zone} {after}");
    }
    for (arguments, words) in [
        ("'* * * *'", "has not five fields"),
        ("null", "NULL has not five fields"),
        ("'60 * * * *'", "'60' is no minute: it lies between 0 and 59"),
        ("'* 24 * * *'", "is no hour"),
        ("'* * 0 * *'", "is no day of the month"),
        ("'* * * 13 *'", "is no month"),
        ("'* * * * 8'", "is no weekday"),
        ("'5-1 * * * *'", "is no minute"),
        ("'*/0 * * * *'", "is no minute"),
        ("'a * * * *'", "'a' is no minute"),
        ("'0 0 30 2 *'", "never comes"),
        ("'* * * * *', 'Mars/Base'", "there is no 'Mars/Base'"),
        ("'* * * * *', 'UTC', now(), 101", "count: 101"),
    ] {
        let refusal = refused(&mut fleet.portal, &format!("select tendril.cron_times({arguments})")).await;
        assert_eq!(refusal.sqlstate, "TD001", "{arguments}");
        assert!(refusal.message.contains(words), "{arguments}: {}", refusal.message);
    }
}

/// Sets the next moment back, as if nobody had served since.
async fn missed(fleet: &mut Fleet, minutes: i64) {
    let sql = format!(
        "update tendril_core.schedules set next_at = date_trunc('minute', clock_timestamp()) - {minutes} * interval '1 min'"
    );
    run(&mut fleet.operator, &sql).await;
}

async fn count(fleet: &mut Fleet, schedule: Uuid) -> i64 {
    one(&mut fleet.portal, &format!("select count(*) from tendril.deployments where schedule_id = '{schedule}'")).await
}

#[tokio::test]
async fn each_due_moment_has_one_deployment_and_missed_ones_what_the_schedule_says() {
    let mut fleet = Fleet::new().await;
    let cluster = fleet.cluster.id;
    let snapshot = json!({"jobs": [reading("a")]});
    for (options, runs) in [
        (json!({"missed": "once"}), 1),
        (json!({"missed": "all", "catch_up_max": 4}), 4),
        (json!({"missed": "all", "catch_up_max": 100}), 31),
    ] {
        let schedule: Uuid = one(&mut fleet.portal, &set(cluster, "nightly", "* * * * *", &snapshot, &options)).await;
        assert_eq!(fleet.database.duty("schedules").await, 0, "its moments count from now");
        missed(&mut fleet, 30).await;
        let done = fleet.database.duty("schedules").await;
        // It may have become the next minute meanwhile.
        assert!(done == runs || options["catch_up_max"] == 100 && done == runs + 1, "{options}: {done}");
        assert_eq!(fleet.database.duty("schedules").await, 0);
        assert_eq!(count(&mut fleet, schedule).await, done);
        run(&mut fleet.portal, &format!("select tendril.schedule_delete('{schedule}')")).await;
    }
    // Nobody served for an hour, and what is late is not wanted; a disabled one is left alone.
    let skip = json!({"missed": "skip"});
    let hourly: Uuid = one(&mut fleet.portal, &set(cluster, "skips", "0 0 1 1 *", &snapshot, &skip)).await;
    missed(&mut fleet, 60).await;
    assert_eq!(fleet.database.duty("schedules").await, 0);
    let skipped = format!("select skipped from tendril.schedules where id = '{hourly}'");
    assert_eq!(one::<i64>(&mut fleet.portal, &skipped).await, 1);
    run(&mut fleet.portal, &set(cluster, "skips", "* * * * *", &snapshot, &json!({"enabled": false}))).await;
    missed(&mut fleet, 1).await;
    assert_eq!(fleet.database.duty("schedules").await, 0);
}

#[tokio::test]
async fn what_is_refused_at_its_moment_is_shown_and_holds_up_no_other() {
    let mut fleet = Fleet::new().await;
    let cluster = fleet.cluster.id;
    let unique = json!({"unique_key": "u", "jobs": [reading("a")]});
    run(&mut fleet.portal, &set(cluster, "unique", "* * * * *", &unique, &json!({}))).await;
    run(&mut fleet.portal, &set(cluster, "plain", "* * * * *", &json!({"jobs": [reading("a")]}), &json!({}))).await;
    fleet.deploy(unique).await;
    missed(&mut fleet, 0).await;
    assert_eq!(fleet.database.duty("schedules").await, 1);
    let error = "select last_error from tendril.schedules where name = 'unique'";
    assert!(one::<String>(&mut fleet.portal, error).await.starts_with("unique_key: deployment "));
}

#[tokio::test]
async fn a_schedule_is_checked_when_it_is_made_and_seen_by_whom_it_concerns() {
    let mut fleet = Fleet::new().await;
    let cluster = fleet.cluster.id;
    let good = json!({"jobs": [reading("a")]});
    for (name, cron, snapshot, options, words) in [
        ("", "* * * * *", &good, json!({}), "name: '' is not"),
        ("n", "often", &good, json!({}), "cron: "),
        ("n", "* * * * *", &json!({"jobs": []}), json!({}), "config_snapshot.jobs: "),
        ("n", "* * * * *", &good, json!([]), "options: must be an object"),
        ("n", "* * * * *", &good, json!({"zone": "UTC"}), "options.zone: is unknown"),
        ("n", "* * * * *", &good, json!({"time_zone": "here"}), "time_zone: there is no"),
        ("n", "* * * * *", &good, json!({"missed": "never"}), "options.missed: "),
        ("n", "* * * * *", &good, json!({"catch_up_max": 0}), "options.catch_up_max: "),
        ("n", "* * * * *", &good, json!({"enabled": "yes"}), "options.enabled: "),
        ("n", "* * * * *", &good, json!({"drift": true}), "options.drift: needs a template"),
    ] {
        let sql = set(cluster, name, cron, snapshot, &options);
        let refusal = refused(&mut fleet.portal, &sql).await;
        assert_eq!(refusal.sqlstate, "TD001", "{words}");
        assert!(refusal.message.starts_with(words), "{words}: {}", refusal.message);
    }
    let schedule: Uuid = one(&mut fleet.portal, &set(cluster, "n", "@daily", &good, &json!({}))).await;
    let again: Uuid = one(&mut fleet.portal, &set(cluster, "n", "@hourly", &good, &json!({}))).await;
    assert_eq!(schedule, again, "the same name is the same schedule");
    // A portal of another cluster sees neither.
    let two = fleet.database.cluster("two").await;
    let mut stranger = connect(&fleet.database.portal(Scope::Cluster(two.id)).await.url).await;
    assert_eq!(one::<i64>(&mut stranger, "select count(*) from tendril.schedules").await, 0);
    let delete = format!("select tendril.schedule_delete('{schedule}')");
    assert_eq!(sqlstate(&mut stranger, &delete).await, "TD002");
    assert_eq!(sqlstate(&mut stranger, &set(cluster, "n", "@daily", &good, &json!({}))).await, "TD002");
    run(&mut fleet.portal, &delete).await;
    assert_eq!(sqlstate(&mut fleet.portal, &delete).await, "TD002");
}

#[tokio::test]
async fn drift_detection_plans_only_and_shows_whether_there_is_any() {
    let mut fleet = Fleet::new().await;
    let cluster = fleet.cluster.id;
    let mut snapshot = apply_at("s");
    snapshot["approval"] = json!("required");
    run(&mut fleet.portal, &set(cluster, "drift", "* * * * *", &snapshot, &json!({"drift": true}))).await;
    let mut runner = fleet.runner().await;
    for (summary, drifted) in [
        (json!({"add": 0, "change": 0, "destroy": 0, "import": 0}), false),
        (json!({"add": 0, "change": 2, "destroy": 0, "import": 0}), true),
    ] {
        run(&mut fleet.operator, "update tendril.deployments set scheduled_for = scheduled_for - interval '1 day'")
            .await;
        missed(&mut fleet, 0).await;
        assert_eq!(fleet.database.duty("schedules").await, 1);
        let plan = runner.claim_one().await;
        assert_eq!(plan.kind, "terraform.plan");
        runner.report(&plan, json!({"outcome": "success", "log_end": -1, "result": {"summary": summary}})).await;
        assert_eq!(fleet.status(plan.deployment_id).await, "SUCCESS", "there is nothing but the plan");
        let seen: (Option<bool>, Option<Value>, Option<String>) =
            sqlx::query_as("select drifted, changes, last_status from tendril.schedules")
                .fetch_one(&mut fleet.portal)
                .await
                .unwrap();
        assert_eq!(seen, (Some(drifted), Some(summary), Some("SUCCESS".into())));
    }
    let listed = broker(&fleet.database.url(), &["schedule", "list"]).await.out;
    assert!(listed.contains("drift: {"), "{listed}");
}

#[tokio::test]
async fn dead_letters_are_shown_and_done_again_without_what_has_succeeded() {
    let mut fleet = Fleet::new().await;
    let dead = limited(reading("dead"), json!({"max_attempts": 1}));
    let jobs = [
        reading("done"),
        needing(dead, &["done"]),
        needing(reading("behind"), &["dead", "done"]),
        needing(exec("other"), &["done"]),
        needing(reading("behind-both"), &["dead", "other"]),
    ];
    let deployment = fleet.deploy_jobs(&jobs).await;
    let mut runner = fleet.runner().await;
    let redrive = format!("select tendril.redrive('{deployment}')");
    assert_eq!(sqlstate(&mut fleet.portal, &redrive).await, "TD003");
    runner.perform("success").await;
    for _ in 0..2 {
        // dead and other, in whatever order.
        runner.perform("failure").await;
    }
    assert_eq!(fleet.status(deployment).await, "FAILED");
    let shown = "select job || ' ' || attempts || ' ' || reason from tendril.dead_letters where redriven_as is null";
    assert_eq!(one::<String>(&mut fleet.portal, shown).await, "dead 1 failure");
    let again: Uuid = one(&mut fleet.portal, &redrive).await;
    let jobs: Vec<String> = fleet.jobs(again).await.into_keys().collect();
    assert_eq!(jobs, ["behind", "dead"], "neither what succeeded nor what failed otherwise, nor what needs that");
    assert_eq!(
        one::<i64>(&mut fleet.portal, "select count(*) from tendril.dead_letters where redriven_as is null").await,
        0
    );
    assert_eq!(runner.perform("success").await.job, "dead");
    assert_eq!(runner.perform("success").await.job, "behind");
    assert_eq!(fleet.status(again).await, "SUCCESS");
    // One that was lost too often, of a template's default jobs: done as a whole.
    let mut snapshot = apply_at("s");
    snapshot["limits"] = json!({"max_attempts": 1});
    let lost = fleet.deploy(snapshot).await;
    let claimed = runner.claim_one().await;
    fleet.lose(&runner).await;
    assert_eq!((fleet.job(lost, "plan").await.as_str(), claimed.job.as_str()), ("FAILED", "plan"));
    let url = fleet.database.url();
    let listed = broker(&url, &["dead-letters", "list", "--cluster", "one", "--json"]).await.json();
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["job"]), (1, &json!("plan")));
    let ran = broker(&url, &["dead-letters", "redrive", &lost.to_string(), "--json"]).await;
    assert_eq!(ran.json()["retry_of"], lost.to_string(), "{}", ran.err);
    let plain = fleet.deploy_jobs(&[exec("a")]).await;
    run(&mut fleet.portal, &format!("select tendril.cancel('{plain}')")).await;
    assert_eq!(sqlstate(&mut fleet.portal, &format!("select tendril.redrive('{plain}')")).await, "TD003");
    assert_eq!(sqlstate(&mut fleet.portal, &format!("select tendril.redrive('{}')", id())).await, "TD002");
}

#[tokio::test]
async fn the_commands_set_list_and_delete_schedules() {
    let fleet = Fleet::new().await;
    let url = fleet.database.url();
    let arguments = [
        "schedule",
        "set",
        "nightly",
        "--cluster",
        "one",
        "--cron",
        "0 2 * * *",
        "--time-zone",
        "Europe/Berlin",
        "--file",
        "-",
        "--json",
    ];
    let made = broker_fed(&url, &arguments, &json!({"jobs": [reading("a")]}).to_string()).await;
    assert_eq!((made.code, &made.json()["name"]), (0, &json!("nightly")), "{}", made.err);
    let listed = broker(&url, &["schedule", "list", "--json"]).await.json();
    assert_eq!(
        (&listed[0]["time_zone"], &listed[0]["missed"], &listed[0]["enabled"]),
        (&json!("Europe/Berlin"), &json!("once"), &json!(true))
    );
    let times = broker(&url, &["schedule", "times", "@daily", "--count", "2", "--json"]).await.json();
    assert_eq!(times.as_array().unwrap().len(), 2);
    let id = listed[0]["id"].as_str().unwrap();
    assert_eq!(broker(&url, &["schedule", "delete", id, "--json"]).await.json()["deleted"], true);
    assert_eq!(broker(&url, &["schedule", "list"]).await.out, "no schedules\n");
}
