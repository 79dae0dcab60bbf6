-- Submits: concurrency keys, unique deployments, and none into a cluster that is being drained.

alter table tendril.deployments add column unique_key text;
comment on column tendril.deployments.unique_key is 'At most one deployment of the cluster with this key has not ended; from the snapshot.';
create unique index deployments_one_live on tendril.deployments (cluster_id, unique_key)
  where unique_key is not null and status in ('QUEUED', 'PROCESSING', 'AWAITING_APPROVAL');

create or replace function tendril_core.snapshot_schema() returns jsonb
language sql immutable parallel safe set search_path = pg_catalog, pg_temp
as $$
select $json${
  "title": "config_snapshot",
  "description": "What a deployment does. Either template and action, or jobs.",
  "type": "object", "additionalProperties": false,
  "properties": {
    "template": {
      "description": "Where the files come from: name (shipped with the runner or registered), git, or inline.",
      "type": "object", "additionalProperties": false,
      "properties": {
        "name": {"type": "string", "pattern": "^[a-z][a-z0-9-]{0,62}$"},
        "version": {"type": "string", "pattern": "^[0-9]+[.][0-9]+[.][0-9]+(-[0-9A-Za-z.-]+)?$"},
        "git": {"type": "string", "description": "https://, ssh:// or user@host:path", "minLength": 8, "maxLength": 2048},
        "ref": {"type": "string", "description": "branch, tag or commit", "pattern": "^[A-Za-z0-9_][A-Za-z0-9_./+-]{0,254}$"},
        "path": {"type": "string", "description": "folder within the repository", "maxLength": 1024, "pattern": "^[A-Za-z0-9_][A-Za-z0-9_./ -]*$"},
        "submodules": {"type": "boolean"},
        "inline": {"type": "object", "description": "relative path -> text"}
      }
    },
    "inputs": {"type": "object", "description": "The template's inputs; become Terraform variables."},
    "action": {"type": "string", "enum": ["plan", "apply", "destroy"], "default": "apply"},
    "engine": {"type": "string", "enum": ["terraform", "tofu"]},
    "engine_version": {"type": "string", "pattern": "^[0-9]+[.][0-9]+[.][0-9]+(-[0-9A-Za-z.-]+)?$"},
    "backend": {
      "description": "Where the state lies. Credentials never stand here: they belong to the runner.",
      "type": "object", "additionalProperties": false, "required": ["type"],
      "properties": {
        "type": {"type": "string", "enum": ["local", "s3", "gcs", "azurerm", "http", "pg", "own"]},
        "place": {"type": "string", "pattern": "^[a-z0-9][a-z0-9._-]{0,62}$"},
        "path": {"type": "string", "pattern": "^[A-Za-z0-9_][A-Za-z0-9_./-]{0,254}$"},
        "config": {"type": "object"}
      }
    },
    "workspace": {"type": "string", "pattern": "^[A-Za-z0-9_][A-Za-z0-9_-]{0,89}$", "default": "default"},
    "state_key": {"type": "string", "description": "Identity of the state where it cannot be derived from backend.", "minLength": 1, "maxLength": 512},
    "stateless": {"type": "boolean", "description": "The state is thrown away with the work folder."},
    "labels": {"type": "array", "maxItems": 32, "uniqueItems": true, "items": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._/=@:-]{0,127}$"}},
    "limits": {
      "type": "object", "additionalProperties": false,
      "properties": {
        "timeout_s": {"type": "integer", "minimum": 1, "maximum": 604800, "default": 3600},
        "kill_grace_s": {"type": "integer", "minimum": 0, "maximum": 3600, "default": 60},
        "max_attempts": {"type": "integer", "minimum": 1, "maximum": 20, "description": "For kinds that only read. When given, failures are tried again, not only losses."}
      }
    },
    "approval": {"type": "string", "enum": ["required", "none"], "default": "none"},
    "priority": {"type": "integer", "minimum": 0, "maximum": 100, "description": "Smaller is claimed earlier. Without it the kind says: 10 apply and destroy, 20 plan and exec, 30 cost."},
    "run_after": {"type": "string", "description": "Not before this moment (RFC 3339)", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]{1,6})?(Z|[+-][0-9]{2}:[0-9]{2})$"},
    "concurrency": {
      "type": "object", "additionalProperties": false, "required": ["key"],
      "description": "At most so many jobs of the cluster with this key run at once; counts for each job of the deployment",
      "properties": {
        "key": {"type": "string", "minLength": 1, "maxLength": 200},
        "limit": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 1}
      }
    },
    "unique_key": {"type": "string", "description": "At most one deployment of the cluster with this key that has not ended", "minLength": 1, "maxLength": 200},
    "cost": {"type": "string", "enum": ["auto", "on", "off"], "default": "auto", "description": "auto: when a runner of the cluster offers infracost.breakdown"},
    "jobs": {
      "type": "array", "minItems": 1, "maxItems": 200,
      "items": {
        "type": "object", "additionalProperties": false, "required": ["name", "kind"],
        "properties": {
          "name": {"type": "string", "pattern": "^[a-z0-9][a-z0-9_-]{0,62}$"},
          "kind": {"type": "string"},
          "needs": {"type": "array", "uniqueItems": true, "maxItems": 200, "items": {"type": "string"}},
          "argv": {"type": "array", "minItems": 1, "maxItems": 256, "items": {"type": "string", "maxLength": 131072}, "description": "exec only: program and arguments, never a shell string"},
          "reading": {"type": "boolean", "description": "exec only: it changes nothing and may start again after a loss"},
          "destroy": {"type": "boolean", "description": "terraform.plan only: plan the destruction"},
          "labels": {"type": "array", "maxItems": 32, "uniqueItems": true, "items": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._/=@:-]{0,127}$"}},
          "limits": {
            "type": "object", "additionalProperties": false,
            "properties": {
              "timeout_s": {"type": "integer", "minimum": 1, "maximum": 604800},
              "kill_grace_s": {"type": "integer", "minimum": 0, "maximum": 3600},
              "max_attempts": {"type": "integer", "minimum": 1, "maximum": 20}
            }
          },
          "approval": {"type": "string", "enum": ["required", "none"]},
          "priority": {"type": "integer", "minimum": 0, "maximum": 100},
          "concurrency": {
            "type": "object", "additionalProperties": false, "required": ["key"],
            "properties": {
              "key": {"type": "string", "minLength": 1, "maxLength": 200},
              "limit": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 1}
            }
          },
          "optional": {"type": "boolean", "description": "its failure does not fail the deployment"}
        }
      }
    }
  }
}$json$::jsonb
$$;

