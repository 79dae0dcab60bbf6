-- Runners that are long gone are forgotten, and a cluster has a bound of those that are there: each start of a process is a
-- runner of its own, so that a pod that crashes again and again, or a tenant who registers in a loop, would fill the tables.

alter table tendril_core.settings
  add column runners_max  integer  not null default 1000 check (runners_max between 1 and 100000),
  add column runners_kept interval not null default '30 days' check (runners_kept >= '1 day');
comment on column tendril_core.settings.runners_max is 'Up to how many runners of one cluster may be online when a further one registers.';
comment on column tendril_core.settings.runners_kept is 'How long a runner that is gone is remembered.';

create index runner_leases_by_cluster on tendril_core.runner_leases (cluster_id);
create index runners_by_log_writer on tendril_core.runners (log_writer);
create index log_writers_by_cluster on tendril_core.log_writers (cluster_id);

create function tendril_core.holds_something(p_runner uuid, p_cluster uuid) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return exists (select from tendril_core.attempts a where a.runner_id = p_runner and a.ended_at is null and a.superseded_at is null)
      or exists (select from tendril_core.held_keys h join tendril_core.attempts a on a.id = h.attempt_id
                  where h.cluster_id = p_cluster and a.runner_id = p_runner);
end $$;
comment on function tendril_core.holds_something is 'Whether an unfinished attempt or a held key names the runner.';

-- name of the function: forget_runners
-- Decides under the locks that a heartbeat and a registration take too: who was heard or came back meanwhile stays. It waits
-- for nobody, since a tenant may keep their own rows locked.
create function tendril_core.forget_runners(p_runners uuid[]) returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_locked uuid[];
  v_leases uuid[];
  v_n      bigint;
begin
  v_locked := array(select r.id from tendril_core.runners r where r.id = any (p_runners) order by r.id for update skip locked);
  v_leases := array(select l.runner_id from tendril_core.runner_leases l where l.runner_id = any (v_locked)
                     order by l.runner_id for update skip locked);
  delete from tendril_core.runner_leases l
   where l.runner_id = any (v_leases) and l.lease_expires_at <= clock_timestamp() and not tendril_core.holds_something(l.runner_id, l.cluster_id);
  delete from tendril_core.runners r
   where r.id = any (v_locked) and not exists (select from tendril_core.runner_leases l where l.runner_id = r.id)
     and not tendril_core.holds_something(r.id, r.cluster_id);
  get diagnostics v_n = row_count;
  return v_n;
end $$;
comment on function tendril_core.forget_runners is 'Deletes those of these runners whose lease is gone and that hold nothing; returns how many.';

-- name of the function: admit_runner
-- Two sessions that register at once may both be the last that fits. Rows of runners that said goodbye, or were not heard for
-- an hour, are kept for people to look at, but not more than twice runners_max of them: a tenant cleans up after itself here.
create function tendril_core.admit_runner(p_cluster uuid) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  s        tendril_core.settings;
  v_now    timestamptz := clock_timestamp();
  v_online bigint := (select count(*) from tendril_core.runner_leases l where l.cluster_id = p_cluster and l.lease_expires_at > v_now);
begin
  select * into s from tendril_core.settings;
  if v_online >= s.runners_max then
    perform tendril_core.fail('TD011', format('the cluster has %s runners online, and may have %s', v_online, s.runners_max),
      format('stop some; leases of those that crashed run out within %s s; an operator can raise runners_max', tendril_core.ms(s.lease_ttl) / 1000));
  end if;
  if (select count(*) from (select from tendril_core.runners r where r.cluster_id = p_cluster limit 2 * s.runners_max) known) < 2 * s.runners_max then
    return;
  end if;
  perform tendril_core.forget_runners(array(
    select r.id from tendril_core.runners r left join tendril_core.runner_leases l on l.runner_id = r.id
     where r.cluster_id = p_cluster and coalesce(l.lease_expires_at < v_now - interval '1 h', true)
       and not tendril_core.holds_something(r.id, p_cluster)
     order by r.registered_at limit 10));
end $$;
comment on function tendril_core.admit_runner is 'Refuses a new runner of a cluster that has enough, and makes room where too many are remembered.';

create or replace function tendril.runner_register(p_runner uuid, p_api integer, p_info jsonb) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
declare
  v_me  tendril_core.runner_identity := tendril_core.runner_identity();
  v_in  tendril_core.installation;
  v_set tendril_core.settings;
  v_now timestamptz;
