-- What a submit says about its place in the queue, what a snooze changes there, and what a job waits for.

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
          "optional": {"type": "boolean", "description": "its failure does not fail the deployment"}
        }
      }
    }
  }
}$json$::jsonb
$$;

create function tendril_core.queue_errors(p_snapshot jsonb) returns table (path text, message text)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  if p_snapshot ? 'run_after' then
    begin
      if (p_snapshot ->> 'run_after')::timestamptz > clock_timestamp() + interval '1 year' then
        return query select 'config_snapshot.run_after'::text, 'lies more than a year ahead'::text;
      end if;
    exception when datetime_field_overflow or invalid_datetime_format then
      return query select 'config_snapshot.run_after'::text, 'is no moment, as 2026-01-31T06:00:00Z is one'::text;
    end;
  end if;
end $$;
comment on function tendril_core.queue_errors is 'What is wrong with what a snapshot says about its place in the queue, beyond its form.';

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
  if v_errors is null and p_snapshot ?| array['run_after'] then
    select jsonb_agg(jsonb_build_object('path', e.path, 'message', e.message)) into v_errors
      from tendril_core.queue_errors(p_snapshot) e;
  end if;
  if v_errors is not null then
    perform tendril_core.fail('TD001', format('%s: %s', v_errors #>> '{0,path}', v_errors #>> '{0,message}'),
      'docs/SQL.md describes config_snapshot', v_errors::text);
  end if;
end $$;

drop function tendril_core.jobs_of(jsonb, boolean);
create function tendril_core.jobs_of(p_snapshot jsonb, p_cost boolean)
returns table (ord bigint, name text, kind text, needs text[], mutating boolean, optional boolean, needs_approval boolean, priority smallint,
  timeout_ms bigint, kill_grace_ms bigint, max_attempts smallint, retry_failures boolean, requires text[], state_key text, spec jsonb,
  run_after timestamptz)
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
           (p_snapshot ->> 'run_after')::timestamptz
      from jsonb_array_elements(v_jobs) with ordinality j(job, ord)
      join tendril_core.kinds k on k.kind = j.job ->> 'kind',
      lateral (select coalesce(p_snapshot -> 'limits', '{}') || coalesce(j.job -> 'limits', '{}') as limits) l
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
        needs_left, max_attempts, priority, timeout_ms, kill_grace_ms, state_key, requires, spec, run_after, queued_at, rank, retry_of)
      select d.cluster_id, d.id, j.name, j.kind, j.mutating, j.optional, j.needs_approval, j.retry_failures,
             case when cardinality(j.needs) > 0 then 'BLOCKED' when j.needs_approval then 'AWAITING_APPROVAL' else 'QUEUED' end,
             cardinality(j.needs), j.max_attempts, j.priority, j.timeout_ms, j.kill_grace_ms, j.state_key, j.requires, j.spec, j.run_after,
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
      returning id, cluster_id, state, needs_left, rank, state_key, run_after, requires),
  waiting as (
    insert into tendril_core.queue (job_id, cluster_id, rank, state_key, requires)
      select m.id, m.cluster_id, m.rank, m.state_key, m.requires from made m
       where m.state = 'QUEUED' and m.state_key is null and m.run_after is null order by m.rank, m.id)
  select bool_or(m.needs_left > 0), bool_or(m.state = 'AWAITING_APPROVAL'),
         array_agg(m.id order by m.rank, m.id) filter (where m.state = 'QUEUED' and (m.state_key is not null or m.run_after is not null))
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

-- ---------------------------------------------------------------------------------------------------------------
-- Snooze, and what a job waits for
-- ---------------------------------------------------------------------------------------------------------------

create function tendril.snooze(p_deployment uuid, p_until timestamptz, p_job text default null) returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set enable_bitmapscan = off set enable_material = off set jit = off as $$
declare
  d     tendril.deployments := tendril_core.seen_deployment(p_deployment);
  v_ids uuid[];
  j     tendril_core.jobs;
