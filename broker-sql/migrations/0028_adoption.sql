-- A command that changes the world outlives its runner. The next process of the same place answers for its attempt from
-- now on: it holds it in its heartbeats, hears of requests to cancel it, and reports its end.

-- name of the function: runner_adopt
create function tendril.runner_adopt(p_runner uuid, p_attempt uuid, p_fence bigint) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set enable_bitmapscan = off set enable_material = off
set jit = off as $$
declare
  v_me tendril_core.runner_identity := tendril_core.runner_identity();
  v    record;
  a    tendril_core.attempts;
  j    tendril_core.jobs;
begin
  perform tendril_core.guard();
  -- Both runners before the job, as everywhere: neither expiry nor a heartbeat of either judges it meanwhile.
  perform from tendril_core.runner_leases l
   where l.cluster_id = v_me.cluster_id and l.runner_id in (p_runner,
     (select t.runner_id from tendril_core.attempts t where t.id = p_attempt and t.cluster_id = v_me.cluster_id))
   order by l.runner_id for update;
  perform tendril_core.lock_lease(p_runner, v_me.cluster_id);
  v := tendril_core.address(p_attempt, p_fence);
  a := v.a;
  j := v.j;
  -- Who has the spool has the disk that the command writes its end to.
  if not exists (select from tendril_core.runners r where r.id = p_runner and r.log_writer = a.log_writer) then
    perform tendril_core.fail('TD002', format('attempt %s belongs to another place than runner %s', p_attempt, p_runner),
      'only a process with the same state_dir can go on with it');
  end if;
  if a.ended_at is not null then
    return 'ended';
  end if;
  if a.superseded_at is not null or j.attempt_id is distinct from a.id or j.fence is distinct from a.fence
     or j.state in ('SUCCESS', 'FAILED', 'CANCELLED', 'SKIPPED') then
    return 'superseded';
  end if;
  if a.runner_id <> p_runner then
    -- Of no claim of this runner: it counts as settled, and as lost once a heartbeat does not name it.
    update tendril_core.attempts set runner_id = p_runner, claim_no = 0 where id = a.id;
    insert into tendril_core.attempt_notes (attempt_id, actor, what)
      values (a.id, tendril_core.caller(), format('runner %s was lost; %s of the same place goes on with it', a.runner_id, p_runner));
  end if;
  perform tendril_core.hear_again(p_runner, array[a.id]);
  return 'adopted';
end $$;
comment on function tendril.runner_adopt(uuid, uuid, bigint) is
  'The next process of a place answers for an attempt from now on: adopted, ended (its end is reported already) or superseded.';

revoke execute on function tendril.runner_adopt(uuid, uuid, bigint) from public;
do $$
begin
  execute format('grant execute on function tendril.runner_adopt(uuid, uuid, bigint) to %I', tendril_core.group_role('runner'));
end $$;
