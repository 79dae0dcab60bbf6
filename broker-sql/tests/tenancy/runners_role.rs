//! Attacks on the tenancy, as a runner's login role.

use serde_json::json;
use sqlx::Connection;
use uuid::Uuid;

use crate::fleet::{Claimed, Fleet, Runner, exec, finish_sql, one, reading, refused, run, sqlstate, start_sql};
use crate::siege::Siege;

/// A victim with a job in hand and one in the queue, and an attacker that is a runner of another cluster.
async fn victim_and_attacker(fleet: &mut Fleet) -> (Runner, Claimed, Runner) {
    fleet.deploy_jobs(&[exec("a"), exec("b")]).await;
    let mut victim = fleet.runner().await;
    let claimed = victim.claim_one().await;
    let two = fleet.database.cluster("two").await;
    let attacker = fleet.runner_of(&two, &["kind=exec"]).await;
    (victim, claimed, attacker)
}

#[tokio::test]
async fn another_clusters_work_can_neither_be_claimed_nor_driven() {
    let mut siege = Siege::begin().await;
    let fleet = &mut siege.fleet;
    let (victim, claimed, mut attacker) = victim_and_attacker(fleet).await;
    assert_eq!(attacker.claim(9).await.len(), 0, "the queue of another cluster is not there");
    let (a, f, v) = (claimed.attempt_id, claimed.fence, victim.id);
    let info = json!({"name": "n", "version": "0", "labels": ["kind=exec"], "slots": 1, "log_writer": v});
    for sql in [
        start_sql(&claimed),
        finish_sql(&claimed, &json!({"outcome": "success", "log_end": -1})),
        format!("select tendril.runner_register('{v}', 1, '{info}')"),
        format!("select tendril.runner_claim('{v}', 2, 1)"),
        format!("select tendril.runner_heartbeat('{v}', 1, '{{}}')"),
        format!("select tendril.runner_leave('{v}')"),
        format!("select tendril.runner_artifact_put('{a}', {f}, 'plan', 'x', 'x')"),
        format!("select tendril.runner_artifact_get('{a}', 'plan')"),
    ] {
        let foreign = refused(&mut attacker.session, &sql).await;
        assert_eq!(foreign.sqlstate, "TD002", "{sql}");
        // The same words as for what is not there at all: nothing to probe with.
        if !sql.contains("runner_register") {
            let (no_a, no_v) = (Uuid::from_u128(1), Uuid::from_u128(2));
            let absent = sql.replace(&a.to_string(), &no_a.to_string()).replace(&v.to_string(), &no_v.to_string());
            let absent = refused(&mut attacker.session, &absent).await;
            let words =
                foreign.message.replace(&a.to_string(), &no_a.to_string()).replace(&v.to_string(), &no_v.to_string());
            assert_eq!((absent.sqlstate.as_str(), absent.message), ("TD002", words), "{sql}");
        }
    }
    // Progress is ignored without a word.
    run(&mut attacker.session, &format!("select tendril.runner_progress('{a}', {f}, '{{\"x\": 1}}')")).await;
    let progress: Option<serde_json::Value> =
        one(&mut fleet.operator, &format!("select progress from tendril_core.attempts where id = '{a}'")).await;
    assert_eq!(progress, None);
    // In a heartbeat another's attempt is neither held nor told of.
    let reply = attacker.heartbeat(&[&claimed]).await;
    assert_eq!((&reply["held"], &reply["superseded"], &reply["work"]), (&json!([]), &json!([]), &json!(false)));
    assert_eq!(fleet.job(claimed.deployment_id, "a").await, "CLAIMED");
    siege.end().await;
}

