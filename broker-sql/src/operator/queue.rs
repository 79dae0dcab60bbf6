//! Brakes: pause and drain of clusters and runners, and limits of what runs at once.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::postgres::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::refusal::Error;

/// What is paused: a cluster, or one runner process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Braked {
    /// All of a cluster.
    Cluster(Uuid),
    /// One runner, of whatever cluster.
    Runner(Uuid),
}

impl Braked {
    fn ids(self) -> (Option<Uuid>, Option<Uuid>) {
        match self {
            Self::Cluster(cluster) => (Some(cluster), None),
            Self::Runner(runner) => (None, Some(runner)),
        }
    }
}

/// How it stands with a cluster or a runner after a pause or a resume.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Brake {
    /// The cluster.
    pub cluster_id: Uuid,
    /// The runner, when it is one.
    pub runner_id: Option<Uuid>,
    /// Since when nothing is claimed; RFC 3339.
    pub paused_at: Option<String>,
    /// Whether it is drained: finishes what it holds; a cluster takes no submits.
    pub draining: bool,
    /// Attempts that are still held.
    pub holding: i64,
}

/// A limit of a cluster.
#[derive(Clone, Debug, Serialize)]
pub struct Limit {
    /// The cluster.
    pub cluster_id: Uuid,
    /// Its name.
    pub cluster: String,
    /// Only jobs of this kind; `None` for all.
    pub kind: Option<String>,
    /// How many may run at once.
    pub max_running: i32,
    /// How many do.
    pub running: i64,
}

/// A runner process.
#[derive(Clone, Debug, Serialize)]
pub struct Runner {
    /// One id per start of a process.
    pub id: Uuid,
    /// Its cluster.
    pub cluster_id: Uuid,
    /// Host or pod name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Whether its lease is live.
    pub online: bool,
    /// Attempts in hand.
    pub holding: i64,
    /// Since when it is paused.
    #[serde(with = "time::serde::rfc3339::option")]
    pub paused_at: Option<OffsetDateTime>,
    /// Why.
    pub pause_reason: Option<String>,
    /// Whether it is drained.
    pub draining: bool,
    /// What it can do.
    pub labels: Vec<String>,
    /// Newest heartbeat.
    #[serde(with = "time::serde::rfc3339")]
    pub last_seen_at: OffsetDateTime,
}

fn read(reply: Value) -> Result<Brake, Error> {
    serde_json::from_value(reply).map_err(|error| Error::Reply(sqlx::Error::Decode(error.into())))
}

/// Nothing more is claimed; what is held goes on. Once this has returned no claim is under way.
///
/// # Errors
/// TD002 for an unknown cluster or runner, TD003 for a revoked cluster.
pub async fn pause(
    connection: &mut PgConnection,
    what: Braked,
    reason: Option<&str>,
    drain: bool,
) -> Result<Brake, Error> {
    let (cluster, runner) = what.ids();
    let reply = sqlx::query_scalar!(
        r#"-- pause
        select tendril.pause($1, $2, $3, $4) as "reply!""#,
        cluster,
        reason,
        drain,
        runner
    );
    read(reply.fetch_one(connection).await?)
}

/// Takes a pause or a drain back.
///
/// # Errors
/// TD002 for an unknown cluster or runner, TD003 for a revoked cluster.
pub async fn resume(connection: &mut PgConnection, what: Braked) -> Result<Brake, Error> {
    let (cluster, runner) = what.ids();
    let reply = sqlx::query_scalar!(
        r#"-- resume
        select tendril.resume($1, $2) as "reply!""#,
        cluster,
        runner
    );
    read(reply.fetch_one(connection).await?)
}

/// Sets a limit of a cluster, or of one kind there; `None` takes it away.
///
/// # Errors
/// TD001 for an unknown kind or a number out of bounds, TD002 for an unknown cluster.
pub async fn set_limit(
    connection: &mut PgConnection,
    cluster: Uuid,
    max: Option<i32>,
    kind: Option<&str>,
) -> Result<(), Error> {
    let set = sqlx::query!(
        "-- limit set
        select tendril.limit_set($1, $2, $3)",
        cluster,
        max,
        kind
    );
    set.fetch_one(connection).await?;
    Ok(())
}

/// The limits of a cluster, and how much of them is used.
///
/// # Errors
/// What the database refuses.
pub async fn limits(connection: &mut PgConnection, cluster: Uuid) -> Result<Vec<Limit>, Error> {
    let rows = sqlx::query_as!(
        Limit,
        r#"-- list limits
        select cluster_id as "cluster_id!", cluster as "cluster!", kind, max_running as "max_running!", running as "running!"
          from tendril.limits where cluster_id = $1 order by kind nulls first"#,
        cluster
    );
    Ok(rows.fetch_all(connection).await?)
}

/// Runner processes, those that are online first.
///
/// # Errors
/// What the database refuses.
pub async fn runners(connection: &mut PgConnection, cluster: Option<Uuid>) -> Result<Vec<Runner>, Error> {
    let rows = sqlx::query_as!(
        Runner,
        r#"-- list runners
        select id as "id!", cluster_id as "cluster_id!", name as "name!", version as "version!", online as "online!", holding as "holding!",
               paused_at, pause_reason, draining as "draining!", labels as "labels!", last_seen_at as "last_seen_at!"
          from tendril.runners where $1::uuid is null or cluster_id = $1
         order by online desc, last_seen_at desc, id limit 1000"#,
        cluster
    );
    Ok(rows.fetch_all(connection).await?)
}
