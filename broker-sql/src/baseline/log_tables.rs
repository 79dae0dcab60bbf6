//! The table of logs under measurement: what it takes on disk, what its server takes of the processor, what readers wait.

use serde_json::{Map, Value, json};
use tokio_postgres::types::Json;
use tokio_postgres::{Client, Row, Statement};
use uuid::Uuid;

use super::{BaselineError, connect};

/// How text is kept that is too long for its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Postgres's own.
    Pglz,
    /// LZ4, where the server was built with it.
    Lz4,
    /// Not compressed.
    None,
}

/// What the log rows of today take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Size {
    /// Bytes of rows and of text beside them.
    pub table_bytes: i64,
    /// Bytes of indexes.
    pub index_bytes: i64,
    /// Bytes of text.
    pub text_bytes: i64,
    /// Bytes of text as it is kept.
    pub kept_bytes: i64,
}

/// Today's table of log rows, in the hands of its owner.
pub struct LogTable {
    client: Client,
    leaf: String,
}

impl LogTable {
    /// With a session of the operator's.
    ///
    /// # Errors
    /// The server cannot be reached.
    pub async fn open(url: &str) -> Result<Self, BaselineError> {
        const LEAF: &str = "-- today's log table\nselect 'tendril_core.log_day_' || to_char(clock_timestamp() at time zone 'UTC', 'YYYYMMDD')";
        let client = connect(url).await?;
        let leaf = client.query_one(LEAF, &[]).await?.try_get(0)?;
        Ok(Self { client, leaf })
    }

    /// Removes all rows, and has text kept so from now on.
    ///
    /// # Errors
    /// The server refused.
    pub async fn empty(&self, compression: Compression) -> Result<(), BaselineError> {
        let leaf = &self.leaf;
        let kept = match compression {
            Compression::Pglz => "set storage extended, alter log_chunk set compression pglz",
            Compression::Lz4 => "set storage extended, alter log_chunk set compression lz4",
            Compression::None => "set storage external",
        };
        let sql = format!("-- empty log table\ntruncate {leaf}; alter table {leaf} alter log_chunk {kept}");
        Ok(self.client.batch_execute(&sql).await?)
    }

    /// Lets nothing of what was stored wait to be tidied up during a measurement.
    ///
    /// # Errors
    /// The server refused.
    pub async fn settle(&self) -> Result<(), BaselineError> {
        self.client.batch_execute("-- room to tidy up\nset maintenance_work_mem = '512MB'").await?;
        Ok(self.client.batch_execute(&format!("-- settle log table\nvacuum (analyze) {}", self.leaf)).await?)
    }

    /// What it takes; with `text` it reads all rows.
    ///
    /// # Errors
    /// The server refused.
    pub async fn size(&self, text: bool) -> Result<Size, BaselineError> {
        let (leaf, limit) = (&self.leaf, if text { "all" } else { "0" });
        let sql = format!(
            "-- size of log table\nselect pg_table_size('{leaf}'), pg_indexes_size('{leaf}'), coalesce(sum(octet_length(log_chunk)), 0)::bigint, \
             coalesce(sum(pg_column_size(log_chunk)), 0)::bigint from (select log_chunk from {leaf} limit {limit}) t"
        );
        let row = self.client.query_one(&sql, &[]).await?;
        Ok(Size {
            table_bytes: row.try_get(0)?,
            index_bytes: row.try_get(1)?,
            text_bytes: row.try_get(2)?,
            kept_bytes: row.try_get(3)?,
        })
    }

    /// Lets attempts store as much as they print.
    ///
    /// # Errors
    /// The server refused.
    pub async fn lift_quotas(&self) -> Result<(), BaselineError> {
        const SQL: &str = "-- lift quotas\nupdate tendril_core.settings set log_attempt_bytes = 0, log_day_bytes = 0";
        Ok(self.client.batch_execute(SQL).await?)
    }

    /// Milliseconds for which sessions of the database were busy so far, those that have ended included. A session that goes on
    /// tells of its last second late.
    ///
    /// # Errors
    /// The server refused.
    pub async fn busy_ms(&self) -> Result<f64, BaselineError> {
        const SQL: &str =
            "-- time of sessions\nselect s.active_time from pg_stat_database s where s.datname = current_database()";
        Ok(self.client.query_one(SQL, &[]).await?.try_get(0)?)
    }

