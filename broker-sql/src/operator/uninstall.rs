//! Taking everything away again: schemas, data, credentials, roles.

use serde::Serialize;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Executor};

use crate::refusal::{Error, Refusal};

/// What an uninstall would take away, or took away.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Installed {
    /// Schemas with all that is in them.
    pub schemas: Vec<String>,
    /// Login roles of clusters.
    pub credentials: Vec<String>,
    /// The installation's group roles.
    pub groups: Vec<String>,
    /// Objects elsewhere that need ours: views, foreign keys, defaults, functions.
    pub dependents: Vec<String>,
}

impl Installed {
    /// Whether there is nothing to take away.
    pub fn is_empty(&self) -> bool {
        self.schemas.is_empty()
    }
}

/// What is there.
///
/// # Errors
/// What the database refuses: only the owner of the schemas may look.
pub async fn look(connection: &mut PgConnection) -> Result<Installed, Error> {
    let schemas = sqlx::query_scalar!(
        r#"-- installed schemas
        select nspname::text as "name!" from pg_namespace where nspname in ('tendril', 'tendril_core') order by 1"#
    );
    let mut found = Installed { schemas: schemas.fetch_all(&mut *connection).await?, ..Installed::default() };
    let begun = sqlx::query_scalar!(
        r#"-- has credentials table
        select to_regclass('tendril_core.cluster_credentials') is not null as "found!""#
    );
    if begun.fetch_one(&mut *connection).await? {
        let credentials = sqlx::query_scalar!(
            r#"-- installed credentials
            select r.rolname::text as "name!"
              from tendril_core.cluster_credentials c join pg_roles r on r.rolname = c.role_name order by 1"#
        );
        found.credentials = credentials.fetch_all(&mut *connection).await?;
        let groups = sqlx::query_scalar!(
            r#"-- installed groups
            select r.rolname::text as "name!" from pg_roles r
             where r.rolname in (tendril_core.group_role('runner'), tendril_core.group_role('portal')) order by 1"#
        );
        found.groups = groups.fetch_all(&mut *connection).await?;
    }
    found.dependents = dependents(connection).await?;
    Ok(found)
}

async fn dependents(connection: &mut PgConnection) -> Result<Vec<String>, Error> {
    let names = sqlx::query_scalar!(
        r#"-- dependents elsewhere
        with ours as (select oid from pg_namespace where nspname in ('tendril', 'tendril_core')),
        needed as (
          select 'pg_class'::regclass as classid, oid from pg_class where relnamespace in (select oid from ours)
          union all select 'pg_proc'::regclass, oid from pg_proc where pronamespace in (select oid from ours)
          union all select 'pg_type'::regclass, oid from pg_type where typnamespace in (select oid from ours)),
        users as (
          select d.classid, d.objid, d.objsubid from pg_depend d join needed n on n.classid = d.refclassid and n.oid = d.refobjid
           where d.deptype in ('n', 'a'))
        select distinct pg_describe_object(u.classid, u.objid, u.objsubid) as "name!" from users u
         where case u.classid
             when 'pg_rewrite'::regclass then (select c.relnamespace not in (select oid from ours)
               from pg_rewrite r join pg_class c on c.oid = r.ev_class where r.oid = u.objid)
             when 'pg_constraint'::regclass then (select k.connamespace not in (select oid from ours) from pg_constraint k where k.oid = u.objid)
             when 'pg_attrdef'::regclass then (select c.relnamespace not in (select oid from ours)
               from pg_attrdef a join pg_class c on c.oid = a.adrelid where a.oid = u.objid)
             when 'pg_proc'::regclass then (select p.pronamespace not in (select oid from ours) from pg_proc p where p.oid = u.objid)
             when 'pg_class'::regclass then (select c.relnamespace not in (select oid from ours) from pg_class c where c.oid = u.objid)
             when 'pg_trigger'::regclass then (select c.relnamespace not in (select oid from ours)
               from pg_trigger t join pg_class c on c.oid = t.tgrelid where t.oid = u.objid)
             else false end
         order by 1"#
    );
    Ok(names.fetch_all(connection).await?)
}

/// Ends the runners' sessions and takes everything away; returns what there was. With `cascade` also objects of others
/// that need ours.
///
/// # Errors
/// 2BP01 when others' objects depend on ours and `cascade` was not given; 55P03 while sessions use our tables.
pub async fn uninstall(connection: &mut PgConnection, cascade: bool) -> Result<Installed, Error> {
    let found = look(connection).await?;
    if found.is_empty() {
        return Ok(found);
    }
    if !found.dependents.is_empty() && !cascade {
        return Err(Error::Refused(Box::new(Refusal {
            sqlstate: "2BP01".into(),
            message: "objects outside of Tendril's schemas depend on them".into(),
            hint: Some("drop them first, or use --cascade to drop them as well".into()),
            detail: Some(found.dependents.join("; ")),
        })));
    }
    end_sessions(connection, &found.credentials).await?;
    let mut transaction = connection.begin().await?;
    transaction.execute("-- patience\nset local lock_timeout = '10s'").await?;
    let schemas = found.schemas.iter().map(|schema| format!("drop schema {schema} cascade"));
    // What a tenant made for itself goes with its role; the rights of the groups went with the schemas.
    let owned = found.credentials.iter().map(|role| format!("drop owned by {role}"));
    let roles = found.credentials.iter().chain(&found.groups).map(|role| format!("drop role {role}"));
    for statement in schemas.chain(owned).chain(roles) {
        let result = sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *transaction).await;
        result.map_err(|error| with_remedy(error.into()))?;
    }
    transaction.commit().await?;
    Ok(found)
}

/// First no new ones, then none.
async fn end_sessions(connection: &mut PgConnection, credentials: &[String]) -> Result<(), Error> {
    for role in credentials {
        sqlx::raw_sql(AssertSqlSafe(format!("alter role {role} nologin"))).execute(&mut *connection).await?;
    }
    sqlx::query!(
        "-- end runners' sessions
        select pg_terminate_backend(pid, 5000) from pg_stat_activity where usename = any ($1::text[])",
        credentials
    )
    .fetch_all(connection)
    .await?;
    Ok(())
}

fn with_remedy(error: Error) -> Error {
    match error {
        Error::Refused(mut refusal) => {
            refusal.hint = match refusal.sqlstate.as_str() {
                "55P03" => Some("stop `tendril-broker serve` and the portals first".into()),
                "2BP01" => {
                    Some("the role has rights in another database of this server; take them away there first".into())
                }
                _ => refusal.hint,
            };
            Error::Refused(refusal)
        }
        other => other,
    }
}
