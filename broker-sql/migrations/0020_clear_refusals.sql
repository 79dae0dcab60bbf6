-- Refusals that say no more than they have to say, and three that were missing.

create or replace function tendril_core.fail(p_code text, p_message text, p_hint text default '', p_detail text default '') returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  -- An empty hint is shown as a line of its own by most clients.
  if p_hint = '' and p_detail = '' then
    raise exception using errcode = p_code, message = p_message;
  elsif p_detail = '' then
    raise exception using errcode = p_code, message = p_message, hint = p_hint;
  elsif p_hint = '' then
    raise exception using errcode = p_code, message = p_message, detail = p_detail;
  end if;
  raise exception using errcode = p_code, message = p_message, hint = p_hint, detail = p_detail;
end $$;

create or replace function tendril.portal_grant(p_role text, p_scope text, p_cluster uuid default null) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  c_scopes constant text := 'all, own, or cluster together with a cluster''s id';
begin
  if not exists (select from pg_roles where rolname = p_role) then
    perform tendril_core.fail('TD002', format('there is no role %s on this server', coalesce(p_role, 'NULL')), 'create it first');
  end if;
  -- A runner sees its own cluster through its credential; as a portal it would see others'.
  if exists (select from tendril_core.cluster_credentials c where c.role_name = p_role) then
    perform tendril_core.fail('TD001', format('role: %s is a runner''s credential', p_role), 'give the portal a role of its own');
  end if;
  if p_scope is null or p_scope not in ('all', 'own', 'cluster') then
    perform tendril_core.fail('TD001', format('scope: %s is none', coalesce(p_scope, 'NULL')), c_scopes);
  end if;
  insert into tendril_core.portal_grants (role, scope, cluster_id) values (p_role, p_scope, p_cluster) on conflict do nothing;
  execute format('grant %I to %I', tendril_core.group_role('portal'), p_role);
exception
  when check_violation then
    perform tendril_core.fail('TD001', case p_scope when 'cluster' then 'scope: cluster needs a cluster''s id'
      else format('scope: %s names no cluster', p_scope) end, c_scopes);
  when foreign_key_violation then
    perform tendril_core.fail('TD002', format('there is no cluster %s', p_cluster), 'tendril-broker cluster list');
end $$;

create or replace function tendril.cluster_rotate(p_cluster uuid, p_drain interval default null) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  c       tendril.clusters := tendril_core.lock_cluster(p_cluster);
  v_until timestamptz := clock_timestamp() + coalesce(p_drain, (select drain_for from tendril_core.settings));
begin
  perform tendril_core.guard();
  if p_drain < '0' then
    perform tendril_core.fail('TD001', format('drain: %s is negative', p_drain), 'a time from now; tendril.cluster_revoke ends a credential at once');
  end if;
  if exists (select from tendril_core.cluster_credentials where cluster_id = p_cluster and status = 'draining') then
    perform tendril_core.fail('TD003', 'an older credential of the cluster is still being drained', 'two generations live at once; wait, or revoke the cluster');
  end if;
  update tendril_core.cluster_credentials set status = 'draining', drain_until = v_until where cluster_id = p_cluster and status = 'active';
  return jsonb_build_object('id', c.id, 'name', c.name, 'drain_until', v_until) || tendril_core.add_credential(p_cluster);
end $$;
