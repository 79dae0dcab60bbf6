-- Brakes that people put on: a cluster or a runner is paused or drained, and limits say how much may run at once.
--
-- Lock order: a claim that is limited takes the rows of limits by kind, then those of concurrency_keys by key, before held keys.
-- Both belong to the cluster alone, and only its own claims ever wait for them.

-- ---------------------------------------------------------------------------------------------------------------
-- Pause and drain
-- ---------------------------------------------------------------------------------------------------------------

alter table tendril.clusters
  add column paused_at    timestamptz,
  add column paused_by    text,
  add column pause_reason text,
  add column draining     boolean not null default false;
comment on column tendril.clusters.paused_at is 'Since when nothing of it is claimed; NULL: it is not paused.';
comment on column tendril.clusters.paused_by is 'Who paused it.';
comment on column tendril.clusters.pause_reason is 'The reason given.';
comment on column tendril.clusters.draining is 'Paused, and no submits are taken either.';

alter table tendril_core.runners
  add column paused_at    timestamptz,
  add column paused_by    text,
  add column pause_reason text,
  add column draining     boolean not null default false;
comment on column tendril_core.runners.paused_at is 'Since when it claims nothing; NULL: it is not paused.';
comment on column tendril_core.runners.paused_by is 'Who paused it.';
comment on column tendril_core.runners.pause_reason is 'The reason given.';
comment on column tendril_core.runners.draining is 'Paused, and told so: it finishes what it holds.';

create function tendril_core.lock_braked(p_cluster uuid, p_runner uuid) returns tendril.clusters
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_cluster uuid := (select r.cluster_id from tendril_core.runners r where r.id = p_runner);
begin
  if p_runner is not null and (v_cluster is null or v_cluster <> coalesce(p_cluster, v_cluster)) then
    perform tendril_core.fail('TD002', format('there is no runner %s%s', p_runner, ' of cluster ' || p_cluster), 'look into tendril.runners');
  end if;
  return tendril_core.lock_cluster(coalesce(p_cluster, v_cluster));
end $$;
comment on function tendril_core.lock_braked is 'The cluster that is paused or resumed, or whose runner is, locked.';

-- name of the function: pause
-- Claims in flight hold their lease's row: once we have had them all, what comes after us sees the pause.
create function tendril.pause(p_cluster uuid, p_reason text default null, p_drain boolean default false, p_runner uuid default null) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  c      tendril.clusters := tendril_core.lock_braked(p_cluster, p_runner);
  v_name text := coalesce(tendril.portal_user(), tendril_core.caller());
begin
  perform tendril_core.guard();
  if p_runner is null then
    update tendril.clusters set paused_at = coalesce(paused_at, clock_timestamp()), paused_by = v_name, pause_reason = p_reason, draining = p_drain
     where id = c.id;
  else
    update tendril_core.runners set paused_at = coalesce(paused_at, clock_timestamp()), paused_by = v_name, pause_reason = p_reason, draining = p_drain
     where id = p_runner;
  end if;
  perform from tendril_core.runner_leases l where l.cluster_id = c.id and l.runner_id = coalesce(p_runner, l.runner_id)
    order by l.runner_id for share;
  return tendril_core.brake(c.id, p_runner);
end $$;
comment on function tendril.pause(uuid, text, boolean, uuid) is
  'Nothing more of a cluster, or by one of its runners (then the cluster may be NULL), is claimed; what is held goes on. With p_drain a cluster takes no submits either. Once it has returned no claim is under way.';

create function tendril.resume(p_cluster uuid, p_runner uuid default null) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  c tendril.clusters := tendril_core.lock_braked(p_cluster, p_runner);
begin
  perform tendril_core.guard();
  if p_runner is null then
    update tendril.clusters set paused_at = null, paused_by = null, pause_reason = null, draining = false where id = c.id;
  else
    update tendril_core.runners set paused_at = null, paused_by = null, pause_reason = null, draining = false where id = p_runner;
  end if;
  -- Both directions of a count: the bell hears that there is something to claim.
  insert into tendril_core.queue_deltas (cluster_id, kind, state, n)
    select q.cluster_id, j.kind, 'QUEUED', v.n from tendril_core.queue q join tendril_core.jobs j on j.id = q.job_id, (values (1), (-1)) v(n)
     where q.job_id = (select x.job_id from tendril_core.queue x where x.cluster_id = c.id limit 1);
  return tendril_core.brake(c.id, p_runner);
