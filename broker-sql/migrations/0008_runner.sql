-- What a runner's login role may call. Every function finds the cluster from the login, never from a parameter.
--
-- Hot functions pin their plans, and with them those of all they call: tables start empty and grow between two analyzes,
-- and a generic plan made for an empty one reads all of a full one (measured: 5 times slower after 14,000 jobs).

create type tendril_core.runner_identity as (cluster_id uuid, generation integer, status text);

create function tendril_core.runner_identity() returns tendril_core.runner_identity
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_me tendril_core.runner_identity;
begin
  select c.cluster_id, c.generation, c.status into v_me from tendril_core.cluster_credentials c
   where c.role_name = tendril_core.caller() and c.status <> 'ended';
  if v_me.cluster_id is null then
    perform tendril_core.fail('TD008', format('%s is not a runner''s credential', tendril_core.caller()),
      'use the token that cluster create or cluster rotate printed');
  end if;
  return v_me;
end $$;
comment on function tendril_core.runner_identity is 'Cluster, generation and status of the calling login role.';

create function tendril.runner_register(p_runner uuid, p_api integer, p_info jsonb) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_me  tendril_core.runner_identity := tendril_core.runner_identity();
  v_in  tendril_core.installation;
  v_set tendril_core.settings;
  v_now timestamptz;
begin
  perform tendril_core.guard();
  select * into v_in from tendril_core.installation;
  select * into v_set from tendril_core.settings;
  if p_api not between v_in.api_min and v_in.api_max then
    perform tendril_core.fail('TD010', format('runner speaks protocol %s, the broker %s to %s', p_api, v_in.api_min, v_in.api_max),
      case when p_api > v_in.api_max then 'migrate the broker first' else 'upgrade the runner' end);
  end if;
  if v_me.status <> 'active' then
    perform tendril_core.fail('TD008', 'the credential is being drained', 'start the runner with the newest token');
  end if;
  if exists (select from tendril_core.runners r where r.id = p_runner and r.cluster_id <> v_me.cluster_id) then
    perform tendril_core.fail('TD002', 'the runner id is somebody else''s', 'make a new UUIDv7 at each start');
  end if;
  if octet_length(p_info::text) > 65536 then
    perform tendril_core.fail('TD011', 'runner info: has more than 65536 bytes', 'use fewer labels');
  end if;
  insert into tendril_core.runners (id, cluster_id, generation, name, version, place, labels, slots, log_writer)
    values (p_runner, v_me.cluster_id, v_me.generation, left(p_info ->> 'name', 200), left(p_info ->> 'version', 60), p_info ->> 'place',
      array(select jsonb_array_elements_text(p_info -> 'labels')), (p_info ->> 'slots')::integer, (p_info ->> 'log_writer')::uuid)
    on conflict (id) do nothing;
  v_now := clock_timestamp();
  insert into tendril_core.runner_leases (runner_id, cluster_id, lease_expires_at, heartbeat_at)
    values (p_runner, v_me.cluster_id, v_now + v_set.lease_ttl, v_now) on conflict (runner_id) do nothing;
  insert into tendril_core.bells (cluster_id) values (v_me.cluster_id) on conflict do nothing;
  return jsonb_build_object(
    'cluster_id', v_me.cluster_id, 'cluster_name', (select c.name from tendril.clusters c where c.id = v_me.cluster_id),
    'incarnation', (select c.incarnation from tendril.clusters c where c.id = v_me.cluster_id),
    'lease_ttl_ms', tendril_core.ms(v_set.lease_ttl), 'heartbeat_ms', tendril_core.ms(v_set.heartbeat_interval),
    'artifact_max_bytes', v_set.artifact_max_bytes, 'channel', 'tendril_' || replace(v_me.cluster_id::text, '-', ''));
exception when not_null_violation or invalid_text_representation or numeric_value_out_of_range or invalid_parameter_value then
  perform tendril_core.fail('TD001', 'runner info: ' || sqlerrm, 'needs name, version, labels, slots, log_writer');
end $$;
comment on function tendril.runner_register(uuid, integer, jsonb) is 'Makes a runner process known and gives it its first lease. Repeating it is harmless.';

