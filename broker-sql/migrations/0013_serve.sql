-- The duties of tendril-broker serve: what nobody's session may be trusted with. Any number of replicas may run them;
-- each duty is taken with SKIP LOCKED, so that it runs once at a time, and each call is a transaction of its own.

create table tendril_core.duties (
  name   text        primary key,
  every  interval    not null,
  ran_at timestamptz not null default '-infinity'
) with (fillfactor = 50);
comment on table  tendril_core.duties is 'When serve last did what.';
comment on column tendril_core.duties.name is 'The duty: a function duty_<name>.';
comment on column tendril_core.duties.every is 'How often.';
comment on column tendril_core.duties.ran_at is 'When it last ran.';
insert into tendril_core.duties (name, every) values
  ('expire', '500 ms'), ('deadlines', '1 s'), ('explain', '1 s'), ('clusters', '1 s'), ('fold', '1 s'), ('sessions', '1 s'), ('unpark', '1 s'),
  ('log_windows', '10 s'), ('credentials', '10 s'), ('partitions', '10 min');

-- name of the function: pulse
-- After a gap or a backward step of the clock nobody is presumed dead: all leases are assigned now + TTL, also downwards,
-- before any is judged. That covers restart, failover and clock steps.
create function tendril_core.pulse() returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_at  timestamptz;
  v_now timestamptz;
begin
  perform tendril_core.guard();
  select at into v_at from tendril_core.pulse for update skip locked;
  if not found then
    return false;
  end if;
  v_now := clock_timestamp();
  if v_at < v_now - interval '2 s' or v_at > v_now then
    -- A lease that its own runner has locked is passed over, or it would hold up all others; nobody is judged until the TTL
    -- has passed, so that runner too has the time for a heartbeat.
    update tendril_core.runner_leases set lease_expires_at = v_now + (select lease_ttl from tendril_core.settings)
     where runner_id in (select l.runner_id from tendril_core.runner_leases l where not l.judged_lost for update skip locked);
    update tendril_core.pulse set rebased_at = v_now;
  end if;
  update tendril_core.pulse set at = v_now,
    runners_online = (select count(*) from tendril_core.runner_leases where lease_expires_at > v_now);
  return true;
end $$;
comment on function tendril_core.pulse is 'One beat, each second; true when this replica made it.';

create function tendril_core.duty_expire() returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  l     tendril_core.runner_leases;
  v     uuid;
  v_all boolean;
  v_n   bigint := 0;
begin
  perform from tendril_core.pulse where at > clock_timestamp() - interval '2 s' and at <= clock_timestamp()
     and coalesce(rebased_at + (select lease_ttl from tendril_core.settings) <= clock_timestamp(), true) for share;
  if not found then
    return 0;
  end if;
  -- Under the row lock that a heartbeat takes too; what it has renewed meanwhile is seen and left alone. In no order, so
  -- that fifty whose tenant keeps them locked do not stand before all others at each run.
  for l in select * from tendril_core.runner_leases where lease_expires_at <= clock_timestamp() and not judged_lost
            order by random() limit 50 for update skip locked loop
    v_all := true;
    for v in select a.id from tendril_core.attempts a
              where a.runner_id = l.runner_id and a.ended_at is null and a.superseded_at is null order by a.deployment_id, a.job_id loop
      if tendril_core.lose(v, 'the runner was not heard for its lease time') then
        v_n := v_n + 1;
      else
        v_all := false;
      end if;
    end loop;
    update tendril_core.runner_leases set judged_lost = true where runner_id = l.runner_id and v_all;
  end loop;
  return v_n;
end $$;
comment on function tendril_core.duty_expire is 'Judges runners whose lease has run out, while the pulse is fresh; returns lost attempts.';

create function tendril_core.duty_deadlines() returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v   record;
  j   tendril_core.jobs;
  a   tendril_core.attempts;
  v_n bigint := 0;
begin
  for v in select x.id, x.deployment_id from tendril_core.jobs x where x.state = 'UNKNOWN' and x.deadline_at < clock_timestamp()
            order by random() limit 100 loop
    perform from tendril.deployments d where d.id = v.deployment_id for update skip locked;
    continue when not found;
    select * into j from tendril_core.jobs x where x.id = v.id and x.state = 'UNKNOWN' and x.deadline_at < clock_timestamp() for update;
    continue when not found;
    select * into a from tendril_core.attempts t where t.id = j.attempt_id;
    continue when not tendril_core.try_attempt(a);
    perform tendril_core.supersede(j.attempt_id, 'outcome unknown');
    perform tendril_core.end_job(j.id, 'FAILED', 'outcome unknown: the runner stayed silent until the job''s deadline');
    v_n := v_n + 1;
  end loop;
  return v_n;