end $$;
comment on function tendril.resume(uuid, uuid) is 'Takes a pause or a drain back. Resuming what is not paused changes nothing.';

create function tendril_core.brake(p_cluster uuid, p_runner uuid) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return (select jsonb_build_object('cluster_id', p_cluster, 'runner_id', p_runner, 'paused_at', coalesce(r.paused_at, c.paused_at),
      'draining', case when p_runner is null then c.draining else r.draining end,
      'holding', (select count(*) from tendril_core.runners x join tendril_core.attempts a on a.runner_id = x.id
                   where x.cluster_id = p_cluster and x.id = coalesce(p_runner, x.id) and a.ended_at is null and a.superseded_at is null))
    from tendril.clusters c left join tendril_core.runners r on r.id = p_runner where c.id = p_cluster);
end $$;
comment on function tendril_core.brake is 'Whether a cluster or a runner is paused, and how many attempts it still holds.';

create or replace view tendril.runners with (security_barrier) as
  select r.id, r.cluster_id, r.name, r.version, r.place, r.labels, r.slots, r.registered_at, r.left_at, coalesce(l.heartbeat_at, r.left_at, r.registered_at) as last_seen_at,
         coalesce(l.lease_expires_at > clock_timestamp(), false) as online,
         (select count(*) from tendril_core.attempts a where a.runner_id = r.id and a.ended_at is null and a.superseded_at is null) as holding,
         r.paused_at, r.pause_reason, r.draining
    from tendril_core.runners r join tendril.clusters c on c.id = r.cluster_id
    left join tendril_core.runner_leases l on l.runner_id = r.id
   where (select tendril_core.sees_all()) or c.id = any ((select tendril_core.seen_clusters())::uuid[])
      or c.user_id = (select tendril_core.seen_user()) or (select tendril_core.is_owner());
comment on column tendril.runners.paused_at is 'Since when it claims nothing; NULL: it is not paused.';
comment on column tendril.runners.pause_reason is 'The reason given.';
comment on column tendril.runners.draining is 'Paused, and told so: it finishes what it holds.';

-- ---------------------------------------------------------------------------------------------------------------
-- Limits
-- ---------------------------------------------------------------------------------------------------------------

create table tendril_core.limits (
  cluster_id   uuid    not null references tendril.clusters (id),
  kind         text    not null default '',
  max_running  integer not null check (max_running between 0 and 100000),
  primary key (cluster_id, kind)
);
comment on table  tendril_core.limits is 'How many jobs of a cluster may run at once.';
comment on column tendril_core.limits.cluster_id is 'The cluster.';
comment on column tendril_core.limits.kind is 'Only jobs of this kind; empty: all.';
comment on column tendril_core.limits.max_running is 'How many may be claimed, started or unknown at once.';

create function tendril.limit_set(p_cluster uuid, p_max integer, p_kind text default null) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform tendril_core.guard();
  perform tendril_core.lock_cluster(p_cluster);
  if p_kind is not null and not exists (select from tendril_core.kinds k where k.kind = p_kind) then
    perform tendril_core.fail('TD001', format('kind: unknown kind %s; known are %s', p_kind, (select string_agg(k.kind, ', ' order by k.kind) from tendril_core.kinds k)));
  elsif p_max not between 0 and 100000 then
    perform tendril_core.fail('TD001', format('max: %s does not lie between 0 and 100000', p_max), 'NULL takes the limit away');
  elsif p_max is null then
    delete from tendril_core.limits l where l.cluster_id = p_cluster and l.kind = coalesce(p_kind, '');
  else
    insert into tendril_core.limits (cluster_id, kind, max_running) values (p_cluster, coalesce(p_kind, ''), p_max)
      on conflict (cluster_id, kind) do update set max_running = excluded.max_running;
  end if;
