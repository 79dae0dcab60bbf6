-- What a tenant may hold of the server beside its own rows, and a watch over it that writes nothing.
--
-- Seen on a live server before: advisory locks of one runner's session, which needs no transaction for them, filled the
-- server's table of locks. From then on nobody's transaction could write (53200), the watch's own duty included. And a notify
-- queue that a tenant's session kept full made the commit of every submit that rings fail.

alter table tendril_core.cluster_credentials add column barred_until timestamptz;
comment on column tendril_core.cluster_credentials.barred_until is
  'Until when nobody may log in with it, because its sessions hoarded locks; CONNECTION LIMIT is 0 meanwhile.';

-- By number, so that the watch looks nobody up: pg_authid is a relation of the server, whose lock has no fast path.
alter table tendril_core.cluster_credentials add column role_oid oid;
comment on column tendril_core.cluster_credentials.role_oid is 'The role by its number on this server; serve sees to it that it is right after a restore elsewhere.';
update tendril_core.cluster_credentials set role_oid = to_regrole(role_name);

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
  insert into tendril_core.cluster_credentials (cluster_id, generation, role_name, role_oid) values (p_cluster, v_gen, v_role, to_regrole(v_role));
  return jsonb_build_object('generation', v_gen, 'role', v_role, 'token', format('trt1.%s.%s.%s', v_hex, v_gen, v_secret));
exception when insufficient_privilege then
  perform tendril_core.fail('42501', 'cannot create the login role: ' || sqlerrm, 'the owner of schema tendril_core needs CREATEROLE');
end $$;

-- A ring is a hint. Where the queue of notifications is half full, a ring could fail the submit that it belongs to.
create function tendril_core.notify_queue_usage() returns double precision
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  return pg_notification_queue_usage();
end $$;
comment on function tendril_core.notify_queue_usage is 'How full the server''s queue of notifications is, 0 to 1.';

create or replace function tendril_core.ring() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform from tendril_core.bells b
    where b.cluster_id = new.cluster_id and b.waiting
      and b.rung_at < clock_timestamp() - (select ring_gap from tendril_core.settings)
    for update skip locked;
  if found and tendril_core.notify_queue_usage() < 0.5 then
    update tendril_core.bells b set waiting = false, rung_at = clock_timestamp() where b.cluster_id = new.cluster_id;
    perform pg_notify('tendril_' || replace(new.cluster_id::text, '-', ''), '');
  end if;
  return null;
end $$;

-- name of the function: duty_sessions
-- A tenant sets its own timeouts, and inside a trickling COPY none fires: so age is judged here. By functions rather than views,
-- and without a write: a full table of locks has room for neither a transaction's id nor the relations of four views.
-- Whoever looks again within one transaction would otherwise see what it saw first.
create or replace function tendril_core.duty_sessions() returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  s     tendril_core.settings;
  v_max interval;
  v_n   bigint;
begin
  perform pg_stat_clear_snapshot();
  select * into s from tendril_core.settings;
  v_max := case when tendril_core.notify_queue_usage() > 0.1 then interval '1 s' else s.session_max_age end;
  select count(*) filter (where pg_terminate_backend(a.pid)) into v_n
    from pg_stat_get_activity(null) a join tendril_core.cluster_credentials c on c.role_oid = a.usesysid
   where a.xact_start < clock_timestamp() - case
       when exists (select from pg_stat_get_progress_info('COPY') p where p.pid = a.pid) then greatest(v_max, s.copy_max_age) else v_max end;
  return v_n;
end $$;
comment on function tendril_core.duty_sessions is
  'Ends runners'' sessions that hold a transaction open for too long. Writes nothing; serve runs it on a connection of its own.';

-- Each session that may connect has max_locks_per_transaction places in the table of locks; what a cluster holds beyond the places
-- of all its connections, or beyond an eighth of the table if that is more, it takes from others. A runner's session needs about a hundred
-- while it claims, and few otherwise.
create function tendril_core.locks_max() returns bigint
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_each bigint := current_setting('max_locks_per_transaction');
begin
  return greatest(v_each * (select runner_connections from tendril_core.settings),
    v_each * (current_setting('max_connections')::bigint + current_setting('max_prepared_transactions')::bigint) / 8);
