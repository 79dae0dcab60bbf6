-- A retry by a service that does not say for whom stays the deployment of whoever asked first.

create or replace function tendril_core.submit_row() returns trigger
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
  -- Only tendril.retry may set retry_of, and it has seen that the caller may see that deployment.
  new.user_id := coalesce(tendril.portal_user(), (select o.user_id from tendril.deployments o where o.id = new.retry_of), c.user_id);
  new.state_location := tendril_core.state_key_of(new.config_snapshot);
  return new;
end $$;
comment on function tendril_core.submit_row is 'Checks each row of a submit before it is stored.';
comment on column tendril.deployments.user_id is
  'Who asked: portal_user(), else of a retry the user of what it does again, else the cluster''s user. Set by the database.';
