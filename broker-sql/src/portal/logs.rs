//! Reading logs by position, wherever they lie.

use std::collections::BTreeMap;

use serde::Serialize;
use sqlx::postgres::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::archive::ledger::{self, StoredLog};
use crate::archive::{Archive, ArchiveError};
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
///
/// Rows come from the database, and what has left it from the archive: the reader's caller does not notice. What is in
/// neither, or cannot be read, is a row with a `gap_kind`: `removed` (by age, archived nowhere), `archived` (this reader
/// was given no archive), `unreadable` (the object is missing or damaged; [`LogReader::troubles`] says how).
#[derive(Clone, Debug)]
pub struct LogReader {
    deployment: Uuid,
    position: BTreeMap<Uuid, i64>,
    archive: Option<Archive>,
    troubles: Vec<ArchiveError>,
    has_looked: bool,
}

impl LogReader {
    /// A reader at the beginning, without an archive.
    pub fn new(deployment: Uuid) -> Self {
        Self { deployment, position: BTreeMap::new(), archive: None, troubles: Vec::new(), has_looked: false }
    }

    /// The same with an archive to fall back to.
    #[must_use]
    pub fn with_archive(mut self, archive: Option<Archive>) -> Self {
        self.archive = archive;
        self
    }

    /// The same from a position on: by attempt, the `seq_to` of the last chunk read.
    #[must_use]
    pub fn at(mut self, position: BTreeMap<Uuid, i64>) -> Self {
        self.position = position;
        self
    }

    /// How far has been read.
    pub fn position(&self) -> &BTreeMap<Uuid, i64> {
        &self.position
    }

    /// Objects that could not be read so far, each once; the rows have gaps in their places.
    pub fn troubles(&self) -> &[ArchiveError] {
        &self.troubles
    }

    /// The next chunks, at most a page or an archived frame of them, and whether there may be more at once. Within an
    /// attempt they come in order and without holes.
    ///
    /// # Errors
    /// TD002 when there is no such deployment that the caller may see; [`Error::Archive`] when the archive does not answer
    /// or does not let us in: the position stays, so that it may be called again.
    pub async fn next(&mut self, connection: &mut PgConnection) -> Result<(Vec<LogChunk>, bool), Error> {
        // The rows first: a day that is removed between the two looks is then found in the archive.
        let page = self.page(connection).await?;
        // A page ends where the next row's text would be too much.
        let bytes: usize = page.iter().map(|chunk| chunk.log_chunk.len()).sum();
        let full = page.len() == PAGE as usize || bytes + CHUNK_BYTES > PAGE_BYTES;
        if !(full && self.has_looked) {
            self.has_looked = true;
            let logs = ledger::archived_logs(connection, self.deployment).await?;
            if let Some(log) = logs.iter().find(|log| !log.in_database && self.read(log.attempt_id) < end(log)) {
                let chunks = self.archived(log).await?;
                self.advance(&chunks);
                return Ok((chunks, true));
            }
        }
        self.advance(&page);
        Ok((page, full))
    }

    async fn page(&self, connection: &mut PgConnection) -> Result<Vec<LogChunk>, Error> {
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
        );
        Ok(chunks.fetch_all(connection).await?)
    }

    fn read(&self, attempt: Uuid) -> i64 {
        self.position.get(&attempt).copied().unwrap_or(-1)
    }

    fn advance(&mut self, chunks: &[LogChunk]) {
        for chunk in chunks {
            self.position.insert(chunk.attempt_id, chunk.seq_to);
        }
    }

    async fn archived(&mut self, log: &StoredLog) -> Result<Vec<LogChunk>, Error> {
        let after = self.read(log.attempt_id);
        let Some(url) = &log.url else {
            let text = "the log was removed from the database when its time was over, and no archive has it";
            return Ok(vec![gap(log, after, end(log), ("removed", text))]);
        };
        let Some(archive) = &self.archive else {
            let text = format!("the log is archived in {url}, and this reader was given no archive");
            return Ok(vec![gap(log, after, end(log), ("archived", &text))]);
        };
        let error = match archive.rows(log, after).await {
            Ok(rows) if !rows.is_empty() => return Ok(rows),
            Ok(_) => ArchiveError::Damaged(url.clone(), "its index ends too early".into()),
            Err(error) if error.is_of_one_object() => error,
            Err(error) => return Err(error.into()),
        };
        // Of a damaged object other frames may still be read.
        let frame = log.frames.iter().find(|frame| frame.last > after);
        let to = match &error {
            ArchiveError::Damaged(..) => frame.map_or(end(log), |frame| frame.last),
            _ => end(log),
        };
        let row = gap(log, after, to, ("unreadable", &error.to_string()));
        if !self.troubles.contains(&error) {
            self.troubles.push(error);
        }
        Ok(vec![row])
    }

    /// Whether all that an attempt printed was read, or no more of it will come.
    pub fn is_done_with(&self, log: &LogState) -> bool {
        log.log_state == "incomplete" || log.log_end.is_some_and(|end| self.read(log.attempt_id) >= end)
    }
}

/// The last record, as far as one knows: of a log that was removed half-stored nobody does.
fn end(log: &StoredLog) -> i64 {
    log.last_seq.or(log.log_end).unwrap_or(0)
}

/// A row that stands for what is not there.
fn gap(log: &StoredLog, after: i64, to: i64, (kind, text): (&str, &str)) -> LogChunk {
    LogChunk {
        attempt_id: log.attempt_id,
        job: log.job.clone(),
        attempt: log.attempt,
        seq: after + 1,
        seq_to: to,
        stream: "system".into(),
        log_chunk: format!("[{text}]\n"),
        ts: log.stored_at.unwrap_or(OffsetDateTime::UNIX_EPOCH),
        gap_kind: Some(kind.into()),
        gap_bytes: None,
    }
}
