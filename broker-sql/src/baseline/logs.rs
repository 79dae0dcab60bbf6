//! Logs under measurement: attempts that wait for a log, what became of it, and the same rows stored barely.

use bytes::Bytes;
use futures_util::{SinkExt, pin_mut};
use tokio_postgres::{Client, Statement};
use uuid::Uuid;

use super::{BaselineError, connect};
use crate::runner::LogRow;
use crate::runner::logs::{copy_into, store};

/// Jobs of one deployment.
const JOBS: u32 = 10;

/// What is stored of the logs of a cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// Rows.
    pub rows: i64,
    /// Lines in them, gaps and lines of Tendril's own aside.
    pub lines: i64,
    /// Lines that differ from each other.
    pub distinct: i64,
    /// Bytes of their text.
    pub bytes: i64,
    /// Rows that stand for lost output.
    pub gaps: i64,
    /// Milliseconds from a line's print to its commit: half of all lines took at most the first, 99 of 100 the second.
    pub commit_ms: [f64; 2],
}

/// Makes `streams` jobs wait in a cluster, whose leases are from now on long enough for a measurement.
///
/// # Errors
/// The server refused.
pub async fn wait_for_logs(url: &str, cluster: Uuid, streams: u32) -> Result<(), BaselineError> {
    const LONG: &str =
        "-- long leases\nupdate tendril_core.settings set lease_ttl = '1 h', heartbeat_interval = '10 s'";
    const SUBMIT: &str = "-- submit waiting jobs\ninsert into tendril.deployments (cluster_id, config_snapshot)
        select $1, jsonb_build_object('jobs', (select jsonb_agg(jsonb_build_object('name', 'j' || i, 'kind', 'exec',
               'reading', true, 'argv', jsonb_build_array('true'))) from generate_series(1, $2::int) i))
          from generate_series(1, $3::int)";
    let client = connect(url).await?;
    client.batch_execute(LONG).await?;
    let jobs = streams.min(JOBS);
    let parameters =
        (i32::try_from(jobs).unwrap_or(i32::MAX), i32::try_from(streams.div_ceil(jobs)).unwrap_or(i32::MAX));
    client.execute(SUBMIT, &[&cluster, &parameters.0, &parameters.1]).await?;
    Ok(())
}

/// Reads what is stored of lines that begin with their microsecond of print, 16 digits. The time of a commit is known only
/// to a server with `track_commit_timestamp`; the figures are 0 elsewhere.
///
/// # Errors
/// The server refused.
pub async fn stored(url: &str, cluster: Uuid) -> Result<Stored, BaselineError> {
    const SQL: &str = r"-- stored logs
        with rows as (
          select log_chunk, gap_kind, stream, case when current_setting('track_commit_timestamp')::bool
                 then extract(epoch from pg_xact_commit_timestamp(xmin)) end as committed
            from tendril.log_inbox where cluster_id = $1),
        lines as (
          select line, committed from rows, lateral string_to_table(rtrim(log_chunk, E'\n'), E'\n') line
           where gap_kind is null and stream <> 'system')
        select (select count(*) from rows), count(*), count(distinct substr(line, 17, 16)),
               (select coalesce(sum(octet_length(log_chunk)) filter (where gap_kind is null and stream <> 'system'), 0)::bigint from rows),
               (select count(*) from rows where gap_kind is not null),
               coalesce(percentile_disc(array[0.5, 0.99]) within group
                 (order by (1000 * (committed - substr(line, 1, 16)::numeric / 1000000))::float8), array[0, 0]::float8[])
          from lines";
    let client = connect(url).await?;
    client.batch_execute("-- no compiling\nset jit = off; set work_mem = '256MB'").await?;
    let row = client.query_one(SQL, &[&cluster]).await?;
    let commit_ms: Vec<f64> = row.try_get(5)?;
    Ok(Stored {
        rows: row.try_get(0)?,
        lines: row.try_get(1)?,
        distinct: row.try_get(2)?,
        bytes: row.try_get(3)?,
        gaps: row.try_get(4)?,
        commit_ms: [commit_ms.first().copied().unwrap_or_default(), commit_ms.last().copied().unwrap_or_default()],
    })
}

/// The log inbox with its columns, key and partitions, and without the check.
pub struct UncheckedInbox {
    client: Client,
    copy: Statement,
}

impl UncheckedInbox {
    /// Makes the table anew.
    ///
    /// # Errors
    /// The server refused.
    pub async fn open(url: &str) -> Result<Self, BaselineError> {
        const TABLE: &str = "-- unchecked inbox\ncreate schema if not exists bare; drop table if exists bare.log_inbox;
            create table bare.log_inbox (like tendril.log_inbox including defaults including constraints,
              primary key (deployment_id, attempt_id, seq, cluster_id, claim_day)) partition by range (claim_day);
            alter table bare.log_inbox alter column cluster_id set default '00000000-0000-0000-0000-000000000000';
            create table bare.log_day partition of bare.log_inbox default;
            do $$ begin
              alter table bare.log_day alter column log_chunk set compression lz4;
            exception when feature_not_supported then null;
            end $$";
        let client = connect(url).await?;
        client.batch_execute(TABLE).await?;
        let copy = client.prepare(&copy_into("bare.log_inbox")).await?;
        Ok(Self { client, copy })
    }

