//! For programs that take the archive away: what became of a deployment's logs there, and days that are made old.

use serde::{Deserialize, Serialize};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Executor};
use uuid::Uuid;

use crate::archive::days;
use crate::refusal::Error;

/// What the database says of an attempt's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, sqlx::FromRow)]
pub struct Shelved {
    /// The attempt that printed it.
    pub attempt_id: Uuid,
    /// waiting, stored or empty; `None` while it is open.
    pub state: Option<String>,
    /// Its object, `s3://BUCKET/KEY`.
    pub url: Option<String>,
    /// Bytes of the object.
    pub object_bytes: Option<i64>,
    /// How often a replica of `serve` has begun to archive it.
    pub tries: i32,
    /// Why the newest try failed.
    pub trouble: Option<String>,
    /// Whether its rows are in the database.
    pub in_database: bool,
}

/// All attempts of a deployment.
///
/// # Errors
/// What the database refuses.
pub async fn shelved(operator: &mut PgConnection, deployment: Uuid) -> Result<Vec<Shelved>, Error> {
    let sql = "-- what is archived
        select a.id as attempt_id, l.state, l.url, l.object_bytes, coalesce(l.tries, 0) as tries,
               l.trouble, tendril_core.log_day_attached(a.claim_day) as in_database
          from tendril_core.attempts a left join tendril_core.log_archives l on l.attempt_id = a.id
         where a.deployment_id = $1 order by a.fence";
    Ok(sqlx::query_as(sql).bind(deployment).fetch_all(operator).await?)
}

/// Makes a deployment's logs those of so many days ago, on a day that has no others. At once for everybody. False, and
/// nothing was done, while a replica of `serve` is at one of them: the day is a part of an object's name.
///
/// # Errors
/// What the database refuses.
pub async fn make_old(operator: &mut PgConnection, deployment: Uuid, days: u32) -> Result<bool, Error> {
    let day =
        "-- a day long ago\nselect to_char((clock_timestamp() at time zone 'UTC')::date - $1::integer, 'YYYY-MM-DD')";
    let day: String = sqlx::query_scalar(day).bind(i64::from(days)).fetch_one(&mut *operator).await?;
    let name = format!("tendril_core.log_day_{}", day.replace('-', ""));
    let mut all = operator.begin().await?;
    let held = "-- hold logs to archive
        select coalesce(bool_or(l.claimed_by is not null and l.state = 'waiting'), false)
          from (select * from tendril_core.log_archives where deployment_id = $1 for update) l";
    if sqlx::query_scalar(held).bind(deployment).fetch_one(&mut *all).await? {
        return Ok(false);
    }
    let make = format!(
        "-- make a day
         create table {name} (like tendril.log_inbox including defaults including constraints including comments);
         alter table tendril.log_inbox attach partition {name} for values from ('{day}') to (date '{day}' + 1)"
    );
    all.execute(AssertSqlSafe(make)).await?;
    for (table, column) in [
        ("tendril_core.attempts", "id"),
        ("tendril.log_inbox", "attempt_id"),
        ("tendril_core.log_archives", "attempt_id"),
    ] {
        let sql = format!(
            "-- make logs old
             update {table} set claim_day = '{day}' where {column} in (
               select id from tendril_core.attempts where deployment_id = '{deployment}')"
        );
        all.execute(AssertSqlSafe(sql)).await?;
    }
    all.commit().await?;
    Ok(true)
}

/// Looks for days to remove, as a replica of `serve` does, but now.
///
/// # Errors
/// What the database refuses, also when somebody holds what is needed.
pub async fn remove_old_days(operator: &mut PgConnection) -> Result<(), Error> {
    operator.execute("-- removal is due\nupdate tendril_core.log_upkeep set removal_at = '-infinity'").await?;
    days::remove_due(operator).await.map(drop)
}

/// Shortens pauses: what failed and is nobody's is due now. With `leases` what is somebody's is, too, as if its time were over.
///
/// # Errors
/// What the database refuses.
pub async fn hasten(operator: &mut PgConnection, leases: bool) -> Result<(), Error> {
    let sql = "-- hasten\nupdate tendril_core.log_archives set due_at = clock_timestamp()
        where state = 'waiting' and (claimed_by is null or $1) and due_at > clock_timestamp()";
    sqlx::query(sql).bind(leases).execute(operator).await?;
    Ok(())
}
