//! Migrations, uninstall and doctor.

use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;
use tendril_broker::operator::doctor::{self, Level};
use tendril_broker::operator::grants::Scope;
use tendril_broker::operator::migration;
use tendril_broker::testing::TestDatabase;

use crate::fleet::{Fleet, connect, exec, one, run};
use crate::program::{broker, broker_fed};

/// Everything in the catalogue that a migration makes, as text.
async fn catalogue(session: &mut PgConnection) -> Vec<String> {
    let sql = "select pg_describe_object(classid, objid, 0) || ' ' || coalesce(md5(pg_get_functiondef(p.oid)), '')
                 from pg_depend d left join pg_proc p on p.oid = d.objid and d.classid = 'pg_proc'::regclass and p.prokind = 'f'
                where refclassid = 'pg_namespace'::regclass and refobjid in ('tendril'::regnamespace, 'tendril_core'::regnamespace)
                order by 1";
    sqlx::query_scalar(sql).fetch_all(session).await.unwrap()
}

async fn names(session: &mut PgConnection, sql: &str) -> Vec<String> {
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_all(session).await.unwrap()
}

#[tokio::test]
async fn migrate_check_says_what_is_missing_and_migrate_puts_it_there() {
    let database = TestDatabase::empty().await;
    let url = database.url();
    let missing = broker(&url, &["migrate", "--check", "--json"]).await;
    assert_eq!((missing.code, missing.json()["version"].is_null()), (1, true));
    let first = broker(&url, &["migrate", "--json"]).await;
    assert_eq!(first.code, 0, "{}", first.err);
    assert_eq!(first.json()["applied"], missing.json()["pending"]);
    let again = broker(&url, &["migrate", "--json"]).await;
    assert_eq!((again.code, again.json()["applied"].as_array().unwrap().len()), (0, 0));
    assert_eq!(broker(&url, &["migrate", "--check"]).await.code, 0);
    // Nothing of it needs or touches schema public.
    let public = names(
        &mut database.operator().await,
        "select relname::text from pg_class where relnamespace = 'public'::regnamespace",
    )
    .await;
    assert_eq!(public, Vec::<String>::new());
}

#[tokio::test]
async fn many_migrations_at_once_are_one() {
    let database = TestDatabase::empty().await;
    let barrier = std::sync::Arc::new(tokio::sync::Barrier::new(4));
    let mut racing = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (mut session, barrier) = (database.operator().await, barrier.clone());
        racing.spawn(async move {
            barrier.wait().await;
            migration::migrate(&mut session).await.unwrap().len()
        });
    }
    let mut applied = racing.join_all().await;
    applied.sort_unstable();
    assert_eq!(applied, [0, 0, 0, migration::migrator().iter().count()]);
}

#[tokio::test]
async fn the_printed_script_makes_the_same_schema() {
    let printed = broker("", &["migrate", "--print"]).await;
    assert_eq!(printed.code, 0);
    let (by_script, by_program) = (TestDatabase::empty().await, TestDatabase::create().await);
    let mut session = by_script.operator().await;
    run(&mut session, &format!("begin; {} commit", printed.out)).await;
    assert_eq!(catalogue(&mut session).await, catalogue(&mut by_program.operator().await).await);
    let check = broker(&by_script.url(), &["migrate", "--check", "--json"]).await;
    assert_eq!((check.code, check.json()["pending"].as_array().unwrap().len()), (0, 0));
    assert_eq!(broker(&by_script.url(), &["migrate", "--json"]).await.json()["applied"].as_array().unwrap().len(), 0);
}

