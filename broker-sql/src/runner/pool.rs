//! A small pool of sessions, and a call on one of them.

use super::BrokerError;
use crate::connect::Connector;
use deadpool_postgres::{
    Manager, ManagerConfig, Object, Pool, PoolError, QueueMode, RecyclingMethod, Runtime, Timeouts,
};
use std::time::Duration;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Config, Row};

/// A reply later than this counts as lost: the session is dropped and the call asked again by who can.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// A slower line is as good as none; what a call carries has its time on any other.
const SLOWEST_BYTES_PER_S: u64 = 16 * 1024;

/// The pool.
#[derive(Clone)]
pub struct Calls {
    pool: Pool,
    connector: Connector,
}

impl Calls {
    /// Prepares a pool of at most `connections` sessions; none is opened yet.
    ///
    /// # Errors
    /// [`BrokerError::Unavailable`] when the pool cannot be built.
    pub fn new(connector: Connector, connections: usize) -> Result<Self, BrokerError> {
        let settings = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = Manager::from_connect(Config::new(), connector.for_pool("calls"), settings);
        let pool = Pool::builder(manager)
            .max_size(connections)
            // The session that was used last: its backend, and what it has planned, is the warmest.
            .queue_mode(QueueMode::Lifo)
            .runtime(Runtime::Tokio1)
            .timeouts(Timeouts { wait: Some(CALL_TIMEOUT), create: Some(CALL_TIMEOUT), recycle: Some(CALL_TIMEOUT) })
            .build()
            .map_err(|e| BrokerError::Unavailable(e.to_string()))?;
        Ok(Self { pool, connector })
    }

    /// Closes its sessions; every call fails from now on.
    pub fn close(&self) {
        self.pool.close();
    }

    /// A call that carries so many bytes beside a few, and returns one row.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn one(&self, bytes: usize, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Row, BrokerError> {
        let mut rows = self.all(bytes, sql, params).await?;
        rows.pop().ok_or_else(|| BrokerError::Unavailable("the broker answered with no row".into()))
    }

    /// A call that carries so many bytes beside a few, and all its rows.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn all(&self, bytes: usize, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, BrokerError> {
        let client = self.session().await?;
        let call = async {
            let statement = client.prepare_cached(sql).await?;
            client.query(&statement, params).await
        };
        let patience = patience(bytes);
        match tokio::time::timeout(patience, call).await {
            Ok(reply) => reply.map_err(BrokerError::from),
            Err(_) => {
                // The session may still commit: it is closed, never reused, and the callers are idempotent.
                drop(Object::take(client));
                Err(BrokerError::Unavailable(format!("no reply within {} s", patience.as_secs())))
            }
        }
    }

    async fn session(&self) -> Result<Object, BrokerError> {
        self.pool.get().await.map_err(|e| match e {
            PoolError::Backend(e) => BrokerError::Connect(self.connector.explain(&e)),
            other => BrokerError::Unavailable(other.to_string()),
        })
    }
}

fn patience(bytes: usize) -> Duration {
    CALL_TIMEOUT + Duration::from_secs(bytes as u64 / SLOWEST_BYTES_PER_S)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_has_time_for_what_it_carries_over_a_slow_line() {
        assert_eq!(patience(0), CALL_TIMEOUT);
        let plan = 16 * 1024 * 1024;
        assert!(patience(plan).as_secs() > plan as u64 / 50_000, "50 KB/s");
    }
}