end $$;
comment on function tendril.limit_set(uuid, integer, text) is
  'How many jobs of a cluster, or of one kind there, may run at once; NULL takes the limit away. What runs already goes on.';

create function tendril_core.running(p_cluster uuid) returns table (kind text, jobs bigint)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set enable_bitmapscan = off set enable_material = off set jit = off as $$
begin
  return query select j.kind, count(*)
    from tendril_core.runner_leases l
    join tendril_core.attempts a on a.runner_id = l.runner_id and a.ended_at is null and a.superseded_at is null
    join tendril_core.jobs j on j.id = a.job_id
   where l.cluster_id = p_cluster group by 1;
end $$;
comment on function tendril_core.running is 'Current attempts of a cluster by kind: claimed, started or unknown.';

create view tendril.limits with (security_barrier) as
  select l.cluster_id, c.name as cluster, nullif(l.kind, '') as kind, l.max_running,
         coalesce((select sum(r.jobs) from tendril_core.running(l.cluster_id) r where l.kind in ('', r.kind)), 0)::bigint as running
    from tendril_core.limits l join tendril.clusters c on c.id = l.cluster_id
   where (select tendril_core.sees_all()) or c.id = any ((select tendril_core.seen_clusters())::uuid[])
      or c.user_id = (select tendril_core.seen_user()) or (select tendril_core.is_owner());
comment on view tendril.limits is 'Limits of the clusters that the caller sees, and how much of them is used.';
comment on column tendril.limits.cluster_id is 'The cluster.';
comment on column tendril.limits.cluster is 'Its name.';
comment on column tendril.limits.kind is 'Only jobs of this kind; NULL: all of the cluster.';
comment on column tendril.limits.max_running is 'How many may run at once.';
comment on column tendril.limits.running is 'How many do.';

-- name of the function: room
-- The rows of the limits are locked: claims of a limited cluster come one after the other, and each sees what the one before took.
create function tendril_core.room(p_cluster uuid, p_slots integer, out slots integer, out kinds text[], out rooms integer[])
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_all integer;
begin
  perform from tendril_core.limits l where l.cluster_id = p_cluster order by l.kind for no key update;
  select least(p_slots, min(l.max_running) filter (where l.kind = '') - coalesce(sum(r.jobs) filter (where l.kind = ''), 0)) into v_all
    from tendril_core.limits l left join tendril_core.running(p_cluster) r on true where l.cluster_id = p_cluster and l.kind = '';
  slots := greatest(coalesce(v_all, p_slots), 0);
  select coalesce(array_agg(l.kind order by l.kind), '{}'), coalesce(array_agg(greatest(l.max_running - coalesce(r.jobs, 0), 0)::integer order by l.kind), '{}')
    into kinds, rooms
    from tendril_core.limits l left join tendril_core.running(p_cluster) r on r.kind = l.kind where l.cluster_id = p_cluster and l.kind <> '';
end $$;
comment on function tendril_core.room is 'How many jobs a claim may take in all, and of the kinds that have limits, in a cluster that has some.';

create function tendril_core.trim_kinds(p_jobs uuid[], p_kinds text[], p_rooms integer[]) returns uuid[]
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return array(select t.id from (
      select u.id, u.ord, k.room, row_number() over (partition by j.kind order by u.ord) as nth
        from unnest(p_jobs) with ordinality u(id, ord) join tendril_core.jobs j on j.id = u.id
        left join unnest(p_kinds, p_rooms) k(kind, room) on k.kind = j.kind) t
     where t.room is null or t.nth <= t.room order by t.ord);
end $$;
comment on function tendril_core.trim_kinds is 'The first of some jobs, so many of each kind as there is room for.';

revoke execute on all functions in schema tendril, tendril_core from public;
do $$
begin
  execute format('grant select on tendril.limits to %I', tendril_core.group_role('portal'));
  execute format('grant execute on function tendril_core.running(uuid) to %I', tendril_core.group_role('portal'));
end $$;
