//! Schedules: deployments by the clock.

use serde::Serialize;
use serde_json::Value;
use sqlx::postgres::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::refusal::Error;

/// A schedule to be made or changed.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Where it runs.
    pub cluster: Uuid,
    /// Unique within the cluster.
    pub name: String,
    /// Minute, hour, day, month, weekday; or @hourly and so on.
    pub cron: String,
    /// What to do.
    pub snapshot: Value,
    /// `time_zone`, `missed`, `catch_up_max`, `drift`, `enabled`.
    pub options: Value,
}

/// A schedule as it stands.
#[derive(Clone, Debug, Serialize)]
pub struct Schedule {
    /// UUIDv7.
    pub id: Uuid,
    /// Where it runs.
    pub cluster_id: Uuid,
    /// The cluster's name.
    pub cluster: String,
    /// Unique within the cluster.
    pub name: String,
    /// Its moments.
    pub cron: String,
    /// Whose calendar and clock.
    pub time_zone: String,
    /// skip, once or all.
    pub missed: String,
    /// Whether it only looks for drift.
    pub drift: bool,
    /// Whether it runs.
    pub enabled: bool,
    /// Its next moment.
    #[serde(with = "time::serde::rfc3339::option")]
    pub next_at: Option<OffsetDateTime>,
    /// When it was served last.
    #[serde(with = "time::serde::rfc3339::option")]
    pub last_at: Option<OffsetDateTime>,
    /// Its newest deployment.
    pub last_deployment_id: Option<Uuid>,
    /// That deployment's status.
    pub last_status: Option<String>,
    /// Why the newest moment made none.
    pub last_error: Option<String>,
    /// Moments that made none.
    pub skipped: i64,
    /// What the newest plan would change.
    pub changes: Option<Value>,
    /// Whether that is anything.
    pub drifted: Option<bool>,
}

/// Makes a schedule, or changes the one of that name; returns its id.
///
/// # Errors
/// TD001 for a bad expression, zone, option or snapshot, TD002 for an unknown cluster, TD003 for a revoked one.
pub async fn set(connection: &mut PgConnection, wanted: &Wanted) -> Result<Uuid, Error> {
    let id = sqlx::query_scalar!(
        r#"-- schedule set
        select tendril.schedule_set($1, $2, $3, $4, $5) as "id!""#,
        wanted.cluster,
        wanted.name,
        wanted.cron,
        wanted.snapshot,
        wanted.options
    );
    Ok(id.fetch_one(connection).await?)
}

/// Removes a schedule; its deployments stay.
///
/// # Errors
/// TD002 when there is none that the caller may see.
pub async fn delete(connection: &mut PgConnection, schedule: Uuid) -> Result<(), Error> {
    let deleted = sqlx::query!(
        "-- schedule delete
        select tendril.schedule_delete($1)",
        schedule
    );
    deleted.fetch_one(connection).await?;
    Ok(())
}

/// Schedules that the caller sees.
///
/// # Errors
/// What the database refuses.
pub async fn list(connection: &mut PgConnection, cluster: Option<Uuid>) -> Result<Vec<Schedule>, Error> {
    let rows = sqlx::query_as!(
        Schedule,
        r#"-- list schedules
        select id as "id!", cluster_id as "cluster_id!", cluster as "cluster!", name as "name!", cron as "cron!", time_zone as "time_zone!",
               missed as "missed!", drift as "drift!", enabled as "enabled!", next_at, last_at, last_deployment_id, last_status, last_error,
               skipped as "skipped!", changes, drifted
          from tendril.schedules where $1::uuid is null or cluster_id = $1 order by cluster, name limit 10000"#,
        cluster
    );
    Ok(rows.fetch_all(connection).await?)
}

/// The next moments of a cron expression in a time zone.
///
/// # Errors
/// TD001 for a bad expression or zone.
pub async fn times(
    connection: &mut PgConnection,
    cron: &str,
    zone: &str,
    count: i32,
) -> Result<Vec<OffsetDateTime>, Error> {
    let times = sqlx::query_scalar!(
        r#"-- cron times
        select t as "t!" from tendril.cron_times($1, $2, clock_timestamp(), $3) t"#,
        cron,
        zone,
        count
    );
    Ok(times.fetch_all(connection).await?)
}
