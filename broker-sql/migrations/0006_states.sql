-- Transitions of the state machine. Only these functions change a job's state; each expects its caller to hold the
-- deployment's row lock, and takes job, attempt, key and log writer after it.

-- ---------------------------------------------------------------------------------------------------------------
-- Counters and the doorbell
-- ---------------------------------------------------------------------------------------------------------------

create function tendril_core.count_jobs() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  if tg_op = 'INSERT' then
    insert into tendril_core.queue_deltas (cluster_id, kind, state, n)
      select j.cluster_id, j.kind, j.state, count(*) from after_rows j
       where j.state not in ('SUCCESS', 'FAILED', 'CANCELLED', 'SKIPPED') group by 1, 2, 3;
  else
    insert into tendril_core.queue_deltas (cluster_id, kind, state, n)
      select c.cluster_id, c.kind, c.state, sum(c.n)
        from (select b.cluster_id, b.kind, b.state, -1 as n from before_rows b
              union all select a.cluster_id, a.kind, a.state, 1 from after_rows a) c
       where c.state not in ('SUCCESS', 'FAILED', 'CANCELLED', 'SKIPPED')
       group by 1, 2, 3 having sum(c.n) <> 0;
  end if;
  return null;
end $$;
comment on function tendril_core.count_jobs is 'Counts transitions without making anybody wait: inserts only.';
create trigger count_new_jobs after insert on tendril_core.jobs
  referencing new table as after_rows for each statement execute function tendril_core.count_jobs();
create trigger count_changed_jobs after update on tendril_core.jobs
  referencing old table as before_rows new table as after_rows for each statement execute function tendril_core.count_jobs();

-- name of the function: ring
-- The bell is a hint, the poll is the promise: so whoever does not get the row at once does not ring, and a ring too soon
-- after another is dropped. NOTIFY wakes every listening backend of the database and takes a lock at commit: hence only
-- for a cluster where somebody said that they wait.
create function tendril_core.ring() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform from tendril_core.bells b
    where b.cluster_id = new.cluster_id and b.waiting
      and b.rung_at < clock_timestamp() - (select ring_gap from tendril_core.settings)
    for update skip locked;
  if found then
    update tendril_core.bells b set waiting = false, rung_at = clock_timestamp() where b.cluster_id = new.cluster_id;
    perform pg_notify('tendril_' || replace(new.cluster_id::text, '-', ''), '');
  end if;
  return null;
end $$;
comment on function tendril_core.ring is 'Rings once for a cluster whose runner listens, at the end of the transaction.';
create constraint trigger ring after insert on tendril_core.queue_deltas
  deferrable initially deferred for each row when (new.state = 'QUEUED' and new.n > 0) execute function tendril_core.ring();

-- ---------------------------------------------------------------------------------------------------------------
-- Queue and keys
-- ---------------------------------------------------------------------------------------------------------------

create function tendril_core.enqueue(p_jobs uuid[], p_run_after timestamptz default '-infinity') returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  update tendril_core.jobs set state = 'QUEUED', queued_at = clock_timestamp(), attempt_id = null, fence = null, reason = null
   where id = any (p_jobs);
  insert into tendril_core.queue (job_id, cluster_id, priority, run_after, state_key, requires)
    select j.id, j.cluster_id, j.priority, p_run_after, j.state_key, j.requires
      from tendril_core.jobs j where j.id = any (p_jobs) order by j.created_at, j.id;
end $$;
comment on function tendril_core.enqueue is 'Makes jobs claimable.';

