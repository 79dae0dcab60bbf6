-- How deep the queue is and how long its oldest jobs wait, told apart by what they wait for. It is counted where it changes and
-- folded by serve, so that a look costs the same with a thousand jobs and with ten million.
--
-- A count is the difference of what rows are after a statement and what they were before it: whoever changes jobs and parked, in
-- whatever order, it comes to what there is.

-- All that this migration and the next two change, before anything is changed, in the order in which running functions write it: a
-- lost attempt is superseded before its job is queued again, under its runner's lease. The strongest mode at once: who would take a
-- stronger one later, waits for readers who wait for him.
lock table tendril_core.runner_leases, tendril_core.attempts, tendril_core.jobs in share row exclusive mode;
lock table tendril_core.parked, tendril_core.queue_deltas, tendril_core.queue_depth in access exclusive mode;

alter table tendril_core.queue_deltas
  add column waits    text        not null default '',
  add column priority smallint    not null default 0,
  add column since    timestamptz not null default '-infinity';
comment on column tendril_core.queue_deltas.state is 'The state; DEAD for a dead letter.';
comment on column tendril_core.queue_deltas.waits is 'Of QUEUED jobs, why they are parked: key, limit or later. Empty: they are not.';
comment on column tendril_core.queue_deltas.priority is 'Tens of the priority: 20 for 20 to 29.';
comment on column tendril_core.queue_deltas.since is 'When the wait or the run began, cut to 10 s; -infinity where it is of no interest.';

alter table tendril_core.queue_depth
  add column waits    text        not null default '',
  add column priority smallint    not null default 0,
  add column oldest   timestamptz,
  drop constraint queue_depth_pkey,
  add primary key (cluster_id, kind, state, waits, priority);
comment on column tendril_core.queue_depth.state is 'A state that is not terminal; DEAD for dead letters.';
comment on column tendril_core.queue_depth.waits is 'As in queue_deltas.';
comment on column tendril_core.queue_depth.priority is 'As in queue_deltas.';
comment on column tendril_core.queue_depth.oldest is 'Since when the oldest of them waits or runs, cut to 10 s.';

create table tendril_core.queue_ages (
  cluster_id  uuid        not null,
  kind        text        not null,
  state       text        not null,
  waits       text        not null,
  priority    smallint    not null,
  since       timestamptz not null,
  n           bigint      not null,
  primary key (cluster_id, kind, state, waits, priority, since)
) with (fillfactor = 50);
comment on table  tendril_core.queue_ages is 'queue_depth by the time since when: the first row of each is its oldest jobs.';
comment on column tendril_core.queue_ages.cluster_id is 'The cluster.';
comment on column tendril_core.queue_ages.kind is 'The jobs'' kind.';
comment on column tendril_core.queue_ages.state is 'As in queue_depth.';
comment on column tendril_core.queue_ages.waits is 'As in queue_deltas.';
comment on column tendril_core.queue_ages.priority is 'As in queue_deltas.';
comment on column tendril_core.queue_ages.since is 'As in queue_deltas.';
comment on column tendril_core.queue_ages.n is 'How many.';

-- ---------------------------------------------------------------------------------------------------------------
-- Where it changes
-- ---------------------------------------------------------------------------------------------------------------

-- name of the function: count_jobs
-- Written out twice, since a function for each row would cost more than the rest.
create or replace function tendril_core.count_jobs() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  if tg_op = 'INSERT' then
    insert into tendril_core.queue_deltas (cluster_id, kind, state, priority, since, n)
      select j.cluster_id, j.kind, j.state, j.priority / 10 * 10,
             date_bin('10 s', case when j.state = 'QUEUED' then greatest(j.queued_at, j.run_after, j.created_at) else j.created_at end, 'epoch'), count(*)
        from after_rows j
       where j.state not in ('SUCCESS', 'FAILED', 'CANCELLED', 'SKIPPED') group by 1, 2, 3, 4, 5;
  else
    insert into tendril_core.queue_deltas (cluster_id, kind, state, priority, since, n)
      select c.cluster_id, c.kind, case c.state when 'FAILED' then 'DEAD' else c.state end, c.priority / 10 * 10,
             date_bin('10 s', case c.state
               when 'QUEUED' then greatest(c.queued_at, c.run_after, c.created_at)
               when 'CLAIMED' then greatest(c.queued_at, c.created_at)
               when 'STARTED' then greatest(c.started_at, c.created_at)
               when 'UNKNOWN' then greatest(c.started_at, c.created_at)
               when 'FAILED' then '-infinity'
               else c.created_at end, 'epoch'), sum(c.n)
        from (select b.cluster_id, b.kind, b.state, b.priority, b.created_at, b.queued_at, b.run_after, b.started_at, b.mutating, b.attempts, b.max_attempts, -1 as n
                from before_rows b
              union all
              select a.cluster_id, a.kind, a.state, a.priority, a.created_at, a.queued_at, a.run_after, a.started_at, a.mutating, a.attempts, a.max_attempts, 1
                from after_rows a) c
       where c.state not in ('SUCCESS', 'FAILED', 'CANCELLED', 'SKIPPED') or c.state = 'FAILED' and not c.mutating and c.attempts >= c.max_attempts
       group by 1, 2, 3, 4, 5 having sum(c.n) <> 0;
  end if;
  return null;
