-- Plans that stay good when the tables grow. A session keeps the plan that it made when a table was short: with every way
-- but one switched off it is the same plan in the end.

-- name of the function: pick
-- Without a sort there is only the index in claim order. With one, a runner that came when 300 jobs waited read all of
-- 20,000 at each claim later: 60 ms rather than 1. The switch stands here alone, since what else a claim does sorts.
create function tendril_core.pick(p_cluster uuid, p_labels text[], p_slots integer) returns uuid[]
language plpgsql set search_path = pg_catalog, pg_temp set enable_sort = off as $$
begin
  return array(
    select q.job_id from tendril_core.queue q join tendril_core.jobs j on j.id = q.job_id
     where q.cluster_id = p_cluster and q.run_after <= clock_timestamp() and q.requires <@ p_labels and j.state = 'QUEUED'
     order by q.priority, q.seq limit least(greatest(p_slots, 0), 1000) for update of q, j skip locked);
end $$;
comment on function tendril_core.pick is 'The next jobs of a cluster for a runner with these labels, locked.';

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

  v_jobs := tendril_core.pick(v_me.cluster_id, r.labels, p_slots);
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

create or replace function tendril_core.take_keys(p_cluster uuid, p_given tendril_core.given[]) returns tendril_core.given[]
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_taken uuid[];
  v_free  tendril_core.given[];
begin
  -- Asked for each job by itself: a join may be turned round and read the whole queue.
  if not exists (select from unnest(p_given) g
                  where (select q.state_key from tendril_core.queue q where q.job_id = g.job_id) is not null) then
    return p_given;
  end if;
  -- In the keys' order, so that two claims of one cluster wait for each other in one direction only.
  with taken as (
    insert into tendril_core.held_keys (cluster_id, state_key, attempt_id, fence, job_id)
      select p_cluster, k.state_key, k.attempt_id, k.fence, k.job_id
        from (select distinct on (q.state_key) q.state_key, g.job_id, g.attempt_id, g.fence
                from unnest(p_given) g join tendril_core.queue q on q.job_id = g.job_id
               where q.state_key is not null order by q.state_key, g.fence) k
      on conflict (cluster_id, state_key) do nothing returning job_id)
  select coalesce(array_agg(job_id), '{}') into v_taken from taken;
  v_free := array(select g from unnest(p_given) g join tendril_core.queue q on q.job_id = g.job_id
                   where q.state_key is null or g.job_id = any (v_taken) order by g.fence);
  -- The key's row is locked in share mode before a job is parked behind it: whoever frees the key comes after, and sees it.
  -- A key that is being freed right now is not waited for, since who frees several could wait for us in turn: its job stays
  -- in the queue for the next claim.
  with held as materialized (
    select q.job_id from unnest(p_given) g
      join tendril_core.queue q on q.job_id = g.job_id
      join tendril_core.held_keys h on h.cluster_id = p_cluster and h.state_key = q.state_key
     where q.job_id <> all (array(select f.job_id from unnest(v_free) f)) for key share of h skip locked),
  gone as (delete from tendril_core.queue q using held where q.job_id = held.job_id returning q.*)
  insert into tendril_core.parked (job_id, cluster_id, state_key, priority, seq)
    select p.job_id, p.cluster_id, p.state_key, p.priority, p.seq from gone p;
  return v_free;
end $$;

-- By the job's key: by its attempt alone, which has no index, each heartbeat read the whole history for each attempt it held.
create or replace function tendril.runner_heartbeat(p_runner uuid, p_settled bigint, p_holding uuid[]) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set enable_bitmapscan = off set jit = off
set plan_cache_mode = force_generic_plan as $$
declare
  v_me  tendril_core.runner_identity := tendril_core.runner_identity();
  v_now timestamptz;
  v_ttl interval := (select lease_ttl from tendril_core.settings);
  v_id  uuid;
begin
  perform tendril_core.guard();
  perform tendril_core.lock_lease(p_runner, v_me.cluster_id);
  v_now := clock_timestamp();
  update tendril_core.runner_leases set lease_expires_at = greatest(lease_expires_at, v_now + v_ttl), heartbeat_at = v_now, judged_lost = false
   where runner_id = p_runner;
  for v_id in select a.id from tendril_core.attempts a
               where a.runner_id = p_runner and a.ended_at is null and a.superseded_at is null
                 and a.claim_no <= p_settled and a.id <> all (p_holding) order by a.deployment_id, a.job_id loop
    perform tendril_core.lose(v_id, 'the runner does not hold it any more');
  end loop;
  perform tendril_core.hear_again(p_runner, p_holding);
  return jsonb_build_object(
    'held', (select coalesce(jsonb_agg(a.id), '[]') from tendril_core.attempts a
              where a.runner_id = p_runner and a.ended_at is null and a.superseded_at is null),
    'superseded', (select coalesce(jsonb_agg(a.id), '[]') from tendril_core.attempts a
                    where a.id = any (p_holding) and a.cluster_id = v_me.cluster_id and a.superseded_at is not null),
    'cancel', (select coalesce(jsonb_agg(a.id), '[]') from tendril_core.attempts a join tendril_core.jobs j on j.id = a.job_id and j.attempt_id = a.id
                where a.runner_id = p_runner and a.ended_at is null and a.superseded_at is null and j.cancel_requested_at is not null),
    'listen', (select runners_online from tendril_core.pulse) <= (select listeners_max from tendril_core.settings),
    'work', exists (select from tendril_core.queue q where q.cluster_id = v_me.cluster_id and q.run_after <= v_now
                     and q.requires <@ (select r.labels from tendril_core.runners r where r.id = p_runner)),
    'draining', v_me.status <> 'active' or (select c.status from tendril.clusters c where c.id = v_me.cluster_id) = 'REVOKED',
    'lease_ttl_ms', tendril_core.ms(v_ttl));
end $$;

-- The submit's own statements join the new rows with all jobs there are.
alter function tendril_core.submit_rows() set enable_hashjoin = off;
alter function tendril_core.submit_rows() set enable_mergejoin = off;
alter function tendril_core.submit_rows() set enable_seqscan = off;

revoke execute on function tendril_core.pick(uuid, text[], integer) from public;
