//! Deployments: list, state, and the functions that change them.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::postgres::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::refusal::Error;

/// A line of a list.
#[derive(Clone, Debug, Serialize)]
pub struct Listed {
    /// The deployment.
    pub id: Uuid,
    /// Where it runs.
    pub cluster_id: Uuid,
    /// The cluster's name.
    pub cluster: String,
    /// Who asked.
    pub user_id: Option<String>,
    /// QUEUED, PROCESSING, AWAITING_APPROVAL, SUCCESS, FAILED or CANCELLED.
    pub status: String,
    /// What has to happen before it goes on.
    pub waiting_for: Option<String>,
    /// Why it failed.
    pub error_message: Option<String>,
    /// When it was submitted.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When its last job ended.
    #[serde(with = "time::serde::rfc3339::option")]
    pub ended_at: Option<OffsetDateTime>,
}

/// Which deployments to list.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only those of one cluster.
    pub cluster: Option<Uuid>,
    /// Only those with this status.
    pub status: Option<String>,
    /// At most so many, the newest first.
    pub limit: i64,
    /// Only those that stand behind this one in the list: its `created_at` and `id`.
    pub after: Option<(OffsetDateTime, Uuid)>,
}

/// A deployment as `tendril.status` tells it; [`State::whole`] has all of it.
#[derive(Clone, Debug, Deserialize)]
pub struct State {
    /// The deployment.
    pub id: Uuid,
    /// Where it runs.
    pub cluster_id: Uuid,
    /// QUEUED, PROCESSING, AWAITING_APPROVAL, SUCCESS, FAILED or CANCELLED.
    pub status: String,
    /// What has to happen before it goes on.
    pub waiting_for: Option<String>,
    /// Why it failed.
    pub error_message: Option<String>,
    /// Outputs of the last apply.
    pub outputs: Option<Value>,
    /// Where the Terraform state lies.
    pub state_location: Option<String>,
    /// When it was submitted; RFC 3339.
    pub created_at: String,
    /// Its jobs.
    pub jobs: Vec<JobState>,
    /// Where each attempt's log ends.
    pub logs: Vec<LogState>,
    /// The reply itself.
    #[serde(skip)]
    pub whole: Value,
}

/// A job within [`State`].
#[derive(Clone, Debug, Deserialize)]
pub struct JobState {
    /// Unique within the deployment.
    pub name: String,
    /// terraform.plan and so on.
    pub kind: String,
    /// A state of the state machine.
    pub state: String,
    /// Why, when that needs saying.
    pub reason: Option<String>,
    /// What has to happen before it runs.
    pub waiting_for: Option<String>,
    /// How many attempts were claimed.
    pub attempts: i16,
    /// Who approved or rejected it.
    #[serde(default)]
    pub approval: Option<Approval>,
}

/// A decision about a job that waited for one.
#[derive(Clone, Debug, Deserialize)]
pub struct Approval {
    /// approved or rejected.
    pub decision: String,
    /// The portal's user, else the role.
    pub actor: String,
    /// What they said.
    pub reason: Option<String>,
    /// When; RFC 3339.
    pub decided_at: String,
}

/// Where an attempt's log ends.
#[derive(Clone, Debug, Deserialize)]
pub struct LogState {
    /// The attempt.
    pub attempt_id: Uuid,
    /// Its last record, -1 for none; `None` until it finished.
    pub log_end: Option<i64>,
    /// open, complete or incomplete.
    pub log_state: String,
}

impl JobState {
    /// Whether nothing of it will change any more.
    pub fn is_final(&self) -> bool {
        matches!(self.state.as_str(), "SUCCESS" | "FAILED" | "CANCELLED" | "SKIPPED")
    }
}

impl State {
    /// Whether nothing will change any more.
    pub fn is_final(&self) -> bool {
        matches!(self.status.as_str(), "SUCCESS" | "FAILED" | "CANCELLED")
    }
}

