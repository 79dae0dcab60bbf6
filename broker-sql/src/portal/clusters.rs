//! Clusters as portals see them, and finding one by what people call it.

use serde::Serialize;
use sqlx::postgres::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::refusal::{Error, Refusal};

/// A cluster that the caller sees.
#[derive(Clone, Debug, Serialize)]
pub struct Seen {
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
    /// Newest heartbeat.
    #[serde(with = "time::serde::rfc3339::option")]
    pub last_seen_at: Option<OffsetDateTime>,
    /// When it was registered.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

/// Clusters that the caller sees, the oldest first, those behind `after`.
///
/// # Errors
/// What the database refuses.
pub async fn list(connection: &mut PgConnection, after: Option<Uuid>, limit: i64) -> Result<Vec<Seen>, Error> {
    let rows = sqlx::query_as!(
        Seen,
        r#"-- list clusters that are seen
        select c.id, c.name, c.user_id, c.status, c.last_seen_at, c.created_at,
               (select count(*) from tendril.runners r where r.cluster_id = c.id and r.online) as "runners_online!"
          from tendril.clusters c where $1::uuid is null or c.id > $1 order by c.id limit $2"#,
        after,
        limit
    );
    Ok(rows.fetch_all(connection).await?)
}

/// The id of a cluster, by id or by name. A name that several users gave is refused; so is one that only revoked
/// clusters have, which are found by id alone.
///
/// # Errors
/// TD002 when no or more than one cluster that the caller sees has the name.
pub async fn find(connection: &mut PgConnection, name_or_id: &str) -> Result<Uuid, Error> {
    if let Ok(id) = name_or_id.parse() {
        return Ok(id);
    }
    let found = sqlx::query_scalar!(
        "-- find cluster by name
        select id from tendril.clusters where name = $1 and status <> 'REVOKED' order by id",
        name_or_id
    )
    .fetch_all(connection)
    .await?;
    match found.as_slice() {
        [id] => Ok(*id),
        [] => Err(unknown(
            format!("there is no cluster {name_or_id} that this role may see"),
            "portals find theirs in tendril.clusters, operators by `tendril-broker cluster list`; a revoked one is named by its id",
        )),
        several => {
            let ids: Vec<String> = several.iter().map(Uuid::to_string).collect();
            Err(unknown(
                format!("{} clusters are named {name_or_id}", several.len()),
                &format!("name it by its id: {}", ids.join(", ")),
            ))
        }
    }
}

fn unknown(message: String, hint: &str) -> Error {
    Error::Refused(Box::new(Refusal { sqlstate: "TD002".into(), message, hint: Some(hint.to_owned()), detail: None }))
}
