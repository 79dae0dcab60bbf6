//! What a run needs of the broker, as a trait: the real one, and one in memory for tests of kinds.

use crate::clock::BootTime;
use crate::metrics::Metrics;
use futures_util::future::BoxFuture;
use serde_json::Value;
use std::sync::Arc;
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

/// The broker's calls, each with its figures.
pub struct Metered {
    broker: Broker,
    metrics: Arc<Metrics>,
}

impl Metered {
    /// Counts the calls to this broker.
    pub fn new(broker: Broker, metrics: Arc<Metrics>) -> Self {
        Self { broker, metrics }
    }

    fn counted<'a, T: 'a>(
        &'a self,
        call: &'static str,
        answer: impl Future<Output = Result<T, BrokerError>> + Send + 'a,
    ) -> BoxFuture<'a, Result<T, BrokerError>> {
        Box::pin(async move {
            let sent = BootTime::now();
            let answer = answer.await;
            match &answer {
                Ok(_) => self.metrics.answered(call, sent.elapsed()),
                Err(_) => self.metrics.broker_error(call),
            }
            answer
        })
    }
}

impl Desk for Metered {
    fn start<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<(), BrokerError>> {
        self.counted("start", self.broker.start(lease))
    }

    fn put<'a>(
        &'a self,
        lease: &'a Lease,
        name: &'a str,
        media_type: &'a str,
        data: &'a [u8],
    ) -> BoxFuture<'a, Result<(), BrokerError>> {
        self.counted("artifact_put", self.broker.put_artifact(lease, name, media_type, data))
    }

    fn get<'a>(&'a self, attempt: Uuid, name: &'a str) -> BoxFuture<'a, Result<StoredArtifact, BrokerError>> {
        self.counted("artifact_get", self.broker.get_artifact(attempt, name))
    }

    fn progress<'a>(&'a self, lease: &'a Lease, progress: &'a Value) -> BoxFuture<'a, Result<(), BrokerError>> {
        self.counted("progress", self.broker.progress(lease, progress))
    }
}
