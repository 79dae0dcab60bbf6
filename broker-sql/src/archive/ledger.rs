//! What the database remembers of the archive: who is at which log, and where each lies.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use sqlx::postgres::PgConnection;
use sqlx::postgres::types::PgInterval;
use time::{Date, OffsetDateTime};
use uuid::Uuid;

use crate::refusal::Error;

/// A closed log that was claimed.
#[derive(Clone, Debug)]
pub struct ClosedLog {
    /// The attempt that printed it.
    pub attempt_id: Uuid,
    /// Its fence.
    pub fence: i64,
    /// Its deployment.
    pub deployment_id: Uuid,
    /// Its cluster.
    pub cluster_id: Uuid,
    /// Its partition.
    pub claim_day: Date,
    /// Its job.
    pub job: String,
    /// Ordinal within the job.
    pub attempt: i16,
    /// complete or incomplete.
    pub log_state: String,
    /// Number of its last record, if the attempt said so.
    pub log_end: Option<i64>,
    /// How often it was claimed, this time included.
    pub tries: i32,
    /// A multipart upload that an earlier try left behind.
    pub upload_id: Option<String>,
}

/// A row as the archive keeps it: what is the same for all rows of an attempt stands in the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchivedRow {
    /// Its first record.
    pub seq: i64,
    /// Its last record.
    pub seq_to: i64,
    /// stdout, stderr or system.
    pub stream: String,
    /// Its text.
    pub log_chunk: String,
    /// When it was printed.
    pub ts: OffsetDateTime,
    /// Why something is missing here, if so.
    pub gap_kind: Option<String>,
    /// How much, if anybody knows.
    pub gap_bytes: Option<i64>,
}

/// Where a frame lies in its object, and which records it holds; as JSON an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u64, u64, i64, i64)", into = "(u64, u64, i64, i64)")]
pub struct Frame {
    /// From the object's beginning.
    pub offset: u64,
    /// Compressed.
    pub bytes: u64,
    /// Its first record.
    pub first: i64,
    /// Its last record.
    pub last: i64,
}

impl From<(u64, u64, i64, i64)> for Frame {
    fn from((offset, bytes, first, last): (u64, u64, i64, i64)) -> Self {
        Self { offset, bytes, first, last }
    }
}

impl From<Frame> for (u64, u64, i64, i64) {
    fn from(frame: Frame) -> Self {
        (frame.offset, frame.bytes, frame.first, frame.last)
    }
}

/// What was stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Record {
    /// The object.
    pub url: String,
    /// Its first record.
    pub first_seq: i64,
    /// Its last record.
    pub last_seq: i64,
    /// Its rows.
    pub log_rows: i64,
    /// Bytes of their text.
    pub text_bytes: i64,
    /// Bytes of the object.
    pub object_bytes: u64,
    /// Digest of the object, in hex.
    pub sha256: String,
    /// Its index.
    pub frames: Vec<Frame>,
}

/// A closed log that is archived, or no longer in the database.
#[derive(Clone, Debug)]
pub(crate) struct StoredLog {
    pub attempt_id: Uuid,
    pub job: String,
    pub attempt: i16,
    pub in_database: bool,
    pub log_end: Option<i64>,
    pub url: Option<String>,
    pub last_seq: Option<i64>,
    pub frames: Vec<Frame>,
    pub stored_at: Option<OffsetDateTime>,
}

/// How far behind the archive is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lag {
    pub waiting: i64,
    pub seconds: f64,
    pub troubled: i64,
}

fn interval(time: Duration) -> PgInterval {
    PgInterval { months: 0, days: 0, microseconds: i64::try_from(time.as_micros()).unwrap_or(i64::MAX) }
}

/// Lets the database know that there is an archive: from then on a day is removed only when all of it lies there.
pub(crate) async fn announce(pool: &PgPool, url: &str) -> Result<(), Error> {
    let said = sqlx::query!(
        "-- announce archive
        select tendril_core.archive_announce($1)",
        url
    );
    said.fetch_one(pool).await?;
    Ok(())
}