begin
  perform tendril_core.guard();
  if p_until > clock_timestamp() + interval '1 year' then
    perform tendril_core.fail('TD001', format('until: %s lies more than a year ahead', p_until), 'a moment within a year, or NULL to wake it');
  end if;
  perform from tendril.deployments where id = p_deployment for update;
  -- The jobs' rows first, as in a cancel: after a claim in flight the state tells.
  v_ids := array(select x.id from tendril_core.jobs x where x.deployment_id = p_deployment and x.name = coalesce(p_job, x.name)
                    and x.state in ('BLOCKED', 'QUEUED', 'AWAITING_APPROVAL') order by x.id for update);
  if cardinality(v_ids) = 0 then
    perform tendril_core.fail('TD003', format('no job%s of the deployment waits', coalesce(' ' || p_job, '')),
      format('the deployment is %s; what runs is not snoozed', d.status));
  end if;
  update tendril_core.jobs set run_after = p_until where id = any (v_ids);
  for j in select * from tendril_core.jobs x where x.id = any (v_ids) and x.state = 'QUEUED' order by x.rank, x.id loop
    perform tendril_core.dequeue(array[j.id]);
    perform tendril_core.admit(j.id, true);
  end loop;
  -- The count's two directions ring for what was woken.
  insert into tendril_core.queue_deltas (cluster_id, kind, state, n)
    select x.cluster_id, x.kind, 'QUEUED', n from tendril_core.jobs x, (values (1), (-1)) v(n)
     where x.id = any (v_ids) and exists (select from tendril_core.queue q where q.job_id = x.id);
  return cardinality(v_ids);
end $$;
comment on function tendril.snooze(uuid, timestamptz, text) is
  'Lets the waiting jobs of a deployment, or one of them, run only after a moment; NULL or a moment that has passed wakes them. Returns how many.';

create or replace function tendril_core.waiting_for(j tendril_core.jobs) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_missing text[];
  v_text    text;
  v_parked  tendril_core.parked;
begin
  if j.state = 'BLOCKED' then
    return (select 'job ' || string_agg(n.name, ', ' order by n.name) from tendril_core.job_needs e join tendril_core.jobs n on n.id = e.needs_id
             where e.job_id = j.id and n.state <> 'SUCCESS');
  elsif j.state = 'AWAITING_APPROVAL' then
    return format('approval of job %s: tendril.approve(%L)', j.name, j.deployment_id);
  elsif j.state = 'UNKNOWN' then
    return format('the runner of job %s to be heard again, or an operator''s declare-lost', j.name);
  elsif j.state <> 'QUEUED' then
    return null;
  end if;
  select * into v_parked from tendril_core.parked p where p.job_id = j.id;
  if v_parked.why = 'key' then
    select format('key %s, held by job %s of deployment %s', h.state_key, o.name, o.deployment_id) into v_text
      from tendril_core.held_keys h join tendril_core.jobs o on o.id = h.job_id
     where h.cluster_id = j.cluster_id and h.state_key = j.state_key;
    return coalesce(v_text, format('key %s: another job comes first', j.state_key));
  elsif v_parked.why = 'later' then
    return format(case when j.attempts > 0 then 'the next try at %s' else 'its time: not before %s' end,
      to_char(v_parked.run_after at time zone 'UTC', case when v_parked.run_after < clock_timestamp() + interval '12 h' then 'HH24:MI:SS "UTC"' else 'YYYY-MM-DD HH24:MI:SS "UTC"' end));
  end if;
  if not exists (select from tendril_core.runner_leases l where l.cluster_id = j.cluster_id and l.lease_expires_at > clock_timestamp()) then
    return 'a runner: none of the cluster is online';
  end if;
  -- The runner that lacks least names what is missing.
  select array(select x from unnest(j.requires) x where x <> all (r.labels)) into v_missing
    from tendril_core.runners r join tendril_core.runner_leases l on l.runner_id = r.id
   where r.cluster_id = j.cluster_id and l.lease_expires_at > clock_timestamp()
   order by (select count(*) from unnest(j.requires) x where x <> all (r.labels)), r.id limit 1;
  if cardinality(v_missing) > 0 then
    return 'a runner with label ' || array_to_string(v_missing, ' and ');
  end if;
  return 'a free slot on a runner';
end $$;

create function tendril_core.queue_head_age(p_cluster uuid) returns float8
language plpgsql stable set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set enable_bitmapscan = off set enable_material = off set jit = off as $$
begin
  -- Of the first of each class: any label counts.
  return coalesce((
    with recursive heads (class, job_id) as (
      (select q.class, q.job_id from tendril_core.queue q where q.cluster_id = p_cluster order by q.class, q.rank, q.seq limit 1)
      union all
      select n.class, n.job_id from heads h cross join lateral (
        select q.class, q.job_id from tendril_core.queue q
         where q.cluster_id = p_cluster and q.class > h.class order by q.class, q.rank, q.seq limit 1) n)
    select max(extract(epoch from clock_timestamp() - j.queued_at)) from heads h join tendril_core.jobs j on j.id = h.job_id), 0)::float8;
end $$;
comment on function tendril_core.queue_head_age is 'Seconds since the job was queued that has waited longest among the first of each class.';

update tendril_core.duties set every = '250 ms' where name = 'unpark';

revoke execute on all functions in schema tendril, tendril_core from public;
do $$
begin
  execute format('grant execute on function tendril.snooze(uuid, timestamptz, text) to %I', tendril_core.group_role('portal'));
end $$;
