-- Policies: what reads a plan, or what it costs, may demand an approval of what follows, or refuse it.

insert into tendril_core.kinds (kind, mutating, priority, engine) values ('policy', false, 20, false);
comment on column tendril_core.jobs.reason is 'Why it is in this state, or why it needs an approval, when that needs saying.';

create function tendril_core.judge(p_job uuid, p_result jsonb, out verdict text, out why text)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_kind   text := (select j.kind from tendril_core.jobs j where j.id = p_job);
  v_budget jsonb;
  v_total  numeric;
  v_known  numeric;
begin
  if v_kind = 'policy' and p_result ->> 'verdict' = 'approval' then
    verdict := 'approval';
    why := 'policy: ' || coalesce(left(p_result ->> 'reason', 500), 'approval is required');
  elsif v_kind = 'infracost.breakdown' then
    select d.config_snapshot -> 'budget' into v_budget from tendril_core.jobs j join tendril.deployments d on d.id = j.deployment_id where j.id = p_job;
    if v_budget is null then
      return;
    end if;
    v_total := tendril_core.amount(p_result -> 'total_monthly_cost');
    v_known := coalesce(v_total, tendril_core.amount(p_result -> 'known_monthly_cost'));
    if v_known > (v_budget ->> 'monthly')::numeric then
      verdict := coalesce(v_budget ->> 'over', 'approval');
      why := format('budget: %s%s a month is over %s', case when v_total is null then 'at least ' else '' end, v_known, v_budget ->> 'monthly');
    elsif v_total is null then
      -- An unknown cost is never nothing: somebody has to look.
      verdict := 'approval';
      why := format('budget: the cost is not wholly known%s', ', at least ' || v_known || ' a month');
    end if;
  end if;
end $$;
comment on function tendril_core.judge is 'What follows from the result of a policy or of an estimate under a budget: approval, refuse, or nothing.';

create function tendril_core.amount(p_value jsonb) returns numeric
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  return case when p_value #>> '{}' ~ '^-?[0-9]{1,30}([.][0-9]{1,30})?$' then (p_value #>> '{}')::numeric end;
end $$;
comment on function tendril_core.amount is 'A decimal as an estimate writes it, in text; NULL for anything else.';

create or replace function tendril_core.end_job(p_job uuid, p_state text, p_reason text, p_result jsonb default null) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_job     tendril_core.jobs;
  v_verdict record;
begin
  -- What a policy says of a result counts before the job has ended: it may end it as FAILED.
  if p_state = 'SUCCESS' then
    select * into v_verdict from tendril_core.judge(p_job, p_result);
    if v_verdict.verdict = 'refuse' then
      p_state := 'FAILED';
      p_reason := v_verdict.why;
    elsif v_verdict.verdict = 'approval' then
      update tendril_core.jobs j set needs_approval = true, reason = v_verdict.why
        from tendril_core.job_needs n where n.needs_id = p_job and j.id = n.job_id and j.state = 'BLOCKED';
    end if;
  end if;
  update tendril_core.jobs set state = p_state, reason = p_reason, result = p_result, ended_at = clock_timestamp(),
         cancel_requested_at = null
   where id = p_job and state not in ('SUCCESS', 'FAILED', 'CANCELLED', 'SKIPPED')
   returning * into v_job;
  if not found then
    perform tendril_core.fail('TD003', 'the job has ended already');
  end if;
  if p_state = 'SUCCESS' then
    perform tendril_core.carry_plan(v_job);
    perform tendril_core.unblock(p_job);
  else
    perform tendril_core.follow(v_job, format('job %s ended as %s', v_job.name, p_state));
  end if;
  if v_job.concurrency_key is not null then
    perform tendril_core.let_in_limited(v_job.cluster_id, v_job.concurrency_key);
  end if;
  perform tendril_core.settle(v_job.deployment_id);
end $$;

create or replace function tendril_core.waiting_for(j tendril_core.jobs) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_missing text[];
  v_text    text;
  v_parked  tendril_core.parked;
  c         tendril.clusters;
