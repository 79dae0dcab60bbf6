-- Revoking waits for no tenant, and no session outlives it.
--
-- Seen on a live server before: `revoke --now` waited for a transaction in which the tenant had locked its cluster's row; and a
-- session that logged in between the end of the others and the commit lived on under a role that was gone, where neither the
-- watch over sessions nor an operator without superuser could end it. So a role loses its login and its rights in one
-- transaction, and is dropped in a later one, when nobody can have come in between.

alter table tendril_core.cluster_credentials add column role_gone boolean not null default false;
comment on column tendril_core.cluster_credentials.role_gone is
  'The role of an ended one was dropped, or is left, without login and rights, for what it owns in other databases.';
comment on column tendril_core.cluster_credentials.status is
  'active; draining: finishes what it holds, claims nothing; ended: the role has no login and no rights any more, and serve drops it.';
update tendril_core.cluster_credentials set role_gone = true where status = 'ended';

create function tendril_core.end_tenant_sessions(p_role text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  -- Else the sessions are those of the transaction's first look.
  perform pg_stat_clear_snapshot();
  perform pg_terminate_backend(a.pid, 2000) from pg_stat_get_activity(null) a where a.usesysid = to_regrole(p_role);
end $$;
comment on function tendril_core.end_tenant_sessions is 'Ends the sessions of a credential, and waits for each until it is gone, 2 s at most.';

create or replace function tendril_core.end_credential(p_cluster uuid, p_generation integer) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_role text := (select role_name from tendril_core.cluster_credentials where cluster_id = p_cluster and generation = p_generation);
begin
  if to_regrole(v_role) is not null then
    execute format('alter role %I nologin', v_role);
    execute format('revoke %I from %I', tendril_core.group_role('runner'), v_role);
    perform tendril_core.end_tenant_sessions(v_role);
  end if;
  update tendril_core.cluster_credentials set status = 'ended', ended_at = clock_timestamp()
   where cluster_id = p_cluster and generation = p_generation;
end $$;
comment on function tendril_core.end_credential is 'Takes login and rights from a credential, and ends its sessions; serve drops the role afterwards.';

create function tendril_core.drop_credential(p_role text) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if to_regrole(p_role) is not null then
    -- Who logged in while the login was being taken.
    perform tendril_core.end_tenant_sessions(p_role);
    execute format('drop owned by %I', p_role);
    execute format('drop role %I', p_role);
  end if;
  return true;
exception
  when dependent_objects_still_exist then
    -- What the tenant has made for itself in another database keeps the role; it has no access any more.
    raise warning 'role % stays, without login and rights: %', p_role, sqlerrm using hint = 'drop what it owns in other databases, then the role';
    return true;
  when others then
    raise warning 'role % is not dropped yet: %', p_role, sqlerrm;
    return false;
end $$;
comment on function tendril_core.drop_credential is 'Drops the role of an ended credential; false when that is to be tried again.';

create or replace function tendril_core.duty_credentials() returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  c   record;
  v_n bigint := 0;
begin
  for c in select role_name from tendril_core.cluster_credentials
            where status = 'ended' and not role_gone order by 1 limit 50 for update skip locked loop
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
comment on function tendril_core.duty_credentials is
  'Ends credentials whose drain is over, drops the roles of those that have ended, and cancels what waits in revoked clusters.';

create or replace function tendril.cluster_revoke(p_cluster uuid, p_now boolean default false) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  c       tendril.clusters;
  v_until timestamptz := clock_timestamp() + case when p_now then interval '0' else (select drain_for from tendril_core.settings) end;
  v_gen   integer;
begin
  perform tendril_core.guard();
  -- What the tenant itself has locked, and reconnects to lock again, holds this up for no longer than it takes to end it.
  for v_try in 1 .. case when p_now then 20 else 0 end loop
    perform from tendril.clusters where id = p_cluster for no key update skip locked;
    exit when found;
    perform tendril_core.end_tenant_sessions(k.role_name) from tendril_core.cluster_credentials k
      where k.cluster_id = p_cluster and k.status <> 'ended';
  end loop;
  select * into c from tendril.clusters where id = p_cluster for no key update;
  if not found then
    perform tendril_core.fail('TD002', format('there is no cluster %s', coalesce(p_cluster::text, 'NULL')), 'tendril-broker cluster list');
  end if;
  update tendril.clusters set status = 'REVOKED', revoked_at = coalesce(revoked_at, clock_timestamp()) where id = p_cluster;
  update tendril_core.cluster_credentials set status = 'draining', drain_until = least(drain_until, v_until)
   where cluster_id = p_cluster and status <> 'ended';
  if p_now then
    for v_gen in select generation from tendril_core.cluster_credentials where cluster_id = p_cluster and status <> 'ended' loop
      perform tendril_core.end_credential(p_cluster, v_gen);
    end loop;
  end if;
  return jsonb_build_object('id', c.id, 'name', c.name, 'drain_until', v_until, 'ended', p_now);
end $$;

revoke execute on all functions in schema tendril_core from public;
