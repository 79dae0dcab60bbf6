//! The calls that share a small pool: register, witness, claim, adopt, progress, goodbye.

use super::lease::{Adoption, Claimed, Lease, Outcome};
use super::pool::Calls;
use super::together::Together;
use super::{API_VERSION, BrokerError};
use crate::connect::Connector;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;
use tokio_postgres::Row;
use tokio_postgres::types::{Json, ToSql};
use uuid::Uuid;

/// What a runner says of itself when it registers.
#[derive(Clone, Debug, Serialize)]
pub struct Registration {
    /// Host or pod name.
    pub name: String,
    /// Version of the runner.
    pub version: String,
    /// The disk that outlives the process, if there is one.
    pub place: Option<String>,
    /// What it can do: `kind=`, `engine=`, `place=` and the operator's own.
    pub labels: Vec<String>,
    /// How many jobs it runs at once.
    pub slots: u32,
    /// The writer that its attempts' log rows come by.
    pub log_writer: Uuid,
}

/// What the broker answers to that.
#[derive(Clone, Debug, Deserialize)]
pub struct Registered {
    /// The cluster, by the credential.
    pub cluster_id: Uuid,
    /// Its name.
    pub cluster_name: String,
    /// How long a lease holds without a heartbeat.
    pub lease_ttl_ms: u64,
    /// How often to send one.
    pub heartbeat_ms: u64,
    /// Largest artifact that is accepted.
    pub artifact_max_bytes: u64,
    /// Channel of the doorbell.
    pub channel: String,
}

/// What the broker had acknowledged to the processes of a place, as far as they remember.
#[derive(Clone, Debug, Serialize)]
pub struct Witness {
    /// The cluster's, when it was last heard.
    pub incarnation: i64,
    /// The highest that was ever handed out to them in it.
    pub fence: i64,
    /// Earlier processes of the place.
    pub runners: Vec<Uuid>,
    /// What is held and may have changed the world.
    pub open: Vec<WitnessedOpen>,
    /// Whose ends were acknowledged in the last hours.
    pub ended: Vec<WitnessedEnd>,
}

/// An attempt that is held and may have changed the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct WitnessedOpen {
    /// Which attempt.
    #[serde(flatten)]
    pub lease: Lease,
    /// Its start was acknowledged; else it was only asked for, and nothing has been run.
    pub started: bool,
}

/// An acknowledged end of an attempt that may have changed the world.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct WitnessedEnd {
    /// Which attempt.
    #[serde(flatten)]
    pub lease: Lease,
    /// Its deployment, if that is remembered.
    pub deployment_id: Option<Uuid>,
    /// Its job.
    pub job: Option<String>,
    /// How it ended.
    pub outcome: Outcome,
    /// When that was acknowledged.
    #[serde(with = "time::serde::rfc3339")]
    pub ended_at: OffsetDateTime,
}

/// What the broker answers to a witness.
#[derive(Clone, Debug, Deserialize)]
pub struct Compared {
    /// From now on the cluster's.
    pub incarnation: i64,
    /// Others have yet to speak, or one lease has yet to pass: ask again, until nothing that changes the world is held up any more.
    pub doubted: bool,
    /// Attempts whose ends it has forgotten: their reports are to be sent again.
    pub resend: Vec<Uuid>,
    /// Attempts that it does not know any more.
    pub lost: Vec<Uuid>,
}

/// A runner process's door to the broker.
#[derive(Clone)]
pub struct Broker {
    pub(super) calls: Calls,
    pub(super) together: Arc<Together>,
    runner: Uuid,
}

impl Broker {
    /// Prepares a pool of at most `connections` sessions; none is opened yet.
    ///
    /// # Errors
    /// [`BrokerError::Unavailable`] when the pool cannot be built.
    pub fn new(connector: Connector, runner: Uuid, connections: usize) -> Result<Self, BrokerError> {
        let calls = Calls::new(connector, connections)?;
        Ok(Self { together: Arc::new(Together::new(calls.clone())), calls, runner })
    }

    /// The id of this runner process.
    pub fn runner(&self) -> Uuid {
        self.runner
    }

    /// Makes this process known and gives it its first lease. Harmless to repeat.
    ///
    /// # Errors
    /// Any [`BrokerError`]; `Version` and `NotActive` are final.
    pub async fn register(&self, registration: &Registration) -> Result<Registered, BrokerError> {
        const SQL: &str = "-- runner_register\nselect tendril.runner_register($1, $2, $3)";
        let row = self.one(SQL, &[&self.runner, &API_VERSION, &Json(registration)]).await?;
        let Json(registered) = row.try_get::<_, Json<Registered>>(0)?;
        Ok(registered)
    }