#[tokio::test]
async fn a_schema_that_is_newer_or_changed_gives_a_clear_error() {
    let fleet = Fleet::new().await;
    let (database, mut operator) = (fleet.database, fleet.operator);
    let newest: i64 = one(&mut operator, "select max(version) from tendril_core._sqlx_migrations").await;
    run(
        &mut operator,
        "insert into tendril_core._sqlx_migrations (version, description, success, checksum, execution_time) values (9999, 'later', true, '', 0)",
    )
    .await;
    let newer = broker(&database.url(), &["migrate"]).await;
    assert_eq!(newer.code, 5);
    assert!(
        newer.err.contains(&format!("the database's schema is at version 9999, this tendril-broker knows {newest}")),
        "{}",
        newer.err
    );
    let checked = broker(&database.url(), &["migrate", "--check"]).await;
    assert!(checked.code == 0 && checked.out.contains("is at 9999, newer than this"), "{}", checked.out);
    run(
        &mut operator,
        "delete from tendril_core._sqlx_migrations where version = 9999; update tendril_core._sqlx_migrations set checksum = '' where version = 3",
    )
    .await;
    let changed = broker(&database.url(), &["migrate"]).await;
    assert_eq!(changed.code, 5);
    assert!(changed.err.contains("migration 3 is not the one that was applied"), "{}", changed.err);
}

