-- A key that would have no effect is refused, whatever stands beside it.

create or replace function tendril_core.snapshot_errors(p_snapshot jsonb) returns table (path text, message text)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  k text;
begin
  return query select e.path, e.message
    from tendril_core.schema_errors(tendril_core.snapshot_schema(), p_snapshot, 'config_snapshot') e;
  -- The rules below trust the form; after an error of form they would only repeat it.
  if found then return; end if;
  if not p_snapshot ? 'template' and not p_snapshot ? 'jobs' then
    return query select 'config_snapshot'::text, 'needs a template or jobs'::text;
  end if;
  foreach k in array array['action', 'approval', 'cost'] loop
    if p_snapshot ? k and p_snapshot ? 'jobs' then
      return query select 'config_snapshot.' || k, 'belongs to the default jobs of a template; jobs stand beside it'::text;
    end if;
  end loop;
  if p_snapshot ->> 'action' = 'plan' and p_snapshot ->> 'approval' = 'required' then
    return query select 'config_snapshot.approval'::text, 'has no meaning for a plan alone: it changes nothing that could be approved'::text;
  end if;
  if p_snapshot ->> 'action' = 'destroy' and p_snapshot ->> 'cost' = 'on' then
    return query select 'config_snapshot.cost'::text, 'has no meaning for a destruction'::text;
  end if;
  foreach k in array array['inputs', 'engine', 'engine_version', 'backend', 'workspace', 'state_key', 'stateless'] loop
    if p_snapshot ? k and not p_snapshot ? 'template' then
      return query select 'config_snapshot.' || k, 'has no meaning without a template'::text;
    end if;
  end loop;
  if p_snapshot ? 'engine_version' and not p_snapshot ? 'engine' then
    return query select 'config_snapshot.engine_version'::text, 'needs engine'::text;
  end if;
  if p_snapshot ? 'template' then
    return query select 'config_snapshot.' || e.path, e.message from tendril_core.template_errors(p_snapshot) e;
    if p_snapshot ? 'backend' then
      return query select 'config_snapshot.' || e.path, e.message from tendril_core.backend_errors(p_snapshot) e;
      if coalesce((p_snapshot ->> 'stateless')::boolean, false) then
        return query select 'config_snapshot.stateless'::text, 'contradicts backend'::text;
      end if;
    elsif not coalesce((p_snapshot ->> 'stateless')::boolean, false) then
      return query select 'config_snapshot.backend'::text, 'is required, or stateless: true when the state may be thrown away'::text;
    elsif p_snapshot ?| array['state_key', 'workspace'] then
      return query select 'config_snapshot.stateless'::text, 'contradicts state_key and workspace'::text;
    end if;
  end if;
  if p_snapshot ? 'jobs' then
    return query select 'config_snapshot.' || e.path, e.message from tendril_core.job_errors(p_snapshot) e;
    if p_snapshot #> '{limits,max_attempts}' is not null and not exists (
        select from jsonb_array_elements(p_snapshot -> 'jobs') j left join tendril_core.kinds n on n.kind = j ->> 'kind'
         where not n.mutating or coalesce((j ->> 'reading')::boolean, false)) then
      return query select 'config_snapshot.limits.max_attempts'::text, 'is for jobs that only read, and here is none'::text;
    end if;
  end if;
end $$;
