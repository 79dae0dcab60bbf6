//! The watch itself: what keeps it from seeing somebody, or from acting on what it has seen.

use crate::fleet::{Fleet, connect, one, run};
use crate::siege::Siege;

fn barred(role: &str) -> String {
    format!("select barred_until is not null from tendril_core.cluster_credentials where role_name = '{role}'")
}

/// Has the watch find hoards of these roles, once: at its next look.
fn found_once(roles: &[&str]) -> String {
    format!(
        "create sequence tendril_core.looks;
         create or replace function tendril_core.end_hoards() returns setof text language plpgsql set search_path = pg_catalog, pg_temp as $$
         begin
           if nextval('tendril_core.looks') = 1 then
             return query select unnest(array['{}']);
           end if;
         end $$",
        roles.join("', '")
    )
}

#[tokio::test]
async fn a_hoarder_is_barred_also_when_the_rest_of_the_look_fails() {
    let mut siege = Siege::begin().await;
    let role = siege.fleet.cluster.role.clone();
    let fails = "create or replace function tendril_core.duty_sessions() returns bigint language plpgsql as $$
        begin raise exception 'no look at ages'; end $$";
    run(&mut siege.fleet.operator, &format!("{fails}; {}", found_once(&[&role]))).await;
    siege.until("it is barred", &barred(&role)).await;
    siege.end().await;
}

#[tokio::test]
async fn a_hoarder_that_cannot_be_barred_yet_keeps_no_other_from_it_and_is_not_forgotten() {
    let mut siege = Siege::begin().await;
    let held = siege.fleet.cluster.role.clone();
    let other = siege.fleet.database.cluster("other").await.role;
    // Somebody rotates it, in a transaction that is still open.
    let mut operator = siege.fleet.database.operator().await;
    let lock = format!("begin; select from tendril_core.cluster_credentials where role_name = '{held}' for update");
    run(&mut operator, &lock).await;
    run(&mut siege.fleet.operator, &found_once(&[&held, &other])).await;
    siege.until("the other one is barred", &barred(&other)).await;
    run(&mut operator, "rollback").await;
    siege.until("the first one is barred, too", &barred(&held)).await;
    siege.end().await;
}

#[tokio::test]
async fn many_hoarders_that_cannot_be_barred_yet_hold_up_neither_the_next_look_nor_the_last_of_them() {
    let mut siege = Siege::begin().await;
    let mut roles = Vec::new();
    for number in 0..9 {
        roles.push(siege.fleet.database.cluster(&format!("cluster-{number}")).await.role);
    }
    roles.sort();
    let (last, held) = roles.split_last().unwrap();
    let told = "create table tendril_core.told (role text, looks bigint);
        do $do$ begin
          execute replace(pg_get_functiondef('tendril_core.bar_role(text)'::regprocedure), 'tendril_core.bar_role', 'tendril_core.real_bar_role');
        end $do$;
        create or replace function tendril_core.bar_role(p_role text) returns void language plpgsql set search_path = pg_catalog, pg_temp as $$
        begin perform tendril_core.real_bar_role(p_role); insert into tendril_core.told select p_role, l.last_value from tendril_core.looks l; end $$";
    let mut operator = siege.fleet.database.operator().await;
    let lock = format!(
        "begin; select from tendril_core.cluster_credentials where role_name in ('{}') for update",
        held.join("', '")
    );
    run(&mut operator, &lock).await;
    let all: Vec<&str> = roles.iter().map(String::as_str).collect();
    run(&mut siege.fleet.operator, &format!("{}; {told}", found_once(&all))).await;
    // Each that somebody holds costs a second.
    siege.until("the last one is barred", &barred(last)).await;
    let looks = format!("select looks from tendril_core.told where role = '{last}'");
    // At the first they were found.
    let looks: i64 = one(&mut siege.fleet.operator, &looks).await;
    assert!(looks >= 3, "barred at look {looks}");
    run(&mut operator, "rollback").await;
    for role in held {
        siege.until("those that were held are barred, too", &barred(role)).await;
    }
    siege.end().await;
}

#[tokio::test]
async fn the_watch_stands_while_the_database_is_silent_and_takes_no_new_sessions() {
    let mut siege = Siege::begin().await;
    let (name, url) = (siege.fleet.database.name().to_owned(), siege.attackers_url());
    let mut attacker = connect(&url).await;
    let pid: i32 = one(&mut attacker, "select pg_backend_pid()").await;
    let mut hush = siege.fleet.database.operator().await;
    // From now on a beat waits for this lock, and nobody who is not here comes in.
    let waits = "select pg_advisory_lock(77);
        do $do$ begin
          execute replace(pg_get_functiondef('tendril_core.pulse()'::regprocedure), 'tendril_core.pulse()', 'tendril_core.real_pulse()');
        end $do$;
        create or replace function tendril_core.pulse() returns boolean language plpgsql set search_path = pg_catalog, pg_temp as $$
        begin perform pg_advisory_xact_lock_shared(77); return tendril_core.real_pulse(); end $$";
    run(&mut hush, &format!("update tendril_core.settings set session_max_age = '1 s'; {waits}")).await;
    run(&mut hush, &format!("alter database {name} connection limit 0")).await;
    let begun_anew = "select not exists (select from pg_stat_activity where application_name = 'tendril-broker serve'
        and datname = current_database() and (query like '-- run duty%' or query like '-- observe%'))";
    siege.until("what shares sessions has given them up", begun_anew).await;
    run(&mut attacker, "begin; select 1").await;
    let ended = format!("select not exists (select from pg_stat_activity where pid = {pid})");
    siege.until("its transaction is ended", &ended).await;
    run(&mut hush, &format!("alter database {name} connection limit -1")).await;
    run(&mut hush, "select pg_advisory_unlock(77)").await;
    siege.end().await;
}