#[tokio::test]
async fn a_role_with_too_few_rights_is_told_which() {
    let database = TestDatabase::empty().await;
    let role = database.login_role().await;
    let refused = broker(&role.url, &["migrate"]).await;
    assert_eq!(refused.code, 1);
    assert!(refused.err.contains("permission denied for database"), "{}", refused.err);
    assert!(refused.err.contains("GRANT CREATE ON DATABASE"), "{}", refused.err);
    run(&mut database.operator().await, &format!("grant create on database {} to {}", database.name(), role.role))
        .await;
    let refused = broker(&role.url, &["migrate"]).await;
    assert!(refused.err.contains("cannot create the group roles"), "{}", refused.err);
    assert!(refused.err.contains("CREATEROLE"), "{}", refused.err);
    let left =
        names(&mut database.operator().await, "select nspname::text from pg_namespace where nspname like 'tendril%'")
            .await;
    assert_eq!(left, Vec::<String>::new(), "a migration that fails leaves nothing");
    let doctor = broker(&role.url, &["doctor", "--json"]).await;
    assert_eq!(doctor.code, 1);
    let failed: Vec<String> = doctor.json()["findings"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|finding| finding["level"] == "fail")
        .map(|finding| finding["check"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(failed, ["createrole", "schema"]);
}

#[tokio::test]
async fn uninstall_leaves_nothing() {
    let database = TestDatabase::empty().await;
    let mut operator = database.operator().await;
    let roles = "select rolname::text from pg_roles where rolname not like 'portal%' and rolname !~ '^r_|^tendril_(runner|portal)_|^authenticated' order by 1";
    let schemas = "select nspname::text from pg_namespace order by 1";
    let objects = "select classid::regclass || ' ' || objid::text from pg_shdepend where dbid = (select oid from pg_database where datname = current_database())";
    let before =
        (names(&mut operator, roles).await, names(&mut operator, schemas).await, names(&mut operator, objects).await);
    assert_eq!(broker(&database.url(), &["migrate"]).await.code, 0);
    let installation: String = one(&mut operator, "select id from tendril_core.installation").await;
    for name in ["one", "two"] {
        assert_eq!(broker(&database.url(), &["cluster", "create", name]).await.code, 0);
    }
    assert_eq!(broker(&database.url(), &["cluster", "rotate", "one"]).await.code, 0);
    let portal = database.portal(Scope::All).await;
    let mut session = connect(&portal.url).await;
    run(
        &mut session,
        &format!(
            "insert into tendril.deployments (cluster_id, config_snapshot) select id, '{}' from tendril.clusters",
            serde_json::json!({"jobs": [exec("a")]})
        ),
    )
    .await;
    // Sessions of runners are open, one has objects of its own.
    let credentials = names(&mut operator, "select role_name from tendril_core.cluster_credentials").await;
    assert_eq!(credentials.len(), 3);
    run(&mut operator, &format!("alter role {} password 'known'", credentials[0])).await;
    let url = portal.url.replace(&portal.role, &credentials[0]).replace(":portal@", ":known@");
    let mut runner = connect(&url).await;
    run(&mut runner, "create temp table t (x int); select lo_create(0)").await;

    let asked = broker(&database.url(), &["uninstall", "--json"]).await;
    assert_eq!((asked.code, &asked.json()["removed"]), (1, &serde_json::json!(false)));
    run(&mut operator, "create view public.mine as select id from tendril.deployments").await;
    let depends = broker(&database.url(), &["uninstall", "--yes"]).await;
    assert_eq!(depends.code, 1);
    assert!(depends.err.contains("rule _RETURN on view mine"), "{}", depends.err);
    let done = broker(&database.url(), &["uninstall", "--yes", "--cascade"]).await;
    assert_eq!(done.code, 0, "{}", done.err);

    let ours = format!(
        "select rolname::text from pg_roles where rolname like 'tendril_%_{installation}' or rolname = any (array['{}'])",
        credentials.join("','")
    );
    assert_eq!(names(&mut operator, &ours).await, Vec::<String>::new());
    let after =
        (names(&mut operator, roles).await, names(&mut operator, schemas).await, names(&mut operator, objects).await);
    assert_eq!(
        after
            .1
            .iter()
            .filter(|name| !name.starts_with("pg_temp") && !name.starts_with("pg_toast_temp"))
            .collect::<Vec<_>>(),
        before.1.iter().collect::<Vec<_>>()
    );
    assert_eq!(after.0, before.0);
    assert_eq!(after.2, before.2);
    let large: i64 = one(&mut operator, "select count(*) from pg_largeobject_metadata").await;
    assert_eq!(large, 0);
    let nothing = broker(&database.url(), &["uninstall", "--yes", "--json"]).await;
    assert_eq!((nothing.code, nothing.json()["installed"]["schemas"].as_array().unwrap().len()), (0, 0));
    // And it can be put there again.
    assert_eq!(broker_fed(&database.url(), &["migrate"], "").await.code, 0);
}

#[tokio::test]
async fn doctor_says_what_to_mend() {
    let mut fleet = Fleet::new().await;
    let level = |findings: &[doctor::Finding], check: &str| findings.iter().find(|f| f.check == check).map(|f| f.level);
    let findings = doctor::examine(&mut fleet.operator, None).await.unwrap();
    for check in [
        "version",
        "clock",
        "isolation",
        "prepared_transactions",
        "superuser",
        "createrole",
        "create",
        "schema",
        "owner",
        "groups",
        "settings",
        "partitions",
    ] {
        assert_eq!(level(&findings, check), Some(Level::Ok), "{check}");
    }
    assert_eq!(level(&findings, "pulse"), Some(Level::Fail), "serve has never run here");
    assert!(findings.iter().all(|f| (f.level == Level::Ok) == f.remedy.is_none()));
    // As serve would have it; then one thing after the other is broken.
    run(&mut fleet.operator, "select tendril_core.pulse(); update tendril_core.duties set ran_at = clock_timestamp()")
        .await;
    let findings = doctor::examine(&mut fleet.operator, None).await.unwrap();
    assert_eq!((level(&findings, "pulse"), level(&findings, "duties")), (Some(Level::Ok), Some(Level::Ok)));
    let name = fleet.database.name().to_owned();
    for (sql, check, expected) in [
        (format!("revoke connect on database {name} from public"), "connect", Level::Fail),
        ("update tendril_core.settings set copy_max_age = '1 s'".into(), "settings", Level::Warn),
        ("update tendril_core.settings set runner_connections = 1000".into(), "connections", Level::Warn),
        ("update tendril_core.settings set partitions_ahead = 30".into(), "partitions", Level::Warn),
        ("update tendril_core.duties set ran_at = '-infinity' where name = 'fold'".into(), "duties", Level::Warn),
        (
            "insert into tendril_core._sqlx_migrations values (9999, 'later', default, true, '', 0)".into(),
            "schema",
            Level::Warn,
        ),
        ("delete from tendril_core._sqlx_migrations where version in (2, 9999)".into(), "schema", Level::Fail),
    ] {
        run(&mut fleet.operator, &sql).await;
        let findings = doctor::examine(&mut fleet.operator, None).await.unwrap();
        assert_eq!(level(&findings, check), Some(expected), "{check} after {sql}: {findings:?}");
    }
    let ran = broker(&fleet.database.url(), &["doctor"]).await;
    assert_eq!(ran.code, 1);
    assert!(ran.out.contains("FAIL  migrations are missing: [2]\n      -> tendril-broker migrate"), "{}", ran.out);
}