end $$;

alter table tendril_core.parked
  add column kind     text,
  add column priority smallint,
  add column since    timestamptz;
update tendril_core.parked p set kind = j.kind, priority = j.priority / 10 * 10, since = date_bin('10 s', greatest(j.queued_at, j.run_after, j.created_at), 'epoch')
  from tendril_core.jobs j where j.id = p.job_id;
comment on column tendril_core.parked.kind is 'Copied from the job when it was parked, for the count.';
comment on column tendril_core.parked.priority is 'Likewise: tens of its priority.';
comment on column tendril_core.parked.since is 'Likewise: since when it has been queued, cut to 10 s.';

create function tendril_core.describe_parked() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  select j.kind, j.priority / 10 * 10, date_bin('10 s', greatest(j.queued_at, j.run_after, j.created_at), 'epoch') into new.kind, new.priority, new.since
    from tendril_core.jobs j where j.id = new.job_id;
  return new;
end $$;
comment on function tendril_core.describe_parked is 'Copies into a parked row what it is counted by: it leaves as what it came.';
create trigger describe_parked before insert on tendril_core.parked for each row execute function tendril_core.describe_parked();

-- name of the function: count_parked
-- All QUEUED jobs are counted as claimable by count_jobs; here those are taken off that are not.
create function tendril_core.count_parked() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  insert into tendril_core.queue_deltas (cluster_id, kind, state, waits, priority, since, n)
    select p.cluster_id, p.kind, 'QUEUED', v.waits, p.priority, p.since, case when (v.waits = '') = (tg_op = 'INSERT') then -count(*) else count(*) end
      from changed p cross join lateral (values (p.why), ('')) v(waits)
     where p.kind is not null group by 1, 2, 4, 5, 6;
  return null;
end $$;
comment on function tendril_core.count_parked is 'Counts who is parked, and who is no longer, without making anybody wait: inserts only.';
create trigger count_newly_parked after insert on tendril_core.parked
  referencing new table as changed for each statement execute function tendril_core.count_parked();
create trigger count_no_longer_parked after delete on tendril_core.parked
  referencing old table as changed for each statement execute function tendril_core.count_parked();

-- Who is parked is nothing new to claim.
drop trigger ring on tendril_core.queue_deltas;
create constraint trigger ring after insert on tendril_core.queue_deltas
  deferrable initially deferred for each row when (new.state = 'QUEUED' and new.waits = '' and new.n > 0) execute function tendril_core.ring();

-- ---------------------------------------------------------------------------------------------------------------
-- Folding
-- ---------------------------------------------------------------------------------------------------------------

-- name of the function: duty_fold
-- A delta of a job that left may come here before the one of its coming: then a count is negative until the next turn.
create or replace function tendril_core.duty_fold() returns bigint
language plpgsql set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set enable_bitmapscan = off set enable_material = off set jit = off as $$
declare
  v_sums tendril_core.queue_ages[];
  v_n    bigint;
