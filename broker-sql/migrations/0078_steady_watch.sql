-- The watch over tenants knows them by name, ends a hoard however it is spread, and passes over nobody for good.
--
-- Seen before: after a restore on another server the numbers of roles were those of the old one until a duty had run, so that the watch
-- ended nobody, or the sessions of whoever bore such a number there.

alter table tendril_core.cluster_credentials drop column role_oid;

create or replace function tendril_core.add_credential(p_cluster uuid) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_gen    integer := coalesce((select max(generation) from tendril_core.cluster_credentials where cluster_id = p_cluster), 0) + 1;
  v_hex    text := replace(p_cluster::text, '-', '');
  v_role   text := format('r_%s_%s', v_hex, v_gen);
  v_secret text := encode(substring(sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())) from 1 for 24), 'hex');
begin
  execute format('create role %I login password %L connection limit %s in role %I', v_role, tendril_core.scram_verifier(v_secret),
    (select runner_connections from tendril_core.settings), tendril_core.group_role('runner'));
  -- Ending a tenant's sessions takes membership in its role.
  execute format('grant %I to %I', v_role, current_user);
  execute format('alter role %I set idle_in_transaction_session_timeout = %L', v_role, '10s');
  execute format('comment on role %I is %L', v_role, 'Tendril: credential of cluster ' || p_cluster);
  insert into tendril_core.cluster_credentials (cluster_id, generation, role_name) values (p_cluster, v_gen, v_role);
  return jsonb_build_object('generation', v_gen, 'role', v_role, 'token', format('trt1.%s.%s.%s', v_hex, v_gen, v_secret));
exception when insufficient_privilege then
  perform tendril_core.fail('42501', 'cannot create the login role: ' || sqlerrm, 'the owner of schema tendril_core needs CREATEROLE');
end $$;

-- name of the function: tenant_sessions
-- By functions rather than views: a full table of locks has no room for the relations of four views. The name of a role is looked up in a
-- catalogue whose locks stand_watch holds already.
create function tendril_core.tenant_sessions() returns table (pid integer, cluster_id uuid, role_name text, xact_start timestamptz)
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  -- Whoever looks again within one transaction would otherwise see what it saw first.
  perform pg_stat_clear_snapshot();
  return query
    select a.pid, c.cluster_id, c.role_name, a.xact_start
      from pg_stat_get_activity(null) a join tendril_core.cluster_credentials c on c.role_name = pg_get_userbyid(a.usesysid)::text;
end $$;
comment on function tendril_core.tenant_sessions is 'Sessions of runners'' credentials, to whichever database of the server. Writes nothing.';

-- name of the function: duty_sessions
-- A tenant sets its own timeouts, and inside a trickling COPY none fires: so age is judged here.
create or replace function tendril_core.duty_sessions() returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  s     tendril_core.settings;
  v_max interval;
  v_n   bigint;
begin
  select * into s from tendril_core.settings;
  v_max := case when tendril_core.notify_queue_usage() > 0.1 then interval '1 s' else s.session_max_age end;
  select count(*) filter (where pg_terminate_backend(t.pid)) into v_n
    from tendril_core.tenant_sessions() t
   where t.xact_start < clock_timestamp() - case
       when exists (select from pg_stat_get_progress_info('COPY') p where p.pid = t.pid) then greatest(v_max, s.copy_max_age) else v_max end;
  return v_n;
end $$;

create or replace function tendril_core.locks_max() returns bigint
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_each  bigint := current_setting('max_locks_per_transaction');
  v_table bigint := v_each * (current_setting('max_connections')::bigint + current_setting('max_prepared_transactions')::bigint);
begin
  return least(greatest(v_each * (select runner_connections from tendril_core.settings), v_table / 8), v_table / 4);
end $$;
comment on function tendril_core.locks_max is
  'How many places of the server''s table of locks the sessions of one cluster may take: those of all its connections, at least an eighth and at most a quarter.';

create or replace function tendril_core.end_hoards() returns setof text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_max   bigint := tendril_core.locks_max();
  v_each  bigint := current_setting('max_locks_per_transaction');
  v_pids  integer[];
  v_roles text[];
begin
  with locks as materialized (
    -- Those on the fast path and of SSI lie elsewhere.
    select l.pid, count(*) as n from pg_lock_status() l where not l.fastpath and l.mode <> 'SIReadLock' group by l.pid),
  held as materialized (
    select t.pid, t.role_name, l.n, sum(l.n) over (partition by t.cluster_id) as of_cluster,
           sum(l.n) over (partition by t.cluster_id order by l.n, t.pid) as up_to_here
      from tendril_core.tenant_sessions() t join locks l on l.pid = t.pid)
  -- All that have more than a session needs; and of many small ones the largest, until the rest keeps to the share.
  select array_agg(h.pid), array_agg(distinct h.role_name) into v_pids, v_roles
    from held h where h.of_cluster > v_max and (h.n > v_each or h.up_to_here > v_max);
  if v_pids is null then
    return;
  end if;
  perform pg_terminate_backend(p) from unnest(v_pids) p;
  -- What comes next needs their places: they get a second to be gone, all together.
  for turn in 1 .. 200 loop
    exit when not exists (select from tendril_core.tenant_sessions() t where t.pid = any (v_pids));
    perform pg_sleep(0.005);
  end loop;
  return query select unnest(v_roles);
end $$;

create or replace function tendril_core.duty_barred() returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  c   record;
  v_n bigint := 0;
begin
  for c in select k.role_name, k.status from tendril_core.cluster_credentials k
            where k.barred_until < clock_timestamp() order by 1 for update skip locked loop
    if c.status <> 'ended' then
      execute format('alter role %I connection limit %s', c.role_name, (select runner_connections from tendril_core.settings));
    end if;
    update tendril_core.cluster_credentials k set barred_until = null where k.role_name = c.role_name;
    v_n := v_n + 1;
  end loop;
  return v_n;
end $$;
comment on function tendril_core.duty_barred is 'Lets credentials log in again whose minute is over.';

create or replace function tendril_core.duty_belongings() returns bigint
language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '100ms' as $$
declare
  o   record;
  v_n bigint;
begin
  -- Temporary tables go with the session that made them.
  select count(*) filter (where pg_terminate_backend(t.pid)) into v_n
    from tendril_core.tenant_sessions() t
   where exists (select from pg_class r where r.relowner = to_regrole(t.role_name) and r.relpersistence = 't');
  for o in select m.oid from pg_largeobject_metadata m join tendril_core.cluster_credentials c on c.role_name = pg_get_userbyid(m.lomowner)::text
            order by random() limit 1000 loop
    -- One that its owner holds, or has just unlinked, keeps no other.
    begin
      perform lo_unlink(o.oid);
      v_n := v_n + 1;
    exception when lock_not_available or undefined_object then
      null;
    end;
  end loop;
  return v_n;
end $$;

create or replace function tendril_core.duty_credentials() returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  c   record;
  v_n bigint := 0;
begin
  -- In no order, so that fifty that cannot be dropped do not stand before all others at each run.
  for c in select role_name from tendril_core.cluster_credentials
            where status = 'ended' and not role_gone order by random() limit 50 for update skip locked loop
    update tendril_core.cluster_credentials k set role_gone = tendril_core.drop_credential(c.role_name) where k.role_name = c.role_name;
  end loop;
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

revoke execute on all functions in schema tendril_core from public;
