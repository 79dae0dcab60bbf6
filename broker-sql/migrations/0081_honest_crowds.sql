-- Only who has more locks in one session than a session needs is barred. Many sessions with few locks each are what many connections
-- come to, where runner_connections is in the hundreds: they are brought down to the share, and may come back.

create or replace function tendril_core.end_hoards() returns setof text
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_max   bigint := tendril_core.locks_max();
  v_each  bigint := current_setting('max_locks_per_transaction');
  v_pids  integer[];
  v_roles text[];
  v_ended text[];
  v_role  text;
begin
  with locks as materialized (
    -- Those on the fast path and of SSI lie elsewhere.
    select l.pid, count(*) as n from pg_lock_status() l where not l.fastpath and l.mode <> 'SIReadLock' group by l.pid),
  held as materialized (
    select t.pid, t.role_name, l.n, sum(l.n) over (partition by t.cluster_id) as of_cluster,
           sum(l.n) over (partition by t.cluster_id order by l.n, t.pid) as up_to_here
      from tendril_core.tenant_sessions() t join locks l on l.pid = t.pid)
  -- All that have more than a session needs; and of many small ones the largest, until the rest keeps to the share.
  select array_agg(h.pid), coalesce(array_agg(distinct h.role_name) filter (where h.n > v_each), '{}'), array_agg(distinct h.role_name)
    into v_pids, v_roles, v_ended
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
  foreach v_role in array v_ended loop
    if v_role <> all (v_roles) then
      raise warning 'role %: sessions ended, for together they took more of the server''s table of locks than a cluster''s share of %, though none too many by itself', v_role, v_max
        using hint = 'lower tendril_core.settings.runner_connections, or raise max_locks_per_transaction';
    end if;
  end loop;
  return query select unnest(v_roles);
end $$;
comment on function tendril_core.end_hoards is
  'Ends sessions of clusters that take more than their share of the table of locks; returns the roles of those that took more in one session than one needs.';

revoke execute on all functions in schema tendril_core from public;