#[tokio::test]
async fn a_role_is_known_by_its_name_whatever_its_number_was_on_another_server() {
    let mut fleet = Fleet::new().await;
    let (role, url) = (fleet.cluster.role.clone(), fleet.database.runner_url(fleet.cluster.token.reveal()));
    run(&mut fleet.operator, "update tendril_core.settings set session_max_age = '1 ms'").await;
    // The number that the credential had belongs to somebody else now, as after a restore on another server.
    let mut somebody = connect(&url).await;
    fleet.database.adopt_role(&format!("{role}_old"));
    let secret = url.split_once("://").unwrap().1.split_once('@').unwrap().0.split_once(':').unwrap().1;
    let anew = format!(
        "alter role {role} rename to {role}_old; create role {role} login password '{secret}'; grant {role} to current_user"
    );
    run(&mut fleet.operator, &anew).await;
    let mut tenant = connect(&url).await;
    for session in [&mut somebody, &mut tenant] {
        run(session, "begin; select 1").await;
    }
    let mut watch = fleet.database.operator().await;
    let mut ended = 0;
    while ended == 0 {
        ended = one::<i64>(&mut watch, "select tendril_core.duty_sessions()").await;
    }
    assert_eq!(ended, 1);
    run(&mut somebody, "select 1").await;
    assert!(sqlx::Connection::ping(&mut tenant).await.is_err(), "it was the tenant's that was to be ended");
}

#[tokio::test]
async fn no_share_is_more_than_a_quarter_of_the_servers_table_of_locks() {
    let mut fleet = Fleet::new().await;
    let table = "current_setting('max_locks_per_transaction')::bigint
        * (current_setting('max_connections')::bigint + current_setting('max_prepared_transactions')::bigint)";
    for connections in [4, 16, 1000] {
        let sql = format!("update tendril_core.settings set runner_connections = {connections}");
        run(&mut fleet.operator, &sql).await;
        let within = format!("select tendril_core.locks_max() between ({table}) / 8 and ({table}) / 4");
        assert!(one::<bool>(&mut fleet.operator, &within).await, "with {connections} connections");
    }
}

/// Sessions of the cluster's credential with so many locks each, where forty are fewer than any session may have.
async fn sessions_with_locks(fleet: &mut Fleet, each: &[i32]) -> Vec<sqlx::PgConnection> {
    let share =
        "create or replace function tendril_core.locks_max() returns bigint language sql as 'select 100::bigint'";
    run(&mut fleet.operator, share).await;
    let url = fleet.database.runner_url(fleet.cluster.token.reveal());
    let mut sessions = Vec::new();
    for (number, locks) in each.iter().enumerate() {
        let mut session = connect(&url).await;
        let locks = format!("select pg_advisory_lock({number}, n) from generate_series(1, {locks}) n");
        run(&mut session, &locks).await;
        sessions.push(session);
    }
    sessions
}

async fn to_be_barred(fleet: &mut Fleet) -> Vec<String> {
    sqlx::query_scalar("select tendril_core.end_hoards()").fetch_all(&mut fleet.operator).await.unwrap()
}

async fn alive(sessions: &mut [sqlx::PgConnection]) -> usize {
    let mut left = 0;
    for session in sessions {
        left += usize::from(sqlx::Connection::ping(session).await.is_ok());
    }
    left
}

#[tokio::test]
async fn a_hoard_in_many_small_parts_is_brought_down_to_the_share_and_its_credential_is_not_barred() {
    let mut fleet = Fleet::new().await;
    let mut sessions = sessions_with_locks(&mut fleet, &[40; 4]).await;
    // As many honest connections may come to; it can come back at once.
    assert_eq!(to_be_barred(&mut fleet).await, Vec::<String>::new());
    assert_eq!(alive(&mut sessions).await, 2, "eighty locks are within the share");
    assert_eq!(to_be_barred(&mut fleet).await, Vec::<String>::new());
    assert_eq!(alive(&mut sessions).await, 2);
}

#[tokio::test]
async fn a_credential_with_more_locks_in_one_session_than_a_session_needs_is_barred() {
    let mut fleet = Fleet::new().await;
    let each: i32 = one(&mut fleet.operator, "select current_setting('max_locks_per_transaction')::integer").await;
    let mut sessions = sessions_with_locks(&mut fleet, &[40, each + 100]).await;
    assert_eq!(to_be_barred(&mut fleet).await, [fleet.cluster.role.clone()]);
    assert_eq!(alive(&mut sessions).await, 1, "the other one is within the share");
}

#[tokio::test]
async fn roles_that_cannot_be_dropped_do_not_stand_before_the_others() {
    let mut fleet = Fleet::new().await;
    let only_last = "create or replace function tendril_core.drop_credential(p_role text) returns boolean language sql as $$ select p_role = 'z' $$";
    run(&mut fleet.operator, only_last).await;
    let ended = format!(
        "insert into tendril_core.cluster_credentials (cluster_id, generation, role_name, status)
           select '{}', 1000 + n, case n when 60 then 'z' else 'r_held_' || n end, 'ended' from generate_series(1, 60) n",
        fleet.cluster.id
    );
    run(&mut fleet.operator, &ended).await;
    let gone = "select role_gone from tendril_core.cluster_credentials where role_name = 'z'";
    let mut runs = 0;
    while !one::<bool>(&mut fleet.operator, gone).await {
        assert!(runs < 100, "fifty of sixty were taken a hundred times, and never this one");
        fleet.database.duty("credentials").await;
        runs += 1;
    }
}