    /// Says what the broker had acknowledged: to be called after each registration and whenever the connection was lost, since
    /// what answers then may be a database that was set back in time. Idempotent.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn witness(&self, witness: &Witness) -> Result<Compared, BrokerError> {
        const SQL: &str = "-- runner_witness\nselect tendril.runner_witness($1, $2)";
        let row = self.one(SQL, &[&self.runner, &Json(witness)]).await?;
        let Json(compared) = row.try_get::<_, Json<Compared>>(0)?;
        Ok(compared)
    }

    /// Claims up to `slots` jobs. The same number again, after a lost reply, returns the same attempts.
    ///
    /// # Errors
    /// `LeaseExpired` until a heartbeat has succeeded; `NotActive` while the credential is being drained.
    pub async fn claim(&self, claim_no: i64, slots: i32) -> Result<Vec<Claimed>, BrokerError> {
        const SQL: &str = "-- runner_claim\nselect * from tendril.runner_claim($1, $2, $3)";
        let rows = self.calls.all(0, SQL, &[&self.runner, &claim_no, &slots]).await?;
        rows.iter().map(claimed).collect()
    }

    /// Asks for a ring at the next submit.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn wait(&self) -> Result<(), BrokerError> {
        self.one("-- runner_wait\nselect tendril.runner_wait($1)", &[&self.runner]).await.map(drop)
    }

    /// Answers from now on for an attempt that an earlier process of this place has left. To be held before it is asked
    /// for: a heartbeat that does not name it gives it up.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn adopt(&self, lease: &Lease) -> Result<Adoption, BrokerError> {
        const SQL: &str = "-- runner_adopt\nselect tendril.runner_adopt($1, $2, $3)";
        let row = self.one(SQL, &[&self.runner, &lease.attempt_id, &lease.fence]).await?;
        match row.try_get(0)? {
            "adopted" => Ok(Adoption::Adopted),
            "ended" => Ok(Adoption::Ended),
            _ => Ok(Adoption::Superseded),
        }
    }

    /// Shows per-resource progress of a running attempt.
    ///
    /// # Errors
    /// Any [`BrokerError`]; progress is a courtesy, so that callers log and go on.
    pub async fn progress(&self, lease: &Lease, progress: &serde_json::Value) -> Result<(), BrokerError> {
        const SQL: &str = "-- runner_progress\nselect tendril.runner_progress($1, $2, $3)";
        self.one(SQL, &[&lease.attempt_id, &lease.fence, progress]).await.map(drop)
    }

    /// Says goodbye; only a runner that holds nothing leaves.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn leave(&self) -> Result<(), BrokerError> {
        self.one("-- runner_leave\nselect tendril.runner_leave($1)", &[&self.runner]).await.map(drop)
    }

    /// Closes the pool's sessions; every call fails from now on.
    pub fn close(&self) {
        self.calls.close();
    }

    pub(super) async fn one(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Row, BrokerError> {
        self.calls.one(0, sql, params).await
    }

    /// A call that carries so many bytes, which may take their time.
    pub(super) async fn one_carrying(
        &self,
        bytes: usize,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Row, BrokerError> {
        self.calls.one(bytes, sql, params).await
    }
}

fn claimed(row: &Row) -> Result<Claimed, BrokerError> {
    let ms = |name: &str| row.try_get::<_, i64>(name).map(|n| Duration::from_millis(n.unsigned_abs()));
    Ok(Claimed {
        lease: Lease { attempt_id: row.try_get("attempt_id")?, fence: row.try_get("fence")? },
        ordinal: row.try_get("ordinal")?,
        claim_day: row.try_get("claim_day")?,
        job_id: row.try_get("job_id")?,
        deployment_id: row.try_get("deployment_id")?,
        job: row.try_get("job")?,
        kind: row.try_get("kind")?,
        mutating: row.try_get("mutating")?,
        timeout: ms("timeout_ms")?,
        kill_grace: ms("kill_grace_ms")?,
        state_key: row.try_get("state_key")?,
        spec: row.try_get("spec")?,
        snapshot: row.try_get("config_snapshot")?,
        plan_attempt: row.try_get("plan_attempt_id")?,
    })
}
