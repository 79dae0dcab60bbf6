-- A witness holds the keys of the starts that it tells of last, in their order, when nothing is left to wait for that a claim may have
-- locked: a claim takes jobs before keys. And a key that somebody has only claimed with is taken from them: they are refused their start.
--
-- Seen before: a claim that had locked a job waited for the key of a forgotten start, and its witness for the job (40P01, and both tried
-- again). And a job that was claimed while the start was forgotten kept the key, and freed it when its own start was refused: the next
-- one ran beside the first.
--
-- Lock order: cluster; leases, in the order of their ids; deployment, job and attempt; held keys, in their order.

create or replace function tendril_core.take_starts(p_cluster uuid, p_open jsonb, p_set_back boolean) returns uuid[]
language plpgsql set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set enable_bitmapscan = off set enable_material = off set jit = off as $$
declare
  v       record;
  a       tendril_core.attempts;
  j       tendril_core.jobs;
  v_taken uuid[] := '{}';
begin
  for v in select t.id, t.deployment_id, w.started
             from jsonb_to_recordset(p_open) w(attempt_id uuid, fence bigint, started boolean)
             join tendril_core.attempts t on t.id = w.attempt_id and t.fence = w.fence and t.cluster_id = p_cluster
            where t.started_at is null and t.ended_at is null and coalesce(w.started, p_set_back)
            order by t.deployment_id, t.job_id loop
    perform from tendril.deployments d where d.id = v.deployment_id for update;
    select x.* into j from tendril_core.jobs x join tendril_core.attempts t on t.job_id = x.id where t.id = v.id for update of x;
    select * into a from tendril_core.attempts t where t.id = v.id for no key update;
    continue when a.started_at is not null or a.ended_at is not null;
    if v.started then
      update tendril_core.attempts set started_at = clock_timestamp() where id = a.id;
      v_taken := v_taken || a.id;
    end if;
    continue when j.state <> 'CLAIMED' or j.attempt_id is distinct from a.id or j.fence is distinct from a.fence or a.superseded_at is not null;
    if v.started then
      update tendril_core.jobs set state = 'STARTED', doubted = false, reason = null, started_at = clock_timestamp(),
             deadline_at = clock_timestamp() + (timeout_ms + kill_grace_ms) * interval '1 ms' + (select s.unknown_kill_grace from tendril_core.settings s)
       where id = j.id;
      perform tendril_core.settle(j.deployment_id);
    else
      -- A runner before this call does not say it: it may have started.
      update tendril_core.jobs set doubted = true, needs_approval = true,
             reason = 'the database was set back in time, and its runner may have started it: look whether it has been done already' where id = j.id;
    end if;
  end loop;
  return v_taken;
end $$;
comment on function tendril_core.take_starts is
  'Takes on the starts that a runner knows and the database does not; returns their attempts, whose keys hold_keys takes. p_set_back: what it does not say of one counts against it.';

