//! For programs that break things on purpose: a database of their own with short times, a witness of every transition,
//! and all that an installation remembers, as plain values that a checker can read.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor};
use uuid::Uuid;

use crate::refusal::Error;
use crate::session::Address;

/// All that an installation remembers. Times are microseconds since 1970 by the database's clock.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Dump {
    /// What was submitted.
    pub deployments: Vec<DeploymentRow>,
    /// What that expanded to.
    pub jobs: Vec<JobRow>,
    /// Claims of jobs, by fence.
    pub attempts: Vec<AttemptRow>,
    /// What became known about attempts and changed nothing.
    pub notes: Vec<NoteRow>,
    /// Log chunks, by attempt and number.
    pub logs: Vec<LogChunk>,
    /// State keys that are held.
    pub held_keys: Vec<KeyRow>,
    /// Starts of runner processes.
    pub runners: Vec<RunnerRow>,
    /// What the witness saw: every change of a job's state or attempt, in order.
    pub transitions: Vec<Transition>,
    /// Where a figure for Prometheus is not what a real count comes to.
    #[serde(default)]
    pub wrong_figures: Vec<String>,
}

/// A row of `deployments`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeploymentRow {
    /// Its id.
    pub id: Uuid,
    /// Its status.
    pub status: String,
    /// Why it failed.
    pub error_message: Option<String>,
    /// Whether somebody asked to cancel it.
    pub cancel_requested: bool,
    /// When it ended.
    pub ended_us: Option<i64>,
}

/// A job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobRow {
    /// Its id.
    pub id: Uuid,
    /// The deployment it belongs to.
    pub deployment_id: Uuid,
    /// Unique within the deployment.
    pub name: String,
    /// `exec` and so on.
    pub kind: String,
    /// Whether it changes the world.
    pub mutating: bool,
    /// Its state.
    pub state: String,
    /// Why it is in that state.
    pub reason: Option<String>,
    /// How many attempts were claimed.
    pub attempts: i16,
    /// How many may be.
    pub max_attempts: i16,
    /// The current attempt.
    pub attempt_id: Option<Uuid>,
    /// Its fence.
    pub fence: Option<i64>,
    /// State that it changes.
    pub state_key: Option<String>,
    /// What the accepted attempt reported.
    pub result: Option<Value>,
    /// When it ended.
    pub ended_us: Option<i64>,
    /// When an UNKNOWN one ends.
    pub deadline_us: Option<i64>,
}

/// An attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttemptRow {
    /// Its id.
    pub id: Uuid,
    /// Its fence.
    pub fence: i64,
    /// The job.
    pub job_id: Uuid,
    /// 1, 2, 3 within the job.
    pub ordinal: i16,
    /// Who claimed it.
    pub runner_id: Uuid,
    /// When it was claimed.
    pub claimed_us: i64,
    /// When it started.
    pub started_us: Option<i64>,
    /// When its finish was accepted.
    pub ended_us: Option<i64>,
    /// When the job went on without it.
    pub superseded_us: Option<i64>,
    /// Number of its last log record; -1 for none.
    pub log_end: Option<i64>,
    /// open, complete or incomplete.
    pub log_state: String,
    /// How it ended.
    pub outcome: Option<String>,
    /// The accepted report.
    pub report: Option<Value>,
}

/// A note on an attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NoteRow {
    /// The attempt.
    pub attempt_id: Uuid,
    /// In one sentence.
    pub what: String,
}

/// A chunk of an attempt's log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogChunk {
    /// The attempt.
    pub attempt_id: Uuid,
    /// First record.
    pub seq: i64,
    /// Last record.
    pub seq_to: i64,
    /// stdout, stderr or system.
    pub stream: String,
    /// The records' text.
    pub text: String,
    /// Set on a row that stands for lost output.
    pub gap_kind: Option<String>,
}

/// A held key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeyRow {
    /// The key.
    pub state_key: String,
    /// Who holds it.
    pub attempt_id: Uuid,
    /// The job of that attempt.
    pub job_id: Uuid,
    /// Whether that job has ended.
    pub job_ended: bool,
}

