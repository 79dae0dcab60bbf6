//! The heartbeat, on a connection of its own.

use super::BrokerError;
use crate::connect::Connector;
use serde::Deserialize;
use std::time::Duration;
use tokio_postgres::types::{Json, ToSql};
use tokio_postgres::{Client, Statement};
use uuid::Uuid;

const SQL: &str = "-- runner_heartbeat\nselect tendril.runner_heartbeat($1, $2, $3)";

/// The broker's answer to a heartbeat.
#[derive(Clone, Debug, Deserialize)]
pub struct Beat {
    /// Attempts that are current and this runner's.
    pub held: Vec<Uuid>,
    /// Attempts that it said it holds, and that the jobs went on without.
    pub superseded: Vec<Uuid>,
    /// Attempts to be stopped, also ones that the runner has yet to learn of.
    pub cancel: Vec<Uuid>,
    /// Whether to LISTEN, or to poll with the heartbeat.
    pub listen: bool,
    /// Whether something waits that this runner could claim.
    pub work: bool,
    /// The credential is being drained: finish, claim nothing.
    pub draining: bool,
    /// How long the lease holds from now.
    pub lease_ttl_ms: u64,
}

/// The connection that keeps the lease.
pub struct Heart {
    connector: Connector,
    session: Option<(Client, Statement)>,
}

impl Heart {
    /// Not connected yet.
    pub fn new(connector: Connector) -> Self {
        Self { connector, session: None }
    }

    /// One heartbeat: "settled up to this claim, holding these attempts".
    ///
    /// # Errors
    /// After any error the session is closed, and the next call opens a new one.
    pub async fn beat(
        &mut self,
        runner: Uuid,
        settled: i64,
        holding: &[Uuid],
        patience: Duration,
    ) -> Result<Beat, BrokerError> {
        let reply = tokio::time::timeout(patience, self.ask(runner, settled, holding)).await;
        match reply {
            Ok(Ok(beat)) => Ok(beat),
            Ok(Err(error)) => {
                self.session = None;
                Err(error)
            }
            Err(_) => {
                self.session = None;
                Err(BrokerError::Unavailable(format!("no reply within {} ms", patience.as_millis())))
            }
        }
    }

    async fn ask(&mut self, runner: Uuid, settled: i64, holding: &[Uuid]) -> Result<Beat, BrokerError> {
        let (client, statement) = match self.session.take() {
            Some(session) => session,
            None => {
                let (client, driver) = self.connector.connect("heartbeat").await?;
                tokio::spawn(driver.run());
                let statement = client.prepare(SQL).await?;
                (client, statement)
            }
        };
        let row = client.query_one(&statement, &[&runner as &(dyn ToSql + Sync), &settled, &holding]).await?;
        let Json(beat) = row.try_get::<_, Json<Beat>>(0)?;
        self.session = Some((client, statement));
        Ok(beat)
    }
}
