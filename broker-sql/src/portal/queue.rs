//! Places in the queue: snooze.

use sqlx::postgres::PgConnection;
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