    /// Rows and lines that a cluster has, gaps aside.
    ///
    /// # Errors
    /// The server refused.
    pub async fn counted(&self, cluster: Uuid) -> Result<(i64, i64), BaselineError> {
        const PLAN: &str = "-- by index\nset enable_seqscan = off; set enable_hashjoin = off; set enable_mergejoin = off; set jit = off";
        const SQL: &str = "-- count log lines\nselect count(*), coalesce(sum(i.seq_to - i.seq + 1), 0)::bigint from tendril_core.attempts a \
                           join tendril.log_inbox i on i.deployment_id = a.deployment_id and i.attempt_id = a.id and i.claim_day = a.claim_day \
                           where a.cluster_id = $1 and i.gap_kind is null and i.stream <> 'system'";
        self.client.batch_execute(PLAN).await?;
        let row = self.client.query_one(SQL, &[&cluster]).await?;
        Ok((row.try_get(0)?, row.try_get(1)?))
    }
}

/// A session of a superuser's: writes all that waits to disk.
///
/// # Errors
/// The server refused.
pub async fn checkpoint(superuser_url: &str) -> Result<(), BaselineError> {
    Ok(connect(superuser_url).await?.batch_execute("-- checkpoint\ncheckpoint").await?)
}

/// A session, so that the process that serves it is known, and by that the server's.
pub struct Serving {
    _client: Client,
    /// Process id on the server's machine.
    pub pid: i32,
}

impl Serving {
    /// Opens one.
    ///
    /// # Errors
    /// The server cannot be reached.
    pub async fn open(url: &str) -> Result<Self, BaselineError> {
        let client = connect(url).await?;
        let pid = client.query_one("-- who serves\nselect pg_backend_pid()", &[]).await?.try_get(0)?;
        Ok(Self { _client: client, pid })
    }
}

/// A portal's session that reads logs.
pub struct LogReading {
    client: Client,
    tail: Statement,
    logs_after: Statement,
}

impl LogReading {
    /// Opens one.
    ///
    /// # Errors
    /// The server cannot be reached.
    pub async fn open(url: &str) -> Result<Self, BaselineError> {
        const TAIL: &str =
            "-- tail\nselect attempt_id, seq_to, log_chunk from tendril.tail($1, $2) where seq is not null";
        const LOGS_AFTER: &str = "-- logs after\nselect attempt_id, seq_to, log_chunk from tendril.logs_after($1, $2)";
        let client = connect(url).await?;
        let (tail, logs_after) = (client.prepare(TAIL).await?, client.prepare(LOGS_AFTER).await?);
        Ok(Self { client, tail, logs_after })
    }

    /// A page of `tendril.tail`.
    ///
    /// # Errors
    /// The server refused.
    pub async fn tail(&self, deployments: &[Uuid], position: &Value) -> Result<Page, BaselineError> {
        page(&self.client.query(&self.tail, &[&deployments, &Json(position)]).await?, position)
    }

    /// The same of `tendril.logs_after`.
    ///
    /// # Errors
    /// The server refused.
    pub async fn logs_after(&self, deployment: Uuid, position: &Value) -> Result<Page, BaselineError> {
        page(&self.client.query(&self.logs_after, &[&deployment, &Json(position)]).await?, position)
    }
}

/// What a reader was given at once.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// Chunks.
    pub chunks: usize,
    /// Bytes of text in them.
    pub bytes: usize,
    /// The position behind them.
    pub reached: Value,
}

fn page(rows: &[Row], position: &Value) -> Result<Page, BaselineError> {
    let mut reached: Map<String, Value> = position.as_object().cloned().unwrap_or_default();
    let mut bytes = 0;
    for row in rows {
        bytes += row.try_get::<_, &str>(2)?.len();
        reached.insert(row.try_get::<_, Uuid>(0)?.to_string(), json!(row.try_get::<_, i64>(1)?));
    }
    Ok(Page { chunks: rows.len(), bytes, reached: Value::Object(reached) })
}
