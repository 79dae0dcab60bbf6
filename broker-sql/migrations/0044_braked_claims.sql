-- Claims, heartbeats and explanations that know of pauses and limits.

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
  v_paused boolean;
  v_slots  integer := p_slots;
  v_kinds  text[];
  v_rooms  integer[];
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
  select r.labels, r.log_writer, c.status, c.paused_at is not null or r.paused_at is not null into v_labels, v_writer, v_status, v_paused
    from tendril_core.runners r join tendril.clusters c on c.id = r.cluster_id where r.id = p_runner;
  if v_me.status <> 'active' or v_status = 'REVOKED' then
    perform tendril_core.fail('TD008', 'the credential is being drained: it may finish, not claim');
  end if;
  if l.lease_expires_at <= clock_timestamp() or l.judged_lost then
    perform tendril_core.fail('TD006', 'the lease has run out', 'send a heartbeat first');
  end if;
  update tendril_core.runner_leases set claim_no = p_claim_no where runner_id = p_runner;

  if v_paused then
    v_slots := 0;
  elsif exists (select from tendril_core.limits x where x.cluster_id = v_me.cluster_id) then
    select x.slots, x.kinds, x.rooms into v_slots, v_kinds, v_rooms from tendril_core.room(v_me.cluster_id, p_slots) x;
    -- Without its label a kind's classes are not looked at.
    v_labels := array(select u.label from unnest(v_labels) u(label)
                       where u.label <> all (array(select 'kind=' || k.kind from unnest(v_kinds, v_rooms) k(kind, room) where k.room = 0)));
  end if;
  -- Once more where all that was picked turned out to be held up: what can run may stand behind it.
  for turn in 1 .. 3 loop
    v_jobs := tendril_core.pick(v_me.cluster_id, v_labels, v_slots);
    exit when cardinality(v_jobs) = 0;
    v_jobs := tendril_core.take_room(v_me.cluster_id, case when v_kinds is null then v_jobs else tendril_core.trim_kinds(v_jobs, v_kinds, v_rooms) end);
    continue when cardinality(v_jobs) = 0;
    v_free := tendril_core.take_keys(v_me.cluster_id, array(
      select (u.id, tendril_core.uuidv7(), nextval('tendril_core.fences'))::tendril_core.given from unnest(v_jobs) with ordinality u(id, ord) order by u.ord));
    exit when cardinality(v_free) > 0;
  end loop;
  if coalesce(cardinality(v_free), 0) = 0 then
    -- Nothing is lost with this commit but a number: it does not wait for the disk, nor others' commits for it.
    perform set_config('synchronous_commit', 'off', true);
    return;
  end if;
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

create or replace function tendril.runner_heartbeat(p_runner uuid, p_settled bigint, p_holding uuid[]) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set enable_bitmapscan = off set enable_material = off set jit = off
set plan_cache_mode = force_generic_plan as $$
declare
  v_me  tendril_core.runner_identity := tendril_core.runner_identity();
  v_now timestamptz;
  v_ttl interval := (select lease_ttl from tendril_core.settings);
  v_id  uuid;
  v_paused boolean;
  v_drain  boolean;
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
  select c.paused_at is not null or r.paused_at is not null, v_me.status <> 'active' or c.status = 'REVOKED' or c.draining or r.draining into v_paused, v_drain
    from tendril_core.runners r join tendril.clusters c on c.id = r.cluster_id where r.id = p_runner;
  return jsonb_build_object(
    'held', (select coalesce(jsonb_agg(a.id), '[]') from tendril_core.attempts a
              where a.runner_id = p_runner and a.ended_at is null and a.superseded_at is null),
    'superseded', (select coalesce(jsonb_agg(a.id), '[]') from tendril_core.attempts a
                    where a.id = any (p_holding) and a.cluster_id = v_me.cluster_id and a.superseded_at is not null),
    'cancel', (select coalesce(jsonb_agg(a.id), '[]') from tendril_core.attempts a join tendril_core.jobs j on j.id = a.job_id and j.attempt_id = a.id
                where a.runner_id = p_runner and a.ended_at is null and a.superseded_at is null and j.cancel_requested_at is not null),
    'listen', (select runners_online from tendril_core.pulse) <= (select listeners_max from tendril_core.settings),
    'work', not v_paused and cardinality((select c.ids from tendril_core.classes(v_me.cluster_id, (select r.labels from tendril_core.runners r where r.id = p_runner)) c)) > 0,
    'draining', v_drain,
    'lease_ttl_ms', tendril_core.ms(v_ttl));
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
             where e.job_id = j.id and n.state <> 'SUCCESS');
  elsif j.state = 'AWAITING_APPROVAL' then
    return format('approval of job %s: tendril.approve(%L)', j.name, j.deployment_id);
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

revoke execute on all functions in schema tendril, tendril_core from public;