end $$;
comment on function tendril_core.duty_deadlines is 'Ends UNKNOWN jobs at their deadline; their keys stay held.';

create function tendril_core.duty_explain() returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v   uuid;
  v_n bigint;
begin
  -- A claim passes over a deployment that somebody had locked; its status is mended here.
  for v in select d.id from tendril.deployments d
            where d.status in ('QUEUED', 'AWAITING_APPROVAL') and d.id in (
              select a.deployment_id from tendril_core.attempts a join tendril_core.jobs j on j.attempt_id = a.id
               where a.ended_at is null and a.superseded_at is null and j.state in ('CLAIMED', 'STARTED', 'UNKNOWN'))
            order by d.id limit 500 for update skip locked loop
    perform tendril_core.settle(v);
  end loop;
  with waiting as (
    select d.id, (select tendril_core.waiting_for(j) from tendril_core.jobs j
                   where not r.running and j.deployment_id = d.id and j.state in ('QUEUED', 'AWAITING_APPROVAL', 'UNKNOWN')
                   order by j.created_at, j.id limit 1) as what
      from tendril.deployments d, lateral (select exists (select from tendril_core.jobs j
        where j.deployment_id = d.id and j.state in ('CLAIMED', 'STARTED')) as running) r
     -- A claim may have come between our look and our update: what runs and says that it waits is mended, too.
     where d.status in ('QUEUED', 'PROCESSING', 'AWAITING_APPROVAL') and (not r.running or d.waiting_for is not null)
     order by d.created_at limit 500),
  locked as (
    select d.id, w.what from waiting w join tendril.deployments d on d.id = w.id
     where d.waiting_for is distinct from w.what and d.ended_at is null order by d.id for update of d skip locked)
  update tendril.deployments d set waiting_for = l.what from locked l where d.id = l.id;
  get diagnostics v_n = row_count;
  return v_n;
end $$;
comment on function tendril_core.duty_explain is 'Keeps waiting_for of unfinished deployments true.';

create function tendril_core.duty_unpark() returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_n bigint;
begin
  -- Who frees a key passes over a parked job that a cancel has locked; if that cancel is rolled back, the job waits here.
  -- And who was let into the queue may be cancelled there, or be a job that no runner can take: so one more at each run.
  with stuck as (
    select distinct on (p.cluster_id, p.state_key) p.job_id from tendril_core.parked p
     where not exists (select from tendril_core.held_keys h where h.cluster_id = p.cluster_id and h.state_key = p.state_key)
     order by p.cluster_id, p.state_key, p.priority, p.seq),
  locked as (
    select p.job_id from tendril_core.parked p where p.job_id in (select s.job_id from stuck s) order by p.job_id for update skip locked),
  gone as (delete from tendril_core.parked p using locked l where p.job_id = l.job_id returning p.*),
  back as (
    insert into tendril_core.queue (job_id, cluster_id, priority, seq, state_key, requires) overriding system value
      select j.id, j.cluster_id, j.priority, g.seq, j.state_key, j.requires
        from gone g join tendril_core.jobs j on j.id = g.job_id where j.state = 'QUEUED' returning job_id)
  select count(*) into v_n from back;
  return v_n;
end $$;
comment on function tendril_core.duty_unpark is 'Lets jobs back into the queue whose key nobody holds any more.';

create function tendril_core.duty_clusters() returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_n bigint;
begin
  with seen as (
    select c.id, max(l.heartbeat_at) as heartbeat_at, coalesce(bool_or(l.lease_expires_at > clock_timestamp()), false) as online
      from tendril.clusters c left join tendril_core.runner_leases l on l.cluster_id = c.id
     where c.status <> 'REVOKED' group by c.id),
  changed as (
    select c.id, s.online, s.heartbeat_at from tendril.clusters c join seen s on s.id = c.id
     where c.status <> case when s.online then 'ONLINE' else 'OFFLINE' end
        or s.heartbeat_at > coalesce(c.last_seen_at, '-infinity') + interval '5 s'
     order by c.id for no key update of c skip locked)
  update tendril.clusters c set status = case when h.online then 'ONLINE' else 'OFFLINE' end,
         last_seen_at = greatest(c.last_seen_at, h.heartbeat_at)
    from changed h where c.id = h.id and c.status <> 'REVOKED';
  get diagnostics v_n = row_count;
  return v_n;
end $$;
comment on function tendril_core.duty_clusters is 'Folds leases into clusters.status and last_seen_at.';

