//! Places in the queue: snooze; and what has left it without success: dead letters.

use serde::Serialize;
use sqlx::postgres::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::refusal::Error;

/// When what waits may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until<'a> {
    /// Not before this moment, in a form that Postgres reads.
    Moment(&'a str),
    /// Not for so long from now, as an interval that Postgres reads.
    Length(&'a str),
    /// As soon as there is a runner for it.
    Now,
}

/// Lets the waiting jobs of a deployment, or one of them, run only after a moment; returns how many.
///
/// # Errors
/// TD001 for a moment more than a year ahead, TD002 for an unknown deployment, TD003 when no such job waits.
pub async fn snooze(
    connection: &mut PgConnection,
    deployment: Uuid,
    until: Until<'_>,
    job: Option<&str>,
) -> Result<i32, Error> {
    let (moment, length) = match until {
        Until::Moment(moment) => (Some(moment), None),
        Until::Length(length) => (None, Some(length)),
        Until::Now => (None, None),
    };
    let jobs = sqlx::query_scalar!(
        r#"-- snooze deployment
        select tendril.snooze($1, coalesce($2::text::timestamptz, clock_timestamp() + $3::text::interval), $4) as "jobs!""#,
        deployment,
        moment,
        length,
        job
    );
    Ok(jobs.fetch_one(connection).await?)
}

/// A job that only reads and has used up its attempts.
#[derive(Clone, Debug, Serialize)]
pub struct DeadLetter {
    /// The deployment.
    pub deployment_id: Uuid,
    /// Its cluster.
    pub cluster_id: Uuid,
    /// The cluster's name.
    pub cluster: String,
    /// The job's name.
    pub job: String,
    /// Its kind.
    pub kind: String,
    /// How many attempts it had.
    pub attempts: i16,
    /// What the last one came to.
    pub reason: Option<String>,
    /// When it ended.
    #[serde(with = "time::serde::rfc3339::option")]
    pub ended_at: Option<OffsetDateTime>,
    /// The newest deployment that does it again.
    pub redriven_as: Option<Uuid>,
}

/// Dead letters that the caller sees, the newest first, at most so many; those that were redriven are left out unless `all`.
///
/// # Errors
/// What the database refuses.
pub async fn dead_letters(
    connection: &mut PgConnection,
    cluster: Option<Uuid>,
    all: bool,
    limit: i64,
) -> Result<Vec<DeadLetter>, Error> {
    let rows = sqlx::query_as!(
        DeadLetter,
        r#"-- list dead letters
        select deployment_id as "deployment_id!", cluster_id as "cluster_id!", cluster as "cluster!", job as "job!", kind as "kind!",
               attempts as "attempts!", reason, ended_at, redriven_as
          from tendril.dead_letters
         where ($1::uuid is null or cluster_id = $1) and ($2 or redriven_as is null)
         order by ended_at desc, job_id desc limit $3"#,
        cluster,
        all,
        limit
    );
    Ok(rows.fetch_all(connection).await?)
}

/// Does the dead jobs of a deployment again, and what was skipped behind them, as deployment `id`; returns that id.
///
/// # Errors
/// TD002 for an unknown deployment or an id that is something else, TD003 when it has no dead jobs or has not ended.
pub async fn redrive(connection: &mut PgConnection, deployment: Uuid, id: Uuid) -> Result<Uuid, Error> {
    let id = sqlx::query_scalar!(
        r#"-- redrive deployment
        select tendril.redrive($1, $2) as "id!""#,
        deployment,
        id
    );
    Ok(id.fetch_one(connection).await?)
}