create function tendril_core.ms(p interval) returns bigint
language sql immutable set search_path = pg_catalog, pg_temp as $$ select (extract(epoch from p) * 1000)::bigint $$;
comment on function tendril_core.ms is 'An interval in milliseconds.';

-- name of the function: lock_lease
create function tendril_core.lock_lease(p_runner uuid, p_cluster uuid) returns tendril_core.runner_leases
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  l tendril_core.runner_leases;
begin
  select * into l from tendril_core.runner_leases where runner_id = p_runner and cluster_id = p_cluster for update;
  if not found then
    perform tendril_core.fail('TD002', format('there is no runner %s of this cluster', p_runner), 'register first');
  end if;
  return l;
end $$;
comment on function tendril_core.lock_lease is 'Locks the lease row that expiry and heartbeat lock too.';

-- name of the function: lock_lease_to_claim
-- Weaker: claims keep each other, heartbeats and expiry away, but not the starts of what was claimed before.
create function tendril_core.lock_lease_to_claim(p_runner uuid, p_cluster uuid) returns tendril_core.runner_leases
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  l tendril_core.runner_leases;
begin
  select * into l from tendril_core.runner_leases where runner_id = p_runner and cluster_id = p_cluster for no key update;
  if not found then
    perform tendril_core.fail('TD002', format('there is no runner %s of this cluster', p_runner), 'register first');
  end if;
  return l;
end $$;
comment on function tendril_core.lock_lease_to_claim is 'Locks the lease row against other claims, heartbeats and expiry.';

-- ---------------------------------------------------------------------------------------------------------------
-- Claim
-- ---------------------------------------------------------------------------------------------------------------

create type tendril.claimed_job as (
  attempt_id uuid, fence bigint, ordinal smallint, claim_day date, job_id uuid, deployment_id uuid, job text, kind text, mutating boolean,
  timeout_ms bigint, kill_grace_ms bigint, state_key text, spec jsonb, config_snapshot jsonb, plan_attempt_id uuid);
comment on type tendril.claimed_job is 'What a claim hands to a runner: the attempt''s address, and all that the job needs.';

create function tendril_core.claimed(p_attempts uuid[]) returns setof tendril.claimed_job
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return query select a.id, a.fence, a.ordinal, a.claim_day, j.id, j.deployment_id, j.name, j.kind, j.mutating, j.timeout_ms, j.kill_grace_ms,
         j.state_key, j.spec, d.config_snapshot,
         (select p.attempt_id from tendril_core.job_needs n join tendril_core.jobs p on p.id = n.needs_id
           where n.job_id = j.id and p.kind = 'terraform.plan' and p.state = 'SUCCESS' order by p.name limit 1)
    from tendril_core.attempts a
    join tendril_core.jobs j on j.id = a.job_id
    join tendril.deployments d on d.id = a.deployment_id
   where a.id = any (p_attempts) order by a.fence;
end $$;
comment on function tendril_core.claimed is 'The claimed jobs of some attempts.';

create type tendril_core.given as (job_id uuid, attempt_id uuid, fence bigint);
comment on type tendril_core.given is 'A picked job and the attempt that a claim makes of it.';

-- name of the function: runner_claim
-- The pick locks the queue row and the job row, both with SKIP LOCKED: a claim waits for nobody's open transaction. Its
-- plan is pinned on the function, since with LIMIT as a parameter the generic plan reads the whole queue.
create function tendril.runner_claim(p_runner uuid, p_claim_no bigint, p_slots integer) returns setof tendril.claimed_job
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
  if p_claim_no <> l.claim_no + 1 then
    perform tendril_core.fail('TD012', format('claim %s does not follow claim %s', p_claim_no, l.claim_no), 'one open claim per runner');
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
comment on function tendril.runner_claim(uuid, bigint, integer) is 'Claims up to p_slots jobs whose labels the runner has. The same number again returns the same attempts.';

-- name of the function: take_keys
create function tendril_core.take_keys(p_cluster uuid, p_given tendril_core.given[]) returns tendril_core.given[]
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_taken uuid[];
  v_free  tendril_core.given[];
begin
  if not exists (select from unnest(p_given) g join tendril_core.queue q on q.job_id = g.job_id where q.state_key is not null) then
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
comment on function tendril_core.take_keys is 'Takes the free keys of some jobs, parks the jobs whose key is held, returns those that may run.';

