-- A registered template may say where its state lies: `stateless: true`, or a `backend`. That counts for a submit which says
-- nothing of its own, and is written into its config_snapshot: runner, state key and labels see nothing new.

create function tendril_core.template_state_errors(p_record jsonb) returns table (path text, message text)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  b jsonb := p_record -> 'backend';
begin
  if p_record ? 'stateless' and p_record -> 'stateless' <> 'true' then
    return query select 'stateless'::text, 'must be true, or left out'::text;
  end if;
  if p_record ? 'stateless' and p_record ? 'backend' then
    return query select 'stateless'::text, 'contradicts backend'::text;
  end if;
  if not p_record ? 'backend' then
    return;
  end if;
  return query select e.path, e.message from tendril_core.schema_errors(tendril_core.snapshot_schema() #> '{properties,backend}', b, 'backend') e;
  -- The rules below trust the form.
  if found then
    return;
  elsif b ->> 'type' = 'own' then
    return query select 'backend.type'::text, 'must not be own: a template has no backend block'::text;
  else
    -- Where the location does not tell the state, each submit names it.
    return query select e.path, e.message from tendril_core.backend_errors(
      jsonb_build_object('backend', b) || case b ->> 'type' when 'pg' then '{"state_key": "-"}' else '{}' end::jsonb) e;
  end if;
end $$;
comment on function tendril_core.template_state_errors is 'What is wrong with where a template says that its state lies. Rust (crate tendril-templates) says the same.';

create function tendril_core.with_template_state(p_snapshot jsonb) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_record jsonb;
begin
  if jsonb_typeof(p_snapshot) <> 'object' or p_snapshot ? 'backend' or p_snapshot -> 'stateless' = 'true' then
    return p_snapshot;
  end if;
  select t.record into v_record from tendril_core.templates t
   where t.name = p_snapshot #>> '{template,name}' and t.version = p_snapshot #>> '{template,version}';
  if v_record ? 'backend' then
    return p_snapshot || jsonb_build_object('backend', v_record -> 'backend');
  elsif v_record -> 'stateless' = 'true' and not p_snapshot ?| array['stateless', 'workspace', 'state_key'] then
    return p_snapshot || '{"stateless": true}';
  end if;
  return p_snapshot;
end $$;
comment on function tendril_core.with_template_state is 'A snapshot that says nothing of its state, with what its registered template says.';

-- name of the function: submit_row
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
  new.config_snapshot := tendril_core.with_template_state(new.config_snapshot);
  perform tendril_core.check_snapshot(new.config_snapshot);
  new.id := coalesce(new.id, tendril_core.uuidv7());
  new.status := 'QUEUED';
  -- Only tendril.retry may set retry_of, and it has seen that the caller may see that deployment.
  new.user_id := coalesce(tendril.portal_user(), (select o.user_id from tendril.deployments o where o.id = new.retry_of), c.user_id);
  new.state_location := tendril_core.state_key_of(new.config_snapshot);
  return new;
end $$;
comment on function tendril_core.submit_row is 'Checks each row of a submit before it is stored, and writes its template''s word on the state into it.';

create or replace function tendril.template_register(p_record jsonb) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_engine text;
  v_needed jsonb;
  v_wrong  record;
begin
  if p_record ->> 'name' is null or p_record ->> 'version' is null or jsonb_typeof(p_record -> 'inputs') is distinct from 'object'
     or jsonb_typeof(p_record -> 'engine') is distinct from 'object' then
    perform tendril_core.fail('TD001', 'template record: needs name, version, inputs and engine', 'tendril-broker template register DIR makes it');
  end if;
  for v_engine, v_needed in select * from jsonb_each(p_record -> 'engine') loop
    begin
      perform tendril_core.version_matches(case jsonb_typeof(v_needed) when 'string' then v_needed #>> '{}' else '' end, '0.0.0');
    exception when invalid_parameter_value then
      perform tendril_core.fail('TD001', format('template record: engine.%s is not a version requirement', v_engine), 'write it as in ">=1.6, <2"');
    end;
  end loop;
  for v_wrong in select e.path, e.message from tendril_core.template_state_errors(p_record) e limit 1 loop
    perform tendril_core.fail('TD001', format('template record: %s: %s', v_wrong.path, v_wrong.message), 'tendril-broker template lint DIR finds it, too');
  end loop;
  insert into tendril_core.templates (name, version, inputs, engines, record)
    values (p_record ->> 'name', p_record ->> 'version', p_record -> 'inputs',
      array(select jsonb_object_keys(p_record -> 'engine') order by 1), p_record)
    on conflict (name, version) do nothing;
  if found then
    return true;
  end if;
  if not exists (select from tendril_core.templates t where t.name = p_record ->> 'name' and t.version = p_record ->> 'version' and t.record = p_record) then
    perform tendril_core.fail('TD003', format('template %s %s is registered already, with other content', p_record ->> 'name', p_record ->> 'version'),
      'raise its version');
  end if;
  return false;
end $$;
comment on function tendril.template_register(jsonb) is
  'Registers a template''s version, so that submits are checked against its inputs and engines, and take its word on the state; false when it was there.';
comment on column tendril.deployments.user_id is
  'Who asked: portal_user(), else of a retry the user of what it does again, else the cluster''s user. Set by the database.';
comment on column tendril.deployments.config_snapshot is
  'What to do, frozen; docs/config-snapshot.schema.json. Where it says nothing of the state, a registered template''s word is written into it.';

revoke execute on all functions in schema tendril_core from public;