end $$;
comment on function tendril_core.locks_max is 'How many places of the server''s table of locks the sessions of one cluster may take.';

-- To end a session is to look its role up. Within this transaction that takes no further place in a full table: the locks on the
-- catalogue of roles are held already. They keep nobody out, but who would rewrite that catalogue.
create function tendril_core.stand_watch() returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  perform from pg_roles limit 0;
  perform from pg_auth_members limit 0;
end $$;
comment on function tendril_core.stand_watch is 'Readies a transaction for end_hoards and duty_sessions on a server whose table of locks is full.';

create function tendril_core.end_hoards() returns setof text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_max  bigint := tendril_core.locks_max();
  v_each bigint := current_setting('max_locks_per_transaction');
begin
  perform pg_stat_clear_snapshot();
  return query
    with locks as materialized (
      -- Those on the fast path and of SSI lie elsewhere.
      select l.pid, count(*) as n from pg_lock_status() l where not l.fastpath and l.mode <> 'SIReadLock' group by l.pid),
    held as materialized (
      select a.pid, c.role_name, l.n, sum(l.n) over (partition by c.cluster_id) as of_cluster
        from pg_stat_get_activity(null) a join tendril_core.cluster_credentials c on c.role_oid = a.usesysid
        join locks l on l.pid = a.pid),
    ended as materialized (
      -- With a second for each to be gone: what comes next needs their places.
      select h.role_name, pg_terminate_backend(h.pid, 1000) as gone from held h where h.of_cluster > v_max and h.n > v_each)
    select distinct e.role_name from ended e;
end $$;
comment on function tendril_core.end_hoards is 'Ends sessions of clusters that hold more than locks_max; returns their roles. Writes nothing.';

create function tendril_core.bar_role(p_role text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  -- It would be back within milliseconds.
  perform from tendril_core.cluster_credentials c where c.role_name = p_role and c.status <> 'ended' for update;
  if found then
    execute format('alter role %I connection limit 0', p_role);
    update tendril_core.cluster_credentials c set barred_until = clock_timestamp() + interval '1 min' where c.role_name = p_role;
  end if;
end $$;
comment on function tendril_core.bar_role is 'Nobody logs in with the credential for a minute; runners take it for an outage, and come back.';

create function tendril_core.duty_barred() returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  c   record;
  v_n bigint := 0;
begin
  update tendril_core.cluster_credentials k set role_oid = to_regrole(k.role_name) where k.role_oid is distinct from to_regrole(k.role_name)::oid;
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
comment on function tendril_core.duty_barred is 'Lets credentials log in again whose minute is over, and keeps the numbers of roles right.';

-- Temporary tables and large objects take disk that no quota sees. A runner makes neither. Where the operator may, it takes the right away
-- (doctor says how); elsewhere what was made is taken away soon.
create function tendril_core.duty_belongings() returns bigint
language plpgsql set search_path = pg_catalog, pg_temp set lock_timeout = '100ms' as $$
declare
  o   record;
  v_n bigint;
begin
  -- Temporary tables go with the session that made them.
  select count(*) filter (where pg_terminate_backend(a.pid)) into v_n
    from pg_stat_get_activity(null) a join tendril_core.cluster_credentials c on c.role_oid = a.usesysid
   where exists (select from pg_class t where t.relowner = a.usesysid and t.relpersistence = 't');
  for o in select m.oid from pg_largeobject_metadata m join tendril_core.cluster_credentials c on c.role_oid = m.lomowner
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
comment on function tendril_core.duty_belongings is 'Takes away temporary tables (with their sessions) and large objects of runners'' roles.';

insert into tendril_core.duties (name, every) values ('belongings', '5 s'), ('barred', '5 s');

revoke execute on all functions in schema tendril_core from public;