/// A start of a runner process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunnerRow {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: String,
}

/// A change of a job's state or attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Transition {
    /// Order in which they were seen; for one job that is their true order.
    pub n: i64,
    /// The job.
    pub job_id: Uuid,
    /// The state before; none for a job that came to be.
    pub was: Option<String>,
    /// The state after.
    pub became: String,
    /// The current attempt after.
    pub attempt_id: Option<Uuid>,
    /// When, by the database's clock.
    pub at_us: i64,
}

/// How far the work has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Headway {
    /// Jobs that have not ended.
    pub unfinished: i64,
    /// Number of the newest transition.
    pub transitions: i64,
    /// Ids of attempts whose finish was accepted and whose log is not stored to its end, with the runner's name.
    pub logs_behind: Vec<(Uuid, String)>,
}

/// A session that a database of the server has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The backend's process id.
    pub pid: i32,
    /// What it says it is, as in `tendril-runner logs`.
    pub application: String,
}

/// The settings of lease and deadline that a short run needs; milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    /// How long a runner may stay silent.
    pub lease_ttl_ms: i32,
    /// How often it renews.
    pub heartbeat_ms: i32,
    /// Added to a lost job's own times before it ends.
    pub unknown_grace_ms: i32,
}

/// Creates a database and a portal's role on a server where the address may do both; nobody else uses either name.
///
/// # Errors
/// What the server refuses.
pub async fn create_database(server: &Address, name: &str, portal_password: &str) -> Result<(), Error> {
    let mut session = server.connect("tendril-chaos set-up").await?;
    for statement in [
        format!("-- chaos database\ncreate database \"{name}\""),
        format!("-- chaos portal\ncreate role \"{name}_portal\" login password '{portal_password}'"),
    ] {
        session.execute(AssertSqlSafe(statement)).await?;
    }
    Ok(())
}

/// Shortens the times of a fresh installation and has every transition of a job witnessed.
///
/// # Errors
/// What the database refuses.
pub async fn prepare(operator: &mut PgConnection, times: Times) -> Result<(), Error> {
    let set = "-- shorten times\nupdate tendril_core.settings set lease_ttl = $1 * interval '1 ms', \
        heartbeat_interval = $2 * interval '1 ms', unknown_kill_grace = $3 * interval '1 ms'";
    sqlx::query(set)
        .bind(times.lease_ttl_ms)
        .bind(times.heartbeat_ms)
        .bind(times.unknown_grace_ms)
        .execute(&mut *operator)
        .await?;
    operator.execute(WITNESS).await?;
    Ok(())
}

/// A test instrument: it exists in databases that are to be thrown away only.
const WITNESS: &str = "-- witness of transitions
create schema tendril_witness;
create table tendril_witness.transitions (
  n bigint generated always as identity primary key, job_id uuid not null, was text, became text not null,
  attempt_id uuid, at timestamptz not null default clock_timestamp());
create function tendril_witness.see() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  insert into tendril_witness.transitions (job_id, was, became, attempt_id)
    values (new.id, case when tg_op = 'UPDATE' then old.state end, new.state, new.attempt_id);
  return null;
end $$;
create trigger see_new after insert on tendril_core.jobs for each row execute function tendril_witness.see();
create trigger see_changed after update on tendril_core.jobs for each row
  when (old.state is distinct from new.state or old.attempt_id is distinct from new.attempt_id)
  execute function tendril_witness.see();";

/// How far the work has come.
///
/// # Errors
/// What the database refuses.
pub async fn headway(operator: &mut PgConnection) -> Result<Headway, Error> {
    let sql = "-- headway
        select jsonb_build_object(
          'unfinished', (select count(*) from tendril_core.jobs where state not in ('SUCCESS', 'FAILED', 'CANCELLED', 'SKIPPED')),
          'transitions', (select coalesce(max(n), 0) from tendril_witness.transitions),
          'logs_behind', (select coalesce(jsonb_agg(jsonb_build_array(a.id, r.name) order by a.fence), '[]')
             from tendril_core.attempts a join tendril_core.runners r on r.id = a.runner_id
            where a.ended_at is not null and a.log_end > tendril_core.stored_position(a)))";
    read(operator, sql).await
}