begin
  if j.state = 'BLOCKED' then
    return (select 'job ' || string_agg(n.name, ', ' order by n.name) from tendril_core.job_needs e join tendril_core.jobs n on n.id = e.needs_id
             where e.job_id = j.id and n.ended_at is null);
  elsif j.state = 'AWAITING_APPROVAL' then
    return format('approval of job %s%s: tendril.approve(%L)', j.name, coalesce(' (' || j.reason || ')', ''), j.deployment_id);
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
  elsif v_parked.why = 'limit' then
    return format('concurrency key %s: %s run, and no more than %s may', j.concurrency_key, tendril_core.running_with(j.cluster_id, j.concurrency_key), j.concurrency_limit);
  elsif v_parked.why = 'later' then
    return format(case when j.attempts > 0 then 'the next try at %s' else 'its time: not before %s' end,
      to_char(v_parked.run_after at time zone 'UTC', case when v_parked.run_after < clock_timestamp() + interval '12 h' then 'HH24:MI:SS "UTC"' else 'YYYY-MM-DD HH24:MI:SS "UTC"' end));
  end if;
  select * into c from tendril.clusters x where x.id = j.cluster_id;
  if c.paused_at is not null then
    return format('the cluster to be resumed: %s %s it%s', c.paused_by, case when c.draining then 'drained' else 'paused' end, coalesce(': ' || c.pause_reason, ''));
  end if;
  if not exists (select from tendril_core.runner_leases l where l.cluster_id = j.cluster_id and l.lease_expires_at > clock_timestamp()) then
    return 'a runner: none of the cluster is online';
  end if;
  select format('the limit of the cluster: %s%s run, and no more than %s may', r.jobs, case l.kind when '' then '' else ' ' || l.kind || ' jobs' end, l.max_running) into v_text
    from tendril_core.limits l, lateral (select coalesce(sum(x.jobs), 0) as jobs from tendril_core.running(l.cluster_id) x where l.kind in ('', x.kind)) r
   where l.cluster_id = j.cluster_id and l.kind in ('', j.kind) and r.jobs >= l.max_running order by l.kind limit 1;
  if v_text is not null then
    return v_text;
  end if;
  -- The runner that lacks least names what is missing.
  select array(select x from unnest(j.requires) x where x <> all (r.labels)) into v_missing
    from tendril_core.runners r join tendril_core.runner_leases l on l.runner_id = r.id
   where r.cluster_id = j.cluster_id and l.lease_expires_at > clock_timestamp()
   order by (select count(*) from unnest(j.requires) x where x <> all (r.labels)), r.id limit 1;
  if cardinality(v_missing) > 0 then
    return 'a runner with label ' || array_to_string(v_missing, ' and ');
  end if;
  if not exists (select from tendril_core.runners r join tendril_core.runner_leases l on l.runner_id = r.id
                  where r.cluster_id = j.cluster_id and l.lease_expires_at > clock_timestamp() and j.requires <@ r.labels and r.paused_at is null) then
    return 'a runner to be resumed: those that can take it are paused';
  end if;
  return 'a free slot on a runner';
end $$;

