-- A report that cannot confirm the child dead ends its job, and leaves the state to an operator: two runs on one state are
-- worse than one that waits.

create or replace function tendril.runner_finish(p_attempt uuid, p_fence bigint, p_report jsonb) returns text
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
  -- Where the holder itself cannot say that nothing of it writes any more, nobody else may begin.
  if not (j.mutating and a.started_at is not null and coalesce(p_report -> 'child_dead' = 'false', false)) then
    perform tendril_core.free_key(a.id, a.fence);
  end if;
  perform from tendril_core.log_writers w where w.id = a.log_writer for update;
  perform tendril_core.conclude(j, v_outcome, p_report);
  return 'accepted';
end $$;

create or replace function tendril.key_release(p_cluster uuid, p_key text, p_reason text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  h tendril_core.held_keys;
  a tendril_core.attempts;
begin
  perform tendril_core.guard();
  select * into h from tendril_core.held_keys where cluster_id = p_cluster and state_key = p_key;
  if h.attempt_id is null then
    perform tendril_core.fail('TD002', format('key %s is not held in cluster %s', p_key, p_cluster));
  end if;
  select * into a from tendril_core.attempts where id = h.attempt_id;
  perform from tendril_core.runner_leases l where l.runner_id = a.runner_id for update;
  -- Who has reported the end has said all that they know.
  if a.ended_at is null and tendril_core.lease_is_live(a.runner_id) then
    perform tendril_core.fail('TD003', 'the key''s holder is alive', 'cancel its deployment, or stop the runner and wait for its lease to run out');
  end if;
  insert into tendril_core.attempt_notes (attempt_id, actor, what)
    values (h.attempt_id, tendril_core.caller(), format('key %s released: %s', p_key, coalesce(p_reason, 'no reason given')));
  perform tendril_core.free_key(h.attempt_id, h.fence);
end $$;
