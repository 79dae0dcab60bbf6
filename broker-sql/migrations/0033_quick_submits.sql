-- A submit in half the time: the normal case asks no more than it has to.

create or replace function tendril_core.job_errors(p_snapshot jsonb) returns table (path text, message text)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_jobs jsonb := p_snapshot -> 'jobs';
  j      jsonb;
  v_at   text;
  v_kind tendril_core.kinds;
  v_plan integer;
begin
  for n in 0 .. jsonb_array_length(v_jobs) - 1 loop
    j := v_jobs -> n;
    v_at := 'jobs[' || n || '].';
    select * into v_kind from tendril_core.kinds k where k.kind = j ->> 'kind';
    if not found then
      return query select v_at || 'kind', format('unknown kind %s; known are %s', j ->> 'kind',
        (select string_agg(k.kind, ', ' order by k.kind) from tendril_core.kinds k));
      continue;
    end if;
    if (j ? 'argv') <> (v_kind.kind = 'exec') then
      return query select v_at || 'argv', case when j ? 'argv' then 'belongs to kind exec' else 'is required for kind exec' end;
    end if;
    if j ? 'reading' and v_kind.kind <> 'exec' then return query select v_at || 'reading', 'belongs to kind exec'::text; end if;
    if j ? 'destroy' and v_kind.kind <> 'terraform.plan' then return query select v_at || 'destroy', 'belongs to kind terraform.plan'::text; end if;
    if v_kind.mutating and (j #> '{limits,max_attempts}') is not null and not coalesce((j ->> 'reading')::boolean, false) then
      return query select v_at || 'limits.max_attempts', 'is for jobs that only read: one that changes the world starts at most once'::text;
    end if;
    if v_kind.kind <> 'exec' and not p_snapshot ? 'template' then
      return query select v_at || 'kind', format('%s needs a template', v_kind.kind);
    end if;
    if v_kind.kind in ('terraform.apply', 'terraform.destroy') then
      select count(*) into v_plan from jsonb_array_elements(v_jobs) o
       where o ->> 'kind' = 'terraform.plan' and o ->> 'name' in (select jsonb_array_elements_text(coalesce(j -> 'needs', '[]')))
         and coalesce((o ->> 'destroy')::boolean, false) = (v_kind.kind = 'terraform.destroy');
      if v_plan <> 1 then
        return query select v_at || 'needs', format('%s needs exactly one terraform.plan job%s, whose plan it runs', v_kind.kind,
          case when v_kind.kind = 'terraform.destroy' then ' with destroy: true' else ' without destroy' end);
      end if;
    end if;
  end loop;
  -- One job that needs nothing is no graph.
  if jsonb_array_length(v_jobs) > 1 or v_jobs -> 0 ? 'needs' then
    return query select * from tendril_core.graph_errors(v_jobs);
  end if;
end $$;

create or replace function tendril_core.snapshot_errors(p_snapshot jsonb) returns table (path text, message text)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  k text;
begin
  if not tendril_core.schema_fits(tendril_core.snapshot_schema(), p_snapshot) then
    return query select e.path, e.message
      from tendril_core.schema_errors(tendril_core.snapshot_schema(), p_snapshot, 'config_snapshot') e;
    -- The rules below trust the form; after an error of form they would only repeat it.
    if found then return; end if;
  end if;
  if not p_snapshot ? 'template' and not p_snapshot ? 'jobs' then
    return query select 'config_snapshot'::text, 'needs a template or jobs'::text;
  end if;
  if p_snapshot ? 'jobs' then
    foreach k in array array['action', 'approval', 'cost'] loop
      if p_snapshot ? k then
        return query select 'config_snapshot.' || k, 'belongs to the default jobs of a template; jobs stand beside it'::text;
      end if;
    end loop;
  end if;
  if not p_snapshot ? 'template' then
    foreach k in array array['inputs', 'engine', 'engine_version', 'backend', 'workspace', 'state_key', 'stateless'] loop
      if p_snapshot ? k then
        return query select 'config_snapshot.' || k, 'has no meaning without a template'::text;
      end if;
    end loop;
  end if;
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
  end if;
end $$;

create or replace function tendril_core.check_snapshot(p_snapshot jsonb) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_bytes  integer := octet_length(p_snapshot::text);
  v_errors jsonb;
begin
  -- No setting is smaller than this.
  if v_bytes > 4096 and v_bytes > (select snapshot_max_bytes from tendril_core.settings) then
    perform tendril_core.fail('TD001', format('config_snapshot: has more than %s bytes', (select snapshot_max_bytes from tendril_core.settings)),
      'put large files into git or a template');
  end if;
  select jsonb_agg(jsonb_build_object('path', e.path, 'message', e.message)) into v_errors
    from tendril_core.snapshot_errors(p_snapshot) e;
  if v_errors is not null then
    perform tendril_core.fail('TD001', format('%s: %s', v_errors #>> '{0,path}', v_errors #>> '{0,message}'),
      'docs/SQL.md describes config_snapshot', v_errors::text);
  end if;
end $$;

create or replace function tendril_core.with_template_state(p_snapshot jsonb) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_record jsonb;
begin
  if jsonb_typeof(p_snapshot) <> 'object' or p_snapshot #> '{template,name}' is null or p_snapshot ? 'backend' or p_snapshot -> 'stateless' = 'true' then
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

-- What most portals were granted is asked first.
create or replace function tendril_core.sees(p_cluster uuid, p_user text) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return tendril_core.sees_all() or p_cluster = any (tendril_core.seen_clusters())
      or coalesce(p_user = tendril_core.seen_user(), false) or tendril_core.is_owner();
end $$;

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
  new.user_id := tendril.portal_user();
  -- Only tendril.retry may set retry_of, and it has seen that the caller may see that deployment.
  if new.user_id is null and new.retry_of is not null then
    select o.user_id into new.user_id from tendril.deployments o where o.id = new.retry_of;
  end if;
  new.user_id := coalesce(new.user_id, c.user_id);
  new.state_location := tendril_core.state_key_of(new.config_snapshot);
  return new;
end $$;

create or replace function tendril_core.jobs_of(p_snapshot jsonb, p_cost boolean)
returns table (name text, kind text, needs text[], mutating boolean, optional boolean, needs_approval boolean, priority smallint,
  timeout_ms bigint, kill_grace_ms bigint, max_attempts smallint, retry_failures boolean, requires text[], state_key text, spec jsonb)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_action text  := coalesce(p_snapshot ->> 'action', 'apply');
  v_jobs   jsonb := p_snapshot -> 'jobs';
  v_engine text  := p_snapshot ->> 'engine';
begin
  if v_engine is null and p_snapshot #> '{template,name}' is not null then
    select t.engines[1] into v_engine from tendril_core.templates t
     where t.name = p_snapshot #>> '{template,name}' and t.version = p_snapshot #>> '{template,version}' and cardinality(t.engines) = 1;
  end if;
  if v_jobs is null then
    v_jobs := jsonb_build_array(jsonb_build_object('name', 'plan', 'kind', 'terraform.plan', 'destroy', v_action = 'destroy'));
    if p_cost and v_action <> 'destroy' then
      v_jobs := v_jobs || jsonb_build_array('{"name": "cost", "kind": "infracost.breakdown", "needs": ["plan"], "optional": true}'::jsonb);
    end if;
    if v_action <> 'plan' then
      v_jobs := v_jobs || jsonb_build_array(jsonb_build_object('name', v_action, 'kind', 'terraform.' || v_action,
        'needs', '["plan"]'::jsonb, 'approval', coalesce(p_snapshot ->> 'approval', 'none')));
    end if;
  end if;
  return query
    select j.job ->> 'name', k.kind, array(select jsonb_array_elements_text(coalesce(j.job -> 'needs', '[]'))),
           k.mutating and not coalesce((j.job ->> 'reading')::boolean, false), coalesce((j.job ->> 'optional')::boolean, false),
           coalesce(j.job ->> 'approval' = 'required', false), k.priority,
           1000 * coalesce((l.limits -> 'timeout_s')::bigint, 3600), 1000 * coalesce((l.limits -> 'kill_grace_s')::bigint, 60),
           coalesce((l.limits -> 'max_attempts')::smallint, 3::smallint), l.limits ? 'max_attempts',
           array['kind=' || k.kind]
             || case when k.engine and v_engine is not null
                  then array['engine=' || v_engine || coalesce('@' || (p_snapshot ->> 'engine_version'), '')] else '{}' end
             || case when k.engine and p_snapshot #>> '{backend,type}' = 'local' then array['place=' || (p_snapshot #>> '{backend,place}')] else '{}' end
             || array(select jsonb_array_elements_text(coalesce(p_snapshot -> 'labels', '[]') || coalesce(j.job -> 'labels', '[]'))),
           case when k.engine and k.mutating then tendril_core.state_key_of(p_snapshot) end,
           jsonb_strip_nulls(jsonb_build_object('argv', j.job -> 'argv', 'destroy', j.job -> 'destroy', 'needs', j.job -> 'needs',
             'plan_json', case when k.kind = 'terraform.plan' and not exists (select from jsonb_array_elements(v_jobs) o
               where o ->> 'kind' = 'infracost.breakdown' and o -> 'needs' ? (j.job ->> 'name')) then false end))
      from jsonb_array_elements(v_jobs) with ordinality j(job, ord)
      join tendril_core.kinds k on k.kind = j.job ->> 'kind',
      lateral (select coalesce(p_snapshot -> 'limits', '{}') || coalesce(j.job -> 'limits', '{}') as limits) l
     order by j.ord;
end $$;

create or replace function tendril_core.submit_rows() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set enable_material = off set jit = off
set plan_cache_mode = force_generic_plan as $$
declare
  v_needs    boolean;
  v_approval boolean;
begin
  -- Jobs and queue in one statement, and the rest only where there is anything to do.
  with made as (
    insert into tendril_core.jobs (cluster_id, deployment_id, name, kind, mutating, optional, needs_approval, retry_failures, state,
        needs_left, max_attempts, priority, timeout_ms, kill_grace_ms, state_key, requires, spec, queued_at, retry_of)
      select d.cluster_id, d.id, j.name, j.kind, j.mutating, j.optional, j.needs_approval, j.retry_failures,
             case when cardinality(j.needs) > 0 then 'BLOCKED' when j.needs_approval then 'AWAITING_APPROVAL' else 'QUEUED' end,
             cardinality(j.needs), j.max_attempts, j.priority, j.timeout_ms, j.kill_grace_ms, j.state_key, j.requires, j.spec,
             case when cardinality(j.needs) = 0 and not j.needs_approval then clock_timestamp() end,
             case when d.retry_of is not null then
               (select o.id from tendril_core.jobs o where o.deployment_id = d.retry_of and o.name = j.name) end
        from submitted d,
             lateral tendril_core.jobs_of(d.config_snapshot, case
               when d.config_snapshot ? 'jobs' or d.config_snapshot ->> 'cost' = 'off' then false
               when d.config_snapshot ->> 'cost' = 'on' then true
               else tendril_core.offers(d.cluster_id, 'kind=infracost.breakdown') end) j
      returning id, cluster_id, state, needs_left, priority, state_key, requires, created_at),
  waiting as (
    insert into tendril_core.queue (job_id, cluster_id, priority, state_key, requires)
      select m.id, m.cluster_id, m.priority, m.state_key, m.requires from made m
       where m.state = 'QUEUED' order by m.created_at, m.id)
  select bool_or(m.needs_left > 0), bool_or(m.state = 'AWAITING_APPROVAL') into v_needs, v_approval from made m;
  if v_needs then
    insert into tendril_core.job_needs (job_id, needs_id)
      select j.id, n.id
        from submitted d
        join tendril_core.jobs j on j.deployment_id = d.id
        cross join lateral jsonb_array_elements_text(coalesce(j.spec -> 'needs', '[]')) e
        join tendril_core.jobs n on n.deployment_id = j.deployment_id and n.name = e;
  end if;
  if v_approval then
    update tendril.deployments d set status = 'AWAITING_APPROVAL'
      from submitted s where d.id = s.id and exists (select from tendril_core.jobs j where j.deployment_id = d.id and j.state = 'AWAITING_APPROVAL')
       and not exists (select from tendril_core.jobs j where j.deployment_id = d.id and j.state = 'QUEUED');
  end if;
  return null;
end $$;

revoke execute on all functions in schema tendril_core from public;