create or replace function tendril_core.job_errors(p_snapshot jsonb) returns table (path text, message text)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_jobs jsonb := p_snapshot -> 'jobs';
  j      jsonb;
  v_at   text;
  v_kind tendril_core.kinds;
  v_plan integer;
  v_need jsonb;
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
    if (j ? 'argv') <> (v_kind.kind in ('exec', 'policy')) then
      return query select v_at || 'argv', case when j ? 'argv' then 'belongs to kinds exec and policy' else 'is required for kind ' || v_kind.kind end;
    end if;
    if j ? 'reading' and v_kind.kind <> 'exec' then return query select v_at || 'reading', 'belongs to kind exec'::text; end if;
    if j ? 'destroy' and v_kind.kind <> 'terraform.plan' then return query select v_at || 'destroy', 'belongs to kind terraform.plan'::text; end if;
    if v_kind.mutating and (j #> '{limits,max_attempts}') is not null and not coalesce((j ->> 'reading')::boolean, false) then
      return query select v_at || 'limits.max_attempts', 'is for jobs that only read: one that changes the world starts at most once'::text;
    end if;
    if v_kind.kind <> 'exec' and not p_snapshot ? 'template' then
      return query select v_at || 'kind', format('%s needs a template', v_kind.kind);
    end if;
    if j ? 'if_failed' then
      v_need := jsonb_path_query_array(j -> 'if_failed', 'strict $.keyvalue().key');
      for m in 0 .. jsonb_array_length(v_need) - 1 loop
        if not coalesce(j -> 'needs' ? (v_need ->> m), false) then
          return query select v_at || 'if_failed.' || (v_need ->> m), 'is no need of the job'::text;
        elsif coalesce(j -> 'if_failed' ->> (v_need ->> m) not in ('skip', 'continue', 'always'), true) then
          return query select v_at || 'if_failed.' || (v_need ->> m), 'must be one of "skip", "continue", "always"'::text;
        elsif v_kind.kind in ('terraform.apply', 'terraform.destroy') and j -> 'if_failed' ->> (v_need ->> m) <> 'skip'
              and exists (select from jsonb_array_elements(v_jobs) o where o ->> 'name' = v_need ->> m and o ->> 'kind' = 'terraform.plan') then
          return query select v_at || 'if_failed.' || (v_need ->> m), format('must be "skip": %s has nothing to do without its plan', v_kind.kind);
        end if;
      end loop;
    end if;
    if v_kind.kind = 'policy' and (select count(*) from jsonb_array_elements(v_jobs) o
         where o ->> 'kind' = 'terraform.plan' and coalesce(j -> 'needs' ? (o ->> 'name'), false)) <> 1 then
      return query select v_at || 'needs', 'policy needs exactly one terraform.plan job, whose plan it reads'::text;
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

create or replace function tendril_core.queue_errors(p_snapshot jsonb) returns table (path text, message text)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  if p_snapshot ? 'budget' then
    -- What looks at a deployment's state takes the rest of its snapshot as it is.
    if p_snapshot ? 'jobs' and p_snapshot #>> '{jobs,0,kind}' is distinct from 'terraform.lock' and p_snapshot #>> '{jobs,0,kind}' is distinct from 'terraform.unlock' then
      return query select 'config_snapshot.budget'::text, 'belongs to the default jobs of a template; jobs stand beside it'::text;
    elsif coalesce(p_snapshot ->> 'action', 'apply') <> 'apply' then
      return query select 'config_snapshot.budget'::text, 'is for action apply'::text;
    elsif p_snapshot ->> 'cost' = 'off' then
      return query select 'config_snapshot.cost'::text, 'contradicts budget'::text;
    end if;
  end if;
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
  if v_errors is null and p_snapshot ?| array['run_after', 'budget'] then
    select jsonb_agg(jsonb_build_object('path', e.path, 'message', e.message)) into v_errors
      from tendril_core.queue_errors(p_snapshot) e;
  end if;
  if v_errors is not null then
    perform tendril_core.fail('TD001', format('%s: %s', v_errors #>> '{0,path}', v_errors #>> '{0,message}'),
      'docs/SQL.md describes config_snapshot', v_errors::text);
  end if;
end $$;

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
        "plan_max_age_s": {"type": "integer", "minimum": 60, "maximum": 31536000, "default": 86400, "description": "An older plan is not applied"},
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
    "budget": {
      "description": "What the template's resources may cost, by the estimate",
      "type": "object", "additionalProperties": false, "required": ["monthly"],
      "properties": {
        "monthly": {"type": "integer", "minimum": 0, "maximum": 1000000000, "description": "In the estimate's currency"},
        "over": {"type": "string", "enum": ["approval", "refuse"], "default": "approval"}
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
          "if_failed": {"type": "object", "description": "By the name of a need: skip (default) this job when that fails, continue, or always run, also when that was skipped or cancelled"},
          "argv": {"type": "array", "minItems": 1, "maxItems": 256, "items": {"type": "string", "maxLength": 131072}, "description": "exec and policy: program and arguments, never a shell string"},
          "reading": {"type": "boolean", "description": "exec only: it changes nothing and may start again after a loss"},
          "destroy": {"type": "boolean", "description": "terraform.plan only: plan the destruction"},
          "labels": {"type": "array", "maxItems": 32, "uniqueItems": true, "items": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._/=@:-]{0,127}$"}},
          "limits": {
            "type": "object", "additionalProperties": false,
            "properties": {
              "timeout_s": {"type": "integer", "minimum": 1, "maximum": 604800},
              "kill_grace_s": {"type": "integer", "minimum": 0, "maximum": 3600},
              "plan_max_age_s": {"type": "integer", "minimum": 60, "maximum": 31536000},
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

create or replace function tendril_core.jobs_of(p_snapshot jsonb, p_cost boolean)
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
      v_jobs := v_jobs || jsonb_build_array('{"name": "cost", "kind": "infracost.breakdown", "needs": ["plan"]}'::jsonb
        || jsonb_build_object('optional', not p_snapshot ? 'budget'));
    end if;
    if v_action <> 'plan' then
      v_jobs := v_jobs || jsonb_build_array(jsonb_build_object('name', v_action, 'kind', 'terraform.' || v_action,
        'needs', case when p_snapshot ? 'budget' then '["plan", "cost"]' else '["plan"]' end::jsonb, 'approval', coalesce(p_snapshot ->> 'approval', 'none')));
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
           jsonb_strip_nulls(jsonb_build_object('argv', j.job -> 'argv', 'destroy', j.job -> 'destroy', 'needs', j.job -> 'needs', 'if_failed', j.job -> 'if_failed',
             'plan_json', case when k.kind = 'terraform.plan' and not exists (select from jsonb_array_elements(v_jobs) o
               where o ->> 'kind' in ('infracost.breakdown', 'policy') and o -> 'needs' ? (j.job ->> 'name')) then false end)),
           (p_snapshot ->> 'run_after')::timestamptz,
           c.wanted ->> 'key', case when c.wanted is not null then coalesce((c.wanted -> 'limit')::integer, 1) end
      from jsonb_array_elements(v_jobs) with ordinality j(job, ord)
      join tendril_core.kinds k on k.kind = j.job ->> 'kind',
      lateral (select coalesce(p_snapshot -> 'limits', '{}') || coalesce(j.job -> 'limits', '{}') as limits) l,
      lateral (select coalesce(j.job -> 'concurrency', p_snapshot -> 'concurrency') as wanted) c
     order by j.ord;
end $$;

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
               when d.config_snapshot ->> 'cost' = 'on' or d.config_snapshot ? 'budget' then true
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
    insert into tendril_core.job_needs (job_id, needs_id, if_failed)
      select j.id, n.id, coalesce(j.spec -> 'if_failed' ->> e, 'skip')
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
