//! Reading logs by position, wherever they lie.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use sqlx::postgres::PgConnection;
use time::OffsetDateTime;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::archive::ledger::{self, StoredLog};
use crate::archive::{Archive, ArchiveError};
use crate::portal::deployments::LogState;
use crate::refusal::Error;

/// Chunks per read: a bound of memory and of one statement's work.
const PAGE: i32 = 1000;

/// Bytes of text that `tendril.tail` gives at once, and of the largest row.
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
///
/// What the archive holds comes first, as it was printed first. An archive that is away holds up nothing that is in the
/// database: that comes meanwhile, and then the error.
#[derive(Debug)]
pub struct LogReader {
    deployment: Uuid,
    position: BTreeMap<Uuid, i64>,
    archive: Option<Archive>,
    troubles: Vec<ArchiveError>,
    fetch: Option<Fetch>,
    /// Why the archive gave nothing, while there was something else to give.
    away: Option<ArchiveError>,
    /// The archive is left alone until then.
    rests_until: Option<Instant>,
    /// Something that is archived is still to be read.
    waits: bool,
    is_over: bool,
    is_complete: bool,
}

/// A frame that is on its way from the archive.
#[derive(Debug)]
struct Fetch {
    of: (Uuid, i64),
    task: AbortOnDropHandle<Result<Vec<LogChunk>, ArchiveError>>,
}

/// Rows of the database behind a position.
struct Page {
    chunks: Vec<LogChunk>,
    /// There is more.
    full: bool,
    /// Some log is not in the database, or not all of it.
    elsewhere: bool,
    /// The deployment has ended, and so have all of its logs, as far as they are in the database.
    over: bool,
    /// Then: none of them lost its end.
    complete: bool,
}