-- name of the function: check_unique
-- Two submits with one key come one after the other, until the first one's transaction ends; others are not touched. What a
-- stricter isolation hides from this look the index finds (23505).
create function tendril_core.check_unique(p_cluster uuid, p_key text, p_id uuid) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  d tendril.deployments;
begin
  perform pg_advisory_xact_lock(hashtextextended(p_cluster::text || p_key, 0));
  select * into d from tendril.deployments o
   where o.cluster_id = p_cluster and o.unique_key = p_key and o.unique_key is not null and o.status in ('QUEUED', 'PROCESSING', 'AWAITING_APPROVAL');
  -- The same submit once more is none.
  if d.id is not null and d.id <> p_id then
    perform tendril_core.fail('TD014', format('unique_key: deployment %s with key %s has not ended', d.id, p_key),
      'follow that one, or cancel it first', jsonb_build_object('deployment_id', d.id, 'status', d.status)::text);
  end if;
end $$;
comment on function tendril_core.check_unique is 'Refuses a submit while another deployment with its key lives.';

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
  if c.draining then
    perform tendril_core.fail('TD003', format('cluster %s is being drained%s', c.name, coalesce(': ' || c.pause_reason, '')), 'submit to another cluster, or wait until it is resumed');
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
  new.unique_key := new.config_snapshot ->> 'unique_key';
  if new.unique_key is not null then
    perform tendril_core.check_unique(new.cluster_id, new.unique_key, new.id);
  end if;
  new.state_location := tendril_core.state_key_of(new.config_snapshot);
  return new;
end $$;