create function tendril_core.mark_processing(p_jobs uuid[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  -- Whoever has a deployment locked settles it before they let go; a claim does not wait for them.
  update tendril.deployments d set status = 'PROCESSING', started_at = coalesce(d.started_at, clock_timestamp()), waiting_for = null
    from (select o.id from tendril.deployments o
           where o.id in (select j.deployment_id from tendril_core.jobs j where j.id = any (p_jobs))
             and (o.status in ('QUEUED', 'AWAITING_APPROVAL') or o.waiting_for is not null)
           order by o.id for update skip locked) f
   where d.id = f.id;
end $$;
comment on function tendril_core.mark_processing is 'Shows the deployments of freshly claimed jobs as PROCESSING.';

create function tendril.runner_wait(p_runner uuid) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_me tendril_core.runner_identity := tendril_core.runner_identity();
begin
  -- Nothing is lost with this commit but a hint: it does not wait for the disk.
  perform set_config('synchronous_commit', 'off', true);
  perform from tendril_core.bells b where b.cluster_id = v_me.cluster_id and not b.waiting for update skip locked;
  if found then
    update tendril_core.bells set waiting = true where cluster_id = v_me.cluster_id;
  end if;
end $$;
comment on function tendril.runner_wait(uuid) is 'Asks for a ring at the next submit. Poll at 0, 50 and 300 ms afterwards, then with the heartbeat.';

-- ---------------------------------------------------------------------------------------------------------------
-- Start and finish
-- ---------------------------------------------------------------------------------------------------------------

-- name of the function: address
-- Finds an attempt of the caller's cluster and locks deployment, job and attempt, in that order.
create function tendril_core.address(p_attempt uuid, p_fence bigint, out a tendril_core.attempts, out j tendril_core.jobs)
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_me tendril_core.runner_identity := tendril_core.runner_identity();
begin
  select * into a from tendril_core.attempts t where t.id = p_attempt and t.fence = p_fence and t.cluster_id = v_me.cluster_id;
  if not found then
    perform tendril_core.fail('TD002', format('there is no attempt %s with fence %s of this cluster', p_attempt, p_fence));
  end if;
  perform from tendril.deployments d where d.id = a.deployment_id for update;
  select * into j from tendril_core.jobs t where t.id = a.job_id for update;
  select * into a from tendril_core.attempts t where t.id = p_attempt for update;
end $$;
comment on function tendril_core.address is 'An attempt and its job, locked, by attempt id and fence.';

create function tendril.runner_start(p_attempt uuid, p_fence bigint) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set enable_bitmapscan = off set jit = off
set plan_cache_mode = force_generic_plan as $$
declare
  v_me tendril_core.runner_identity := tendril_core.runner_identity();
  l    tendril_core.runner_leases;
  v    record;
  a    tendril_core.attempts;
  j    tendril_core.jobs;
begin
  perform tendril_core.guard();
  -- In share mode that only a heartbeat and expiry wait for: a runner claims on while it starts.
  select x.* into l from tendril_core.attempts t join tendril_core.runner_leases x on x.runner_id = t.runner_id
   where t.id = p_attempt and t.cluster_id = v_me.cluster_id for key share of x;
  v := tendril_core.address(p_attempt, p_fence);
  a := v.a;
  j := v.j;
  if j.attempt_id is distinct from a.id or j.fence is distinct from a.fence or a.superseded_at is not null
     or j.state in ('SUCCESS', 'FAILED', 'CANCELLED', 'SKIPPED') then
    perform tendril_core.fail('TD005', 'the attempt is not current any more: it was superseded', 'do not start; drop the work');
  end if;
  if j.state = 'STARTED' then
    return;
  end if;
  if l.runner_id is null or l.lease_expires_at <= clock_timestamp() or l.judged_lost or v_me.status <> 'active' then
    perform tendril_core.fail('TD006', 'the lease has run out or the credential is being drained', 'do not start; send a heartbeat');
  end if;
  if j.state_key is not null and not exists (
      select from tendril_core.held_keys h where h.attempt_id = a.id and h.fence = a.fence for share) then
    perform tendril_core.fail('TD005', format('the attempt holds key %s no more: an operator released it', j.state_key), 'do not start; drop the work');
  end if;
  if j.cancel_requested_at is not null then
    perform tendril_core.fail('TD013', 'the job is to be cancelled', 'do not start; finish it as cancelled');
  end if;
  update tendril_core.attempts set started_at = clock_timestamp() where id = a.id;
  update tendril_core.jobs set state = 'STARTED', started_at = clock_timestamp(),
         deadline_at = clock_timestamp() + (timeout_ms + kill_grace_ms) * interval '1 ms' + (select unknown_kill_grace from tendril_core.settings)
   where id = j.id;
  perform tendril_core.settle(j.deployment_id);
end $$;
comment on function tendril.runner_start(uuid, bigint) is 'The committed, fenced call just before the first child that changes the world.';

-- name of the function: runner_finish
create function tendril.runner_finish(p_attempt uuid, p_fence bigint, p_report jsonb) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set enable_bitmapscan = off set jit = off
set plan_cache_mode = force_generic_plan as $$
declare
  v         record;
  a         tendril_core.attempts;
  j         tendril_core.jobs;
  v_outcome text := p_report ->> 'outcome';
begin
  perform tendril_core.guard();
  if v_outcome is null or v_outcome not in ('success', 'failure', 'cancelled', 'timeout', 'released')
     or jsonb_typeof(p_report -> 'log_end') is distinct from 'number' or p_report ->> 'log_end' !~ '^(-1|[0-9]{1,18})$' then
    perform tendril_core.fail('TD001', 'report: needs outcome (success, failure, cancelled, timeout, released) and log_end');
  end if;
  if octet_length(p_report::text) > 8388608 then
    perform tendril_core.fail('TD011', 'report: has more than 8388608 bytes', 'leave large outputs to artifacts');
  end if;
  v := tendril_core.address(p_attempt, p_fence);
  a := v.a;
  j := v.j;
  if a.ended_at is not null then
    return 'again';
  end if;
  if a.superseded_at is not null or j.attempt_id is distinct from a.id or j.fence is distinct from a.fence
     or j.state in ('SUCCESS', 'FAILED', 'CANCELLED', 'SKIPPED') then
    return tendril_core.note_late(a, p_report);
  end if;
  update tendril_core.attempts set ended_at = clock_timestamp(), outcome = v_outcome, report = p_report,
         log_end = (p_report ->> 'log_end')::bigint
   where id = a.id;
  perform tendril_core.free_key(a.id, a.fence);
  perform from tendril_core.log_writers w where w.id = a.log_writer for update;
  perform tendril_core.conclude(j, v_outcome, p_report);
  return 'accepted';
end $$;
comment on function tendril.runner_finish(uuid, bigint, jsonb) is
  'Reports an attempt''s end: accepted, again (already so), or noted (superseded: kept, changes nothing but the key).';

create function tendril_core.note_late(p_attempt tendril_core.attempts, p_report jsonb) returns text
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  -- A holder that repeats itself adds nothing, and no holder fills the table.
  if (select count(*) < 20 and count(*) filter (where n.report = p_report) = 0
        from tendril_core.attempt_notes n where n.attempt_id = p_attempt.id) then
    insert into tendril_core.attempt_notes (attempt_id, actor, what, report) values (p_attempt.id, tendril_core.caller(),
      format('reported %s after the job had gone on without it', p_report ->> 'outcome'), p_report);
  end if;
  update tendril_core.attempts set log_end = coalesce(log_end, (p_report ->> 'log_end')::bigint) where id = p_attempt.id;
  if coalesce((p_report ->> 'child_dead')::boolean, false) then
    perform tendril_core.free_key(p_attempt.id, p_attempt.fence);
  end if;
  perform from tendril_core.log_writers w where w.id = p_attempt.log_writer for update;
  return 'noted';
end $$;
comment on function tendril_core.note_late is 'Keeps a superseded attempt''s report; a child confirmed dead frees its key.';

create function tendril_core.conclude(p_job tendril_core.jobs, p_outcome text, p_report jsonb) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_why text := coalesce(p_report ->> 'error', p_outcome);
begin
  if p_outcome = 'success' then
    perform tendril_core.end_job(p_job.id, 'SUCCESS', null, p_report -> 'result');
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
comment on function tendril_core.conclude is 'What a job becomes by its holder''s report.';