impl LogReader {
    /// A reader at the beginning, without an archive.
    pub fn new(deployment: Uuid) -> Self {
        Self {
            deployment,
            position: BTreeMap::new(),
            archive: None,
            troubles: Vec::new(),
            fetch: None,
            away: None,
            rests_until: None,
            waits: false,
            is_over: false,
            is_complete: false,
        }
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

    /// Whether the deployment has ended and all of its log was read: nothing more will come.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// Whether it is over and no log lost its end, as that of a lost attempt does.
    pub fn is_complete(&self) -> bool {
        self.is_over && self.is_complete
    }

    /// Whether something that is archived is still to be read.
    pub fn waits_for_archive(&self) -> bool {
        self.waits
    }

    /// Leaves the archive alone for so long: until then there are the rows of the database only.
    pub fn rest(&mut self, wait: Duration) {
        self.rests_until = Some(Instant::now() + wait);
    }

    /// The next chunks, at most a page or an archived frame of them, and whether there may be more at once. Within an
    /// attempt they come in order and without holes.
    ///
    /// # Errors
    /// TD002 when there is no such deployment that the caller may see; [`Error::Archive`] when the archive does not answer
    /// or does not let us in, and nothing else is to be had: the position stays, so that it may be called again.
    pub async fn next(&mut self, connection: &mut PgConnection) -> Result<(Vec<LogChunk>, bool), Error> {
        self.next_within(connection, Duration::MAX).await
    }

    /// The same for who follows: no longer than `patience` for the archive, which goes on meanwhile.
    ///
    /// # Errors
    /// As for [`LogReader::next`].
    pub async fn next_within(
        &mut self,
        connection: &mut PgConnection,
        patience: Duration,
    ) -> Result<(Vec<LogChunk>, bool), Error> {
        // The rows first: a day that is removed between the two looks is then found in the archive.
        let page = self.page(connection).await?;
        (self.waits, self.is_over) = (false, false);
        if page.elsewhere {
            let logs = ledger::archived_logs(connection, self.deployment).await?;
            if let Some(log) = logs.iter().find(|log| !log.in_database && self.read(log.attempt_id) < end(log)) {
                self.waits = true;
                match self.archived(log, patience).await {
                    Ok(Some(chunks)) => {
                        self.advance(&chunks);
                        return Ok((chunks, true));
                    }
                    Ok(None) => {}
                    Err(error) if page.chunks.is_empty() => return Err(error.into()),
                    Err(error) => self.away = Some(error),
                }
            }
        }
        self.advance(&page.chunks);
        (self.is_over, self.is_complete) = (page.over && !self.waits, page.complete);
        Ok((page.chunks, page.full || self.away.is_some()))
    }

    async fn page(&self, connection: &mut PgConnection) -> Result<Page, Error> {
        let position = serde_json::json!(self.position);
        let rows = sqlx::query!(
            r#"-- logs after position
            select attempt_id, job, attempt, seq, seq_to, stream, log_chunk, ts, gap_kind, gap_bytes, at_end
              from tendril.tail(array[$1::uuid], $2, $3)"#,
            self.deployment,
            position,
            PAGE
        );
        let rows = rows.fetch_all(connection).await?;
        let mut page = Page { chunks: Vec::new(), full: false, elsewhere: false, over: false, complete: false };
        for row in rows {
            page.elsewhere |= matches!(row.at_end.as_deref(), Some("archived" | "incomplete"));
            let Some(attempt_id) = row.attempt_id else {
                page.over = row.at_end.is_some();
                page.complete = row.at_end.as_deref() == Some("complete");
                continue;
            };
            if let (Some(seq), Some(seq_to), Some(ts)) = (row.seq, row.seq_to, row.ts) {
                page.chunks.push(LogChunk {
                    attempt_id,
                    job: row.job.unwrap_or_default(),
                    attempt: row.attempt.unwrap_or_default(),
                    seq,
                    seq_to,
                    stream: row.stream.unwrap_or_default(),
                    log_chunk: row.log_chunk.unwrap_or_default(),
                    ts,
                    gap_kind: row.gap_kind,
                    gap_bytes: row.gap_bytes,
                });
            }
        }
        // A page ends where the next row's text would be too much.
        let bytes: usize = page.chunks.iter().map(|chunk| chunk.log_chunk.len()).sum();
        page.full = page.chunks.len() == PAGE as usize || bytes + CHUNK_BYTES > PAGE_BYTES;
        Ok(page)
    }

    fn read(&self, attempt: Uuid) -> i64 {
        self.position.get(&attempt).copied().unwrap_or(-1)
    }

    fn advance(&mut self, chunks: &[LogChunk]) {
        for chunk in chunks {
            self.position.insert(chunk.attempt_id, chunk.seq_to);
        }
    }

    /// `None` while it is on its way.
    async fn archived(&mut self, log: &StoredLog, patience: Duration) -> Result<Option<Vec<LogChunk>>, ArchiveError> {
        let after = self.read(log.attempt_id);
        let Some(url) = &log.url else {
            let text = "the log was removed from the database when its time was over, and no archive has it";
            return Ok(Some(vec![gap(log, after, end(log), ("removed", text))]));
        };
        let Some(archive) = self.archive.clone() else {
            let text = format!("the log is archived in {url}, and this reader was given no archive");
            return Ok(Some(vec![gap(log, after, end(log), ("archived", &text))]));
        };
        if let Some(error) = self.away.take() {
            return Err(error);
        }
        let Some(fetched) = self.fetched(archive, log, patience).await else {
            return Ok(None);
        };
        let error = match fetched {
            Ok(rows) if !rows.is_empty() => return Ok(Some(rows)),
            Ok(_) => ArchiveError::Damaged(url.clone(), "its index ends too early".into()),
            Err(error) if error.is_of_one_object() => error,
            Err(error) => return Err(error),
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
        Ok(Some(vec![row]))
    }

    async fn fetched(
        &mut self,
        archive: Archive,
        log: &StoredLog,
        patience: Duration,
    ) -> Option<Result<Vec<LogChunk>, ArchiveError>> {
        let of = (log.attempt_id, self.read(log.attempt_id));
        let under_way = self.fetch.take().filter(|fetch| fetch.of == of);
        if under_way.is_none() && self.rests_until.is_some_and(|until| Instant::now() < until) {
            return None;
        }
        let wanted = log.clone();
        let begin = || tokio::spawn(async move { archive.rows(&wanted, of.1).await });
        let fetch = under_way.unwrap_or_else(|| Fetch { of, task: AbortOnDropHandle::new(begin()) });
        // Kept here, so that who stops waiting for us loses nothing of it.
        let fetch = self.fetch.insert(fetch);
        let fetched = tokio::time::timeout(patience, &mut fetch.task).await.ok()?;
        self.fetch = None;
        let broke = |error| {
            ArchiveError::Unavailable(log.url.clone().unwrap_or_default(), format!("reading it broke: {error}"))
        };
        Some(fetched.unwrap_or_else(|error| Err(broke(error))))
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