/// Keys that are held.
///
/// # Errors
/// What the database refuses.
pub async fn held_keys(operator: &mut PgConnection) -> Result<Vec<KeyRow>, Error> {
    read(operator, HELD_KEYS).await
}

/// A job that waits for people because the database was set back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoubtedRow {
    /// Its deployment.
    pub deployment_id: Uuid,
    /// Its name there.
    pub name: String,
    /// What people are told.
    pub reason: Option<String>,
}

/// Jobs that wait for people because the database was set back.
///
/// # Errors
/// What the database refuses.
pub async fn doubted(operator: &mut PgConnection) -> Result<Vec<DoubtedRow>, Error> {
    let sql = "-- doubted jobs
        select coalesce(jsonb_agg(jsonb_build_object('deployment_id', j.deployment_id, 'name', j.name, 'reason', j.reason) order by j.id), '[]')
          from tendril_core.jobs j where j.doubted and j.state = 'AWAITING_APPROVAL'";
    read(operator, sql).await
}

/// Sessions of runners and of `serve` in this database.
///
/// # Errors
/// What the database refuses.
pub async fn sessions(operator: &mut PgConnection) -> Result<Vec<Session>, Error> {
    let sql = "-- sessions\nselect pid, application_name from pg_stat_activity where datname = current_database() \
        and application_name like any (array['tendril-runner %', 'tendril-broker serve%']) order by pid";
    let rows = sqlx::query_as::<_, (i32, String)>(sql).fetch_all(operator).await?;
    Ok(rows.into_iter().map(|(pid, application)| Session { pid, application }).collect())
}

/// Ends a session as an administrator would; false when it was gone.
///
/// # Errors
/// What the database refuses.
pub async fn end_session(operator: &mut PgConnection, pid: i32) -> Result<bool, Error> {
    let ended = sqlx::query_scalar("-- end session\nselect pg_terminate_backend($1)").bind(pid);
    Ok(ended.fetch_one(operator).await?)
}

/// Keeps all log writers' rows to this session until it is closed: nobody can store log rows meanwhile. False, and
/// nothing is kept, while no runner's log session holds one.
///
/// # Errors
/// What the database refuses.
pub async fn hold_log_writers(operator: &mut PgConnection) -> Result<bool, Error> {
    let sql = "-- hold log writers\nbegin; select id from tendril_core.log_writers for no key update";
    operator.execute(sql).await?;
    let held = "-- held writers\nselect exists (select from tendril_core.log_writers w join pg_stat_activity s on s.pid = w.pid \
        where s.application_name like 'tendril-runner logs%')";
    let held: bool = sqlx::query_scalar(held).fetch_one(&mut *operator).await?;
    if !held {
        operator.execute("-- let go\nrollback").await?;
    }
    Ok(held)
}

/// Moves the partitions that hold log rows to a tablespace of their own, which may be small. For a superuser.
///
/// # Errors
/// What the database refuses.
pub async fn keep_logs_at(superuser: &mut PgConnection, folder: &str) -> Result<(), Error> {
    let create = format!("-- tablespace of logs\ncreate tablespace tendril_chaos_logs location '{folder}'");
    superuser.execute(AssertSqlSafe(create)).await?;
    let leaves = "-- partitions of logs\nselect t.relid::regclass::text from pg_partition_tree('tendril.deployment_logs') t \
        where t.isleaf";
    for leaf in sqlx::query_scalar::<_, String>(leaves).fetch_all(&mut *superuser).await? {
        let sql = format!("-- move partition\nalter table {leaf} set tablespace tendril_chaos_logs");
        superuser.execute(AssertSqlSafe(sql)).await?;
    }
    Ok(())
}

