//! Reads the figures of the installation. What is read was counted before: no statement here reads a table that grows with the
//! queue, with history or with logs.

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::clock::unix_seconds;
use crate::refusal::Error;
use crate::serve::figures::{Part, Value, Values};
use crate::serve::metrics::Metrics;
use crate::serve::trouble::Trouble;

/// How often queue, runners and what has happened are read.
const WORK: Duration = Duration::from_secs(5);
/// How often tables are looked at.
const ROOM: Duration = Duration::from_secs(60);

/// How an attempt may end, in the words of its label.
const OUTCOMES: [&str; 8] =
    ["success", "failure", "cancelled", "timeout", "released", "lost", "declared_lost", "outcome_unknown"];

/// Reads one part until `stop`.
pub async fn observe(pool: PgPool, part: Part, metrics: Arc<Metrics>, stop: CancellationToken) {
    let (what, every) = match part {
        Part::Work => ("figures", WORK),
        Part::Room => ("figures of tables", ROOM),
    };
    let mut trouble = Trouble::beside_the_pulse(what);
    loop {
        let read = tokio::select! {
            read = read(&pool, part) => read,
            () = stop.cancelled() => return,
        };
        let wait = match read {
            Ok(values) => {
                metrics.installation.replace(part, values);
                trouble.is_over();
                every
            }
            Err(error) => trouble.grows(&error),
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Reads a part once.
///
/// # Errors
/// The database is away or refuses.
pub async fn read(pool: &PgPool, part: Part) -> Result<Values, Error> {
    let mut values = Values::default();
    match part {
        Part::Work => {
            read_queue(pool, &mut values).await?;
            read_happenings(pool, &mut values).await?;
            read_clusters(pool, &mut values).await?;
            read_server(pool, &mut values).await?;
            values.gauge("broker_observed_timestamp_seconds", &[], unix_seconds());
        }
        Part::Room => read_room(pool, &mut values).await?,
    }
    Ok(values)
}

async fn read_queue(pool: &PgPool, values: &mut Values) -> Result<(), Error> {
    let rows = sqlx::query!(
        r#"-- observe queue
        select d.cluster_id::text as "cluster_id!", c.name as "cluster!", d.kind as "kind!", d.state as "state!",
               case d.state when 'QUEUED' then case when d.waits = 'later' then 'time' when d.waits = '' and c.paused_at is not null then 'resume' else d.waits end
                            when 'BLOCKED' then 'needs' when 'AWAITING_APPROVAL' then 'approval' when 'UNKNOWN' then 'runner' else '' end as "waiting_for!",
               d.priority::text as "priority!", d.n::float8 as "jobs!",
               coalesce(greatest(extract(epoch from clock_timestamp() - d.oldest), 0), 0)::float8 as "oldest!"
          from tendril_core.queue_depth d join tendril.clusters c on c.id = d.cluster_id where d.n > 0 and c.status <> 'REVOKED'"#
    );
    for row in rows.fetch_all(pool).await? {
        if row.state == "DEAD" {
            values.add("dead_letters", &[&row.cluster_id, &row.cluster, &row.kind], row.jobs);
            continue;
        }
        let labels = [&*row.cluster_id, &*row.cluster, &*row.kind, &*row.state, &*row.waiting_for, &*row.priority];
        values.gauge("queue_jobs", &labels, row.jobs);
        values.gauge("queue_oldest_seconds", &labels, row.oldest);
    }
    Ok(())
}

async fn read_happenings(pool: &PgPool, values: &mut Values) -> Result<(), Error> {
    let bounds = sqlx::query_scalar!(
        r#"-- observe bounds
        select tendril_core.histogram_bounds() as "bounds!""#
    );
    let bounds = bounds.fetch_one(pool).await?;
    let rows = sqlx::query!(
        r#"-- observe happenings
        select h.cluster_id::text as "cluster_id!", c.name as "cluster!", h.kind as "kind!", h.what as "what!", h.label as "label!",
               greatest(h.n, 0) as "n!", h.total as "total!"
          from tendril_core.happenings h join tendril.clusters c on c.id = h.cluster_id where c.status <> 'REVOKED'"#
    );
    for row in rows.fetch_all(pool).await? {
        let (cluster, by_kind) = ([&*row.cluster_id, &*row.cluster], [&*row.cluster_id, &*row.cluster, &*row.kind]);
        let n = row.n.unsigned_abs();
        let bucket = (row.label.parse().unwrap_or(usize::MAX), n, row.total);
        match row.what.as_str() {
            "claim" => values.bucket("job_claim_seconds", &by_kind, &bounds, bucket),
            "start" => values.bucket("job_start_seconds", &by_kind, &bounds, bucket),
            "run" => values.bucket("job_run_seconds", &by_kind, &bounds, bucket),
            "lag" => values.bucket("log_lag_seconds", &cluster, &bounds, bucket),
            "end" => {
                let labels = [&*row.cluster_id, &*row.cluster, &*row.kind, &*row.label.replace(' ', "_")];
                values.put("attempts", &labels, Value::Count(n));
            }
            "lease" => values.put("leases_lost", &cluster, Value::Count(n)),
            "log" => {
                values.put("log_rows", &cluster, Value::Count(n));
                // Counted in whole bytes, exactly up to 2^53.
                values.put("log_bytes", &cluster, Value::Count(row.total.max(0.0) as u64));
            }
            // Of a newer schema.
            _ => {}
        }
    }
    Ok(())
}

async fn read_clusters(pool: &PgPool, values: &mut Values) -> Result<(), Error> {
    let kinds = sqlx::query!(
        "-- observe kinds
        select kind, mutating from tendril_core.kinds"
    );
    let kinds = kinds.fetch_all(pool).await?;
    let rows = sqlx::query!(
        r#"-- observe clusters
        with online as (
          select l.cluster_id, count(*) as runners, sum(r.slots) as slots
            from tendril_core.runner_leases l join tendril_core.runners r on r.id = l.runner_id
           where l.lease_expires_at > clock_timestamp() group by 1),
        stored as (
          select v.cluster_id, sum(v.bytes) as bytes from tendril_core.log_volume v
           where v.day = (clock_timestamp() at time zone 'UTC')::date group by 1),
        keys as (
          select h.cluster_id, count(*) as held, count(*) filter (where a.ended_at is not null or a.superseded_at is not null) as orphaned
            from tendril_core.held_keys h join tendril_core.attempts a on a.id = h.attempt_id group by 1),
        late as (
          select j.cluster_id, count(*) as jobs from tendril_core.jobs j
           where j.state = 'STARTED' and j.deadline_at is not null and j.deadline_at < clock_timestamp() group by 1),
        taken as (
          select r.cluster_id, array_remove(array_agg(distinct k.kind), null) as kinds
            from tendril_core.runners r left join tendril_core.kinds k on 'kind=' || k.kind = any (r.labels) group by 1)
        select c.id::text as "id!", c.name, coalesce(o.runners, 0)::float8 as "online!", coalesce(o.slots, 0)::float8 as "slots!",
               coalesce(s.bytes, 0)::float8 as "bytes!", coalesce(k.held, 0)::float8 as "held!", coalesce(k.orphaned, 0)::float8 as "orphaned!",
               coalesce(l.jobs, 0)::float8 as "overdue!", t.kinds as "taken?"
          from tendril.clusters c left join online o on o.cluster_id = c.id left join stored s on s.cluster_id = c.id
          left join keys k on k.cluster_id = c.id left join late l on l.cluster_id = c.id
          left join taken t on t.cluster_id = c.id
         where c.status <> 'REVOKED'"#
    );
    for row in rows.fetch_all(pool).await? {
        let labels = [&*row.id, &*row.name];
        for (name, value) in [
            ("runners_online", row.online),
            ("slots_online", row.slots),
            ("log_bytes_today", row.bytes),
            ("keys_held", row.held),
            ("keys_orphaned", row.orphaned),
            ("jobs_overdue", row.overdue),
        ] {
            values.gauge(name, &labels, value);
        }
        // Without a runner nothing of this can happen, nor with a kind that none of its runners takes.
        let Some(taken) = row.taken else { continue };
        for counter in ["leases_lost", "log_rows", "log_bytes"] {
            values.count_from_zero(counter, &labels);
        }
        for kind in kinds.iter().filter(|kind| taken.contains(&kind.kind)) {
            from_zero(values, &[labels[0], labels[1], &kind.kind], kind.mutating);
        }
    }
    Ok(())
}

/// At zero, so that the first one of a cluster and kind is seen to rise.
fn from_zero(values: &mut Values, by_kind @ [id, name, kind]: &[&str; 3], mutating: bool) {
    // The one kind that may do either.
    if !mutating || *kind == "exec" {
        values.add("dead_letters", by_kind, 0.0);
    }
    for outcome in OUTCOMES.into_iter().filter(|outcome| mutating || *outcome != "outcome_unknown") {
        values.count_from_zero("attempts", &[id, name, kind, outcome]);
    }
}

async fn read_server(pool: &PgPool, values: &mut Values) -> Result<(), Error> {
    let row = sqlx::query!(
        r#"-- observe server
        select (select count(*) from generate_series(1, s.partitions_ahead) d
                 where to_regclass('tendril_core.log_day_' || to_char((clock_timestamp() at time zone 'UTC')::date + d, 'YYYYMMDD')) is not null)::float8
                 as "partitions!",
               (select sum(b.numbackends) from pg_stat_database b)::float8 as "connections!",
               current_setting('max_connections')::float8 as "connections_max!",
               (select count(*) from (select from tendril_core.queue_deltas limit 100000) d)::float8 as "queue!",
               (select count(*) from (select from tendril_core.happening_deltas limit 100000) d)::float8 as "happenings!"
          from tendril_core.settings s"#
    );
    let row = row.fetch_one(pool).await?;
    values.gauge("figures_backlog", &["queue"], row.queue);
    values.gauge("figures_backlog", &["happenings"], row.happenings);
    values.gauge("log_partitions_ahead", &[], row.partitions);
    values.gauge("database_connections", &[], row.connections);
    values.gauge("database_connections_max", &[], row.connections_max);
    Ok(())
}

async fn read_room(pool: &PgPool, values: &mut Values) -> Result<(), Error> {
    let rows = sqlx::query!(
        r#"-- observe room
        select of_table as "of_table!", of_index, bytes::float8 as "bytes!", bloat_bytes::float8 as bloat, dead_rows::float8 as dead from tendril_core.table_room()"#
    );
    for row in rows.fetch_all(pool).await? {
        let (names, labels) = match &row.of_index {
            Some(index) => (["index_bytes", "index_bloat_bytes"], vec![&*row.of_table, index.as_str()]),
            None => (["table_bytes", "table_bloat_bytes"], vec![&*row.of_table]),
        };
        values.gauge(names[0], &labels, row.bytes);
        if let Some(bloat) = row.bloat {
            values.gauge(names[1], &labels, bloat);
        }
        if let Some(dead) = row.dead {
            values.gauge("table_dead_rows", &labels, dead);
        }
    }
    Ok(())
}
