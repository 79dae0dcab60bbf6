-- Approvals are decisions for or against, and a plan that is too old is not applied.

alter table tendril_core.settings add column plan_max_age interval not null default '24 h' check (plan_max_age between '1 min' and '1 year');
comment on column tendril_core.settings.plan_max_age is 'A plan that is older is not applied, unless the snapshot''s limits.plan_max_age_s says otherwise.';

alter table tendril_core.approvals add column decision text not null default 'approved' check (decision in ('approved', 'rejected'));
alter table tendril_core.approvals alter column decision drop default;
comment on table  tendril_core.approvals is 'Who let a job go on, or did not.';
comment on column tendril_core.approvals.decision is 'approved or rejected.';

alter table tendril_core.jobs add column expires_at timestamptz;
comment on column tendril_core.jobs.expires_at is 'When the plan that it runs is too old; set when that plan succeeds.';
create index jobs_expiring on tendril_core.jobs (expires_at)
  where expires_at is not null and state in ('BLOCKED', 'QUEUED', 'AWAITING_APPROVAL');

create function tendril_core.plan_max_age(j tendril_core.jobs) returns interval
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_snapshot jsonb := (select d.config_snapshot from tendril.deployments d where d.id = j.deployment_id);
  v_own      jsonb := (select e -> 'limits' -> 'plan_max_age_s' from jsonb_array_elements(v_snapshot -> 'jobs') e where e ->> 'name' = j.name);