    /// Stores a batch in one transaction, as a runner does.
    ///
    /// # Errors
    /// The server refused.
    pub async fn store(&self, rows: &[LogRow<'_>]) -> Result<(), BaselineError> {
        Ok(store(&self.client, "-- log_begin\nbegin isolation level read committed", &self.copy, rows).await?)
    }
}

/// How rows of text are stored without Tendril.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// COPY of all rows of a batch.
    Copy,
    /// `INSERT .. SELECT unnest` of all rows of a batch.
    Unnest,
    /// One INSERT with a list of all rows of a batch, at most a thousand.
    MultiRow,
    /// One INSERT for each row, all of a batch in one transaction.
    PerRow,
}

/// A bare table of log rows: an id, an attempt, a number, a text.
pub struct BareLog {
    client: Client,
}

impl BareLog {
    /// Makes the table anew.
    ///
    /// # Errors
    /// The server refused.
    pub async fn open(url: &str) -> Result<Self, BaselineError> {
        const TABLE: &str = "-- bare log\ncreate schema if not exists bare; drop table if exists bare.logs;
            create table bare.logs (attempt_id uuid not null, seq bigint not null, log_chunk text not null, primary key (attempt_id, seq));
            do $$ begin
              alter table bare.logs alter column log_chunk set compression lz4;
            exception when feature_not_supported then null;
            end $$";
        let client = connect(url).await?;
        client.batch_execute(TABLE).await?;
        Ok(Self { client })
    }

    /// Stores a batch of rows of one attempt, numbered from `first` on; they hold neither tab nor backslash.
    ///
    /// # Errors
    /// The server refused.
    pub async fn store(&self, way: Way, attempt: Uuid, first: i64, rows: &[&str]) -> Result<(), BaselineError> {
        self.client.batch_execute("-- bare begin\nbegin").await?;
        match way {
            Way::Copy => self.copy(attempt, first, rows).await?,
            Way::Unnest => self.unnest(attempt, first, rows).await?,
            Way::MultiRow => self.multi_row(attempt, first, rows).await?,
            Way::PerRow => self.per_row(attempt, first, rows).await?,
        }
        self.client.batch_execute("-- bare commit\ncommit").await?;
        Ok(())
    }

    async fn copy(&self, attempt: Uuid, first: i64, rows: &[&str]) -> Result<(), BaselineError> {
        let sink = self.client.copy_in::<_, Bytes>("-- bare copy\ncopy bare.logs from stdin").await?;
        pin_mut!(sink);
        let mut text = String::new();
        for (seq, row) in (first..).zip(rows) {
            text.push_str(&format!("{attempt}\t{seq}\t"));
            text.push_str(&row.replace('\n', "\\n"));
            text.push('\n');
        }
        sink.send(text.into()).await?;
        sink.finish().await?;
        Ok(())
    }

    async fn unnest(&self, attempt: Uuid, first: i64, rows: &[&str]) -> Result<(), BaselineError> {
        const SQL: &str = "-- bare unnest\ninsert into bare.logs select $1, $2 + n - 1, t from unnest($3::text[]) with ordinality u(t, n)";
        self.client.execute(SQL, &[&attempt, &first, &rows]).await?;
        Ok(())
    }

    async fn multi_row(&self, attempt: Uuid, first: i64, rows: &[&str]) -> Result<(), BaselineError> {
        for (at, some) in rows.chunks(1000).enumerate() {
            let mut sql = String::from("-- bare rows\ninsert into bare.logs values ");
            let first = first + i64::try_from(at * 1000).unwrap_or_default();
            for (n, seq) in (0..some.len()).zip(first..) {
                let comma = if n == 0 { "" } else { "," };
                sql.push_str(&format!("{comma}('{attempt}',{seq},${})", n + 1));
            }
            let texts: Vec<&(dyn tokio_postgres::types::ToSql + Sync)> = some.iter().map(|row| row as _).collect();
            self.client.execute(&sql, &texts).await?;
        }
        Ok(())
    }

    async fn per_row(&self, attempt: Uuid, first: i64, rows: &[&str]) -> Result<(), BaselineError> {
        let insert = self.client.prepare("-- bare row\ninsert into bare.logs values ($1, $2, $3)").await?;
        for (seq, row) in (first..).zip(rows) {
            self.client.execute(&insert, &[&attempt, &seq, row]).await?;
        }
        Ok(())
    }
}
