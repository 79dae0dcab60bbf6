//! After the database was restored.

use serde::{Deserialize, Serialize};
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use crate::refusal::Error;

/// A cluster whose waiting changes were left to people.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Quarantined {
    /// The cluster.
    pub cluster_id: Uuid,
    /// Its name.
    pub name: String,
    /// Its new incarnation.
    pub incarnation: i64,
    /// How many jobs wait for approval now, or will once it is their turn.
    pub jobs: i64,
}

/// Leaves all that waits to change the world to people, in one cluster or in all.
///
/// # Errors
/// TD002 for an unknown cluster, TD003 for a revoked one.
pub async fn after_restore(
    connection: &mut PgConnection,
    cluster: Option<Uuid>,
    reason: Option<&str>,
) -> Result<Vec<Quarantined>, Error> {
    let rows = sqlx::query_scalar!(
        r#"-- after restore
        select told as "told!: sqlx::types::Json<Quarantined>" from tendril.after_restore($1, $2) told"#,
        cluster,
        reason
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| row.0).collect())
}
