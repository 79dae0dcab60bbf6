//! Artifacts: stored once, as sealed bytes that the broker cannot read.

use super::{Broker, BrokerError, Lease};
use tokio_postgres::types::ToSql;
use uuid::Uuid;

/// What an artifact is reckoned to have before it is here.
const FETCHED_BYTES: usize = 4 * 1024 * 1024;

/// An artifact as the broker keeps it.
#[derive(Clone, Debug)]
pub struct StoredArtifact {
    /// Type of the content before it was sealed.
    pub media_type: String,
    /// The sealed bytes.
    pub data: Vec<u8>,
}

impl Broker {
    /// Stores sealed bytes under a name that is unique within the attempt. Repeating it keeps the first bytes.
    ///
    /// # Errors
    /// `Refused` with TD011 when there are too many bytes.
    pub async fn put_artifact(
        &self,
        lease: &Lease,
        name: &str,
        media_type: &str,
        data: &[u8],
    ) -> Result<(), BrokerError> {
        const SQL: &str = "-- runner_artifact_put\nselect tendril.runner_artifact_put($1, $2, $3, $4, $5)";
        let params: [&(dyn ToSql + Sync); 5] = [&lease.attempt_id, &lease.fence, &name, &media_type, &data];
        self.one_carrying(data.len(), SQL, &params).await.map(drop)
    }

    /// An artifact of any attempt of this cluster.
    ///
    /// # Errors
    /// `Refused` with TD002 when there is none.
    pub async fn get_artifact(&self, attempt: Uuid, name: &str) -> Result<StoredArtifact, BrokerError> {
        const SQL: &str = "-- runner_artifact_get\nselect media_type, data from tendril.runner_artifact_get($1, $2)";
        let row = self.one_carrying(FETCHED_BYTES, SQL, &[&attempt, &name]).await?;
        Ok(StoredArtifact { media_type: row.try_get(0)?, data: row.try_get(1)? })
    }
}