/// Moves all tables of the queue, and their indexes, to a tablespace of their own, which may be small. For a superuser.
///
/// # Errors
/// What the database refuses.
pub async fn keep_queue_at(superuser: &mut PgConnection, folder: &str) -> Result<(), Error> {
    let create = format!("-- tablespace of the queue\ncreate tablespace tendril_chaos_queue location '{folder}'");
    superuser.execute(AssertSqlSafe(create)).await?;
    let all = "-- tables of the queue\nselect format('alter %s %s set tablespace tendril_chaos_queue', \
        case c.relkind when 'i' then 'index' else 'table' end, c.oid::regclass) \
        from pg_class c where c.relnamespace = 'tendril_core'::regnamespace and c.relkind in ('r', 'i') and not c.relispartition";
    for move_one in sqlx::query_scalar::<_, String>(all).fetch_all(&mut *superuser).await? {
        superuser.execute(AssertSqlSafe(format!("-- move\n{move_one}"))).await?;
    }
    Ok(())
}

/// What is stored of logs whose lines say which they are: a moment of 16 digits, the stream's number, the line's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbered {
    /// Logs.
    pub logs: i64,
    /// Lines in them.
    pub lines: i64,
    /// Bytes of their text.
    pub bytes: i64,
    /// Lines that are in another log or in another place than they were printed.
    pub misplaced: i64,
    /// Rows that stand for lost output.
    pub gaps: i64,
}

/// Looks through all numbered lines of a cluster.
///
/// # Errors
/// What the database refuses.
pub async fn numbered(operator: &mut PgConnection, cluster: Uuid) -> Result<Numbered, Error> {
    let sql = "-- numbered lines
        with lines as (
          select i.attempt_id, i.seq + l.n - 1 as due, substr(l.line, 18, 6) as stream, substr(l.line, 25, 8)::bigint as number,
                 octet_length(l.line) + 1 as bytes
            from tendril.log_inbox i, lateral string_to_table(rtrim(i.log_chunk, E'\\n'), E'\\n') with ordinality l(line, n)
           where i.cluster_id = $1 and i.gap_kind is null),
        logs as (
          select count(*) as lines, sum(bytes) as bytes, count(*) filter (where number <> due) as misplaced, min(stream) <> max(stream) as mixed
            from lines group by attempt_id)
        select count(*), coalesce(sum(lines), 0)::bigint, coalesce(sum(bytes), 0)::bigint,
               coalesce(sum(case when mixed then lines else misplaced end), 0)::bigint,
               (select count(*) from tendril.log_inbox where cluster_id = $1 and gap_kind is not null)
          from logs";
    operator.execute("-- no compiling\nset jit = off").await?;
    let (logs, lines, bytes, misplaced, gaps) = sqlx::query_as(sql).bind(cluster).fetch_one(operator).await?;
    Ok(Numbered { logs, lines, bytes, misplaced, gaps })
}

/// Keeps little of the journal for later, so that a small disk is enough for it. For a superuser.
///
/// # Errors
/// What the database refuses.
pub async fn keep_journal_small(superuser: &mut PgConnection) -> Result<(), Error> {
    for sql in
        ["alter system set min_wal_size = '32MB'", "alter system set max_wal_size = '96MB'", "select pg_reload_conf()"]
    {
        superuser.execute(sqlx::raw_sql(AssertSqlSafe(format!("-- keep journal small\n{sql}")))).await?;
    }
    Ok(())
}

/// Writes to the journal and goes on to its next segment. For a superuser.
///
/// # Errors
/// What the database refuses; the connection breaks where there is no room.
pub async fn use_up_journal(superuser: &mut PgConnection) -> Result<(), Error> {
    superuser.execute("-- write\nselect pg_logical_emit_message(true, 'chaos', 'full')").await?;
    superuser.execute("-- next segment\nselect pg_switch_wal()").await?;
    superuser.execute("-- write\nselect pg_logical_emit_message(true, 'chaos', 'full')").await?;
    Ok(())
}