/// Takes up to `limit` closed logs for the time of a lease. Only who names `claim` may record anything of them.
///
/// # Errors
/// What the database refuses.
pub async fn claim(pool: &PgPool, claim: Uuid, lease: Duration, limit: i32) -> Result<Vec<ClosedLog>, Error> {
    let claimed = sqlx::query_as!(
        ClosedLog,
        r#"-- claim closed logs
        select attempt_id as "attempt_id!", fence as "fence!", deployment_id as "deployment_id!", cluster_id as "cluster_id!",
               claim_day as "claim_day!", job as "job!", attempt as "attempt!", log_state as "log_state!", log_end,
               tries as "tries!", upload_id
          from tendril_core.archive_claim($1, $2, $3)"#,
        claim,
        interval(lease),
        limit
    );
    Ok(claimed.fetch_all(pool).await?)
}

/// Renews the lease and notes the multipart upload that is under way; `false` when somebody else has the log now.
pub(crate) async fn renew(
    pool: &PgPool,
    attempt: Uuid,
    claim: Uuid,
    lease: Duration,
    upload: Option<&str>,
) -> Result<bool, Error> {
    let renewed = sqlx::query_scalar!(
        r#"-- renew claim of closed log
        select tendril_core.archive_renew($1, $2, $3, $4) as "renewed!""#,
        attempt,
        claim,
        interval(lease),
        upload
    );
    Ok(renewed.fetch_one(pool).await?)
}

/// A page of rows behind a position, about so many bytes; empty at the end.
pub(crate) async fn rows(pool: &PgPool, attempt: Uuid, after: i64, bytes: i64) -> Result<Vec<ArchivedRow>, Error> {
    let rows = sqlx::query_as!(
        ArchivedRow,
        r#"-- rows to archive
        select seq as "seq!", seq_to as "seq_to!", stream as "stream!", log_chunk as "log_chunk!", ts as "ts!", gap_kind, gap_bytes
          from tendril_core.archive_rows($1, $2, $3)"#,
        attempt,
        after,
        bytes
    );
    Ok(rows.fetch_all(pool).await?)
}

/// Records a verified object, or with `None` that there was no row; `false` when the claim is lost or the rows are others.
pub(crate) async fn stored(pool: &PgPool, attempt: Uuid, claim: Uuid, record: Option<&Record>) -> Result<bool, Error> {
    let record = record.map(|record| serde_json::json!(record));
    let stored = sqlx::query_scalar!(
        r#"-- record archived log
        select tendril_core.archive_stored($1, $2, $3) as "stored!""#,
        attempt,
        claim,
        record
    );
    Ok(stored.fetch_one(pool).await?)
}

/// Gives a claimed log back, to be tried again after a pause; `why` it failed, if it did.
pub(crate) async fn give_back(
    pool: &PgPool,
    (attempt, claim): (Uuid, Uuid),
    why: Option<&str>,
    pause: Duration,
) -> Result<(), Error> {
    let given = sqlx::query!(
        "-- give closed log back
        select tendril_core.archive_failed($1, $2, $3, $4)",
        attempt,
        claim,
        why,
        interval(pause)
    );
    given.fetch_one(pool).await?;
    Ok(())
}

/// How far behind the archive is.
pub(crate) async fn lag(pool: &PgPool) -> Result<Lag, Error> {
    let lag = sqlx::query_as!(
        Lag,
        r#"-- archive lag
        select waiting as "waiting!", lag_seconds as "seconds!", troubled as "troubled!" from tendril_core.archive_lag()"#
    );
    Ok(lag.fetch_one(pool).await?)
}

/// The logs of a deployment that are archived or gone from the database, in order of the claims.
pub(crate) async fn archived_logs(connection: &mut PgConnection, deployment: Uuid) -> Result<Vec<StoredLog>, Error> {
    let rows = sqlx::query!(
        r#"-- archived logs of deployment
        select attempt_id as "attempt_id!", job as "job!", attempt as "attempt!", in_database as "in_database!", log_end, url,
               last_seq, case when not in_database then frames end as frames, stored_at
          from tendril.log_archives($1)"#,
        deployment
    );
    let rows = rows.fetch_all(connection).await?;
    let mut logs = Vec::with_capacity(rows.len());
    for row in rows {
        let frames = row.frames.map(serde_json::from_value::<Vec<Frame>>).transpose();
        logs.push(StoredLog {
            attempt_id: row.attempt_id,
            job: row.job,
            attempt: row.attempt,
            in_database: row.in_database,
            log_end: row.log_end,
            url: row.url,
            last_seq: row.last_seq,
            frames: frames.map_err(|error| Error::Reply(sqlx::Error::Decode(error.into())))?.unwrap_or_default(),
            stored_at: row.stored_at,
        });
    }
    Ok(logs)
}