drop function tendril_core.jobs_of(jsonb, boolean);
create function tendril_core.jobs_of(p_snapshot jsonb, p_cost boolean)
returns table (ord bigint, name text, kind text, needs text[], mutating boolean, optional boolean, needs_approval boolean, priority smallint,
  timeout_ms bigint, kill_grace_ms bigint, max_attempts smallint, retry_failures boolean, requires text[], state_key text, spec jsonb,
  run_after timestamptz, concurrency_key text, concurrency_limit integer)
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
    select j.ord, j.job ->> 'name', k.kind, array(select jsonb_array_elements_text(coalesce(j.job -> 'needs', '[]'))),
           k.mutating and not coalesce((j.job ->> 'reading')::boolean, false), coalesce((j.job ->> 'optional')::boolean, false),
           coalesce(j.job ->> 'approval' = 'required', false),
           coalesce((j.job -> 'priority')::smallint, (p_snapshot -> 'priority')::smallint, k.priority),
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
               where o ->> 'kind' = 'infracost.breakdown' and o -> 'needs' ? (j.job ->> 'name')) then false end)),
           (p_snapshot ->> 'run_after')::timestamptz,
           c.wanted ->> 'key', case when c.wanted is not null then coalesce((c.wanted -> 'limit')::integer, 1) end
      from jsonb_array_elements(v_jobs) with ordinality j(job, ord)
      join tendril_core.kinds k on k.kind = j.job ->> 'kind',
      lateral (select coalesce(p_snapshot -> 'limits', '{}') || coalesce(j.job -> 'limits', '{}') as limits) l,
      lateral (select coalesce(j.job -> 'concurrency', p_snapshot -> 'concurrency') as wanted) c
     order by j.ord;
end $$;
comment on function tendril_core.jobs_of is 'The jobs that a checked snapshot expands to, in order; the default ones are plan, cost and apply.';


create or replace function tendril_core.submit_rows() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set enable_bitmapscan = off set enable_material = off set jit = off
set plan_cache_mode = force_generic_plan as $$
declare
  v_ageing   bigint := (select extract(epoch from ageing) * 1000000 from tendril_core.settings);
  v_needs    boolean;
  v_approval boolean;
  v_special  uuid[];
  v          uuid;
begin
  -- Jobs and queue in one statement, and the rest only where there is anything to do.
  with made as (
    insert into tendril_core.jobs (cluster_id, deployment_id, name, kind, mutating, optional, needs_approval, retry_failures, state,
        needs_left, max_attempts, priority, timeout_ms, kill_grace_ms, state_key, requires, spec, run_after, concurrency_key, concurrency_limit, queued_at, rank, retry_of)
      select d.cluster_id, d.id, j.name, j.kind, j.mutating, j.optional, j.needs_approval, j.retry_failures,
             case when cardinality(j.needs) > 0 then 'BLOCKED' when j.needs_approval then 'AWAITING_APPROVAL' else 'QUEUED' end,
             cardinality(j.needs), j.max_attempts, j.priority, j.timeout_ms, j.kill_grace_ms, j.state_key, j.requires, j.spec, j.run_after,
             j.concurrency_key, j.concurrency_limit,
             case when cardinality(j.needs) = 0 and not j.needs_approval then clock_timestamp() end,
             -- Each job of a deployment stands behind those of it that wait already.
             case when cardinality(j.needs) = 0 and not j.needs_approval then
               (extract(epoch from greatest(clock_timestamp(), j.run_after)) * 1000000)::bigint + v_ageing * (j.priority - 1
                 + row_number() over (partition by d.id, cardinality(j.needs) = 0 and not j.needs_approval order by j.ord)) end,
             case when d.retry_of is not null then
               (select o.id from tendril_core.jobs o where o.deployment_id = d.retry_of and o.name = j.name) end
        from submitted d,
             lateral tendril_core.jobs_of(d.config_snapshot, case
               when d.config_snapshot ? 'jobs' or d.config_snapshot ->> 'cost' = 'off' then false
               when d.config_snapshot ->> 'cost' = 'on' then true
               else tendril_core.offers(d.cluster_id, 'kind=infracost.breakdown') end) j
       order by d.created_at, d.id, j.ord
      returning id, cluster_id, state, needs_left, rank, state_key, concurrency_key, run_after, requires),
  waiting as (
    insert into tendril_core.queue (job_id, cluster_id, rank, state_key, requires)
      select m.id, m.cluster_id, m.rank, m.state_key, m.requires from made m
       where m.state = 'QUEUED' and m.state_key is null and m.concurrency_key is null and m.run_after is null order by m.rank, m.id)
  select bool_or(m.needs_left > 0), bool_or(m.state = 'AWAITING_APPROVAL'),
         array_agg(m.id order by m.rank, m.id) filter (where m.state = 'QUEUED' and (m.state_key is not null or m.concurrency_key is not null or m.run_after is not null))
    into v_needs, v_approval, v_special from made m;
  if v_special is not null then
    foreach v in array v_special loop
      perform tendril_core.admit(v, true);
    end loop;
  end if;
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

revoke execute on all functions in schema tendril, tendril_core from public;
