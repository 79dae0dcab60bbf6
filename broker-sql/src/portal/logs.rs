//! Reading logs by position.

use std::collections::BTreeMap;

use serde::Serialize;
use sqlx::postgres::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::portal::deployments::LogState;
use crate::refusal::Error;

/// Chunks per read: a bound of memory and of one statement's work.
const PAGE: i32 = 1000;

/// Bytes of text that `tendril.logs_after` gives at once, and of the largest row.
const PAGE_BYTES: usize = 1 << 20;
const CHUNK_BYTES: usize = 69_632;

/// One stored row of an attempt's output.
#[derive(Clone, Debug, Serialize)]
pub struct LogChunk {
    /// The attempt that printed it.
    pub attempt_id: Uuid,
    /// Its job.
    pub job: String,
    /// Ordinal of the attempt within its job.
    pub attempt: i16,
    /// Number of the first record.
    pub seq: i64,
    /// Number of the last record.
    pub seq_to: i64,
    /// stdout, stderr or system.
    pub stream: String,
    /// The records' text, line ends included.
    pub log_chunk: String,
    /// Arrival of the first record by the runner's clock.
    #[serde(with = "time::serde::rfc3339")]
    pub ts: OffsetDateTime,
    /// Set on a row that stands for lost output.
    pub gap_kind: Option<String>,
    /// Bytes lost, when known.
    pub gap_bytes: Option<i64>,
}

/// A reader of one deployment's logs. Its position is a vector of attempt and record number: a single number would
/// lose rows, since numbers are given before commits.
#[derive(Clone, Debug)]
pub struct LogReader {
    deployment: Uuid,
    position: BTreeMap<Uuid, i64>,
}

impl LogReader {
    /// A reader at the beginning.
    pub fn new(deployment: Uuid) -> Self {
        Self { deployment, position: BTreeMap::new() }
    }

    /// The next chunks, at most a page of them, and whether there may be more at once. Within an attempt they come in
    /// order and without holes.
    ///
    /// # Errors
    /// TD002 when there is no such deployment that the caller may see.
    pub async fn next(&mut self, connection: &mut PgConnection) -> Result<(Vec<LogChunk>, bool), Error> {
        let position = serde_json::json!(self.position);
        let chunks = sqlx::query_as!(
            LogChunk,
            r#"-- logs after position
            select attempt_id as "attempt_id!", job as "job!", attempt as "attempt!", seq as "seq!", seq_to as "seq_to!",
                   stream as "stream!", log_chunk as "log_chunk!", ts as "ts!", gap_kind, gap_bytes
              from tendril.logs_after($1, $2, $3)"#,
            self.deployment,
            position,
            PAGE
        )
        .fetch_all(connection)
        .await?;
        for chunk in &chunks {
            self.position.insert(chunk.attempt_id, chunk.seq_to);
        }
        // A page ends where the next row's text would be too much.
        let bytes: usize = chunks.iter().map(|chunk| chunk.log_chunk.len()).sum();
        let more = chunks.len() == PAGE as usize || bytes + CHUNK_BYTES > PAGE_BYTES;
        Ok((chunks, more))
    }

    /// Whether all that an attempt printed was read, or no more of it will come.
    pub fn is_done_with(&self, log: &LogState) -> bool {
        let read = self.position.get(&log.attempt_id).copied().unwrap_or(-1);
        log.log_state == "incomplete" || log.log_end.is_some_and(|end| read >= end)
    }
}
