//! What our role may do, and what runners' roles may do that they should not.

use sqlx::postgres::PgConnection;

use super::Finding;
use crate::refusal::Error;

pub async fn examine_role(connection: &mut PgConnection) -> Result<Vec<Finding>, Error> {
    let r = sqlx::query!(
        r#"-- examine role
        select r.rolname::text as "name!", r.rolsuper as "superuser!", r.rolcreaterole as "createrole!",
               current_database()::text as "database!", has_database_privilege(current_database(), 'CREATE') as "creates!"
          from pg_roles r where r.rolname = current_user"#
    )
    .fetch_one(connection)
    .await?;
    let mut findings = Vec::new();
    findings.push(if r.superuser {
        Finding::warn(
            "superuser",
            format!("{} is a superuser, which Tendril does not need", r.name),
            format!(
                "use a role of its own: CREATE ROLE tendril LOGIN CREATEROLE; GRANT CREATE ON DATABASE {} TO tendril",
                r.database
            ),
        )
    } else {
        Finding::ok("superuser", format!("{} is no superuser", r.name))
    });
    findings.push(if r.createrole || r.superuser {
        Finding::ok("createrole", format!("{} may create roles", r.name))
    } else {
        Finding::fail(
            "createrole",
            format!("{} may not create roles, which clusters' credentials are", r.name),
            format!("ALTER ROLE {} CREATEROLE", r.name),
        )
    });
    findings.push(if r.creates {
        Finding::ok("create", format!("{} may create schemas in {}", r.name, r.database))
    } else {
        Finding::fail(
            "create",
            format!("{} may not create schemas in {}", r.name, r.database),
            format!("GRANT CREATE ON DATABASE {} TO {}", r.database, r.name),
        )
    });
    Ok(findings)
}

pub async fn examine_groups(connection: &mut PgConnection) -> Result<Vec<Finding>, Error> {
    let g = sqlx::query!(
        r#"-- examine groups
        with me as (select tendril_core.group_role('runner') as runner, tendril_core.group_role('portal') as portal, current_database() as db)
        select me.runner as "runner!", me.portal as "portal!", me.db::text as "database!",
               has_database_privilege(me.runner, me.db, 'CONNECT') and has_database_privilege(me.portal, me.db, 'CONNECT') as "connects!",
               has_database_privilege('public', me.db, 'CONNECT') as "public_connects!",
               has_database_privilege(me.runner, me.db, 'TEMP') as "temp!",
               coalesce(has_schema_privilege(me.runner, to_regnamespace('public')::oid, 'CREATE'), false) as "public_creates!",
               has_function_privilege(me.runner, 'pg_advisory_lock(bigint)', 'EXECUTE') as "advisory!",
               has_function_privilege(me.runner, 'lo_create(oid)', 'EXECUTE') as "large_objects!",
               (select pg_has_role(o.nspowner, 'USAGE') from pg_namespace o where o.nspname = 'tendril_core') as "owner!",
               current_setting('server_version_num')::integer < 160000 or pg_has_role(me.runner, 'MEMBER WITH ADMIN OPTION')
                 and pg_has_role(me.portal, 'MEMBER WITH ADMIN OPTION') as "grants!"
          from me"#
    )
    .fetch_one(connection)
    .await?;
    let db = &g.database;
    let groups = format!("{}, {}", g.runner, g.portal);
    let mut findings = Vec::new();
    findings.push(if g.owner {
        Finding::ok("owner", "this role has the rights of the schema's owner")
    } else {
        Finding::fail("owner", "the schema belongs to another role", "connect as the role that ran the migrations")
    });
    findings.push(if g.grants {
        Finding::ok("groups", format!("this role may grant {groups}"))
    } else {
        let remedy = format!("GRANT {groups} TO CURRENT_USER WITH ADMIN OPTION, as who created them");
        Finding::fail("groups", format!("this role may not grant {groups}"), remedy)
    });
    findings.push(match (g.connects, g.public_connects) {
        (false, _) => Finding::fail(
            "connect",
            format!("runners or portals may not connect to {db}"),
            format!("GRANT CONNECT ON DATABASE {db} TO {groups}"),
        ),
        (true, true) => Finding::warn(
            "connect",
            format!("every role of this server may connect to {db}"),
            format!("GRANT CONNECT ON DATABASE {db} TO {groups}; REVOKE CONNECT ON DATABASE {db} FROM PUBLIC"),
        ),
        (true, false) => Finding::ok("connect", format!("only who was let in may connect to {db}")),
    });
    let may = |allowed: bool, check, what: &str, remedy: String| match allowed {
        true => Finding::warn(check, format!("runners may {what}: load that their quotas do not see"), remedy),
        false => Finding::ok(check, format!("runners may not {what}")),
    };
    findings.push(may(
        g.temp,
        "temp",
        "make temporary tables",
        format!("REVOKE TEMPORARY ON DATABASE {db} FROM PUBLIC"),
    ));
    let remedy = "REVOKE CREATE ON SCHEMA public FROM PUBLIC".to_owned();
    findings.push(may(g.public_creates, "public_schema", "create objects in schema public", remedy));
    let superuser = "as superuser, where the provider lets you: REVOKE EXECUTE ON FUNCTION";
    let remedy = format!(
        "{superuser} pg_advisory_lock(bigint) FROM PUBLIC, and its siblings; until then `serve` ends whoever fills the server's table of locks, \
         within two seconds"
    );
    findings.push(may(g.advisory, "advisory_locks", "take advisory locks", remedy));
    let remedy = format!("{superuser} lo_create(oid), lo_creat(integer), lo_from_bytea(oid, bytea) FROM PUBLIC");
    findings.push(may(g.large_objects, "large_objects", "make large objects", remedy));
    Ok(findings)
}
