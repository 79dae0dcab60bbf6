//! Bad input of every function, and the words in which it is refused.

use std::collections::BTreeSet;

use crate::fleet::{Fleet, exec, one, refused};

/// Who calls.
#[derive(Clone, Copy)]
enum By {
    Portal,
    Operator,
    Runner,
}

/// A call, its SQLSTATE, and words that its refusal must have. In braces stands what the test has prepared.
type Bad = (By, &'static str, &'static str, &'static str);

const NOBODY: &str = "01900000-0000-7000-8000-000000000000";

const PORTALS: &[Bad] = &[
    (By::Portal, "submit(null, '{}')", "TD002", "there is no cluster NULL that portal_"),
    (By::Portal, "submit('{nobody}', '{}')", "TD002", "there is no cluster {nobody}"),
    (By::Portal, "submit('{cluster}', null)", "TD001", "config_snapshot: is required"),
    (By::Portal, "submit('{cluster}', '{\"jobs\": 1}')", "TD001", "config_snapshot.jobs: "),
    (By::Portal, "submit('{cluster}', 'nonsense')", "22P02", "invalid input syntax for type json"),
    (By::Portal, "status('{nobody}')", "TD002", "there is no deployment {nobody}"),
    (By::Portal, "status(null)", "TD002", "there is no deployment NULL"),
    (By::Portal, "logs_after('{nobody}')", "TD002", "there is no deployment {nobody}"),
    (By::Portal, "logs_after('{deployment}', '[]')", "TD001", "position: must be an object"),
    (By::Portal, "tail('{{nobody}}')", "TD002", "there is no deployment {nobody}"),
    (By::Portal, "tail('{{deployment}}', '{\"x\": 1}')", "TD001", "position.x: is no attempt's id"),
    (By::Portal, "watch_logs('{nobody}')", "TD002", "there is no deployment {nobody}"),
    (By::Portal, "log_archives('{nobody}')", "TD002", "there is no deployment {nobody}"),
    (By::Portal, "cancel('{nobody}')", "TD002", "there is no deployment {nobody}"),
    (By::Portal, "approve('{nobody}')", "TD002", "there is no deployment {nobody}"),
    (By::Portal, "approve('{deployment}', 'x')", "TD003", "no job x of the deployment waits for approval"),
    (By::Portal, "snooze('{nobody}', now())", "TD002", "there is no deployment {nobody}"),
    (By::Portal, "snooze('{deployment}', now())", "TD003", "no job of the deployment waits"),
    (By::Portal, "reject('{nobody}')", "TD002", "there is no deployment {nobody}"),
    (By::Portal, "reject('{deployment}')", "TD003", "no job of the deployment waits for approval"),
    (By::Portal, "redrive('{nobody}')", "TD002", "there is no deployment {nobody}"),
    (By::Portal, "schedule_set('{nobody}', 'n', '@daily', '{}')", "TD002", "there is no cluster {nobody}"),
    (By::Portal, "schedule_delete('{nobody}')", "TD002", "there is no schedule {nobody}"),
    (By::Portal, "cron_times('x')", "TD001", "cron: 'x' has not five fields"),
    (By::Portal, "retry('{nobody}')", "TD002", "there is no deployment {nobody}"),
    (By::Portal, "retry('{deployment}')", "TD003", "the deployment is PROCESSING"),
    (By::Portal, "token_present('x', 'read')", "TD004", "may not present API tokens"),
    (By::Portal, "token_tail('{{deployment}}', '{x}')", "TD004", "may not present API tokens"),
    (By::Portal, "tokens_refused('{{deployment}}', '{x}')", "TD004", "may not present API tokens"),
];

const OPERATORS: &[Bad] = &[
    (By::Operator, "cluster_create('a/b')", "TD001", "'a/b' is not a cluster's name"),
    (By::Operator, "cluster_create(null)", "TD001", "NULL is not a cluster's name"),
    (By::Operator, "cluster_create('one')", "TD003", "there is a cluster one already"),
    (By::Operator, "cluster_rotate('{nobody}')", "TD002", "there is no cluster {nobody}"),
    (By::Operator, "cluster_rotate('{cluster}', 'soon')", "22007", "invalid input syntax for type interval"),
    (By::Operator, "cluster_rotate('{cluster}', '-1 s')", "TD001", "drain: -00:00:01 is negative"),
    (By::Operator, "cluster_revoke('{nobody}')", "TD002", "there is no cluster {nobody}"),
    (By::Operator, "portal_grant('nobody_here', 'all')", "TD002", "there is no role nobody_here"),
    (By::Operator, "portal_grant(null, 'all')", "TD002", "there is no role NULL"),
    (By::Operator, "portal_grant(session_user::text, 'some')", "TD001", "scope: some is none"),
    (By::Operator, "portal_grant(session_user::text, null)", "TD001", "scope: NULL is none"),
    (By::Operator, "portal_grant(session_user::text, 'cluster')", "TD001", "scope: cluster needs a cluster's id"),
    (By::Operator, "portal_grant('{credential}', 'all')", "TD001", "role: {credential} is a runner's credential"),
    (By::Operator, "portal_grant(session_user::text, 'cluster', '{nobody}')", "TD002", "there is no cluster {nobody}"),
    (By::Operator, "portal_revoke('nobody_here')", "TD002", "role nobody_here has no grant"),
    (By::Operator, "token_create(null, sha256('x'), '{read}', null, null, true)", "TD001", "token: "),
    (By::Operator, "token_create('t', sha256('x'), '{read}')", "TD001", "clusters: a token sees all clusters"),
    (By::Operator, "token_revoke('nobody_here')", "TD002", "there is no token nobody_here"),
    (By::Operator, "template_register('[]')", "TD001", "needs name, version, inputs and engine"),
    (By::Operator, "template_register(null)", "TD001", "needs name, version, inputs and engine"),
    (By::Operator, "declare_lost('{nobody}', 'a', 'r')", "TD002", "deployment {nobody} has no job a"),
    (By::Operator, "declare_lost('{deployment}', 'x', 'r')", "TD002", "has no job x"),
    (By::Operator, "after_restore('{nobody}')", "TD002", "there is no cluster {nobody}"),
    (By::Operator, "pause('{nobody}')", "TD002", "there is no cluster {nobody}"),
    (By::Operator, "resume('{cluster}', '{nobody}')", "TD002", "there is no runner {nobody}"),
    (By::Operator, "limit_set('{cluster}', -1)", "TD001", "max: -1 does not lie between 0 and 100000"),
    (By::Operator, "key_release('{cluster}', 'k', 'r')", "TD002", "key k is not held"),
    (By::Portal, "state_lock('{nobody}')", "TD002", "there is no deployment {nobody}"),
    (By::Portal, "state_lock('{deployment}')", "TD003", "deployment {deployment} keeps no state"),
    (By::Operator, "state_unlock('{nobody}', 'a', 'r')", "TD002", "there is no deployment {nobody}"),
    (By::Operator, "state_unlock('{deployment}', 'a b', 'r')", "TD001", "lock_id: 'a b' is no lock"),
];

const RUNNERS: &[Bad] = &[
    (By::Operator, "runner_register('{nobody}', 1, '{}')", "TD008", "is not a runner's credential"),
    (By::Runner, "runner_register('{nobody}', 1, '{}')", "TD001", "runner info: "),
    (By::Runner, "runner_register('{nobody}', 9, '{}')", "TD010", "runner speaks protocol 9"),
    (By::Runner, "runner_claim('{nobody}', 1, 1)", "TD002", "there is no runner {nobody}"),
    (By::Operator, "runner_wait('{nobody}')", "TD008", "is not a runner's credential"),
    (By::Runner, "runner_start('{nobody}', 1)", "TD002", "there is no attempt {nobody} with fence 1"),
    (By::Runner, "runner_start('{attempt}', 0)", "TD002", "there is no attempt {attempt} with fence 0"),
    (By::Runner, "runner_finish('{attempt}', 0, '{\"outcome\": \"x\"}')", "TD001", "report: needs outcome"),
    (By::Runner, "runner_finish('{attempt}', 0, null)", "TD001", "report: needs outcome"),
    (By::Runner, "runner_finish('{nobody}', 1, '{\"outcome\": \"success\", \"log_end\": 1}')", "TD002", "{nobody}"),
    (By::Runner, "runner_start_all('{{nobody}}', '{}')", "TD001", "attempts, fences: are arrays of the same length"),
    (By::Operator, "runner_start_all('{}', '{}')", "TD008", "is not a runner's credential"),
    (By::Runner, "runner_finish_all('{{nobody}}', '{1}', null)", "TD001", "attempts, fences, reports: are arrays"),
    (By::Runner, "runner_heartbeat('{nobody}', 1, '{}')", "TD002", "there is no runner {nobody}"),
    (By::Runner, "runner_progress('{attempt}', 0, to_jsonb(repeat('x', 600000)))", "TD011", "progress has more than"),
    (By::Runner, "runner_adopt('{nobody}', '{attempt}', 1)", "TD002", "there is no runner {nobody}"),
    (By::Operator, "runner_adopt('{nobody}', '{attempt}', 1)", "TD008", "is not a runner's credential"),
    (By::Runner, "runner_leave('{nobody}')", "TD002", "there is no runner {nobody}"),
    (By::Runner, "runner_artifact_put('{nobody}', 1, 'x', 'x', 'x')", "TD002", "there is no attempt {nobody}"),
    (By::Runner, "runner_artifact_put('{attempt}', {fence}, 'A b', 'x', 'x')", "TD001", "artifact name A b"),
    (By::Runner, "runner_artifact_get('{attempt}', 'x')", "TD002", "there is no artifact x of attempt {attempt}"),
    (By::Runner, "runner_witness('{nobody}', '{}')", "TD001", "witness: needs incarnation"),
    (By::Operator, "log_takeover('{nobody}')", "TD008", "is not a runner's credential"),
    (By::Operator, "log_positions('{nobody}')", "TD008", "is not a runner's credential"),
];

/// Of these every input means something: all that is seen, who asks, and whether something is what was submitted.
const WITHOUT: [&str; 3] = ["queue_depth", "portal_user", "is_submitted"];

#[tokio::test]
async fn every_function_names_what_is_wrong_with_its_input() {
    let mut fleet = Fleet::new().await;
    let mut runner = fleet.runner().await;
    let deployment = fleet.deploy_jobs(&[exec("a")]).await;
    let claimed = runner.claim_one().await;
    let prepared = [
        ("{nobody}", NOBODY.to_owned()),
        ("{cluster}", fleet.cluster.id.to_string()),
        ("{deployment}", deployment.to_string()),
        ("{attempt}", claimed.attempt_id.to_string()),
        ("{fence}", claimed.fence.to_string()),
        ("{credential}", one(&mut runner.session, "select session_user::text").await),
    ];
    let fill = |text: &str| prepared.iter().fold(text.to_owned(), |text, (name, value)| text.replace(name, value));
    let mut called = BTreeSet::new();
    for (by, call, code, words) in [PORTALS, OPERATORS, RUNNERS].concat() {
        called.insert(call.split('(').next().unwrap().to_owned());
        let session = match by {
            By::Portal => &mut fleet.portal,
            By::Operator => &mut fleet.operator,
            By::Runner => &mut runner.session,
        };
        let refusal = refused(session, &format!("select tendril.{}", fill(call))).await;
        assert_eq!(refusal.sqlstate, code, "{call}: {}", refusal.message);
        assert!(refusal.message.contains(&fill(words)), "{call}: {}", refusal.message);
        // What is empty is left out, or clients show an empty line.
        assert!(refusal.hint.as_deref() != Some("") && refusal.detail.as_deref() != Some(""), "{call}: {refusal:?}");
    }
    let all: serde_json::Value = one(
        &mut fleet.operator,
        "select jsonb_agg(distinct proname::text) from pg_proc where pronamespace = 'tendril'::regnamespace",
    )
    .await;
    called.extend(WITHOUT.map(str::to_owned));
    let all: BTreeSet<String> = serde_json::from_value(all).unwrap();
    assert_eq!(called, all);
}
