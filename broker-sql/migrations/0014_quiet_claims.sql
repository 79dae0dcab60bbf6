-- A claim that finds nothing costs the disk nothing: idle runners poll, and most of their claims are such.

create or replace function tendril.runner_claim(p_runner uuid, p_claim_no bigint, p_slots integer) returns setof tendril.claimed_job
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set enable_bitmapscan = off set jit = off
set plan_cache_mode = force_generic_plan as $$
declare
  v_me     tendril_core.runner_identity := tendril_core.runner_identity();
  l        tendril_core.runner_leases;
  r        tendril_core.runners;
  v_jobs   uuid[];
  v_free   tendril_core.given[];
begin
  perform tendril_core.guard();
  l := tendril_core.lock_lease_to_claim(p_runner, v_me.cluster_id);
  select * into r from tendril_core.runners where id = p_runner;
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
  if v_me.status <> 'active' or (select c.status from tendril.clusters c where c.id = v_me.cluster_id) = 'REVOKED' then
    perform tendril_core.fail('TD008', 'the credential is being drained: it may finish, not claim');
  end if;
  if l.lease_expires_at <= clock_timestamp() or l.judged_lost then
    perform tendril_core.fail('TD006', 'the lease has run out', 'send a heartbeat first');
  end if;
  update tendril_core.runner_leases set claim_no = p_claim_no where runner_id = p_runner;

  v_jobs := array(
    select q.job_id from tendril_core.queue q join tendril_core.jobs j on j.id = q.job_id
     where q.cluster_id = v_me.cluster_id and q.run_after <= clock_timestamp() and q.requires <@ r.labels and j.state = 'QUEUED'
     order by q.priority, q.seq limit least(greatest(p_slots, 0), 1000) for update of q, j skip locked);
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
    select g.attempt_id, g.fence, j.id, j.cluster_id, j.deployment_id, j.attempts + 1, p_claim_no, p_runner, r.log_writer,
           case when not j.mutating then clock_timestamp() end
      from unnest(v_free) g join tendril_core.jobs j on j.id = g.job_id;
  update tendril_core.jobs j set state = case when j.mutating then 'CLAIMED' else 'STARTED' end, attempt_id = g.attempt_id, fence = g.fence,
         attempts = j.attempts + 1, started_at = case when not j.mutating then clock_timestamp() end
    from unnest(v_free) g where j.id = g.job_id;
  perform tendril_core.mark_processing(array(select g.job_id from unnest(v_free) g));
  return query select * from tendril_core.claimed(array(select g.attempt_id from unnest(v_free) g));
end $$;
comment on function tendril.runner_claim(uuid, bigint, integer) is
  'Claims up to p_slots jobs whose labels the runner has. Numbers only rise; the same number again returns the same attempts.';
