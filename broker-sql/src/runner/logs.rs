//! The log connection: takes the writer over, and appends batches with an explicit commit.

use super::{BrokerError, Lease};
use crate::connect::Connector;
use futures_util::pin_mut;
use serde::Deserialize;
use std::time::Duration;
use time::{Date, OffsetDateTime};
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Statement};
use uuid::Uuid;

const TYPES: [Type; 13] = [
    Type::UUID,
    Type::UUID,
    Type::INT8,
    Type::DATE,
    Type::TEXT,
    Type::INT2,
    Type::INT8,
    Type::INT8,
    Type::TEXT,
    Type::TEXT,
    Type::TIMESTAMPTZ,
    Type::TEXT,
    Type::INT8,
];

/// One chunk of an attempt's output, ready to be stored.
#[derive(Clone, Debug)]
pub struct LogRow<'a> {
    /// The deployment.
    pub deployment_id: Uuid,
    /// The attempt.
    pub lease: Lease,
    /// Its claim day: the partition.
    pub claim_day: Date,
    /// The job's name.
    pub job: &'a str,
    /// The attempt's ordinal.
    pub attempt: i16,
    /// First framed record of the chunk.
    pub seq: i64,
    /// Last one.
    pub seq_to: i64,
    /// stdout, stderr or system.
    pub stream: &'static str,
    /// The text.
    pub text: &'a str,
    /// Arrival of the first record.
    pub ts: OffsetDateTime,
    /// Set when the row stands for lost output.
    pub gap_kind: Option<&'static str>,
    /// How many bytes were lost, when that is known.
    pub gap_bytes: Option<i64>,
}

/// How far the log of an attempt is stored that may still be appended to, and what its rows must name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The attempt.
    pub lease: Lease,
    /// The deployment.
    pub deployment_id: Uuid,
    /// Its claim day: the partition.
    pub claim_day: Date,
    /// The job's name.
    pub job: String,
    /// The attempt's ordinal.
    pub attempt: i16,
    /// Number of the last stored record; -1 when there is none.
    pub stored: i64,
    /// Number of the log's last record, -1 when it printed nothing; none while its end was not reported.
    pub log_end: Option<i64>,
}

/// An attempt whose rows made the broker refuse a batch.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct RefusedAttempt {
    /// The attempt.
    pub attempt_id: Uuid,
    /// unknown, closed, beyond_end, gap or position.
    pub reason: String,
    /// How far its log is stored.
    pub stored: i64,
}

/// What became of a batch. Nothing of it is stored unless all of it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// Committed.
    Stored,
    /// Refused because of these attempts: drop or rewind them, send the rest once more.
    Refused(Vec<RefusedAttempt>),
    /// Rows of it are stored already, or their partition is missing: ask for positions, rebuild, send once.
    Rewind(String),
}

/// The one session that may append for a writer.
pub struct LogWriter {
    client: Client,
    writer: Uuid,
    epoch: i64,
    copy: Statement,
}

impl LogWriter {
    /// Opens a session, ends whichever held the writer before, and takes it over.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn take_over(connector: &Connector, writer: Uuid) -> Result<Self, BrokerError> {
        // The check looks at a batch as a whole: one of 4 MiB would go through a file of the server's, by its own default.
        const SQL: &str = "-- log_takeover\nselect tendril.log_takeover($1), set_config('work_mem', '16MB', false)";
        let (client, driver) = connector.connect("logs").await?;
        tokio::spawn(driver.run());
        let epoch = client.query_one(SQL, &[&writer]).await?.try_get(0)?;
        let copy = client.prepare(&copy_into("tendril.log_inbox")).await?;
        Ok(Self { client, writer, epoch, copy })
    }

    /// How far the logs of the writer's open attempts are stored.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn positions(&self) -> Result<Vec<Position>, BrokerError> {
        const SQL: &str = "-- log_positions
