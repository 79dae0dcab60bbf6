-- Heartbeat: renews the lease, settles claims, and is the control channel. Progress, goodbye and artifacts.

-- name of the function: runner_heartbeat
-- "Settled up to claim k, holding S." Always accepted from a known runner, also after expiry: it tells what is still held.
create function tendril.runner_heartbeat(p_runner uuid, p_settled bigint, p_holding uuid[]) returns jsonb
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
    'cancel', (select coalesce(jsonb_agg(a.id), '[]') from tendril_core.attempts a join tendril_core.jobs j on j.attempt_id = a.id
                where a.runner_id = p_runner and a.ended_at is null and a.superseded_at is null and j.cancel_requested_at is not null),
    'listen', (select runners_online from tendril_core.pulse) <= (select listeners_max from tendril_core.settings),
    'work', exists (select from tendril_core.queue q where q.cluster_id = v_me.cluster_id and q.run_after <= v_now
                     and q.requires <@ (select r.labels from tendril_core.runners r where r.id = p_runner)),
    'draining', v_me.status <> 'active' or (select c.status from tendril.clusters c where c.id = v_me.cluster_id) = 'REVOKED',
    'lease_ttl_ms', tendril_core.ms(v_ttl));
end $$;
comment on function tendril.runner_heartbeat(uuid, bigint, uuid[]) is
  'Renews the lease; answers with what is held, superseded, to be cancelled, whether to listen and whether work waits.';

create function tendril_core.hear_again(p_runner uuid, p_holding uuid[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v record;
begin
  for v in select a.id, a.deployment_id, a.job_id from tendril_core.attempts a
            join tendril_core.jobs j on j.id = a.job_id
            where a.runner_id = p_runner and a.id = any (p_holding) and a.ended_at is null and a.superseded_at is null and j.state = 'UNKNOWN'
            order by a.deployment_id, a.job_id loop
    perform from tendril.deployments d where d.id = v.deployment_id for update skip locked;
    continue when not found;
    update tendril_core.jobs set state = 'STARTED', reason = null where id = v.job_id and attempt_id = v.id and state = 'UNKNOWN';
    perform tendril_core.settle(v.deployment_id);
  end loop;
end $$;
comment on function tendril_core.hear_again is 'A holder that was not heard is back: its UNKNOWN jobs are STARTED again.';

create function tendril.runner_progress(p_attempt uuid, p_fence bigint, p_progress jsonb) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set enable_bitmapscan = off set jit = off
set plan_cache_mode = force_generic_plan as $$
declare
  v_me tendril_core.runner_identity := tendril_core.runner_identity();
begin
  if octet_length(p_progress::text) > 524288 then
    perform tendril_core.fail('TD011', 'progress has more than 524288 bytes');
  end if;
  update tendril_core.attempts set progress = p_progress
   where id = p_attempt and fence = p_fence and cluster_id = v_me.cluster_id and ended_at is null and superseded_at is null;
end $$;
comment on function tendril.runner_progress(uuid, bigint, jsonb) is 'Shows per-resource progress of a running attempt; ignored when stale.';

create function tendril.runner_leave(p_runner uuid) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_me tendril_core.runner_identity := tendril_core.runner_identity();
begin
  perform tendril_core.guard();
  perform tendril_core.lock_lease(p_runner, v_me.cluster_id);
  -- Only who holds nothing may leave; the others' leases run out, and expiry judges what they held.
  if not exists (select from tendril_core.attempts a where a.runner_id = p_runner and a.ended_at is null and a.superseded_at is null) then
    update tendril_core.runners set left_at = clock_timestamp() where id = p_runner;
    delete from tendril_core.runner_leases where runner_id = p_runner;
  end if;
end $$;
comment on function tendril.runner_leave(uuid) is 'A graceful goodbye of a runner that holds nothing.';

-- name of the function: runner_artifact_put
create function tendril.runner_artifact_put(p_attempt uuid, p_fence bigint, p_name text, p_media_type text, p_data bytea) returns uuid
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_me  tendril_core.runner_identity := tendril_core.runner_identity();
  v_max integer := (select artifact_max_bytes from tendril_core.settings);
  v_id  uuid;
begin
  perform tendril_core.guard();
  if octet_length(p_data) > v_max then
    perform tendril_core.fail('TD011', format('artifact %s has %s bytes, the limit is %s', p_name, octet_length(p_data), v_max),
      'an operator can raise artifact_max_bytes');
  end if;
  if not exists (select from tendril_core.attempts a where a.id = p_attempt and a.fence = p_fence and a.cluster_id = v_me.cluster_id) then
    perform tendril_core.fail('TD002', format('there is no attempt %s with fence %s of this cluster', p_attempt, p_fence));
  end if;
  if (select count(*) from tendril_core.artifacts a where a.attempt_id = p_attempt and a.name <> p_name) >= 32 then
    perform tendril_core.fail('TD011', format('attempt %s has 32 artifacts already', p_attempt));
  end if;
  insert into tendril_core.artifacts (cluster_id, attempt_id, fence, name, media_type, sha256, size_bytes, data)
    values (v_me.cluster_id, p_attempt, p_fence, p_name, p_media_type, encode(sha256(p_data), 'hex'), octet_length(p_data), p_data)
    on conflict (attempt_id, name) do nothing returning id into v_id;
  if v_id is null then
    -- Sent again after a lost reply: the stored bytes stay, since a sealed artifact differs at each sealing.
    select id into v_id from tendril_core.artifacts where attempt_id = p_attempt and name = p_name;
  end if;
  return v_id;
exception when check_violation then
  perform tendril_core.fail('TD001', format('artifact name %s: lower-case letters, digits, dot, dash and underscore', p_name));
end $$;
comment on function tendril.runner_artifact_put(uuid, bigint, text, text, bytea) is
  'Stores an artifact of an attempt once; also a superseded attempt''s, since rescued state is always accepted.';

create function tendril.runner_artifact_get(p_attempt uuid, p_name text, out media_type text, out sha256 text, out data bytea)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_me tendril_core.runner_identity := tendril_core.runner_identity();
begin
  select a.media_type, a.sha256, a.data into media_type, sha256, data from tendril_core.artifacts a
   where a.attempt_id = p_attempt and a.name = p_name and a.cluster_id = v_me.cluster_id;
  if not found then
    perform tendril_core.fail('TD002', format('there is no artifact %s of attempt %s in this cluster', p_name, p_attempt));
  end if;
end $$;
comment on function tendril.runner_artifact_get(uuid, text) is 'An artifact of any attempt of the caller''s cluster.';

revoke execute on all functions in schema tendril, tendril_core from public;
do $$
begin
  execute format('grant execute on function tendril.runner_register(uuid, integer, jsonb), tendril.runner_claim(uuid, bigint, integer), '
    'tendril.runner_wait(uuid), tendril.runner_start(uuid, bigint), tendril.runner_finish(uuid, bigint, jsonb), '
    'tendril.runner_heartbeat(uuid, bigint, uuid[]), tendril.runner_progress(uuid, bigint, jsonb), tendril.runner_leave(uuid), '
    'tendril.runner_artifact_put(uuid, bigint, text, text, bytea), tendril.runner_artifact_get(uuid, text) to %I',
    tendril_core.group_role('runner'));
end $$;
