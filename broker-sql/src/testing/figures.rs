//! Whether what was counted is what there is: for tests and for programs that break things on purpose.

use sqlx::postgres::PgConnection;
use sqlx::{Executor, Row};

use crate::refusal::Error;

/// Counts everything anew and compares; a line for each difference.
const COMPARE: &str = r#"-- compare figures
with real_depth as (
  select j.cluster_id, j.kind, case j.state when 'FAILED' then 'DEAD' else j.state end as state, coalesce(p.why, '') as waits, j.priority / 10 * 10 as priority, count(*) as n,
         min(date_bin('10 s', case j.state
           when 'QUEUED' then greatest(j.queued_at, j.run_after, j.created_at)
           when 'CLAIMED' then greatest(j.queued_at, j.created_at)
           when 'STARTED' then greatest(j.started_at, j.created_at)
           when 'UNKNOWN' then greatest(j.started_at, j.created_at)
           when 'FAILED' then null
           else j.created_at end, 'epoch')) as oldest
    from tendril_core.jobs j left join tendril_core.parked p on p.job_id = j.id
   where j.state not in ('SUCCESS', 'FAILED', 'CANCELLED', 'SKIPPED') or j.state = 'FAILED' and not j.mutating and j.attempts >= j.max_attempts
   group by 1, 2, 3, 4, 5),
claimable as (
  select q.cluster_id, j.kind, j.priority / 10 * 10 as priority, count(*) as n from tendril_core.queue q join tendril_core.jobs j on j.id = q.job_id group by 1, 2, 3),
claims as (
  select a.cluster_id, j.kind, j.mutating, a.started_at, a.outcome from tendril_core.attempts a join tendril_core.jobs j on j.id = a.job_id),
real_happenings as (
  select cluster_id, kind, 'claim' as what, '' as label, count(*)::float8 as n from claims group by 1, 2
  union all select cluster_id, kind, 'start', '', count(*) from claims where mutating and started_at is not null group by 1, 2
  union all select cluster_id, kind, 'run', '', count(*) from claims where outcome is not null and started_at is not null group by 1, 2
  union all select cluster_id, kind, 'end', outcome, count(*) from claims where outcome is not null group by 1, 2, 4
  union all select cluster_id, '', 'log', 'rows', count(*) from tendril.log_inbox group by 1
  union all select cluster_id, '', 'log', 'bytes', coalesce(sum(octet_length(log_chunk)) filter (where gap_kind is distinct from 'quota'), 0) from tendril.log_inbox group by 1),
counted_happenings as (
  select cluster_id, kind, what, case what when 'end' then label else '' end as label, sum(n)::float8 as n
    from tendril_core.happenings where what in ('claim', 'start', 'run', 'end') group by 1, 2, 3, 4
  union all select cluster_id, kind, what, l.label, case l.label when 'rows' then h.n else h.total end
    from tendril_core.happenings h, (values ('rows'), ('bytes')) l(label) where h.what = 'log')
select format('depth of %s %s %s, priority %s, cluster %s: counted %s since %s, there are %s since %s', kind, state, waits, priority, cluster_id, c.n, c.oldest, r.n, r.oldest)
  from real_depth r full join (select * from tendril_core.queue_depth) c using (cluster_id, kind, state, waits, priority)
 where c.n is distinct from r.n or c.oldest is distinct from r.oldest
union all
select format('age %s of %s %s %s: %s', since, kind, state, waits, n) from tendril_core.queue_ages where n <= 0
union all
select format('runnable %s of priority %s, cluster %s: counted %s, the queue has %s', kind, priority, cluster_id, c.n, q.n)
  from claimable q full join (select * from tendril_core.queue_depth where state = 'QUEUED' and waits = '') c using (cluster_id, kind, priority)
 where c.n is distinct from q.n
union all
select format('%s %s %s, cluster %s: counted %s, there are %s', what, label, kind, cluster_id, c.n, r.n)
  from real_happenings r full join counted_happenings c using (cluster_id, kind, what, label)
 where coalesce(c.n, 0) <> coalesce(r.n, 0)"#;

/// Folds what is left to fold, and tells where a figure is not what a real count comes to. Nobody else may be at work.
///
/// # Errors
/// The database is away or refuses.
pub async fn differences(operator: &mut PgConnection) -> Result<Vec<String>, Error> {
    const FOLD: &str = "-- fold\nselect tendril_core.duty_fold() + tendril_core.duty_fold_happenings()";
    while operator.fetch_one(FOLD).await?.try_get::<i64, _>(0)? > 0 {}
    let rows = operator.fetch_all(COMPARE).await?;
    Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
}