create function tendril_core.duty_fold() returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_n bigint;
begin
  with gone as (
    delete from tendril_core.queue_deltas where id in (
      select id from tendril_core.queue_deltas order by id limit 20000 for update skip locked)
    returning cluster_id, kind, state, n),
  sums as (select cluster_id, kind, state, sum(n) as n, count(*) as rows from gone group by 1, 2, 3),
  folded as (
    insert into tendril_core.queue_depth as q (cluster_id, kind, state, n)
      select cluster_id, kind, state, n from sums order by 1, 2, 3
      on conflict (cluster_id, kind, state) do update set n = q.n + excluded.n returning 1)
  select coalesce(sum(rows), 0) into v_n from sums;
  return v_n;
end $$;
comment on function tendril_core.duty_fold is 'Adds counted transitions to queue_depth.';

-- name of the function: duty_sessions
-- A tenant sets its own timeouts, and inside a trickling COPY none fires: so age is judged here.
create function tendril_core.duty_sessions() returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  s     tendril_core.settings;
  v_max interval;
  v_n   bigint;
begin
  select * into s from tendril_core.settings;
  v_max := case when pg_notification_queue_usage() > 0.1 then interval '1 s' else s.session_max_age end;
  select count(*) filter (where pg_terminate_backend(a.pid)) into v_n
    from pg_stat_activity a join tendril_core.cluster_credentials c on c.role_name = a.usename
   where a.xact_start < clock_timestamp() - case
       when exists (select from pg_stat_progress_copy p where p.pid = a.pid) then greatest(v_max, s.copy_max_age) else v_max end;
  return v_n;
end $$;
comment on function tendril_core.duty_sessions is 'Ends runners'' sessions that hold a transaction open for too long.';

create function tendril_core.duty_log_windows() returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  a   tendril_core.attempts;
  v_n bigint := 0;
begin
  -- Only those for which something is to be done: waiting ones must not hide them behind the limit.
  for a in select * from tendril_core.attempts t
            where t.log_state = 'open' and coalesce(t.ended_at, t.superseded_at) is not null
              and (tendril_core.stored_position(t) >= t.log_end
                   or least(t.ended_at, t.superseded_at) < clock_timestamp() - (select log_window from tendril_core.settings))
            order by random() limit 200 loop
    -- Under the writer's row, so that no batch is being checked meanwhile; whose batch is under way comes later.
    continue when not tendril_core.try_attempt(a);
    update tendril_core.attempts
       set log_state = case when tendril_core.stored_position(a) >= a.log_end then 'complete' else 'incomplete' end
     where id = a.id;
    v_n := v_n + 1;
  end loop;
  return v_n;
end $$;
comment on function tendril_core.duty_log_windows is 'Closes logs that are complete, or whose window has passed.';

create function tendril_core.duty_credentials() returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  c   record;
  v_n bigint := 0;
begin
  for c in select cluster_id, generation from tendril_core.cluster_credentials
            where status = 'draining' and drain_until < clock_timestamp() order by 1, 2 for update skip locked loop
    perform tendril_core.end_credential(c.cluster_id, c.generation);
    v_n := v_n + 1;
  end loop;
  -- Nobody can claim for a revoked cluster any more: what waits there would wait for ever.
  for c in select d.id from tendril.deployments d join tendril.clusters o on o.id = d.cluster_id
            where d.status in ('QUEUED', 'PROCESSING', 'AWAITING_APPROVAL') and d.cancel_requested_at is null and o.status = 'REVOKED'
              and not exists (select from tendril_core.cluster_credentials x where x.cluster_id = o.id and x.status <> 'ended')
            order by d.id limit 200 for update of d skip locked loop
    perform tendril_core.cancel_jobs(c.id, 'its cluster was revoked');
  end loop;
  return v_n;
end $$;
comment on function tendril_core.duty_credentials is 'Ends credentials whose drain is over, and cancels what waits in revoked clusters.';

create function tendril_core.duty_partitions() returns bigint
language sql set search_path = pg_catalog, pg_temp as $$ select tendril_core.ensure_partitions()::bigint $$;
comment on function tendril_core.duty_partitions is 'Keeps log partitions ahead.';

create function tendril_core.run_duty(p_name text) returns bigint
language plpgsql set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
declare
  v_n bigint;
begin
  perform tendril_core.guard();
  perform from tendril_core.duties d where d.name = p_name and d.ran_at + d.every <= clock_timestamp() for update skip locked;
  if not found then
    return null;
  end if;
  execute format('select tendril_core.%I()', 'duty_' || p_name) into v_n;
  update tendril_core.duties set ran_at = clock_timestamp() where name = p_name;
  return v_n;
end $$;
comment on function tendril_core.run_duty is 'Runs a duty if it is due and no other replica is at it; returns how much it did, NULL when it did not run.';

revoke execute on all functions in schema tendril_core from public;