/// All that this installation remembers.
///
/// # Errors
/// What the database refuses.
pub async fn dump(operator: &mut PgConnection) -> Result<Dump, Error> {
    Ok(Dump {
        deployments: read(operator, DEPLOYMENTS).await?,
        jobs: read(operator, JOBS).await?,
        attempts: read(operator, ATTEMPTS).await?,
        notes: read(operator, NOTES).await?,
        logs: read(operator, LOGS).await?,
        held_keys: read(operator, HELD_KEYS).await?,
        runners: read(operator, RUNNERS).await?,
        transitions: read(operator, TRANSITIONS).await?,
        wrong_figures: super::figures::differences(operator).await?,
    })
}

async fn read<T: serde::de::DeserializeOwned>(operator: &mut PgConnection, sql: &'static str) -> Result<T, Error> {
    let value: Value = sqlx::query_scalar(sql).fetch_one(operator).await?;
    T::deserialize(value).map_err(|error| Error::Reply(sqlx::Error::Decode(error.into())))
}

const DEPLOYMENTS: &str = "-- dump deployments
    select coalesce(jsonb_agg(jsonb_build_object('id', id, 'status', status, 'error_message', error_message,
      'cancel_requested', cancel_requested_at is not null,
      'ended_us', (extract(epoch from ended_at) * 1000000)::bigint) order by id), '[]') from tendril.deployments";

const JOBS: &str = "-- dump jobs
    select coalesce(jsonb_agg(jsonb_build_object('id', id, 'deployment_id', deployment_id, 'name', name, 'kind', kind, 'mutating', mutating,
      'state', state, 'reason', reason, 'attempts', attempts, 'max_attempts', max_attempts, 'attempt_id', attempt_id, 'fence', fence,
      'state_key', state_key, 'result', result, 'ended_us', (extract(epoch from ended_at) * 1000000)::bigint,
      'deadline_us', (extract(epoch from deadline_at) * 1000000)::bigint) order by deployment_id, name), '[]') from tendril_core.jobs";

const ATTEMPTS: &str = "-- dump attempts
    select coalesce(jsonb_agg(jsonb_build_object('id', id, 'fence', fence, 'job_id', job_id, 'ordinal', ordinal, 'runner_id', runner_id,
      'claimed_us', (extract(epoch from claimed_at) * 1000000)::bigint, 'started_us', (extract(epoch from started_at) * 1000000)::bigint,
      'ended_us', (extract(epoch from ended_at) * 1000000)::bigint, 'superseded_us', (extract(epoch from superseded_at) * 1000000)::bigint,
      'log_end', log_end, 'log_state', log_state, 'outcome', outcome, 'report', report) order by fence), '[]') from tendril_core.attempts";

const NOTES: &str = "-- dump notes
    select coalesce(jsonb_agg(jsonb_build_object('attempt_id', attempt_id, 'what', what) order by noted_at), '[]') from tendril_core.attempt_notes";

const LOGS: &str = "-- dump logs
    select coalesce(jsonb_agg(jsonb_build_object('attempt_id', attempt_id, 'seq', seq, 'seq_to', seq_to, 'stream', stream, 'text', log_chunk,
      'gap_kind', gap_kind) order by attempt_id, seq, id), '[]') from tendril.log_inbox";

const HELD_KEYS: &str = "-- dump held keys
    select coalesce(jsonb_agg(jsonb_build_object('state_key', h.state_key, 'attempt_id', h.attempt_id, 'job_id', h.job_id,
      'job_ended', j.ended_at is not null) order by h.state_key), '[]')
      from tendril_core.held_keys h join tendril_core.jobs j on j.id = h.job_id";

const RUNNERS: &str = "-- dump runners
    select coalesce(jsonb_agg(jsonb_build_object('id', id, 'name', name) order by registered_at), '[]') from tendril_core.runners";

const TRANSITIONS: &str = "-- dump transitions
    select coalesce(jsonb_agg(jsonb_build_object('n', n, 'job_id', job_id, 'was', was, 'became', became, 'attempt_id', attempt_id,
      'at_us', (extract(epoch from at) * 1000000)::bigint) order by n), '[]') from tendril_witness.transitions";