/// Deployments that the caller sees, the newest first.
///
/// # Errors
/// What the database refuses.
pub async fn list(connection: &mut PgConnection, filter: &Filter) -> Result<Vec<Listed>, Error> {
    let rows = sqlx::query_as!(
        Listed,
        r#"-- list deployments
        select d.id, d.cluster_id, coalesce(c.name, '') as "cluster!", d.user_id, d.status, d.waiting_for, d.error_message,
               d.created_at, d.ended_at
          from tendril.deployments d left join tendril.clusters c on c.id = d.cluster_id
         where ($1::uuid is null or d.cluster_id = $1) and ($2::text is null or d.status = $2)
           and ($4::timestamptz is null or (d.created_at, d.id) < ($4, $5))
         order by d.created_at desc, d.id desc limit $3"#,
        filter.cluster,
        filter.status,
        filter.limit,
        filter.after.map(|(at, _)| at),
        filter.after.map(|(_, id)| id)
    );
    Ok(rows.fetch_all(connection).await?)
}

/// A deployment with its jobs, their newest attempts, and where each attempt's log ends.
///
/// # Errors
/// TD002 when there is none that the caller may see.
pub async fn state(connection: &mut PgConnection, deployment: Uuid) -> Result<State, Error> {
    let whole = sqlx::query_scalar!(
        r#"-- deployment status
        select tendril.status($1) as "status!""#,
        deployment
    )
    .fetch_one(connection)
    .await?;
    let state = State::deserialize(&whole);
    let state = state.map_err(|error| Error::Reply(sqlx::Error::Decode(error.into())))?;
    Ok(State { whole, ..state })
}

/// Cancels what was not claimed, asks what runs to stop; returns the deployment's status after it.
///
/// # Errors
/// TD002 for an unknown deployment, TD003 for one that has ended.
pub async fn cancel(connection: &mut PgConnection, deployment: Uuid, reason: Option<&str>) -> Result<String, Error> {
    let status = sqlx::query_scalar!(
        r#"-- cancel deployment
        select tendril.cancel($1, $2) as "status!""#,
        deployment,
        reason
    );
    Ok(status.fetch_one(connection).await?)
}

/// Lets the jobs that wait for approval go on, or one of them; returns how many.
///
/// # Errors
/// TD002 for an unknown deployment, TD003 when nothing waits for approval, or its plan is too old.
pub async fn approve(
    connection: &mut PgConnection,
    deployment: Uuid,
    job: Option<&str>,
    reason: Option<&str>,
) -> Result<i32, Error> {
    let jobs = sqlx::query_scalar!(
        r#"-- approve deployment
        select tendril.approve($1, $2, $3) as "jobs!""#,
        deployment,
        job,
        reason
    );
    Ok(jobs.fetch_one(connection).await?)
}

/// Ends the jobs that wait for approval, or one of them, as CANCELLED; returns how many.
///
/// # Errors
/// TD002 for an unknown deployment, TD003 when nothing waits for approval.
pub async fn reject(
    connection: &mut PgConnection,
    deployment: Uuid,
    job: Option<&str>,
    reason: Option<&str>,
) -> Result<i32, Error> {
    let jobs = sqlx::query_scalar!(
        r#"-- reject deployment
        select tendril.reject($1, $2, $3) as "jobs!""#,
        deployment,
        job,
        reason
    );
    Ok(jobs.fetch_one(connection).await?)
}

/// Submits the same snapshot again as deployment `id`; returns that id. Sent twice, it is queued once.
///
/// # Errors
/// TD002 for an unknown deployment or an id that is something else, TD003 for one that has not failed.
pub async fn retry(connection: &mut PgConnection, deployment: Uuid, id: Uuid) -> Result<Uuid, Error> {
    let id = sqlx::query_scalar!(
        r#"-- retry deployment
        select tendril.retry($1, $2) as "id!""#,
        deployment,
        id
    );
    Ok(id.fetch_one(connection).await?)
}