select attempt_id, fence, stored, log_end, deployment_id, claim_day, job, attempt from tendril.log_positions($1)";
        let rows = self.client.query(SQL, &[&self.writer]).await?;
        rows.iter()
            .map(|row| {
                let lease = Lease { attempt_id: row.try_get(0)?, fence: row.try_get(1)? };
                Ok(Position {
                    lease,
                    stored: row.try_get(2)?,
                    log_end: row.try_get(3)?,
                    deployment_id: row.try_get(4)?,
                    claim_day: row.try_get(5)?,
                    job: row.try_get(6)?,
                    attempt: row.try_get(7)?,
                })
            })
            .collect()
    }

    /// Stores a batch in one transaction.
    ///
    /// # Errors
    /// Any error other than a refusal leaves the batch's fate open: take over anew and ask for positions.
    pub async fn write(&mut self, rows: &[LogRow<'_>], patience: Duration) -> Result<Written, BrokerError> {
        let reply = tokio::time::timeout(patience, self.copy(rows)).await;
        let error = match reply {
            Ok(Ok(())) => return Ok(Written::Stored),
            Ok(Err(error)) => error,
            Err(_) => return Err(BrokerError::Unavailable(format!("a batch took more than {} s", patience.as_secs()))),
        };
        let Some(db) = error.as_db_error() else {
            return Err(error.into());
        };
        let written = match db.code().code() {
            "TD009" => db.detail().and_then(|text| serde_json::from_str(text).ok()).map(Written::Refused),
            "23505" | "23514" => Some(Written::Rewind(db.message().to_owned())),
            _ => None,
        };
        match written {
            Some(written) => {
                self.client.batch_execute("-- log_rollback\nrollback").await?;
                Ok(written)
            }
            None => Err(error.into()),
        }
    }

    async fn copy(&mut self, rows: &[LogRow<'_>]) -> Result<(), tokio_postgres::Error> {
        let begin = format!(
            "-- log_begin\nbegin isolation level read committed; select set_config('tendril.writer', '{}:{}', true)",
            self.writer, self.epoch
        );
        store(&self.client, &begin, &self.copy, rows).await
    }
}

/// The COPY of [`store`], into a table with the inbox's columns.
pub(crate) fn copy_into(table: &str) -> String {
    format!(
        "-- log_copy\ncopy {table} (deployment_id, attempt_id, fence, claim_day, job, attempt, seq, seq_to, stream, log_chunk, ts, \
         gap_kind, gap_bytes) from stdin (format binary)"
    )
}

/// Stores rows in one transaction. The commit is a statement of its own: `finish` returns at CommandComplete, before an implicit
/// commit. What comes next is sent without waiting for the reply to what went before: after a failure the server only rolls
/// back, and without its transaction's writer the COPY is refused. `biased` is what keeps the order. Whoever drops this before
/// the COPY's end was sent leaves one that is given up; after that the commit is on its way, whether anybody hears of it or not.
pub(crate) async fn store(
    client: &Client,
    begin: &str,
    copy: &Statement,
    rows: &[LogRow<'_>],
) -> Result<(), tokio_postgres::Error> {
    let (begun, sink) = tokio::join!(biased; client.batch_execute(begin), client.copy_in(copy));
    begun?;
    let out = BinaryCopyInWriter::new(sink?, &TYPES);
    pin_mut!(out);
    for row in rows {
        let fields: [&(dyn ToSql + Sync); 13] = [
            &row.deployment_id,
            &row.lease.attempt_id,
            &row.lease.fence,
            &row.claim_day,
            &row.job,
            &row.attempt,
            &row.seq,
            &row.seq_to,
            &row.stream,
            &row.text,
            &row.ts,
            &row.gap_kind,
            &row.gap_bytes,
        ];
        out.as_mut().write(&fields).await?;
    }
    let (copied, committed) = tokio::join!(biased; out.finish(), client.batch_execute("-- log_commit\ncommit"));
    copied?;
    committed
}
