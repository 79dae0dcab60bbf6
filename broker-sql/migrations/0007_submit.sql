-- Submit: a plain INSERT into tendril.deployments, or tendril.submit(...), in the portal's own transaction.

create function tendril_core.submit_row() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
set jit = off set plan_cache_mode = force_generic_plan as $$
declare
  c tendril.clusters;
begin
  perform set_config('synchronous_commit', 'on', true);
  select * into c from tendril.clusters where id = new.cluster_id;
  -- The same answer for a cluster that is not there and for one that is somebody else's.
  if c.id is null or not tendril_core.sees(c.id, c.user_id) then
    perform tendril_core.fail('TD002', format('there is no cluster %s that %s may submit to', coalesce(new.cluster_id::text, 'NULL'), tendril_core.caller()),
      'look into tendril.clusters; an operator grants access with tendril.portal_grant');
  end if;
  if c.status = 'REVOKED' then
    perform tendril_core.fail('TD003', format('cluster %s is revoked', c.name), 'create a new cluster');
  end if;
  if new.status <> 'QUEUED' then
    perform tendril_core.fail('TD001', format('status: must be QUEUED or left out, not %s', new.status));
  end if;
  if new.config_snapshot is null then
    perform tendril_core.fail('TD001', 'config_snapshot: is required');
  end if;
  perform tendril_core.check_snapshot(new.config_snapshot);
  new.id := coalesce(new.id, tendril_core.uuidv7());
  new.status := 'QUEUED';
  new.user_id := coalesce(tendril.portal_user(), c.user_id);
  new.state_location := tendril_core.state_key_of(new.config_snapshot);
  return new;
end $$;
comment on function tendril_core.submit_row is 'Checks each row of a submit before it is stored.';

create function tendril_core.submit_rows() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
set jit = off set plan_cache_mode = force_generic_plan as $$
begin
  insert into tendril_core.jobs (cluster_id, deployment_id, name, kind, mutating, optional, needs_approval, retry_failures, state,
      needs_left, max_attempts, priority, timeout_ms, kill_grace_ms, state_key, requires, spec, queued_at, retry_of)
    select d.cluster_id, d.id, j.name, j.kind, j.mutating, j.optional, j.needs_approval, j.retry_failures,
           case when cardinality(j.needs) > 0 then 'BLOCKED' when j.needs_approval then 'AWAITING_APPROVAL' else 'QUEUED' end,
           cardinality(j.needs), j.max_attempts, j.priority, j.timeout_ms, j.kill_grace_ms, j.state_key, j.requires, j.spec,
           case when cardinality(j.needs) = 0 and not j.needs_approval then clock_timestamp() end,
           (select o.id from tendril_core.jobs o where o.deployment_id = d.retry_of and o.name = j.name)
      from submitted d,
           lateral tendril_core.jobs_of(d.config_snapshot, case
             when d.config_snapshot ? 'jobs' or d.config_snapshot ->> 'cost' = 'off' then false
             when d.config_snapshot ->> 'cost' = 'on' then true
             else tendril_core.offers(d.cluster_id, 'kind=infracost.breakdown') end) j;
  insert into tendril_core.job_needs (job_id, needs_id)
    select j.id, n.id
      from submitted d
      join tendril_core.jobs j on j.deployment_id = d.id
      cross join lateral jsonb_array_elements_text(coalesce(j.spec -> 'needs', '[]')) e
      join tendril_core.jobs n on n.deployment_id = j.deployment_id and n.name = e;
  insert into tendril_core.queue (job_id, cluster_id, priority, state_key, requires)
    select j.id, j.cluster_id, j.priority, j.state_key, j.requires
      from submitted d join tendril_core.jobs j on j.deployment_id = d.id
     where j.state = 'QUEUED' order by d.created_at, j.created_at, j.id;
  update tendril.deployments d set status = 'AWAITING_APPROVAL'
    from submitted s where d.id = s.id and exists (select from tendril_core.jobs j where j.deployment_id = d.id and j.state = 'AWAITING_APPROVAL')
     and not exists (select from tendril_core.jobs j where j.deployment_id = d.id and j.state = 'QUEUED');
  return null;
end $$;
comment on function tendril_core.submit_rows is 'Expands all rows of a submit to jobs, in one go.';

create function tendril_core.offers(p_cluster uuid, p_label text) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return exists (select from tendril_core.runners r join tendril_core.runner_leases l on l.runner_id = r.id
                  where r.cluster_id = p_cluster and l.lease_expires_at > clock_timestamp() and p_label = any (r.labels));
end $$;
comment on function tendril_core.offers is 'Whether an online runner of the cluster has the label.';

-- name of the function: refuse_update
-- An invoker's function: current_user tells a portal's UPDATE from one that a function of ours makes as the owner.
create function tendril_core.refuse_update() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if not pg_has_role(current_user, (select relowner from pg_class where oid = tg_relid), 'USAGE') then
    raise exception using errcode = 'TD004', message = 'deployments are not updated by hand',
      hint = 'call tendril.cancel(id, reason), tendril.approve(id) or tendril.retry(id)';
  end if;
  return null;
end $$;
comment on function tendril_core.refuse_update is 'Names the function that a portal should have called.';

create trigger submit_row before insert on tendril.deployments for each row execute function tendril_core.submit_row();
create trigger submit_rows after insert on tendril.deployments
  referencing new table as submitted for each statement execute function tendril_core.submit_rows();
create trigger refuse_update before update on tendril.deployments for each statement execute function tendril_core.refuse_update();

-- name of the function: submit
-- Runs with the caller's rights: it is the documented INSERT, spelled once.
create function tendril.submit(p_cluster uuid, p_snapshot jsonb, p_id uuid default null) returns uuid
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_id uuid := p_id;
begin
  if v_id is null then
    insert into tendril.deployments (cluster_id, config_snapshot) values (p_cluster, p_snapshot) returning id into v_id;
    return v_id;
  end if;
  insert into tendril.deployments (id, cluster_id, config_snapshot) values (v_id, p_cluster, p_snapshot)
    on conflict (id) do nothing;
  if not exists (select from tendril.deployments where id = v_id) then
    raise exception using errcode = 'TD002', message = format('deployment %s is somebody else''s', v_id),
      hint = 'make a new id (UUIDv7) for each submit';
  end if;
  return v_id;
end $$;
comment on function tendril.submit is 'Submits a deployment; the same id twice queues it once.';

revoke execute on all functions in schema tendril, tendril_core from public;
do $$
begin
  execute format('grant execute on function tendril.submit(uuid, jsonb, uuid) to %I', tendril_core.group_role('portal'));
end $$;
