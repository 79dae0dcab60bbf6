//! Decisions about work whose runner is silent, and the state keys that it holds.

use serde::Serialize;
use sqlx::postgres::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::refusal::Error;

/// A state key that a mutating attempt holds.
#[derive(Clone, Debug, Serialize)]
pub struct HeldKey {
    /// The cluster.
    pub cluster_id: Uuid,
    /// Its name.
    pub cluster: String,
    /// Backend, location and workspace.
    pub key: String,
    /// The deployment whose job holds it.
    pub deployment_id: Uuid,
    /// That job.
    pub job: String,
    /// The job's state; a terminal one means that nobody knows whether its child still writes.
    pub job_state: String,
    /// Whether the holder's runner is heard.
    pub holder_alive: bool,
    /// Jobs that wait for it.
    pub waiting: i64,
    /// Since when it is held.
    #[serde(with = "time::serde::rfc3339")]
    pub taken_at: OffsetDateTime,
}

/// Ends a started job whose runner is silent, as FAILED. Its key stays held.
///
/// # Errors
/// TD002 for an unknown job, TD003 while the runner's lease is live or the job has not started.
pub async fn declare_lost(
    connection: &mut PgConnection,
    deployment: Uuid,
    job: &str,
    reason: &str,
) -> Result<(), Error> {
    sqlx::query!(
        "-- declare lost
        select tendril.declare_lost($1, $2, $3)",
        deployment,
        job,
        reason
    )
    .fetch_one(connection)
    .await?;
    Ok(())
}

/// Submits a look at the engine's lock of a deployment's state; returns the new deployment. With its id it may be sent again.
///
/// # Errors
/// TD002 for an unknown deployment, TD003 for one without a state.
pub async fn state_lock(connection: &mut PgConnection, deployment: Uuid, id: Uuid) -> Result<Uuid, Error> {
    let query = sqlx::query_scalar!(
        r#"-- state lock
        select tendril.state_lock($1, $2) as "id!""#,
        deployment,
        id
    );
    Ok(query.fetch_one(connection).await?)
}

/// Submits the release of the engine's lock, by the lock's id and with a reason; returns the new deployment.
///
/// # Errors
/// TD001 for what is no id, TD002 for an unknown deployment, TD003 for one without a state, or whose state is in use.
pub async fn state_unlock(
    connection: &mut PgConnection,
    deployment: Uuid,
    (lock_id, reason): (&str, &str),
    id: Uuid,
) -> Result<Uuid, Error> {
    let query = sqlx::query_scalar!(
        r#"-- state unlock
        select tendril.state_unlock($1, $2, $3, $4) as "id!""#,
        deployment,
        lock_id,
        reason,
        id
    );
    Ok(query.fetch_one(connection).await?)
}

/// Frees a held key.
///
/// # Errors
/// TD002 when it is not held, TD003 while its holder's lease is live.
pub async fn release_key(connection: &mut PgConnection, cluster: Uuid, key: &str, reason: &str) -> Result<(), Error> {
    sqlx::query!(
        "-- key release
        select tendril.key_release($1, $2, $3)",
        cluster,
        key,
        reason
    )
    .fetch_one(connection)
    .await?;
    Ok(())
}

/// All held keys, or those of one cluster.
///
/// # Errors
/// What the database refuses.
pub async fn held_keys(connection: &mut PgConnection, cluster: Option<Uuid>) -> Result<Vec<HeldKey>, Error> {
    let rows = sqlx::query_as!(
        HeldKey,
        r#"-- list held keys
        select h.cluster_id, c.name as cluster, h.state_key as key, j.deployment_id, j.name as job, j.state as job_state,
               tendril_core.lease_is_live(a.runner_id) as "holder_alive!",
               (select count(*) from tendril_core.parked p
                 where p.cluster_id = h.cluster_id and p.state_key = h.state_key) as "waiting!",
               h.taken_at
          from tendril_core.held_keys h
          join tendril.clusters c on c.id = h.cluster_id
          join tendril_core.jobs j on j.id = h.job_id
          join tendril_core.attempts a on a.id = h.attempt_id
         where $1::uuid is null or h.cluster_id = $1
         order by c.name, h.state_key"#,
        cluster
    );
    Ok(rows.fetch_all(connection).await?)
}
