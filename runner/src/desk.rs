//! What a run needs of the broker, as a trait: the real one, and one in memory for tests of kinds.

use futures_util::future::BoxFuture;
use serde_json::Value;
use tendril_broker::runner::{Broker, BrokerError, Lease, StoredArtifact};
use uuid::Uuid;

/// The calls of a running attempt.
pub trait Desk: Send + Sync {
    /// The committed, fenced start.
    fn start<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<(), BrokerError>>;
    /// Stores sealed bytes.
    fn put<'a>(
        &'a self,
        lease: &'a Lease,
        name: &'a str,
        media_type: &'a str,
        data: &'a [u8],
    ) -> BoxFuture<'a, Result<(), BrokerError>>;
    /// Fetches sealed bytes of any attempt of the cluster.
    fn get<'a>(&'a self, attempt: Uuid, name: &'a str) -> BoxFuture<'a, Result<StoredArtifact, BrokerError>>;
    /// Shows progress.
    fn progress<'a>(&'a self, lease: &'a Lease, progress: &'a Value) -> BoxFuture<'a, Result<(), BrokerError>>;
}

impl Desk for Broker {
    fn start<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<(), BrokerError>> {
        Box::pin(self.start(lease))
    }

    fn put<'a>(
        &'a self,
        lease: &'a Lease,
        name: &'a str,
        media_type: &'a str,
        data: &'a [u8],
    ) -> BoxFuture<'a, Result<(), BrokerError>> {
        Box::pin(self.put_artifact(lease, name, media_type, data))
    }

    fn get<'a>(&'a self, attempt: Uuid, name: &'a str) -> BoxFuture<'a, Result<StoredArtifact, BrokerError>> {
        Box::pin(self.get_artifact(attempt, name))
    }

    fn progress<'a>(&'a self, lease: &'a Lease, progress: &'a Value) -> BoxFuture<'a, Result<(), BrokerError>> {
        Box::pin(self.progress(lease, progress))
    }
}
