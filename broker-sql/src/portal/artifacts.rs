//! What attempts have left behind.

use serde::Serialize;
use sqlx::postgres::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::refusal::Error;

/// An artifact without its content, which is sealed with a key that only the cluster's runners hold.
#[derive(Clone, Debug, Serialize)]
pub struct Artifact {
    /// The artifact.
    pub id: Uuid,
    /// The job's name within the deployment.
    pub job: String,
    /// The attempt that made it.
    pub attempt_id: Uuid,
    /// Ordinal of the attempt within its job.
    pub attempt: i16,
    /// plan, cost, state and so on; unique within the attempt.
    pub name: String,
    /// Type of the content before it was sealed.
    pub media_type: String,
    /// Bytes of the sealed content.
    pub size_bytes: i32,
    /// Digest of the sealed content.
    pub sha256: String,
    /// When it was stored.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

/// Artifacts of a deployment, the oldest first; at most 32 of each attempt. None for a deployment that the caller does
/// not see.
///
/// # Errors
/// What the database refuses.
pub async fn list(connection: &mut PgConnection, deployment: Uuid) -> Result<Vec<Artifact>, Error> {
    let rows = sqlx::query_as!(
        Artifact,
        r#"-- list artifacts
        select id as "id!", job as "job!", attempt_id as "attempt_id!", attempt as "attempt!", name as "name!", media_type as "media_type!",
               size_bytes as "size_bytes!", sha256 as "sha256!", created_at as "created_at!"
          from tendril.artifacts where deployment_id = $1 order by created_at, id"#,
        deployment
    );
    Ok(rows.fetch_all(connection).await?)
}
