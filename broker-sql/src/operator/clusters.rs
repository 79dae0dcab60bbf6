//! Clusters and their credentials.

use std::fmt;

use serde::{Deserialize, Serialize};
use sqlx::postgres::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::refusal::Error;

/// A runner's token. It is printed once and stored nowhere; `Debug` does not show it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuedToken(String);

impl IssuedToken {
    /// The token itself, for the one place where it is shown.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for IssuedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IssuedToken(...)")
    }
}

/// A fresh credential of a cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct IssuedCredential {
    /// The cluster.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// 1, 2, 3: rotation makes a new one.
    pub generation: i32,
    /// The login role.
    pub role: String,
    /// What `TENDRIL_AGENT_TOKEN` of the runner becomes.
    pub token: IssuedToken,
    /// Until when the older credential finishes what it holds; RFC 3339, only after a rotation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_until: Option<String>,
}

/// A revoked cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Revoked {
    /// The cluster.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// Until when its credentials finish what they hold; RFC 3339.
    pub drain_until: String,
    /// Whether they were ended at once.
    pub ended: bool,
}

/// A cluster as operators see it.
#[derive(Clone, Debug, Serialize)]
pub struct Cluster {
    /// UUIDv7.
    pub id: Uuid,
    /// Unique per user among those that are not revoked.
    pub name: String,
    /// The portal's user that owns it.
    pub user_id: Option<String>,
    /// ONLINE, OFFLINE or REVOKED.
    pub status: String,
    /// Runners whose lease is live.
    pub runners_online: i64,
    /// Credentials that still log in, as `generation status`.
    pub credentials: Vec<String>,
    /// Newest heartbeat.
    #[serde(with = "time::serde::rfc3339::option")]
    pub last_seen_at: Option<OffsetDateTime>,
    /// When it was registered.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

fn read<T: for<'a> Deserialize<'a>>(reply: serde_json::Value) -> Result<T, Error> {
    serde_json::from_value(reply).map_err(|error| Error::Reply(sqlx::Error::Decode(error.into())))
}

/// Registers a cluster and issues its first credential.
///
/// # Errors
/// TD001 for a bad name, TD003 for one that is taken, 42501 without CREATEROLE.
pub async fn create(
    connection: &mut PgConnection,
    name: &str,
    user_id: Option<&str>,
) -> Result<IssuedCredential, Error> {
    let reply = sqlx::query_scalar!(
        r#"-- cluster create
        select tendril.cluster_create($1, $2) as "reply!""#,
        name,
        user_id
    );
    read(reply.fetch_one(connection).await?)
}

/// Issues the next credential; the older one finishes what it holds, for `drain` (a Postgres interval) at most.
///
/// # Errors
/// TD002 for an unknown cluster, TD003 for a revoked one or while an older credential still drains.
pub async fn rotate(
    connection: &mut PgConnection,
    cluster: Uuid,
    drain: Option<&str>,
) -> Result<IssuedCredential, Error> {
    let reply = sqlx::query_scalar!(
        r#"-- cluster rotate
        select tendril.cluster_rotate($1, $2::text::interval) as "reply!""#,
        cluster,
        drain
    );
    read(reply.fetch_one(connection).await?)
}

/// Withdraws a cluster's credentials: they drain, or end at once with `now`.
///
/// # Errors
/// TD002 for an unknown cluster.
pub async fn revoke(connection: &mut PgConnection, cluster: Uuid, now: bool) -> Result<Revoked, Error> {
    let reply = sqlx::query_scalar!(
        r#"-- cluster revoke
        select tendril.cluster_revoke($1, $2) as "reply!""#,
        cluster,
        now
    );
    read(reply.fetch_one(connection).await?)
}

/// All clusters, the revoked ones last.
///
/// # Errors
/// What the database refuses.
pub async fn list(connection: &mut PgConnection) -> Result<Vec<Cluster>, Error> {
    let rows = sqlx::query_as!(
        Cluster,
        r#"-- list clusters
        select c.id, c.name, c.user_id, c.status, c.last_seen_at, c.created_at,
               (select count(*) from tendril.runners r where r.cluster_id = c.id and r.online) as "runners_online!",
               array(select k.generation || ' ' || k.status from tendril_core.cluster_credentials k
                      where k.cluster_id = c.id and k.status <> 'ended' order by k.generation) as "credentials!"
          from tendril.clusters c
         order by c.status = 'REVOKED', c.name, c.created_at"#
    );
    Ok(rows.fetch_all(connection).await?)
}