#[tokio::test]
async fn tables_views_and_other_surfaces_are_out_of_reach() {
    let mut siege = Siege::begin().await;
    let fleet = &mut siege.fleet;
    let (_victim, claimed, mut attacker) = victim_and_attacker(fleet).await;
    let group: String = one(&mut fleet.operator, "select tendril_core.group_role('portal')").await;
    let victims_role = fleet.cluster.role.clone();
    let id = claimed.deployment_id;
    let attacks = [
        "select from tendril_core.jobs".to_owned(),
        "select from tendril_core.cluster_credentials".into(),
        "select from tendril.deployments".into(),
        "select from tendril.deployment_logs".into(),
        "select from tendril.log_inbox".into(),
        "select from tendril.clusters".into(),
        "select from tendril.jobs".into(),
        "select from tendril.queue".into(),
        "select from tendril.runners".into(),
        "update tendril_core.runner_leases set lease_expires_at = now()".into(),
        "delete from tendril_core.queue".into(),
        "truncate tendril.log_inbox".into(),
        "insert into tendril.deployments (cluster_id, config_snapshot) values (gen_random_uuid(), '{}')".into(),
        "select tendril.cluster_create('x')".into(),
        format!("select tendril.status('{id}')"),
        format!("select tendril.logs_after('{id}')"),
        format!("select tendril.cancel('{id}')"),
        format!("select tendril.declare_lost('{id}', 'a', '')"),
        "select tendril.queue_depth()".into(),
        "select tendril_core.pulse()".into(),
        "select tendril_core.run_duty('expire')".into(),
        "copy tendril.log_inbox to stdout".into(),
        "copy (select * from tendril.deployments) to stdout".into(),
        "copy tendril.deployment_logs (log_chunk) from stdin".into(),
        "copy tendril.log_inbox (cluster_id, deployment_id) from stdin".into(),
        "copy tendril.log_inbox (id) from stdin".into(),
        "copy tendril.log_inbox from stdin".into(),
        "copy tendril.log_inbox (log_chunk) from '/etc/passwd'".into(),
        "copy tendril.log_inbox (log_chunk) from program 'id'".into(),
        "insert into tendril.log_inbox (log_chunk) values ('x') returning *".into(),
        "select setval('tendril.deployment_logs_id_seq', 1)".into(),
        format!("set role {group}"),
        format!("set role {victims_role}"),
        "set role tendril_ops".into(),
        format!("set session authorization {victims_role}"),
        format!("alter role {victims_role} password 'x'"),
        format!("grant {group} to current_user"),
        "alter function tendril.runner_wait(uuid) owner to current_user".into(),
        "create function tendril.f() returns int language sql as 'select 1'".into(),
        "create table public.t (x int)".into(),
        "create role attacker".into(),
        "comment on table tendril.clusters is 'x'".into(),
        "alter table tendril.log_inbox disable trigger log_check".into(),
        "drop trigger log_check on tendril.log_inbox".into(),
        "set session_replication_role = replica".into(),
        "select pg_read_file('/etc/passwd')".into(),
    ];
    for sql in attacks {
        let code = sqlstate(&mut attacker.session, &sql).await;
        // 42704: there is no such role here to be taken.
        let known = ["42501"].contains(&code.as_str()) || (sql.contains("tendril_ops") && code == "22023");
        assert!(known, "{sql}: {code}");
    }
    for mode in ["access share", "row exclusive", "share", "access exclusive"] {
        for table in ["tendril.log_inbox", "tendril.deployments", "tendril_core.runner_leases"] {
            let sql = format!("begin; lock table {table} in {mode} mode");
            assert_eq!(sqlstate(&mut attacker.session, &sql).await, "42501", "{sql}");
            run(&mut attacker.session, "rollback").await;
        }
    }
    siege.end().await;
}

#[tokio::test]
async fn a_days_partition_is_no_second_door() {
    let mut siege = Siege::begin().await;
    let fleet = &mut siege.fleet;
    let (_victim, claimed, mut attacker) = victim_and_attacker(fleet).await;
    let day = format!("tendril_core.log_day_{}", claimed.claim_day.to_string().replace('-', ""));
    for sql in
        [format!("copy {day} from stdin"), format!("insert into {day} (seq) values (1)"), format!("select from {day}")]
    {
        assert_eq!(sqlstate(&mut attacker.session, &sql).await, "42501", "{sql}");
    }
    siege.end().await;
}

#[tokio::test]
async fn identity_is_the_login_and_not_what_a_session_says_of_itself() {
    let mut siege = Siege::begin().await;
    let fleet = &mut siege.fleet;
    let (mut victim, claimed, mut attacker) = victim_and_attacker(fleet).await;
    let group: String = one(&mut fleet.operator, "select tendril_core.group_role('runner')").await;
    // Its own group may be taken, and then it is nobody.
    run(&mut attacker.session, &format!("set role {group}")).await;
    let nobody =
        refused(&mut attacker.session, &format!("select tendril.runner_heartbeat('{}', 0, '{{}}')", attacker.id)).await;
    assert_eq!((nobody.sqlstate.as_str(), nobody.message), ("TD008", format!("{group} is not a runner's credential")));
    run(&mut attacker.session, "reset role").await;
    // GUCs that look like identity.
    run(&mut attacker.session, &format!("select set_config('tendril.cluster', '{}', false)", fleet.cluster.id)).await;
    assert_eq!(sqlstate(&mut attacker.session, &start_sql(&claimed)).await, "TD002");
    victim.start(&claimed).await;
    siege.end().await;
}

#[tokio::test]
async fn temporary_objects_shadow_nothing() {
    let mut fleet = Fleet::new().await;
    let (mut victim, claimed, mut attacker) = victim_and_attacker(&mut fleet).await;
    run(
        &mut attacker.session,
        &format!(
            "create temp table cluster_credentials (cluster_id uuid, generation int, role_name text, status text);
             insert into cluster_credentials values ('{}', 1, session_user, 'active');
             create temp table attempts (id uuid); create temp table pg_roles (rolname text);
             create function pg_temp.caller() returns text language sql as $$ select '{}' $$;
             create function pg_temp.eq(uuid, uuid) returns boolean language sql as $$ select true $$;
             create operator pg_temp.= (leftarg = uuid, rightarg = uuid, function = pg_temp.eq);
             create function pg_temp.clock_timestamp() returns timestamptz language sql as $$ select '2000-01-01'::timestamptz $$;
             set search_path = pg_temp, pg_catalog",
            fleet.cluster.id, fleet.cluster.role
        ),
    )
    .await;
    assert_eq!(sqlstate(&mut attacker.session, &start_sql(&claimed)).await, "TD002");
    assert_eq!(attacker.claim(9).await.len(), 0);
    attacker.heartbeat(&[]).await;
    let fresh: bool =
        one(&mut fleet.operator, "select bool_and(heartbeat_at > '2001-01-01') from tendril_core.runner_leases").await;
    assert!(fresh);
    victim.start(&claimed).await;
}

