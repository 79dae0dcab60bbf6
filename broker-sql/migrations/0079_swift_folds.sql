-- Counted changes are added up until none is left, rather than twenty thousand a second: a burst made the figures lag without a word.

-- name of the function: duty_fold
-- A delta of a job that left may come here before the one of its coming: then a count is negative until the next turn.
create or replace function tendril_core.duty_fold() returns bigint
language plpgsql set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set enable_bitmapscan = off set enable_material = off set jit = off as $$
declare
  v_until timestamptz := clock_timestamp() + interval '2 s';
  v_sums  tendril_core.queue_ages[];
  v_turn  bigint;
  v_last  bigint := 0;
  v_n     bigint := 0;
begin
  loop
    -- Behind what this run has folded: those rows are still in the index, and would be passed by at each turn.
    with gone as (
      delete from tendril_core.queue_deltas where id in (
        select id from tendril_core.queue_deltas where id > v_last order by id limit 20000 for update skip locked)
      returning id, cluster_id, kind, state, waits, priority, since, n)
    select array_agg((s.cluster_id, s.kind, s.state, s.waits, s.priority, s.since, s.n)::tendril_core.queue_ages) filter (where s.n <> 0),
           coalesce(sum(s.deltas), 0), max(s.last)
      into v_sums, v_turn, v_last
      from (select g.cluster_id, g.kind, g.state, g.waits, g.priority, g.since, sum(g.n) as n, count(*) as deltas, max(g.id) as last
              from gone g group by 1, 2, 3, 4, 5, 6) s;
    v_n := v_n + v_turn;
    if v_sums is not null then
      perform tendril_core.fold_queue(v_sums);
    end if;
    exit when v_turn < 20000 or clock_timestamp() > v_until;
  end loop;
  return v_n;
end $$;
comment on function tendril_core.duty_fold is 'Adds counted transitions to queue_depth and queue_ages until none is left, for 2 s at most; returns how many.';

create function tendril_core.fold_queue(p_sums tendril_core.queue_ages[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set enable_bitmapscan = off set enable_material = off set jit = off as $$
begin
  insert into tendril_core.queue_ages as q (cluster_id, kind, state, waits, priority, since, n)
    select u.* from unnest(p_sums) u where isfinite(u.since) order by 1, 2, 3, 4, 5, 6
    on conflict (cluster_id, kind, state, waits, priority, since) do update set n = q.n + excluded.n;
  delete from tendril_core.queue_ages q using unnest(p_sums) u
   where (q.cluster_id, q.kind, q.state, q.waits, q.priority, q.since) = (u.cluster_id, u.kind, u.state, u.waits, u.priority, u.since) and q.n = 0;
  insert into tendril_core.queue_depth as d (cluster_id, kind, state, waits, priority, n, oldest)
    select s.*, (select a.since from tendril_core.queue_ages a
                  where (a.cluster_id, a.kind, a.state, a.waits, a.priority) = (s.cluster_id, s.kind, s.state, s.waits, s.priority) and a.n > 0
                  order by a.since limit 1)
      from (select u.cluster_id, u.kind, u.state, u.waits, u.priority, sum(u.n) from unnest(p_sums) u group by 1, 2, 3, 4, 5 order by 1, 2, 3, 4, 5) s
    on conflict (cluster_id, kind, state, waits, priority) do update set n = d.n + excluded.n, oldest = excluded.oldest;
  delete from tendril_core.queue_depth d using unnest(p_sums) u
   where (d.cluster_id, d.kind, d.state, d.waits, d.priority) = (u.cluster_id, u.kind, u.state, u.waits, u.priority) and d.n = 0;
end $$;
comment on function tendril_core.fold_queue is 'Adds sums of transitions to queue_depth and queue_ages.';

create or replace function tendril_core.duty_fold_happenings() returns bigint
language plpgsql set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set enable_bitmapscan = off set enable_material = off set jit = off as $$
declare
  v_until timestamptz := clock_timestamp() + interval '2 s';
  v_turn  bigint;
  v_last  bigint := 0;
  v_n     bigint := 0;
begin
  loop
    with gone as (
      delete from tendril_core.happening_deltas where id in (
        select id from tendril_core.happening_deltas where id > v_last order by id limit 20000 for update skip locked)
      returning id, cluster_id, kind, what, label, n, total),
    sums as (select cluster_id, kind, what, label, sum(n) as n, sum(total) as total, count(*) as deltas, max(id) as last from gone group by 1, 2, 3, 4),
    folded as (
      insert into tendril_core.happenings as h (cluster_id, kind, what, label, n, total)
        select cluster_id, kind, what, label, n, total from sums order by 1, 2, 3, 4
        on conflict (cluster_id, kind, what, label) do update set n = h.n + excluded.n, total = h.total + excluded.total returning 1)
    select coalesce(sum(deltas), 0), max(last) into v_turn, v_last from sums;
    v_n := v_n + v_turn;
    exit when v_turn < 20000 or clock_timestamp() > v_until;
  end loop;
  return v_n;
end $$;
comment on function tendril_core.duty_fold_happenings is 'Adds counted happenings to happenings until none is left, for 2 s at most; returns how many.';

revoke execute on all functions in schema tendril_core from public;