begin
  with gone as (
    delete from tendril_core.queue_deltas where id in (
      select id from tendril_core.queue_deltas order by id limit 20000 for update skip locked)
    returning cluster_id, kind, state, waits, priority, since, n)
  select array_agg((s.cluster_id, s.kind, s.state, s.waits, s.priority, s.since, s.n)::tendril_core.queue_ages) filter (where s.n <> 0), coalesce(sum(s.deltas), 0)
    into v_sums, v_n
    from (select g.cluster_id, g.kind, g.state, g.waits, g.priority, g.since, sum(g.n) as n, count(*) as deltas from gone g group by 1, 2, 3, 4, 5, 6) s;
  if v_sums is null then
    return v_n;
  end if;
  insert into tendril_core.queue_ages as q (cluster_id, kind, state, waits, priority, since, n)
    select u.* from unnest(v_sums) u where isfinite(u.since) order by 1, 2, 3, 4, 5, 6
    on conflict (cluster_id, kind, state, waits, priority, since) do update set n = q.n + excluded.n;
  delete from tendril_core.queue_ages q using unnest(v_sums) u
   where (q.cluster_id, q.kind, q.state, q.waits, q.priority, q.since) = (u.cluster_id, u.kind, u.state, u.waits, u.priority, u.since) and q.n = 0;
  insert into tendril_core.queue_depth as d (cluster_id, kind, state, waits, priority, n, oldest)
    select s.*, (select a.since from tendril_core.queue_ages a
                  where (a.cluster_id, a.kind, a.state, a.waits, a.priority) = (s.cluster_id, s.kind, s.state, s.waits, s.priority) and a.n > 0
                  order by a.since limit 1)
      from (select u.cluster_id, u.kind, u.state, u.waits, u.priority, sum(u.n) from unnest(v_sums) u group by 1, 2, 3, 4, 5 order by 1, 2, 3, 4, 5) s
    on conflict (cluster_id, kind, state, waits, priority) do update set n = d.n + excluded.n, oldest = excluded.oldest;
  delete from tendril_core.queue_depth d using unnest(v_sums) u
   where (d.cluster_id, d.kind, d.state, d.waits, d.priority) = (u.cluster_id, u.kind, u.state, u.waits, u.priority) and d.n = 0;
  return v_n;
end $$;
comment on function tendril_core.duty_fold is 'Adds counted transitions to queue_depth and queue_ages; returns how many.';

-- What there is now, counted once; nobody changes a job meanwhile. Most jobs have ended: they are not looked at.
truncate tendril_core.queue_deltas, tendril_core.queue_depth;
insert into tendril_core.queue_deltas (cluster_id, kind, state, waits, priority, since, n)
  select j.cluster_id, j.kind, j.state, coalesce(p.why, ''), j.priority / 10 * 10, coalesce(p.since, date_bin('10 s', case j.state
           when 'QUEUED' then greatest(j.queued_at, j.run_after, j.created_at)
           when 'CLAIMED' then greatest(j.queued_at, j.created_at)
           when 'STARTED' then greatest(j.started_at, j.created_at)
           when 'UNKNOWN' then greatest(j.started_at, j.created_at)
           else j.created_at end, 'epoch')), count(*)
    from tendril.deployments d join tendril_core.jobs j on j.deployment_id = d.id
    left join tendril_core.parked p on p.job_id = j.id and j.state = 'QUEUED'
   where d.status in ('QUEUED', 'PROCESSING', 'AWAITING_APPROVAL') and j.state not in ('SUCCESS', 'FAILED', 'CANCELLED', 'SKIPPED')
   group by 1, 2, 3, 4, 5, 6
  union all
  select j.cluster_id, j.kind, 'DEAD', '', j.priority / 10 * 10, '-infinity', count(*)
    from tendril_core.jobs j where j.state = 'FAILED' and not j.mutating and j.attempts >= j.max_attempts
   group by 1, 2, 5;

-- ---------------------------------------------------------------------------------------------------------------
-- What portals and autoscalers read
-- ---------------------------------------------------------------------------------------------------------------

create or replace view tendril.queue with (security_barrier) as
  select c.id as cluster_id, c.name as cluster, q.kind, q.state, sum(q.n)::bigint as jobs,
         coalesce(sum(q.n) filter (where q.state = 'QUEUED' and q.waits = '' and c.paused_at is null), 0)::bigint as runnable
    from (select cluster_id, kind, state, waits, n from tendril_core.queue_depth
          union all select cluster_id, kind, state, waits, n from tendril_core.queue_deltas) q
    join tendril.clusters c on c.id = q.cluster_id
   where q.state <> 'DEAD' and ((select tendril_core.sees_all()) or c.id = any ((select tendril_core.seen_clusters())::uuid[])
      or c.user_id = (select tendril_core.seen_user()) or (select tendril_core.is_owner()))
   group by c.id, c.name, q.kind, q.state having sum(q.n) <> 0;
comment on view tendril.queue is 'How many unfinished jobs there are by cluster, kind and state; costs the same however many there are.';
comment on column tendril.queue.runnable is 'How many of them a free runner could claim now: QUEUED, and waiting for no key, limit, time or resume.';

revoke execute on all functions in schema tendril, tendril_core from public;
