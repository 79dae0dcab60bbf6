-- The engines' own lock of a state: shown, and released by its id once nobody of this cluster can hold it.

insert into tendril_core.kinds (kind, mutating, priority, engine) values ('terraform.lock', false, 10, true), ('terraform.unlock', true, 10, true);
comment on column tendril_core.jobs.kind is
  'terraform.plan, terraform.apply, terraform.destroy, terraform.lock, terraform.unlock, infracost.breakdown, policy or exec.';
comment on column tendril.jobs.kind is
  'What it does: terraform.plan, terraform.apply, terraform.destroy, terraform.lock, terraform.unlock, infracost.breakdown, policy or exec.';

create function tendril_core.submit_for_state(d tendril.deployments, p_id uuid, p_job jsonb) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  -- The files, and where the state lies; not when and how often they are applied.
  v_snapshot jsonb := d.config_snapshot - array['action', 'approval', 'cost', 'jobs', 'run_after', 'priority', 'concurrency', 'unique_key', 'budget'];
begin
  if d.state_location is null then
    perform tendril_core.fail('TD003', format('deployment %s keeps no state', d.id), 'there is nothing that could be locked');
  end if;
  insert into tendril.deployments (id, cluster_id, config_snapshot)
    values (p_id, d.cluster_id, v_snapshot || jsonb_build_object('jobs', jsonb_build_array(p_job)))
    on conflict (id) do nothing;
  if found then
    return true;
  end if;
  if not exists (select from tendril_core.jobs j where j.deployment_id = p_id and j.kind = p_job ->> 'kind')
     or not exists (select from tendril.deployments o where o.id = p_id and o.state_location = d.state_location and o.cluster_id = d.cluster_id) then
    perform tendril_core.fail('TD002', format('deployment %s is something else', p_id), 'make a new id (UUIDv7) each time');
  end if;
  return false;
end $$;
comment on function tendril_core.submit_for_state is
  'Submits one job with the files and the state of a deployment; false when it had been submitted with this id before.';

create function tendril.state_lock(p_deployment uuid, p_id uuid default null) returns uuid
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_id uuid := coalesce(p_id, tendril_core.uuidv7());
begin
  perform tendril_core.guard();
  perform tendril_core.submit_for_state(tendril_core.seen_deployment(p_deployment), v_id, '{"name": "lock", "kind": "terraform.lock"}');
  return v_id;
end $$;
comment on function tendril.state_lock(uuid, uuid) is
  'Submits a look at the lock of a deployment''s state; the job''s result says who holds it, since when, and by which id. Returns the new deployment.';

create function tendril.state_unlock(p_deployment uuid, p_lock_id text, p_reason text, p_id uuid default null) returns uuid
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_id   uuid := coalesce(p_id, tendril_core.uuidv7());
  d      tendril.deployments;
  v_held record;
begin
  perform tendril_core.guard();
  d := tendril_core.seen_deployment(p_deployment);
  if coalesce(p_lock_id, '') !~ '^[A-Za-z0-9][A-Za-z0-9._:/=+-]{0,199}$' then
    perform tendril_core.fail('TD001', format('lock_id: %L is no lock''s id', p_lock_id), 'tendril.state_lock shows it');
  end if;
  if coalesce(btrim(p_reason), '') = '' then
    perform tendril_core.fail('TD001', 'reason: is required', 'it is kept with the unlock');
  end if;
  select j.name, j.deployment_id, r.name as runner, a.ended_at is null and tendril_core.lease_is_live(a.runner_id) as is_alive, h.state_key into v_held
    from tendril_core.held_keys h join tendril_core.jobs j on j.id = h.job_id join tendril_core.attempts a on a.id = h.attempt_id
    left join tendril_core.runners r on r.id = a.runner_id
   where h.cluster_id = d.cluster_id and h.state_key = d.state_location;
  -- A run of this cluster that is alive, or of which nobody knows: the lock may be its own.
  if v_held.is_alive then
    perform tendril_core.fail('TD003', format('the state is in use by job %s of deployment %s on runner %s, which is alive', v_held.name, v_held.deployment_id, v_held.runner),
      'wait for its end, or cancel it');
  elsif v_held.name is not null then
    perform tendril_core.fail('TD003', format('job %s of deployment %s may still use the state: nobody has said that it is dead', v_held.name, v_held.deployment_id),
      format('see that it is, then tendril.key_release(%L, %L, reason)', d.cluster_id, v_held.state_key));
  end if;
  if tendril_core.submit_for_state(d, v_id, '{"name": "unlock", "kind": "terraform.unlock"}') then
    -- Only from here: a snapshot that asks for such a job by itself is shown the lock, and releases nothing.
    update tendril_core.jobs set spec = spec || jsonb_build_object('lock_id', p_lock_id, 'actor', coalesce(tendril.portal_user(), tendril_core.caller()), 'reason', p_reason)
     where deployment_id = v_id;
  end if;
  return v_id;
end $$;
comment on function tendril.state_unlock(uuid, text, text, uuid) is
  'Submits the release of a state''s lock, by the lock''s id and nothing else; refused while a run of this cluster has the state, or may have. Returns the new deployment.';

revoke execute on all functions in schema tendril, tendril_core from public;
do $$
begin
  execute format('grant execute on function tendril.state_lock(uuid, uuid) to %I', tendril_core.group_role('portal'));
end $$;
