//! The whole surface, function by function, with what is another cluster's: refused in the very words for what is not there.
//! A function that is new on the surface has to be put to this test, too.

use std::collections::BTreeMap;

use serde_json::json;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Row};
use tendril_broker::operator::grants::Scope;
use uuid::Uuid;

use crate::fleet::{Claimed, Fleet, Runner, connect, exec, id, one};
use crate::siege::Siege;

/// What a call with somebody else's ids comes to.
#[derive(Clone, Copy)]
enum Comes {
    /// Refused with TD002.
    Refused,
    /// Refused with TD002 in a row of the answer.
    RefusedEach,
    /// Answered as for what is not there: with nothing, or with no rows.
    Empty,
    /// Refused with this, whatever is asked: it takes another grant.
    Never(&'static str),
    /// Takes nobody's ids.
    Neutral,
}
use Comes::{Empty, Neutral, Never, Refused, RefusedEach};

const WITNESS: &str = r#"{"incarnation": 1, "fence": 0, "runners": ["{runner}"], "open": [], "ended": []}"#;

/// By the function's name: the call, with somebody else's ids in braces.
fn runners_calls() -> BTreeMap<&'static str, (String, Comes)> {
    let info = json!({"name": "n", "version": "0", "labels": [], "slots": 1, "log_writer": id()});
    BTreeMap::from([
        ("runner_register", (format!("runner_register('{{runner}}', 1, '{info}')"), Refused)),
        ("runner_claim", ("runner_claim('{runner}', 99, 1)".into(), Refused)),
        ("runner_wait", ("runner_wait('{runner}')".into(), Empty)),
        ("runner_start", ("runner_start('{attempt}', {fence})".into(), Refused)),
        (
            "runner_finish",
            (r#"runner_finish('{attempt}', {fence}, '{"outcome": "success", "log_end": -1}')"#.into(), Refused),
        ),
        ("runner_start_all", ("runner_start_all('{{attempt}}', '{{fence}}')".into(), RefusedEach)),
        (
            "runner_finish_all",
            (
                r#"runner_finish_all('{{attempt}}', '{{fence}}', array['{"outcome": "success", "log_end": -1}'::jsonb])"#
                    .into(),
                RefusedEach,
            ),
        ),
        ("runner_heartbeat", ("runner_heartbeat('{runner}', 99, '{}')".into(), Refused)),
        ("runner_progress", (r#"runner_progress('{attempt}', {fence}, '{"x": 1}')"#.into(), Empty)),
        ("runner_adopt", ("runner_adopt('{mine}', '{attempt}', {fence})".into(), Refused)),
        ("runner_witness", (format!("runner_witness('{{runner}}', '{WITNESS}')"), Refused)),
        ("runner_leave", ("runner_leave('{runner}')".into(), Refused)),
        ("runner_artifact_put", ("runner_artifact_put('{attempt}', {fence}, 'plan', 'x', 'x')".into(), Refused)),
        ("runner_artifact_get", ("runner_artifact_get('{attempt}', 'plan')".into(), Refused)),
        ("log_takeover", ("log_takeover('{writer}')".into(), Refused)),
        ("log_positions", ("log_positions('{writer}')".into(), Empty)),
    ])
}

fn portals_calls() -> BTreeMap<&'static str, (String, Comes)> {
    let snapshot = json!({"jobs": [exec("a")]});
    let tokens = Never("TD004");
    BTreeMap::from([
        ("submit", (format!("submit('{{cluster}}', '{snapshot}')"), Refused)),
        ("is_submitted", (format!("is_submitted('{{deployment}}', '{{cluster}}', '{snapshot}')"), Empty)),
        ("status", ("status('{deployment}')".into(), Refused)),
        ("cancel", ("cancel('{deployment}')".into(), Refused)),
        ("approve", ("approve('{deployment}')".into(), Refused)),
        ("reject", ("reject('{deployment}')".into(), Refused)),
        ("retry", ("retry('{deployment}')".into(), Refused)),
        ("redrive", ("redrive('{deployment}')".into(), Refused)),
        ("snooze", ("snooze('{deployment}', null)".into(), Refused)),
        ("state_lock", ("state_lock('{deployment}')".into(), Refused)),
        ("schedule_set", (format!("schedule_set('{{cluster}}', 'n', '* * * * *', '{snapshot}')"), Refused)),
        ("schedule_delete", ("schedule_delete('{schedule}')".into(), Refused)),
        ("queue_depth", ("queue_depth('{cluster}')".into(), Empty)),
        ("logs_after", ("logs_after('{deployment}')".into(), Refused)),
        ("tail", ("tail('{\"{deployment}\"}')".into(), Refused)),
        ("watch_logs", ("watch_logs('{deployment}')".into(), Refused)),
        ("log_archives", ("log_archives('{deployment}')".into(), Refused)),
        ("token_present", ("token_present('x', 'read')".into(), tokens)),
        ("token_tail", ("token_tail('{\"{deployment}\"}', array['x'::bytea])".into(), tokens)),
        ("tokens_refused", ("tokens_refused('{\"{deployment}\"}', array['x'::bytea])".into(), tokens)),
        ("cron_times", ("cron_times('* * * * *')".into(), Neutral)),
        ("portal_user", ("portal_user()".into(), Neutral)),
    ])
}

/// The ids of a victim's work, or of nobody's.
struct Ids {
    cluster: Uuid,
    deployment: Uuid,
    attempt: Uuid,
    fence: i64,
    runner: Uuid,
    writer: Uuid,
    schedule: Uuid,
}

impl Ids {
    fn of(fleet: &Fleet, runner: &Runner, claimed: &Claimed, schedule: Uuid) -> Self {
        Self {
            cluster: fleet.cluster.id,
            deployment: claimed.deployment_id,
            attempt: claimed.attempt_id,
            fence: claimed.fence,
            runner: runner.id,
            writer: runner.writer,
            schedule,
        }
    }

    fn nobodys() -> Self {
        let (cluster, deployment, attempt) = (id(), id(), id());
        Self { cluster, deployment, attempt, fence: 1, runner: id(), writer: id(), schedule: id() }
    }

    fn all(&self) -> [(&'static str, String); 7] {
        [
            ("{cluster}", self.cluster.to_string()),
            ("{deployment}", self.deployment.to_string()),
            ("{attempt}", self.attempt.to_string()),
            ("{fence}", self.fence.to_string()),
            ("{runner}", self.runner.to_string()),
            ("{writer}", self.writer.to_string()),
            ("{schedule}", self.schedule.to_string()),
        ]
    }

    fn put_into(&self, call: &str) -> String {
        self.all().iter().fold(call.to_owned(), |call, (name, value)| call.replace(name, value))
    }

    /// The answer without the ids that were asked for.
    fn taken_out_of(&self, answer: &str) -> String {
        self.all().iter().fold(answer.to_owned(), |answer, (name, value)| match value.len() {
            36 => answer.replace(value, name),
            _ => answer.replace(&format!("fence {value}"), &format!("fence {name}")),
        })
    }
}

/// What the call comes to, in words: rows, or code and message of a refusal.
async fn answer(session: &mut PgConnection, call: &str) -> String {
    let sql = format!("select coalesce(jsonb_agg(r::text), '[]')::text from tendril.{call} r");
    match sqlx::query(AssertSqlSafe(sql)).fetch_one(session).await {
        Ok(row) => row.get(0),
        Err(sqlx::Error::Database(error)) => format!("{} {}", error.code().unwrap_or_default(), error.message()),
        Err(error) => panic!("{call}: {error}"),
    }
}

/// Functions that a group may call.
async fn surface(fleet: &mut Fleet, group: &str) -> Vec<String> {
    let sql = format!(
        "select p.proname::text from pg_proc p where p.pronamespace = 'tendril'::regnamespace and p.prorettype <> 'trigger'::regtype
            and has_function_privilege(tendril_core.group_role('{group}'), p.oid, 'EXECUTE') order by 1"
    );
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&mut fleet.operator).await.unwrap()
}

async fn try_all(
    session: &mut PgConnection,
    calls: &BTreeMap<&str, (String, Comes)>,
    (victims, nobodys): (&Ids, &Ids),
) {
    for (name, (call, comes)) in calls {
        let foreign = answer(session, &victims.put_into(call)).await;
        // The runner's own registration under an id that is free is no refusal, and is not tried.
        let absent = match *name {
            "runner_register" | "log_takeover" => None,
            _ => Some(answer(session, &nobodys.put_into(call)).await),
        };
        let (foreign, absent) = (victims.taken_out_of(&foreign), absent.map(|absent| nobodys.taken_out_of(&absent)));
        if let Some(absent) = absent {
            assert_eq!(foreign, absent, "{name} tells foreign and absent apart");
        }
        match comes {
            Refused => assert!(foreign.starts_with("TD002"), "{name}: {foreign}"),
            RefusedEach => assert!(foreign.contains(",TD002,\\\"there is no attempt "), "{name}: {foreign}"),
            Never(code) => assert!(foreign.starts_with(code), "{name}: {foreign}"),
            Empty => {
                let nothing = ["[]", "[null]", "[\"\"]"].contains(&foreign.as_str());
                assert!(nothing, "{name}: {foreign}");
            }
            Neutral => {}
        }
    }
}

#[tokio::test]
async fn a_runners_role_gets_nowhere_with_anothers_ids_in_any_function() {
    let mut siege = Siege::begin().await;
    let fleet = &mut siege.fleet;
    let names = surface(fleet, "runner").await;
    let calls = runners_calls();
    assert_eq!(names, calls.keys().map(|name| (*name).to_owned()).collect::<Vec<_>>());
    fleet.deploy_jobs(&[exec("a")]).await;
    let mut victim = fleet.runner().await;
    let claimed = victim.claim_one().await;
    victim.take_over().await;
    let before = work_of(fleet).await;
    let two = fleet.database.cluster("two").await;
    let mut attacker = fleet.runner_of(&two, &["kind=exec"]).await;
    let mine = attacker.id.to_string();
    let calls = calls.into_iter().map(|(name, (call, comes))| (name, (call.replace("{mine}", &mine), comes)));
    let victims = Ids::of(fleet, &victim, &claimed, id());
    try_all(&mut attacker.session, &calls.collect(), (&victims, &Ids::nobodys())).await;
    assert_eq!(work_of(fleet).await, before);
    siege.end().await;
}

#[tokio::test]
async fn a_portals_role_gets_nowhere_with_anothers_ids_in_any_function() {
    let mut siege = Siege::begin().await;
    let fleet = &mut siege.fleet;
    let names = surface(fleet, "portal").await;
    let calls = portals_calls();
    assert_eq!(names, calls.keys().map(|name| (*name).to_owned()).collect::<Vec<_>>());
    fleet.deploy_jobs(&[exec("a")]).await;
    let mut victim = fleet.runner().await;
    let claimed = victim.claim_one().await;
    let schedule = format!(
        "select tendril.schedule_set('{}', 'nightly', '0 3 * * *', '{}')",
        fleet.cluster.id,
        json!({"jobs": [exec("a")]})
    );
    let schedule: Uuid = one(&mut fleet.portal, &schedule).await;
    let before = work_of(fleet).await;
    let two = fleet.database.cluster("two").await;
    for scope in [Scope::Cluster(two.id), Scope::Own] {
        let mut attacker = connect(&fleet.database.portal(scope).await.url).await;
        let victims = Ids::of(fleet, &victim, &claimed, schedule);
        try_all(&mut attacker, &calls, (&victims, &Ids::nobodys())).await;
    }
    assert_eq!(work_of(fleet).await, before);
    siege.end().await;
}

/// All that the victim's cluster has, but for the clocks of its leases.
async fn work_of(fleet: &mut Fleet) -> String {
    let id = fleet.cluster.id;
    let sql = format!(
        "select jsonb_build_array(
           (select jsonb_agg(to_jsonb(d) - 'waiting_for' - 'updated_at') from tendril.deployments d where d.cluster_id = '{id}'),
           (select jsonb_agg(to_jsonb(j) order by j.id) from tendril_core.jobs j where j.cluster_id = '{id}'),
           (select jsonb_agg(to_jsonb(a) order by a.id) from tendril_core.attempts a where a.cluster_id = '{id}'),
           (select jsonb_agg(to_jsonb(r) order by r.id) from tendril_core.runners r where r.cluster_id = '{id}'),
           (select jsonb_agg(to_jsonb(w) order by w.id) from tendril_core.log_writers w where w.cluster_id = '{id}'),
           (select jsonb_agg(to_jsonb(s)) from tendril.schedules s where s.cluster_id = '{id}'))::text"
    );
    one(&mut fleet.operator, &sql).await
}