begin
  return coalesce(coalesce(v_own, v_snapshot #> '{limits,plan_max_age_s}')::bigint * interval '1 s', (select plan_max_age from tendril_core.settings));
end $$;
comment on function tendril_core.plan_max_age is 'How old the plan may be that a job runs.';

create function tendril_core.expired(p_at timestamptz) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return format('the plan was too old at %s and is not applied: plan again', to_char(p_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS "UTC"'));
end $$;
comment on function tendril_core.expired is 'What is said of a job whose plan is too old.';

create or replace function tendril_core.carry_plan(p_job tendril_core.jobs) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_engine  text := p_job.result ->> 'engine';
  v_version text := p_job.result ->> 'engine_version';
begin
  if p_job.kind = 'terraform.plan' then
    update tendril_core.jobs j
       set requires = case when v_engine is null or v_version is null then j.requires
             else array(select r from unnest(j.requires) r where r not like 'engine=%') || ('engine=' || v_engine || '@' || v_version) end,
           expires_at = p_job.ended_at + tendril_core.plan_max_age(j)
      from tendril_core.job_needs n
     where n.needs_id = p_job.id and j.id = n.job_id and j.state = 'BLOCKED' and j.kind in ('terraform.apply', 'terraform.destroy');
  end if;
  update tendril.deployments d
     set engine = coalesce(v_engine, d.engine), engine_version = coalesce(v_version, d.engine_version),
         outputs = coalesce(nullif(p_job.result -> 'outputs', 'null'), d.outputs)
   where d.id = p_job.deployment_id
     and (v_engine is not null or coalesce(p_job.result -> 'outputs', 'null') <> 'null');
end $$;

create or replace function tendril.approve(p_deployment uuid, p_job text default null, p_reason text default null) returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set enable_bitmapscan = off set enable_material = off set jit = off as $$
declare
  d     tendril.deployments := tendril_core.seen_deployment(p_deployment);
  v_ids uuid[];
  v_old timestamptz;
begin
  perform tendril_core.guard();
  perform from tendril.deployments where id = p_deployment for update;
  v_ids := array(select j.id from tendril_core.jobs j
    where j.deployment_id = p_deployment and j.state = 'AWAITING_APPROVAL' and j.name = coalesce(p_job, j.name) order by j.id for update);
  if cardinality(v_ids) = 0 then
    perform tendril_core.fail('TD003', format('no job%s of the deployment waits for approval', coalesce(' ' || p_job, '')),
      format('the deployment is %s', d.status));
  end if;
  v_old := (select min(j.expires_at) from tendril_core.jobs j where j.id = any (v_ids) and j.expires_at <= clock_timestamp());
  if v_old is not null then
    perform tendril_core.fail('TD003', tendril_core.expired(v_old), 'plan again: tendril.retry, once this deployment has ended');
  end if;
  insert into tendril_core.approvals (job_id, decision, actor, reason)
    select id, 'approved', coalesce(tendril.portal_user(), tendril_core.caller()), p_reason from unnest(v_ids) id;
  perform tendril_core.enqueue(v_ids);
  perform tendril_core.settle(p_deployment);
  return cardinality(v_ids);
end $$;
comment on function tendril.approve(uuid, text, text) is
  'Lets the jobs that wait for approval go on, or one of them; returns how many. Refused when a plan of theirs is too old.';

create function tendril.reject(p_deployment uuid, p_job text default null, p_reason text default null) returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set enable_bitmapscan = off set enable_material = off set jit = off as $$
declare
  d       tendril.deployments := tendril_core.seen_deployment(p_deployment);
  v_actor text := coalesce(tendril.portal_user(), tendril_core.caller());
  v_ids   uuid[];
  v       uuid;
begin
  perform tendril_core.guard();
  perform from tendril.deployments where id = p_deployment for update;
  v_ids := array(select j.id from tendril_core.jobs j
    where j.deployment_id = p_deployment and j.state = 'AWAITING_APPROVAL' and j.name = coalesce(p_job, j.name) order by j.id for update);
  if cardinality(v_ids) = 0 then
    perform tendril_core.fail('TD003', format('no job%s of the deployment waits for approval', coalesce(' ' || p_job, '')),
      format('the deployment is %s', d.status));
  end if;
  insert into tendril_core.approvals (job_id, decision, actor, reason) select id, 'rejected', v_actor, p_reason from unnest(v_ids) id;
  update tendril.deployments set cancel_reason = coalesce(cancel_reason, format('rejected by %s%s', v_actor, coalesce(': ' || p_reason, '')))
   where id = p_deployment;
  foreach v in array v_ids loop
    perform tendril_core.end_job(v, 'CANCELLED', format('rejected by %s%s', v_actor, coalesce(': ' || p_reason, '')));
  end loop;
  return cardinality(v_ids);
end $$;
comment on function tendril.reject(uuid, text, text) is
  'Ends the jobs that wait for approval, or one of them, as CANCELLED with who and why; what waits behind them is skipped. Returns how many.';

create or replace function tendril_core.conclude(p_job tendril_core.jobs, p_outcome text, p_report jsonb) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_why text := coalesce(p_report ->> 'error', p_outcome);
begin
  if p_outcome = 'success' then
    perform tendril_core.end_job(p_job.id, 'SUCCESS', null, p_report -> 'result');
  elsif p_outcome = 'cancelled' and p_job.state = 'CLAIMED' and p_job.expires_at <= clock_timestamp() then
    perform tendril_core.end_job(p_job.id, 'FAILED', tendril_core.expired(p_job.expires_at), p_report -> 'result');
  elsif p_outcome = 'cancelled' then
    perform tendril_core.end_job(p_job.id, 'CANCELLED', coalesce(p_report ->> 'error', 'cancelled'), p_report -> 'result');
  elsif p_outcome = 'released' and (p_job.state = 'CLAIMED' or not p_job.mutating) then
    -- Handed back by a runner that shuts down: not the job's fault, so it does not count.
    update tendril_core.attempts set superseded_at = clock_timestamp() where id = p_job.attempt_id;
    update tendril_core.jobs set max_attempts = max_attempts + 1 where id = p_job.id returning * into p_job;
    perform tendril_core.requeue(p_job, v_why);
  elsif not p_job.mutating and p_job.retry_failures and not coalesce((p_report ->> 'permanent')::boolean, false)
        and p_job.cancel_requested_at is null and p_job.attempts < p_job.max_attempts then
    perform tendril_core.requeue(p_job, v_why, least(interval '1 s' * power(2, least(p_job.attempts - 1, 9)), interval '5 min'));
  else
    perform tendril_core.end_job(p_job.id, 'FAILED', v_why, p_report -> 'result');
  end if;
end $$;

create or replace function tendril.runner_start(p_attempt uuid, p_fence bigint) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set enable_bitmapscan = off set enable_material = off set jit = off
set plan_cache_mode = force_generic_plan as $$
declare
  v_me tendril_core.runner_identity := tendril_core.runner_identity();
  v    record;
begin
  perform tendril_core.guard();
  -- Locked in this order: the lease, in share mode that only a heartbeat and expiry wait for, so that a runner claims on while it
  -- starts; then deployment, job and attempt.
  select x.lease_expires_at, x.judged_lost, d.status, j.id as job_id, j.deployment_id, j.attempt_id, j.fence, j.state, j.state_key,
         j.cancel_requested_at, j.expires_at, a.superseded_at
    into v
    from tendril_core.attempts a
    join tendril_core.runner_leases x on x.runner_id = a.runner_id
    join tendril.deployments d on d.id = a.deployment_id
    join tendril_core.jobs j on j.id = a.job_id
   where a.id = p_attempt and a.fence = p_fence and a.cluster_id = v_me.cluster_id
     for key share of x for update of d for update of j for update of a;
  if not found then
    -- Says that there is no such attempt, unless it is the lease that is gone.
    perform tendril_core.address(p_attempt, p_fence);
    perform tendril_core.fail('TD006', 'the lease has run out or the credential is being drained', 'do not start; send a heartbeat');
  end if;
  if v.attempt_id is distinct from p_attempt or v.fence is distinct from p_fence or v.superseded_at is not null
     or v.state in ('SUCCESS', 'FAILED', 'CANCELLED', 'SKIPPED') then
    perform tendril_core.fail('TD005', 'the attempt is not current any more: it was superseded', 'do not start; drop the work');
  end if;
  if v.state = 'STARTED' then
    return;
  end if;
  if v.lease_expires_at <= clock_timestamp() or v.judged_lost or v_me.status <> 'active' then
    perform tendril_core.fail('TD006', 'the lease has run out or the credential is being drained', 'do not start; send a heartbeat');
  end if;
  if v.state_key is not null and not exists (
      select from tendril_core.held_keys h where h.attempt_id = p_attempt and h.fence = p_fence for share) then
    perform tendril_core.fail('TD005', format('the attempt holds key %s no more: an operator released it', v.state_key), 'do not start; drop the work');
  end if;
  if v.cancel_requested_at is not null then
    perform tendril_core.fail('TD013', 'the job is to be cancelled', 'do not start; finish it as cancelled');
  end if;
  if v.expires_at <= clock_timestamp() then
    perform tendril_core.fail('TD013', tendril_core.expired(v.expires_at), 'do not start; finish it as cancelled');
  end if;
  with started as (
    update tendril_core.attempts set started_at = clock_timestamp() where id = p_attempt)
  update tendril_core.jobs set state = 'STARTED', started_at = clock_timestamp(),
         deadline_at = clock_timestamp() + (timeout_ms + kill_grace_ms) * interval '1 ms' + (select unknown_kill_grace from tendril_core.settings)
   where id = v.job_id;
  -- A claimed job and a started one show their deployment alike.
  if v.status <> 'PROCESSING' then
    perform tendril_core.settle(v.deployment_id);
  end if;
end $$;

create function tendril_core.duty_plans() returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v   record;
  j   tendril_core.jobs;
  v_n bigint := 0;
begin
  for v in select x.id, x.deployment_id from tendril_core.jobs x
            where x.expires_at <= clock_timestamp() and x.expires_at is not null and x.state in ('BLOCKED', 'QUEUED', 'AWAITING_APPROVAL')
            order by x.expires_at limit 200 loop
    perform from tendril.deployments d where d.id = v.deployment_id for update skip locked;
    continue when not found;
    select * into j from tendril_core.jobs x where x.id = v.id and x.state in ('BLOCKED', 'QUEUED', 'AWAITING_APPROVAL')
       and x.expires_at <= clock_timestamp() for update skip locked;
    continue when not found;
    perform tendril_core.dequeue(array[j.id]);
    perform tendril_core.end_job(j.id, 'FAILED', tendril_core.expired(j.expires_at));
    v_n := v_n + 1;
  end loop;
  return v_n;
end $$;
comment on function tendril_core.duty_plans is 'Ends jobs whose plan is too old before they have started; returns how many.';
insert into tendril_core.duties (name, every) values ('plans', '1 s');

create or replace function tendril.status(p_deployment uuid) returns jsonb
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set enable_bitmapscan = off set enable_material = off set jit = off as $$
declare
  d tendril.deployments := tendril_core.seen_deployment(p_deployment);
begin
  return to_jsonb(d) - 'config_snapshot' || jsonb_build_object('jobs', (
    select coalesce(jsonb_agg(jsonb_build_object('name', j.name, 'kind', j.kind, 'state', j.state, 'reason', j.reason,
        'waiting_for', tendril_core.waiting_for(j), 'attempts', j.attempts, 'started_at', j.started_at, 'ended_at', j.ended_at, 'result', j.result, 'expires_at', j.expires_at,
        'approval', (select to_jsonb(x) - 'job_id' from tendril_core.approvals x where x.job_id = j.id),
        'attempt', (select to_jsonb(t) from (
            select a.id, a.fence, a.ordinal, a.runner_id, a.claimed_at, a.started_at, a.ended_at, a.outcome, a.report, a.progress
              from tendril_core.attempts a where a.id = j.attempt_id) t)) order by j.created_at, j.id), '[]')
      from tendril_core.jobs j where j.deployment_id = p_deployment),
    'logs', (select coalesce(jsonb_agg(jsonb_build_object('attempt_id', a.id, 'log_end', a.log_end, 'log_state', a.log_state,
        'over_quota_at', (select u.quota_at from tendril_core.log_usage u where u.attempt_id = a.id)) order by a.fence), '[]')
      from tendril_core.attempts a where a.deployment_id = p_deployment));
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
          "argv": {"type": "array", "minItems": 1, "maxItems": 256, "items": {"type": "string", "maxLength": 131072}, "description": "exec only: program and arguments, never a shell string"},
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

create or replace function tendril_core.refuse_update() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if not pg_has_role(current_user, (select relowner from pg_class where oid = tg_relid), 'USAGE') then
    raise exception using errcode = 'TD004', message = 'deployments are not updated by hand',
      hint = 'call tendril.cancel(id, reason), tendril.approve(id), tendril.reject(id, job, reason) or tendril.retry(id)';
  end if;
  return null;
end $$;

revoke execute on all functions in schema tendril, tendril_core from public;
do $$
begin
  execute format('grant execute on function tendril.reject(uuid, text, text) to %I', tendril_core.group_role('portal'));
end $$;