begin
  perform tendril_core.guard();
  select * into v_in from tendril_core.installation;
  select * into v_set from tendril_core.settings;
  if p_api not between v_in.api_min and v_in.api_max then
    perform tendril_core.fail('TD010', format('runner speaks protocol %s, the broker %s to %s', p_api, v_in.api_min, v_in.api_max),
      case when p_api > v_in.api_max then 'migrate the broker first' else 'upgrade the runner' end);
  end if;
  if v_me.status <> 'active' then
    perform tendril_core.fail('TD008', 'the credential is being drained', 'start the runner with the newest token');
  end if;
  if exists (select from tendril_core.runners r where r.id = p_runner and r.cluster_id <> v_me.cluster_id) then
    perform tendril_core.fail('TD002', 'the runner id is somebody else''s', 'make a new UUIDv7 at each start');
  end if;
  if octet_length(p_info::text) > 65536 then
    perform tendril_core.fail('TD011', 'runner info: has more than 65536 bytes', 'use fewer labels');
  end if;
  -- Locked, so that it is not forgotten while it comes back.
  perform from tendril_core.runners r where r.id = p_runner and r.cluster_id = v_me.cluster_id for update;
  if not exists (select from tendril_core.runner_leases l where l.runner_id = p_runner) then
    perform tendril_core.admit_runner(v_me.cluster_id);
  end if;
  insert into tendril_core.runners (id, cluster_id, generation, name, version, place, labels, slots, log_writer)
    values (p_runner, v_me.cluster_id, v_me.generation, left(p_info ->> 'name', 200), left(p_info ->> 'version', 60), p_info ->> 'place',
      array(select jsonb_array_elements_text(p_info -> 'labels')), (p_info ->> 'slots')::integer, (p_info ->> 'log_writer')::uuid)
    on conflict (id) do nothing;
  update tendril_core.runners set left_at = null where id = p_runner and cluster_id = v_me.cluster_id and left_at is not null;
  v_now := clock_timestamp();
  insert into tendril_core.runner_leases (runner_id, cluster_id, lease_expires_at, heartbeat_at)
    values (p_runner, v_me.cluster_id, v_now + v_set.lease_ttl, v_now) on conflict (runner_id) do nothing;
  insert into tendril_core.bells (cluster_id) values (v_me.cluster_id) on conflict do nothing;
  return jsonb_build_object(
    'cluster_id', v_me.cluster_id, 'cluster_name', (select c.name from tendril.clusters c where c.id = v_me.cluster_id),
    'incarnation', (select c.incarnation from tendril.clusters c where c.id = v_me.cluster_id),
    'lease_ttl_ms', tendril_core.ms(v_set.lease_ttl), 'heartbeat_ms', tendril_core.ms(v_set.heartbeat_interval),
    'artifact_max_bytes', v_set.artifact_max_bytes, 'channel', 'tendril_' || replace(v_me.cluster_id::text, '-', ''));
exception when not_null_violation or invalid_text_representation or numeric_value_out_of_range or invalid_parameter_value then
  perform tendril_core.fail('TD001', 'runner info: ' || sqlerrm, 'needs name, version, labels, slots, log_writer');
end $$;
comment on function tendril.runner_register(uuid, integer, jsonb) is
  'Makes a runner process known and gives it its first lease, unless the cluster has enough of them. Repeating it is harmless.';

create or replace function tendril.log_takeover(p_writer uuid) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
declare
  v_me    tendril_core.runner_identity := tendril_core.runner_identity();
  v_start timestamptz := (select s.backend_start from pg_stat_get_activity(pg_backend_pid()) s);
  v_max   integer := 4 * (select runners_max from tendril_core.settings);
  w       tendril_core.log_writers;
begin
  perform tendril_core.guard();
  -- A runner has one; those that no runner and no open log names any more are forgotten.
  if not exists (select from tendril_core.log_writers x where x.id = p_writer)
     and (select count(*) from tendril_core.log_writers x where x.cluster_id = v_me.cluster_id) >= v_max then
    perform tendril_core.fail('TD011', format('the cluster has %s log writers', v_max),
      'a runner needs one; serve forgets what is not used any more; an operator can raise runners_max');
  end if;
  insert into tendril_core.log_writers (id, cluster_id, epoch, pid, backend_start)
    values (p_writer, v_me.cluster_id, 1, pg_backend_pid(), v_start) on conflict (id) do nothing;
  if found then
    return 1;
  end if;
  select * into w from tendril_core.log_writers x where x.id = p_writer;
  if w.cluster_id <> v_me.cluster_id then
    perform tendril_core.fail('TD002', 'the log writer is somebody else''s', 'make a new UUIDv7 for each spool');
  end if;
  perform pg_terminate_backend(s.pid, 5000) from pg_stat_get_activity(w.pid) s
    where s.backend_start = w.backend_start and s.pid <> pg_backend_pid()
      and exists (select from tendril_core.cluster_credentials c join pg_roles o on o.rolname = c.role_name
                   where c.cluster_id = v_me.cluster_id and o.oid = s.usesysid);
  update tendril_core.log_writers x set epoch = x.epoch + 1, pid = pg_backend_pid(), backend_start = v_start
   where x.id = p_writer returning * into w;
  return w.epoch;
end $$;

-- name of the function: duty_runners
create function tendril_core.duty_runners() returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_before timestamptz := clock_timestamp() - (select runners_kept from tendril_core.settings);
  v_unused uuid[];
  v_n      bigint;
begin
  -- In no order, so that rows that a tenant keeps locked do not stand before all others at each run.
  v_n := tendril_core.forget_runners(array(
    select r.id from tendril_core.runners r left join tendril_core.runner_leases l on l.runner_id = r.id
     where coalesce(l.lease_expires_at, r.left_at, r.registered_at) < v_before and not tendril_core.holds_something(r.id, r.cluster_id)
     order by random() limit 500));
  -- Under the row that a takeover and a batch take: none is under way.
  v_unused := array(
    select w.id from tendril_core.log_writers w
     where w.backend_start < clock_timestamp() - interval '10 min'
       and not exists (select from tendril_core.runners r where r.log_writer = w.id)
       and not exists (select from tendril_core.attempts a where a.log_writer = w.id and a.log_state = 'open')
     order by w.id limit 500 for update skip locked);
  delete from tendril_core.log_writers w
   where w.id = any (v_unused) and not exists (select from tendril_core.runners r where r.log_writer = w.id);
  return v_n;
end $$;
comment on function tendril_core.duty_runners is 'Forgets runners that are gone for runners_kept and hold nothing, and log writers that nothing names.';

insert into tendril_core.duties (name, every) values ('runners', '1 min');
revoke execute on all functions in schema tendril_core from public;
