//! Removal of log days. What may go is decided in the database; the removal waits for others, and nobody waits for it.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor};
use time::Date;

use crate::refusal::Error;

/// `DETACH CONCURRENTLY` waits, without a lock, for the transactions that had begun before it: a runner's COPY on a slow
/// line takes five seconds.
const WAIT_FOR_OTHERS: &str = "set lock_timeout = '10s'";
/// Everything else is done with a lock in hand. It gives up before a deadlock's check (1 s) could choose the other side.
const WAIT_WITH_LOCKS: &str = "set lock_timeout = '500ms'";

/// A day that was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemovedDay {
    /// The UTC day of the claims.
    pub day: Date,
    /// Logs that went with it and are archived nowhere; 0 where an archive is required.
    pub unarchived: i64,
}

struct Removal {
    day: Date,
    partition: String,
    attached: bool,
    pending: bool,
}

/// Removes the log days that are due, unless another replica has just looked. The session must be in no transaction.
///
/// # Errors
/// 55P03 when somebody holds what is needed: what was done so far stays, and the next run goes on with it.
pub async fn remove_due(connection: &mut PgConnection) -> Result<Vec<RemovedDay>, Error> {
    connection.execute(WAIT_WITH_LOCKS).await?;
    let due = sqlx::query_as!(
        Removal,
        r#"-- log days to remove
        select day as "day!", partition as "partition!", attached as "attached!", pending as "pending!"
          from tendril_core.removal_due()"#
    );
    let mut removed = Vec::new();
    for removal in due.fetch_all(&mut *connection).await? {
        remove(connection, &removal).await?;
        let unarchived = sqlx::query_scalar!(
            r#"-- log day removed
            select tendril_core.removal_done($1) as "unarchived!""#,
            removal.day
        );
        removed.push(RemovedDay { day: removal.day, unarchived: unarchived.fetch_one(&mut *connection).await? });
    }
    Ok(removed)
}

async fn remove(connection: &mut PgConnection, removal: &Removal) -> Result<(), Error> {
    // The name is made of a date by the database.
    let Removal { partition, attached, pending, .. } = removal;
    if *pending {
        alter(connection, &format!("detach partition tendril_core.{partition} finalize")).await?;
    } else if *attached {
        connection.execute(WAIT_FOR_OTHERS).await?;
        let detached = alter(connection, &format!("detach partition tendril_core.{partition} concurrently")).await;
        connection.execute(WAIT_WITH_LOCKS).await?;
        detached?;
    }
    let drop = format!("-- drop log day\ndrop table if exists tendril_core.{partition}");
    connection.execute(sqlx::raw_sql(AssertSqlSafe(drop))).await?;
    Ok(())
}

/// One statement by itself: no transaction block is around it.
async fn alter(connection: &mut PgConnection, what: &str) -> Result<(), Error> {
    let sql = format!("-- detach log day\nalter table tendril.log_inbox {what}");
    connection.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await?;
    Ok(())
}