#[tokio::test]
async fn an_older_snapshot_is_refused() {
    let mut siege = Siege::begin().await;
    let fleet = &mut siege.fleet;
    fleet.deploy_jobs(&[exec("a"), reading("b")]).await;
    let mut runner = fleet.runner().await;
    let claimed = runner.claim(2).await;
    runner.take_over().await;
    for isolation in ["repeatable read", "serializable"] {
        let report = json!({"outcome": "success", "log_end": -1});
        for sql in [
            format!("select tendril.runner_claim('{}', 2, 1)", runner.id),
            start_sql(&claimed[0]),
            finish_sql(&claimed[0], &report),
            format!("select tendril.runner_heartbeat('{}', 1, '{{}}')", runner.id),
            format!("select tendril.log_takeover('{}')", runner.writer),
            format!(
                "select tendril.runner_artifact_put('{}', {}, 'x', 'x', 'x')",
                claimed[0].attempt_id, claimed[0].fence
            ),
        ] {
            let refusal = refused(&mut runner.session, &format!("begin isolation level {isolation}; {sql}")).await;
            assert_eq!(
                (refusal.sqlstate.as_str(), refusal.message),
                ("TD007", format!("transaction isolation is {isolation}")),
                "{sql}"
            );
            run(&mut runner.session, "rollback").await;
        }
        run(&mut runner.session, &format!("begin isolation level {isolation}")).await;
        let writer = format!("{}:{}", runner.writer, runner.epoch);
        let rows = [crate::fleet::row(&claimed[0], 0, 0, "x")];
        let error = crate::fleet::copy_as(&mut runner.session, &writer, &rows).await.unwrap_err();
        assert_eq!(crate::fleet::refusal(error).sqlstate, "TD007");
        run(&mut runner.session, "rollback").await;
        // Portals too.
        let cancel =
            format!("begin isolation level {isolation}; select tendril.cancel('{}')", claimed[0].deployment_id);
        assert_eq!(sqlstate(&mut fleet.portal, &cancel).await, "TD007");
        run(&mut fleet.portal, "rollback").await;
    }
    siege.end().await;
}

#[tokio::test]
async fn a_tenant_cannot_lower_the_durability_of_a_transition() {
    let mut fleet = Fleet::new().await;
    fleet.deploy_jobs(&[exec("a")]).await;
    let mut runner = fleet.runner().await;
    run(&mut runner.session, "set synchronous_commit = off").await;
    run(&mut runner.session, "begin").await;
    runner.claim(1).await;
    let durable: String = one(&mut runner.session, "select current_setting('synchronous_commit')").await;
    assert_eq!(durable, "on", "within the claim's transaction");
    run(&mut runner.session, "commit").await;
}

#[tokio::test]
async fn a_session_that_holds_a_transaction_open_is_ended() {
    let mut fleet = Fleet::new().await;
    fleet.deploy_jobs(&[exec("a")]).await;
    let mut runner = fleet.runner().await;
    let mut honest = fleet.runner().await;
    run(&mut fleet.operator, "update tendril_core.settings set session_max_age = '1 h', copy_max_age = '2 h'").await;
    // It has taken the job and its runner's row, switched its own timeouts off, and stays.
    run(&mut runner.session, "set idle_in_transaction_session_timeout = 0; begin").await;
    runner.claim(1).await;
    assert_eq!(fleet.database.duty("sessions").await, 0);
    run(&mut fleet.operator, "update tendril_core.settings set session_max_age = '0'").await;
    assert_eq!(fleet.database.duty("sessions").await, 1);
    assert!(runner.session.ping().await.is_err());
    // The portal's and the idle runner's sessions are left alone, and the job is there again.
    run(&mut fleet.portal, "begin; select 1").await;
    assert_eq!(fleet.database.duty("sessions").await, 0);
    run(&mut fleet.portal, "commit").await;
    assert_eq!(honest.claim(1).await.len(), 1);
}

#[tokio::test]
async fn connections_of_a_credential_are_limited() {
    let mut fleet = Fleet::new().await;
    run(&mut fleet.operator, "update tendril_core.settings set runner_connections = 4").await;
    let two = fleet.database.cluster("two").await;
    let url = fleet.database.runner_url(two.token.reveal());
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(sqlx::PgConnection::connect(&url).await.unwrap());
    }
    let Err(sqlx::Error::Database(error)) = sqlx::PgConnection::connect(&url).await else {
        panic!("a fifth connection was let in");
    };
    assert_eq!(error.code().as_deref(), Some("53300"));
}
