-- Who takes a writer over learns whose its logs are and where they end: also when nothing of a log is left in the spool,
-- or only its beginning, readers are told what is missing at once, and not after the log window.

drop function tendril.log_positions(uuid);
create function tendril.log_positions(p_writer uuid) returns table (attempt_id uuid, fence bigint, stored bigint, log_end bigint,
  deployment_id uuid, claim_day date, job text, attempt smallint)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set enable_bitmapscan = off set enable_material = off
set jit = off as $$
declare
  v_me tendril_core.runner_identity := tendril_core.runner_identity();
begin
  return query
    select a.id, a.fence, tendril_core.stored_position(a), a.log_end, a.deployment_id, a.claim_day, j.name, a.ordinal
      from tendril_core.attempts a join tendril_core.jobs j on j.id = a.job_id
     where a.log_writer = p_writer and a.cluster_id = v_me.cluster_id and a.log_state = 'open';
end $$;
comment on function tendril.log_positions(uuid) is
  'How far the log of each open attempt of a writer is stored, and its last number where its end was reported; with what its rows must name.';

revoke execute on function tendril.log_positions(uuid) from public;
do $$
begin
  execute format('grant execute on function tendril.log_positions(uuid) to %I', tendril_core.group_role('runner'));
end $$;

-- A runner that asks for these columns is told at its start when a database does not have them yet.
update tendril_core.installation set api_max = 2;