create function tendril_core.dequeue(p_jobs uuid[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  -- In this order: a key that is freed right now moves a row from parked to queue.
  delete from tendril_core.parked where job_id = any (p_jobs);
  delete from tendril_core.queue where job_id = any (p_jobs);
end $$;
comment on function tendril_core.dequeue is 'Takes jobs out of the claim''s sight.';

create function tendril_core.free_key(p_attempt uuid, p_fence bigint) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_held tendril_core.held_keys;
  v_next tendril_core.parked;
begin
  delete from tendril_core.held_keys where attempt_id = p_attempt and fence = p_fence returning * into v_held;
  if not found then
    return false;
  end if;
  -- Whoever parks a job holds the key's row in share mode, so that after the delete all parked jobs are visible here.
  delete from tendril_core.parked where job_id = (
      select p.job_id from tendril_core.parked p
       where p.cluster_id = v_held.cluster_id and p.state_key = v_held.state_key
       order by p.priority, p.seq limit 1 for update skip locked)
    returning * into v_next;
  if found then
    insert into tendril_core.queue (job_id, cluster_id, priority, seq, state_key, requires) overriding system value
      select j.id, j.cluster_id, j.priority, v_next.seq, j.state_key, j.requires
        from tendril_core.jobs j where j.id = v_next.job_id and j.state = 'QUEUED';
    insert into tendril_core.queue_deltas (cluster_id, kind, state, n)
      select j.cluster_id, j.kind, 'QUEUED', d.n from tendril_core.jobs j, (values (1), (-1)) d(n) where j.id = v_next.job_id;
  end if;
  return true;
end $$;
comment on function tendril_core.free_key is 'Frees exactly the key that this attempt holds and lets the next job of that key into the queue.';

-- ---------------------------------------------------------------------------------------------------------------
-- Jobs and deployments
-- ---------------------------------------------------------------------------------------------------------------

-- name of the function: settle
create function tendril_core.settle(p_deployment uuid) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_status text;
  v_error  text;
begin
  select case
      when bool_or(j.state in ('CLAIMED', 'STARTED', 'UNKNOWN')) then 'PROCESSING'
      when bool_or(j.state = 'AWAITING_APPROVAL') and not bool_or(j.state = 'QUEUED') then 'AWAITING_APPROVAL'
      when bool_or(j.state in ('QUEUED', 'BLOCKED', 'AWAITING_APPROVAL')) then
        case when bool_or(j.attempts > 0 or j.ended_at is not null) then 'PROCESSING' else 'QUEUED' end
      when bool_or(j.state = 'FAILED' and not j.optional) then 'FAILED'
      when bool_or(j.state = 'CANCELLED') then 'CANCELLED'
      else 'SUCCESS' end,
    (array_agg(j.name || ': ' || j.reason order by j.ended_at)
       filter (where j.reason is not null and (j.state = 'UNKNOWN' or j.state = 'FAILED' and not j.optional)))[1]
    into v_status, v_error
    from tendril_core.jobs j where j.deployment_id = p_deployment;
  update tendril.deployments d
     set status = v_status, error_message = v_error,
         started_at = coalesce(d.started_at, case when v_status = 'PROCESSING' then clock_timestamp() end),
         ended_at = case when v_status in ('SUCCESS', 'FAILED', 'CANCELLED') then coalesce(d.ended_at, clock_timestamp()) end,
         waiting_for = case v_status when 'AWAITING_APPROVAL' then d.waiting_for when 'QUEUED' then d.waiting_for end
   where d.id = p_deployment
     and (d.status is distinct from v_status or d.error_message is distinct from v_error);
end $$;
comment on function tendril_core.settle is 'Derives a deployment''s status from its jobs.';

create function tendril_core.unblock(p_job uuid) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_ready uuid[];
begin
  with ready as (
    update tendril_core.jobs j set needs_left = j.needs_left - 1
      from tendril_core.job_needs n
     where n.needs_id = p_job and j.id = n.job_id and j.state = 'BLOCKED'
    returning j.id, j.needs_left)
  select array_agg(id order by id) into v_ready from ready where needs_left = 0;
  if v_ready is null then
    return;
  end if;
  update tendril_core.jobs set state = 'AWAITING_APPROVAL' where id = any (v_ready) and needs_approval;
  perform tendril_core.enqueue(array(select j.id from tendril_core.jobs j
    where j.id = any (v_ready) and j.state = 'BLOCKED' order by j.id));
end $$;
comment on function tendril_core.unblock is 'After a success: queues the jobs that needed nothing else, or asks for their approval.';

create function tendril_core.skip_dependents(p_job uuid, p_why text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  with recursive behind (job_id) as (
    select n.job_id from tendril_core.job_needs n where n.needs_id = p_job
    union
    select n.job_id from behind b join tendril_core.job_needs n on n.needs_id = b.job_id)
  update tendril_core.jobs j set state = 'SKIPPED', reason = p_why, ended_at = clock_timestamp()
    from behind b where j.id = b.job_id and j.state = 'BLOCKED';
end $$;
comment on function tendril_core.skip_dependents is 'A need that did not succeed skips all that waits behind it.';

create function tendril_core.end_job(p_job uuid, p_state text, p_reason text, p_result jsonb default null) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_job tendril_core.jobs;
begin
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
    perform tendril_core.skip_dependents(p_job, format('job %s ended as %s', v_job.name, p_state));
  end if;
  perform tendril_core.settle(v_job.deployment_id);
end $$;
comment on function tendril_core.end_job is 'The one terminal transition of a job, with all that follows from it.';

-- name of the function: carry_plan
-- A plan is applied by the engine that made it, in the version that made it; and what users look at is on the deployment.
create function tendril_core.carry_plan(p_job tendril_core.jobs) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_engine  text := p_job.result ->> 'engine';
  v_version text := p_job.result ->> 'engine_version';
begin
  if p_job.kind = 'terraform.plan' and v_engine is not null and v_version is not null then
    update tendril_core.jobs j
       set requires = array(select r from unnest(j.requires) r where r not like 'engine=%') || ('engine=' || v_engine || '@' || v_version)
      from tendril_core.job_needs n
     where n.needs_id = p_job.id and j.id = n.job_id and j.state = 'BLOCKED' and j.kind in ('terraform.apply', 'terraform.destroy');
  end if;
  update tendril.deployments d
     set engine = coalesce(v_engine, d.engine), engine_version = coalesce(v_version, d.engine_version),
         outputs = coalesce(nullif(p_job.result -> 'outputs', 'null'), d.outputs)
   where d.id = p_job.deployment_id
     and (v_engine is not null or coalesce(p_job.result -> 'outputs', 'null') <> 'null');
end $$;
comment on function tendril_core.carry_plan is 'Pins the apply to the plan''s engine and version, and shows engine and outputs on the deployment.';

-- name of the function: requeue
create function tendril_core.requeue(p_job tendril_core.jobs, p_why text, p_delay interval default '0') returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if p_job.cancel_requested_at is not null then
    perform tendril_core.end_job(p_job.id, 'CANCELLED', 'cancelled');
  elsif p_job.attempts >= p_job.max_attempts then
    perform tendril_core.end_job(p_job.id, 'FAILED', format('%s; gave up after %s attempts', p_why, p_job.attempts));
  else
    perform tendril_core.enqueue(array[p_job.id],
      case when p_delay > '0' then clock_timestamp() + p_delay else '-infinity' end);
    perform tendril_core.settle(p_job.deployment_id);
  end if;
end $$;
comment on function tendril_core.requeue is 'Back to the queue after a loss or a failure that is tried again; ends the job when its attempts are used up.';

-- name of the function: lose
-- The attempt's holder is not heard, or says that it does not hold it. What has not started, and what only reads, goes
-- back to the queue and supersedes the attempt; a mutating one that started becomes UNKNOWN and stays current.
create function tendril_core.lose(p_attempt uuid, p_why text) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  a     tendril_core.attempts;
  v_job tendril_core.jobs;
begin
  select * into a from tendril_core.attempts where id = p_attempt;
  -- Heartbeats and serve wait for nobody: a portal may have cancelled in a transaction that is still open, and the
  -- tenant may keep one open itself. They come again.
  perform from tendril.deployments where id = a.deployment_id for update skip locked;
  if not found then
    return false;
  end if;
  select * into v_job from tendril_core.jobs where id = a.job_id for update;
  if v_job.attempt_id is distinct from a.id or v_job.state not in ('CLAIMED', 'STARTED') then
    return true;
  end if;
  if v_job.state = 'STARTED' and v_job.mutating then
    update tendril_core.jobs set state = 'UNKNOWN', reason = p_why || '; what it has changed is not known yet' where id = v_job.id;
    perform tendril_core.settle(v_job.deployment_id);
    return true;
  end if;
  if not tendril_core.try_attempt(a) then
    return false;
  end if;
  perform tendril_core.supersede(a.id, 'lost');
  perform tendril_core.free_key(a.id, a.fence);
  perform tendril_core.requeue(v_job, p_why);
  return true;
end $$;
comment on function tendril_core.lose is 'What becomes of an attempt whose holder is gone; false when somebody has it locked: try again later.';

create function tendril_core.try_attempt(a tendril_core.attempts) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  -- Progress locks the attempt, a claim that parks behind its key locks that, a COPY locks the writer; and a tenant who
  -- kept serve waiting for one of them would keep every other tenant waiting for serve.
  perform from tendril_core.attempts t where t.id = a.id for no key update skip locked;
  if not found then
    return false;
  end if;
  perform from tendril_core.held_keys h where h.attempt_id = a.id for update skip locked;
  if not found and exists (select from tendril_core.held_keys h where h.attempt_id = a.id) then
    return false;
  end if;
  perform from tendril_core.log_writers w where w.id = a.log_writer for update skip locked;
  return found or not exists (select from tendril_core.log_writers w where w.id = a.log_writer);
end $$;
comment on function tendril_core.try_attempt is 'Takes an attempt, its key and its log writer without waiting; false when somebody has one of them.';

create function tendril_core.supersede(p_attempt uuid, p_outcome text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_writer uuid;
begin
  update tendril_core.attempts set superseded_at = clock_timestamp(), outcome = p_outcome
   where id = p_attempt returning log_writer into v_writer;
  -- The log check takes this row and no attempt's: so whoever changes what an attempt may append takes it too.
  perform from tendril_core.log_writers where id = v_writer for update;
end $$;
comment on function tendril_core.supersede is 'The job goes on without this attempt.';

revoke execute on all functions in schema tendril_core from public;
