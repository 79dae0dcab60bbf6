-- A sketch, for the bench alone: what starts and ends would cost if they worked on sets, as claims do. Locks and checks are those
-- of runner_start and runner_finish; who does not pass is left out, where a real function would ask the single one for its word.
create schema if not exists bare;
grant usage on schema bare to public;

create or replace function bare.start_all(p_attempts uuid[], p_fences bigint[]) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set enable_bitmapscan = off set enable_material = off set jit = off
set plan_cache_mode = force_generic_plan as $$
declare
  v_me       tendril_core.runner_identity := tendril_core.runner_identity();
  v_attempts uuid[];
  v_jobs     uuid[];
begin
  perform tendril_core.guard();
  -- First and by itself: who has waited for a heartbeat reads the lease anew in the next statement.
  perform from tendril_core.runner_leases x
    where x.runner_id in (select a.runner_id from tendril_core.attempts a where a.id = any (p_attempts) and a.cluster_id = v_me.cluster_id)
      for key share;
  select array_agg(l.id), array_agg(l.job_id) into v_attempts, v_jobs
    from (select a.id, a.fence as own, a.superseded_at, x.lease_expires_at, x.judged_lost, d.status, j.id as job_id, j.attempt_id, j.fence,
                 j.state, j.state_key, j.cancel_requested_at, j.expires_at, j.doubted
            from unnest(p_attempts, p_fences) u(attempt, fence)
            join tendril_core.attempts a on a.id = u.attempt and a.fence = u.fence and a.cluster_id = v_me.cluster_id
            join tendril_core.runner_leases x on x.runner_id = a.runner_id
            join tendril.deployments d on d.id = a.deployment_id
            join tendril_core.jobs j on j.id = a.job_id
           order by d.id, j.id for key share of x for update of d for update of j for update of a) l
   where l.attempt_id = l.id and l.fence = l.own and l.superseded_at is null and l.state = 'CLAIMED' and l.status = 'PROCESSING'
     and not l.doubted and l.cancel_requested_at is null and not l.judged_lost and v_me.status = 'active'
     and l.lease_expires_at > clock_timestamp() and coalesce(l.expires_at > clock_timestamp(), true)
     and (l.state_key is null or exists (select from tendril_core.held_keys h where h.attempt_id = l.id and h.fence = l.own))
     and (select c.origin from tendril.clusters c where c.id = v_me.cluster_id) = tendril_core.origin();
  update tendril_core.attempts set started_at = clock_timestamp() where id = any (v_attempts);
  update tendril_core.jobs set state = 'STARTED', started_at = clock_timestamp(),
         deadline_at = clock_timestamp() + (timeout_ms + kill_grace_ms) * interval '1 ms' + (select unknown_kill_grace from tendril_core.settings)
   where id = any (v_jobs);
  return coalesce(cardinality(v_attempts), 0);
end $$;

create or replace function bare.finish_all(p_attempts uuid[], p_fences bigint[], p_report jsonb) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set enable_bitmapscan = off set enable_material = off set jit = off
set plan_cache_mode = force_generic_plan as $$
declare
  v_me          tendril_core.runner_identity := tendril_core.runner_identity();
  v_attempts    uuid[];
  v_jobs        uuid[];
  v_deployments uuid[];
  h             tendril_core.held_keys;
begin
  perform tendril_core.guard();
  select array_agg(l.id), array_agg(l.job_id), array_agg(l.deployment_id) into v_attempts, v_jobs, v_deployments
    from (select a.id, a.fence as own, a.superseded_at, a.ended_at, j.id as job_id, j.deployment_id, j.attempt_id, j.fence, j.state, j.kind, j.concurrency_key
            from unnest(p_attempts, p_fences) u(attempt, fence)
            join tendril_core.attempts a on a.id = u.attempt and a.fence = u.fence and a.cluster_id = v_me.cluster_id
            join tendril.deployments d on d.id = a.deployment_id
            join tendril_core.jobs j on j.id = a.job_id
           order by d.id, j.id for update of d for update of j for update of a) l
   where l.attempt_id = l.id and l.fence = l.own and l.superseded_at is null and l.ended_at is null and l.state in ('CLAIMED', 'STARTED')
     and l.kind = 'exec' and l.concurrency_key is null and p_report ->> 'outcome' = 'success'
     and not exists (select from tendril_core.jobs o where o.deployment_id = l.deployment_id and o.id <> l.job_id);
  update tendril_core.attempts set ended_at = clock_timestamp(), outcome = 'success', report = p_report, log_end = (p_report ->> 'log_end')::bigint
   where id = any (v_attempts);
  for h in delete from tendril_core.held_keys k where k.attempt_id = any (v_attempts) returning * loop
    perform tendril_core.let_in_next(h.cluster_id, h.state_key);
  end loop;
  perform from tendril_core.log_writers w
    where w.id in (select a.log_writer from tendril_core.attempts a where a.id = any (v_attempts)) order by w.id for update;
  update tendril_core.jobs set state = 'SUCCESS', reason = null, result = p_report -> 'result', ended_at = clock_timestamp(), cancel_requested_at = null
   where id = any (v_jobs);
  update tendril.deployments set status = 'SUCCESS', error_message = null, ended_at = coalesce(ended_at, clock_timestamp()), waiting_for = null
   where id = any (v_deployments);
  return coalesce(cardinality(v_attempts), 0);
end $$;
