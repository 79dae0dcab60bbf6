-- Claim and start with fewer queries.

create or replace function tendril.runner_claim(p_runner uuid, p_claim_no bigint, p_slots integer) returns setof tendril.claimed_job
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set enable_bitmapscan = off set enable_material = off set jit = off
set plan_cache_mode = force_generic_plan as $$
declare
  v_me     tendril_core.runner_identity := tendril_core.runner_identity();
  l        tendril_core.runner_leases;
  v_labels text[];
  v_writer uuid;
  v_status text;
  v_jobs   uuid[];
  v_free   tendril_core.given[];
begin
  perform tendril_core.guard();
  l := tendril_core.lock_lease_to_claim(p_runner, v_me.cluster_id);
  if p_claim_no = l.claim_no then
    -- The reply was lost: the same number returns the same attempts, whatever the lease says.
    return query select * from tendril_core.claimed(array(
      select a.id from tendril_core.attempts a where a.runner_id = p_runner and a.claim_no = p_claim_no
         and a.ended_at is null and a.superseded_at is null));
    return;
  end if;
  -- Numbers may be left out: a failover, or a crash after a claim that found nothing, may have lost some.
  if p_claim_no < l.claim_no then
    perform tendril_core.fail('TD012', format('claim %s is older than claim %s', p_claim_no, l.claim_no), 'one open claim per runner');
  end if;
  select r.labels, r.log_writer, c.status into v_labels, v_writer, v_status
    from tendril_core.runners r join tendril.clusters c on c.id = r.cluster_id where r.id = p_runner;
  if v_me.status <> 'active' or v_status = 'REVOKED' then
    perform tendril_core.fail('TD008', 'the credential is being drained: it may finish, not claim');
  end if;
  if l.lease_expires_at <= clock_timestamp() or l.judged_lost then
    perform tendril_core.fail('TD006', 'the lease has run out', 'send a heartbeat first');
  end if;
  update tendril_core.runner_leases set claim_no = p_claim_no where runner_id = p_runner;

  v_jobs := tendril_core.pick(v_me.cluster_id, v_labels, p_slots);
  if cardinality(v_jobs) = 0 then
    -- Nothing is lost with this commit but a number: it does not wait for the disk, nor others' commits for it.
    perform set_config('synchronous_commit', 'off', true);
    return;
  end if;
  v_free := tendril_core.take_keys(v_me.cluster_id, array(
    select (u.id, tendril_core.uuidv7(), nextval('tendril_core.fences'))::tendril_core.given from unnest(v_jobs) with ordinality u(id, ord) order by u.ord));
  delete from tendril_core.queue q using unnest(v_free) g where q.job_id = g.job_id;
  -- For a kind that only reads the claim is the start: losing it costs nothing but the work.
  insert into tendril_core.attempts (id, fence, job_id, cluster_id, deployment_id, ordinal, claim_no, runner_id, log_writer, started_at)
    select g.attempt_id, g.fence, j.id, j.cluster_id, j.deployment_id, j.attempts + 1, p_claim_no, p_runner, v_writer,
           case when not j.mutating then clock_timestamp() end
      from unnest(v_free) g join tendril_core.jobs j on j.id = g.job_id;
  update tendril_core.jobs j set state = case when j.mutating then 'CLAIMED' else 'STARTED' end, attempt_id = g.attempt_id, fence = g.fence,
         attempts = j.attempts + 1, started_at = case when not j.mutating then clock_timestamp() end
    from unnest(v_free) g where j.id = g.job_id;
  perform tendril_core.mark_processing(array(select g.job_id from unnest(v_free) g));
  return query select * from tendril_core.claimed(array(select g.attempt_id from unnest(v_free) g));
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
         j.cancel_requested_at, a.superseded_at
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

revoke execute on all functions in schema tendril_core from public;