create function tendril_core.hold_keys(p_cluster uuid, p_attempts uuid[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set enable_bitmapscan = off set enable_material = off set jit = off as $$
declare
  v record;
begin
  -- Of one that was given up, too: it may run all the same. Not if a late report was noted.
  for v in select a.id, a.fence, a.job_id, j.state_key from tendril_core.attempts a join tendril_core.jobs j on j.id = a.job_id
            where a.id = any (p_attempts) and j.state_key is not null and a.log_end is null order by j.state_key, a.fence desc loop
    loop
      insert into tendril_core.held_keys (cluster_id, state_key, attempt_id, fence, job_id)
        values (p_cluster, v.state_key, v.id, v.fence, v.job_id) on conflict (cluster_id, state_key) do nothing;
      exit when found;
      -- A start holds it in share mode: from here on its holder has started, or cannot any more. Or has just freed it.
      perform from tendril_core.held_keys h where h.cluster_id = p_cluster and h.state_key = v.state_key for update;
      continue when not found;
      update tendril_core.held_keys h set attempt_id = v.id, fence = v.fence, job_id = v.job_id
       where h.cluster_id = p_cluster and h.state_key = v.state_key
         and exists (select from tendril_core.attempts o where o.id = h.attempt_id and o.started_at is null);
      exit;
    end loop;
  end loop;
end $$;
comment on function tendril_core.hold_keys is
  'Takes the state keys of attempts that have started, from whoever has only claimed with one; who has started keeps it. The caller waits for nothing that a claim locks afterwards.';

create or replace function tendril.runner_witness(p_runner uuid, p_witness jsonb) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set enable_bitmapscan = off set enable_material = off set jit = off as $$
declare
  v_me      tendril_core.runner_identity := tendril_core.runner_identity();
  v_inc     bigint;
  v_fence   bigint;
  v_known   uuid[];
  v_started uuid[];
  v_lost    uuid[];
  v_resend  uuid[];
  v_why     text;
  v_doubted boolean;
  c         tendril.clusters;
  v         record;
begin
  perform tendril_core.guard();
  if octet_length(p_witness::text) > 1048576 then
    perform tendril_core.fail('TD011', 'witness: has more than 1048576 bytes', 'keep the attempts of the last hours only');
  end if;
  v_inc := (p_witness ->> 'incarnation')::bigint;
  v_fence := (p_witness ->> 'fence')::bigint;
  if v_inc is null or v_fence is null or jsonb_typeof(p_witness -> 'open') is distinct from 'array' or jsonb_typeof(p_witness -> 'ended') is distinct from 'array'
     or jsonb_typeof(p_witness -> 'runners') is distinct from 'array' then
    perform tendril_core.fail('TD001', 'witness: needs incarnation, fence, runners, open and ended');
  end if;
  select * into c from tendril.clusters x where x.id = v_me.cluster_id for no key update;
  -- Its own and those that it speaks for.
  perform from tendril_core.runner_leases l
   where l.cluster_id = v_me.cluster_id and l.runner_id = any (p_runner || array(select x::uuid from jsonb_array_elements_text(p_witness -> 'runners') x))
   order by l.runner_id for update;
  perform tendril_core.lock_lease(p_runner, v_me.cluster_id);
  -- A number that no quarantine can have reached is nobody's but the one who made it up, and would leave no room above it.
  v_inc := least(v_inc, c.incarnation + 1000000);
  v_known := array(select a.id from jsonb_to_recordset((p_witness -> 'open') || (p_witness -> 'ended')) w(attempt_id uuid, fence bigint)
                     join tendril_core.attempts a on a.id = w.attempt_id and a.fence = w.fence and a.cluster_id = v_me.cluster_id);
  -- Before a quarantine, which leaves what is only claimed to people.
  v_started := tendril_core.take_starts(v_me.cluster_id, p_witness -> 'open', v_inc <> c.incarnation or c.origin <> tendril_core.origin());
  -- Not known, or given up before its end, or its acknowledged start, was heard of.
  v_lost := array(select w.attempt_id from jsonb_to_recordset((p_witness -> 'open') || (p_witness -> 'ended')) w(attempt_id uuid, started boolean)
                   where w.attempt_id is not null and w.attempt_id <> all (v_known)
                  union
                  select a.id from jsonb_to_recordset(p_witness -> 'ended') w(attempt_id uuid) join tendril_core.attempts a on a.id = w.attempt_id
                   where a.id = any (v_known) and a.ended_at is null and a.superseded_at is not null
                  union
                  select a.id from tendril_core.attempts a where a.id = any (v_started) and a.superseded_at is not null);
  v_resend := array(select a.id from jsonb_to_recordset(p_witness -> 'ended') w(attempt_id uuid)
                      join tendril_core.attempts a on a.id = w.attempt_id where a.id = any (v_known) and a.ended_at is null and a.superseded_at is null);
  v_why := case when v_inc > c.incarnation then format('a runner has seen incarnation %s', v_inc)
                when v_inc = c.incarnation and v_fence > (select f.last_value from tendril_core.fences f) then format('a runner has seen fence %s', v_fence)
                when cardinality(v_lost) > 0 then format('a runner knows %s attempts that it does not', cardinality(v_lost))
                when cardinality(v_resend) > 0 then format('a runner knows the ends of %s attempts that it does not', cardinality(v_resend))
                when cardinality(v_started) > 0 then format('a runner knows the starts of %s attempts that it does not', cardinality(v_started)) end;
  -- An older witness tells of a time that has been dealt with, unless this is yet another history: a runner hears of a new incarnation late.
  if v_inc < c.incarnation and c.origin = tendril_core.origin() then
    v_why := null;
  end if;
  if v_why is not null then
    perform tendril_core.quarantine(v_me.cluster_id, v_inc, v_why);
  end if;
  for v in select w.deployment_id, w.job, w.outcome, w.ended_at from jsonb_to_recordset(p_witness -> 'ended')
             w(attempt_id uuid, deployment_id uuid, job text, outcome text, ended_at timestamptz) where w.attempt_id = any (v_lost) loop
    update tendril_core.jobs j
       set reason = format('the database was set back in time, and runner %s says that an attempt it does not know ended as %s at %s: look, then approve or reject',
             (select r.name from tendril_core.runners r where r.id = p_runner), left(v.outcome, 20),
             to_char(v.ended_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS "UTC"'))
     where j.deployment_id = v.deployment_id and j.name = v.job and j.cluster_id = v_me.cluster_id and j.doubted
       and j.state in ('BLOCKED', 'CLAIMED', 'AWAITING_APPROVAL');
  end loop;
  update tendril_core.jobs j
     set reason = format('the database was set back in time, and runner %s says that attempt %s, which had been given up, has started: look, then approve or reject',
           (select r.name from tendril_core.runners r where r.id = p_runner), a.ordinal)
    from tendril_core.attempts a
   where a.id = any (v_started) and a.superseded_at is not null and j.id = a.job_id and j.doubted and j.state in ('CLAIMED', 'AWAITING_APPROVAL');
  perform tendril_core.hold_keys(v_me.cluster_id, v_started);
  update tendril_core.runner_leases l set witnessed = tendril_core.origin()
   where l.cluster_id = v_me.cluster_id
     and l.runner_id = any (p_runner || array(select x::uuid from jsonb_array_elements_text(p_witness -> 'runners') x));
  update tendril.clusters x set heard_at = clock_timestamp() where x.id = v_me.cluster_id and x.heard_at is null and x.origin <> tendril_core.origin();
  v_doubted := tendril_core.doubt(v_me.cluster_id);
  return jsonb_build_object('doubted', v_doubted, 'incarnation', (select x.incarnation from tendril.clusters x where x.id = v_me.cluster_id),
    'resend', to_jsonb(v_resend), 'lost', to_jsonb(v_lost));
exception when invalid_text_representation or numeric_value_out_of_range or invalid_datetime_format or datetime_field_overflow or invalid_time_zone_displacement_value
       or invalid_parameter_value then
  perform tendril_core.fail('TD001', 'witness: ' || sqlerrm, 'needs incarnation, fence, runners, open and ended');
end $$;

revoke execute on all functions in schema tendril, tendril_core from public;
