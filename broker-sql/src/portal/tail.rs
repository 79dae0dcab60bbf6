//! One tail for all whom a process serves, however many they are: one query for all deployments that somebody watches.

use std::collections::BTreeMap;

use sqlx::postgres::PgConnection;
use uuid::Uuid;

use crate::portal::api_token::TokenHash;
use crate::portal::logs::LogChunk;
use crate::portal::token_pool::TokenPool;
use crate::refusal::Error;

/// So many deployments [`TokenPool::tail`] takes at once.
pub const TAIL_DEPLOYMENTS: usize = 1000;

/// So many pairs [`TokenPool::refused`] takes at once.
pub const REFUSED_PAIRS: usize = 10_000;

/// What is new of one deployment.
#[derive(Clone, Debug, Default)]
pub struct News {
    /// Its chunks behind the position, in order within each attempt.
    pub chunks: Vec<LogChunk>,
    /// What can be said beside them.
    pub notice: Option<Notice>,
}

/// What a tail says of a deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The token may not read it, or not any more.
    Refused,
    /// Some of its log is no longer in the database: a [`LogReader`](crate::portal::logs::LogReader) finds it.
    Elsewhere,
    /// It has ended some seconds ago, and so has not all of its log: that of a lost attempt may never.
    Silent {
        /// How it ended.
        status: String,
    },
    /// It has ended, and all of its log was read.
    Over {
        /// How it ended.
        status: String,
        /// Whether no log lost its end.
        complete: bool,
    },
}

/// What is new of all deployments that were asked for.
#[derive(Clone, Debug, Default)]
pub struct TailPage {
    /// By deployment; those without news are absent.
    pub news: BTreeMap<Uuid, News>,
    /// There may be more at once.
    pub full: bool,
}

/// How much one [`TokenPool::tail`] gives.
#[derive(Clone, Copy, Debug)]
pub struct PageBounds {
    /// Chunks.
    pub chunks: i32,
    /// Bytes of text.
    pub bytes: i32,
}

impl TokenPool {
    /// Chunks of all these deployments behind one position, each deployment with a token that may read its logs.
    ///
    /// # Errors
    /// TD011 for more than [`TAIL_DEPLOYMENTS`]; otherwise why there is no answer.
    pub async fn tail(
        &self,
        watched: &[(Uuid, TokenHash)],
        position: &BTreeMap<Uuid, i64>,
        bounds: PageBounds,
    ) -> Result<TailPage, Error> {
        let (deployments, hashes) = columns(watched);
        let mut connection = self.pool().acquire().await.map_err(|error| self.unreachable(error))?;
        tail(&mut connection, (&deployments, &hashes), &serde_json::json!(position), bounds).await
    }

    /// Which of these pairs may not (any more) read logs, as places in the list.
    ///
    /// # Errors
    /// TD011 for more than [`REFUSED_PAIRS`]; otherwise why there is no answer.
    pub async fn refused(&self, watched: &[(Uuid, TokenHash)]) -> Result<Vec<usize>, Error> {
        let (deployments, hashes) = columns(watched);
        let mut connection = self.pool().acquire().await.map_err(|error| self.unreachable(error))?;
        let places = sqlx::query_scalar!(
            r#"-- tokens that lost their rights
            select n as "n!" from tendril.tokens_refused($1, $2) n"#,
            &deployments,
            &hashes
        );
        let places = places.fetch_all(&mut *connection).await?;
        Ok(places.into_iter().filter_map(|place| usize::try_from(place - 1).ok()).collect())
    }
}

fn columns(watched: &[(Uuid, TokenHash)]) -> (Vec<Uuid>, Vec<Vec<u8>>) {
    watched.iter().map(|(deployment, token)| (*deployment, token.as_bytes().to_vec())).unzip()
}

async fn tail(
    connection: &mut PgConnection,
    (deployments, hashes): (&[Uuid], &[Vec<u8>]),
    position: &serde_json::Value,
    bounds: PageBounds,
) -> Result<TailPage, Error> {
    let rows = sqlx::query!(
        r#"-- tail of all that is watched
        select deployment_id as "deployment_id!", attempt_id, job, attempt, seq, seq_to, stream, log_chunk, ts, gap_kind, gap_bytes,
               at_end, status
          from tendril.token_tail($1, $2, $3, $4, $5)"#,
        deployments,
        hashes,
        position,
        bounds.chunks,
        bounds.bytes
    );
    let mut page = TailPage::default();
    let (mut chunks, mut bytes) = (0, 0);
    for row in rows.fetch_all(connection).await? {
        let news = page.news.entry(row.deployment_id).or_default();
        if let (Some(attempt_id), Some(seq), Some(seq_to), Some(ts)) = (row.attempt_id, row.seq, row.seq_to, row.ts) {
            let log_chunk = row.log_chunk.unwrap_or_default();
            (chunks, bytes) = (chunks + 1, bytes + log_chunk.len());
            news.chunks.push(LogChunk {
                attempt_id,
                job: row.job.unwrap_or_default(),
                attempt: row.attempt.unwrap_or_default(),
                seq,
                seq_to,
                stream: row.stream.unwrap_or_default(),
                log_chunk,
                ts,
                gap_kind: row.gap_kind,
                gap_bytes: row.gap_bytes,
            });
            continue;
        }
        let status = row.status.unwrap_or_default();
        let notice = match (row.attempt_id, row.at_end.as_deref()) {
            (None, Some("refused")) => Some(Notice::Refused),
            (None, Some("ended")) => Some(Notice::Silent { status }),
            (None, Some(end)) => Some(Notice::Over { status, complete: end == "complete" }),
            (Some(_), Some("archived")) => Some(Notice::Elsewhere),
            _ => None,
        };
        // That all is over counts more than that it is over for some.
        if news.notice.is_none() || matches!(notice, Some(Notice::Over { .. })) {
            news.notice = notice;
        }
    }
    page.full = chunks >= bounds.chunks || bytes.saturating_add(CHUNK_BYTES) > bounds.bytes.unsigned_abs() as usize;
    page.news.retain(|_, news| !news.chunks.is_empty() || news.notice.is_some());
    Ok(page)
}

/// Of the largest row: a page ends where the next row's text would be too much.
const CHUNK_BYTES: usize = 69_632;
