-- What portals call beside submit: cancel, approve, retry, status; and the views they read.

create function tendril_core.cancel_jobs(p_deployment uuid, p_reason text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_ids uuid[];
begin
  update tendril.deployments set cancel_requested_at = coalesce(cancel_requested_at, clock_timestamp()),
         cancel_reason = coalesce(cancel_reason, p_reason) where id = p_deployment;
  -- The jobs' rows first: a claim in flight has taken them, and after it the state tells which way to go.
  perform from tendril_core.jobs j where j.deployment_id = p_deployment order by j.id for update;
  v_ids := array(select j.id from tendril_core.jobs j where j.deployment_id = p_deployment and j.state in ('BLOCKED', 'QUEUED', 'AWAITING_APPROVAL'));
  perform tendril_core.dequeue(v_ids);
  update tendril_core.jobs set state = 'CANCELLED', reason = coalesce('cancelled: ' || p_reason, 'cancelled'), ended_at = clock_timestamp()
   where id = any (v_ids);
  update tendril_core.jobs set cancel_requested_at = coalesce(cancel_requested_at, clock_timestamp())
   where deployment_id = p_deployment and state in ('CLAIMED', 'STARTED', 'UNKNOWN');
  perform tendril_core.settle(p_deployment);
end $$;
comment on function tendril_core.cancel_jobs is 'Cancels a deployment whose row the caller has locked.';

create function tendril.cancel(p_deployment uuid, p_reason text default null) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
declare
  d tendril.deployments := tendril_core.seen_deployment(p_deployment);
begin
  perform tendril_core.guard();
  select * into d from tendril.deployments where id = p_deployment for update;
  if d.status in ('SUCCESS', 'FAILED', 'CANCELLED') then
    perform tendril_core.fail('TD003', format('the deployment has ended already: %s', d.status));
  end if;
  perform tendril_core.cancel_jobs(p_deployment, p_reason);
  return (select status from tendril.deployments where id = p_deployment);
end $$;
comment on function tendril.cancel(uuid, text) is
  'Cancels a deployment: at once what has not been claimed; what runs is asked to stop, and ends as its holder reports.';

create function tendril.approve(p_deployment uuid, p_job text default null, p_reason text default null) returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
declare
  d     tendril.deployments := tendril_core.seen_deployment(p_deployment);
  v_ids uuid[];
begin
  perform tendril_core.guard();
  perform from tendril.deployments where id = p_deployment for update;
  v_ids := array(select j.id from tendril_core.jobs j
    where j.deployment_id = p_deployment and j.state = 'AWAITING_APPROVAL' and j.name = coalesce(p_job, j.name) order by j.id for update);
  if cardinality(v_ids) = 0 then
    perform tendril_core.fail('TD003', format('no job%s of the deployment waits for approval', coalesce(' ' || p_job, '')),
      format('the deployment is %s', d.status));
  end if;
  insert into tendril_core.approvals (job_id, actor, reason)
    select id, coalesce(tendril.portal_user(), tendril_core.caller()), p_reason from unnest(v_ids) id;
  perform tendril_core.enqueue(v_ids);
  perform tendril_core.settle(p_deployment);
  return cardinality(v_ids);
end $$;
comment on function tendril.approve(uuid, text, text) is 'Lets the jobs that wait for approval go on, or one of them; returns how many.';

create function tendril.retry(p_deployment uuid, p_id uuid default null) returns uuid
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  d    tendril.deployments := tendril_core.seen_deployment(p_deployment);
  v_id uuid := coalesce(p_id, tendril_core.uuidv7());
begin
  if d.status not in ('FAILED', 'CANCELLED') then
    perform tendril_core.fail('TD003', format('the deployment is %s; only FAILED and CANCELLED ones are done again', d.status));
  end if;
  insert into tendril.deployments (id, cluster_id, config_snapshot, retry_of) values (v_id, d.cluster_id, d.config_snapshot, d.id)
    on conflict (id) do nothing;
  if not exists (select from tendril.deployments where id = v_id and retry_of = d.id) then
    perform tendril_core.fail('TD002', format('deployment %s is something else', v_id), 'make a new id (UUIDv7) for each retry');
  end if;
  return v_id;
end $$;
comment on function tendril.retry(uuid, uuid) is 'Submits the same snapshot again as a new deployment; what ended stays as it is.';

-- name of the function: waiting_for
create function tendril_core.waiting_for(j tendril_core.jobs) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_missing text[];
  v_text    text;
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
  select format('key %s, held by job %s of deployment %s', h.state_key, o.name, o.deployment_id) into v_text
    from tendril_core.parked p join tendril_core.held_keys h on h.cluster_id = p.cluster_id and h.state_key = p.state_key
    join tendril_core.jobs o on o.id = h.job_id where p.job_id = j.id;
  if v_text is not null then
    return v_text;
  end if;
  select format('the next try at %s', to_char(q.run_after at time zone 'UTC', 'HH24:MI:SS "UTC"')) into v_text
    from tendril_core.queue q where q.job_id = j.id and q.run_after > clock_timestamp();
  if v_text is not null then
    return v_text;
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
comment on function tendril_core.waiting_for is 'In plain words why a job is not running; NULL when it runs or has ended.';

create function tendril.status(p_deployment uuid) returns jsonb
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
declare
  d tendril.deployments := tendril_core.seen_deployment(p_deployment);
begin
  return to_jsonb(d) - 'config_snapshot' || jsonb_build_object('jobs', (
    select coalesce(jsonb_agg(jsonb_build_object('name', j.name, 'kind', j.kind, 'state', j.state, 'reason', j.reason,
        'waiting_for', tendril_core.waiting_for(j), 'attempts', j.attempts, 'started_at', j.started_at, 'ended_at', j.ended_at, 'result', j.result,
        'attempt', (select to_jsonb(t) from (
            select a.id, a.fence, a.ordinal, a.runner_id, a.claimed_at, a.started_at, a.ended_at, a.outcome, a.report, a.progress
              from tendril_core.attempts a where a.id = j.attempt_id) t)) order by j.created_at, j.id), '[]')
      from tendril_core.jobs j where j.deployment_id = p_deployment),
    'logs', (select coalesce(jsonb_agg(jsonb_build_object('attempt_id', a.id, 'log_end', a.log_end, 'log_state', a.log_state) order by a.fence), '[]')
      from tendril_core.attempts a where a.deployment_id = p_deployment));
end $$;
comment on function tendril.status(uuid) is 'A deployment with its jobs, their newest attempts, and where each attempt''s log ends.';

create view tendril.jobs with (security_barrier) as
  select j.deployment_id, j.cluster_id, j.id, j.name, j.kind, j.state, j.mutating, j.reason, j.attempts, j.max_attempts, j.attempt_id,
         j.requires, j.state_key, j.result, a.progress, j.created_at, j.queued_at, j.started_at, j.ended_at, j.cancel_requested_at, j.retry_of
    from tendril_core.jobs j join tendril.deployments d on d.id = j.deployment_id
    left join tendril_core.attempts a on a.id = j.attempt_id
   where (select tendril_core.sees_all()) or j.cluster_id = any ((select tendril_core.seen_clusters())::uuid[])
      or d.user_id = (select tendril_core.seen_user()) or (select tendril_core.is_owner());
comment on view tendril.jobs is 'Jobs of the deployments that the caller sees, with progress of the current attempt.';
comment on column tendril.jobs.deployment_id is 'The deployment.';
comment on column tendril.jobs.cluster_id is 'Its cluster.';
comment on column tendril.jobs.id is 'The job.';
comment on column tendril.jobs.name is 'Unique within the deployment.';
comment on column tendril.jobs.kind is 'What it does: terraform.plan, terraform.apply, terraform.destroy, infracost.breakdown or exec.';
comment on column tendril.jobs.state is 'BLOCKED, QUEUED, CLAIMED, STARTED, UNKNOWN, AWAITING_APPROVAL, SUCCESS, FAILED, CANCELLED or SKIPPED.';
comment on column tendril.jobs.mutating is 'Whether it changes the world: then it starts at most once.';
comment on column tendril.jobs.reason is 'Why it is in this state, when that needs saying.';
comment on column tendril.jobs.attempts is 'How many attempts were claimed.';
comment on column tendril.jobs.max_attempts is 'Bound of attempts, losses included.';
comment on column tendril.jobs.attempt_id is 'The current attempt.';
comment on column tendril.jobs.requires is 'Labels that a runner must have.';
comment on column tendril.jobs.state_key is 'The Terraform state that it changes.';
comment on column tendril.jobs.result is 'What its accepted attempt reported.';
comment on column tendril.jobs.progress is 'Per-resource progress of the current attempt.';
comment on column tendril.jobs.created_at is 'When it was submitted.';
comment on column tendril.jobs.queued_at is 'When it became claimable last.';
comment on column tendril.jobs.started_at is 'When its current attempt started.';
comment on column tendril.jobs.ended_at is 'When it reached a final state.';
comment on column tendril.jobs.cancel_requested_at is 'Set while a holder has still to stop it.';
comment on column tendril.jobs.retry_of is 'The job that a retry does again.';

create view tendril.queue with (security_barrier) as
  select c.id as cluster_id, c.name as cluster, q.kind, q.state, sum(q.n)::bigint as jobs
    from (select cluster_id, kind, state, n from tendril_core.queue_depth
          union all select cluster_id, kind, state, n from tendril_core.queue_deltas) q
    join tendril.clusters c on c.id = q.cluster_id
   where (select tendril_core.sees_all()) or c.id = any ((select tendril_core.seen_clusters())::uuid[])
      or c.user_id = (select tendril_core.seen_user()) or (select tendril_core.is_owner())
   group by c.id, c.name, q.kind, q.state having sum(q.n) <> 0;
comment on view tendril.queue is 'How many unfinished jobs there are by cluster, kind and state; costs the same however many there are.';
comment on column tendril.queue.cluster_id is 'The cluster.';
comment on column tendril.queue.cluster is 'Its name.';
comment on column tendril.queue.kind is 'The jobs'' kind.';
comment on column tendril.queue.state is 'A state that is not final.';
comment on column tendril.queue.jobs is 'How many there are.';

create view tendril.runners with (security_barrier) as
  select r.id, r.cluster_id, r.name, r.version, r.place, r.labels, r.slots, r.registered_at, r.left_at, coalesce(l.heartbeat_at, r.left_at, r.registered_at) as last_seen_at,
         coalesce(l.lease_expires_at > clock_timestamp(), false) as online,
         (select count(*) from tendril_core.attempts a where a.runner_id = r.id and a.ended_at is null and a.superseded_at is null) as holding
    from tendril_core.runners r join tendril.clusters c on c.id = r.cluster_id
    left join tendril_core.runner_leases l on l.runner_id = r.id
   where (select tendril_core.sees_all()) or c.id = any ((select tendril_core.seen_clusters())::uuid[])
      or c.user_id = (select tendril_core.seen_user()) or (select tendril_core.is_owner());
comment on view tendril.runners is 'Runner processes of the clusters that the caller sees.';
comment on column tendril.runners.id is 'One id per start of a runner process.';
comment on column tendril.runners.cluster_id is 'Its cluster.';
comment on column tendril.runners.name is 'Host or pod name.';
comment on column tendril.runners.version is 'Version of the runner.';
comment on column tendril.runners.place is 'The disk that outlives the process, if it has one.';
comment on column tendril.runners.labels is 'What it can do.';
comment on column tendril.runners.slots is 'How many jobs it runs at once.';
comment on column tendril.runners.registered_at is 'When it registered.';
comment on column tendril.runners.left_at is 'When it said goodbye.';
comment on column tendril.runners.last_seen_at is 'Newest heartbeat, else when it left or came.';
comment on column tendril.runners.online is 'Whether its lease is live.';
comment on column tendril.runners.holding is 'How many attempts it has in hand.';

create function tendril.queue_depth(p_cluster uuid default null) returns table (kind text, state text, jobs bigint)
language sql stable set search_path = pg_catalog, pg_temp as $$
  select q.kind, q.state, sum(q.jobs)::bigint from tendril.queue q where p_cluster is null or q.cluster_id = p_cluster group by 1, 2 order by 1, 2
$$;
comment on function tendril.queue_depth(uuid) is 'Unfinished jobs by kind and state, of one cluster or of all that the caller sees.';

revoke execute on all functions in schema tendril, tendril_core from public;
do $$
begin
  execute format('grant execute on function tendril.cancel(uuid, text), tendril.approve(uuid, text, text), tendril.retry(uuid, uuid), '
    'tendril.status(uuid), tendril.queue_depth(uuid), tendril_core.is_owner() to %I', tendril_core.group_role('portal'));
  execute format('grant select on tendril.jobs, tendril.queue, tendril.runners to %I', tendril_core.group_role('portal'));
end $$;
