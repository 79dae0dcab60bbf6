-- What is handed back again and again is not claimed hot: each time it waits longer. A start that the broker refuses for good is an
-- attempt like any other, and ends the job when its attempts are used up.

create or replace function tendril_core.conclude(p_job tendril_core.jobs, p_outcome text, p_report jsonb) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_why       text := coalesce(p_report ->> 'error', p_outcome);
  v_permanent boolean := coalesce((p_report ->> 'permanent')::boolean, false);
  v_times     bigint;
  v_delay     interval := '0';
begin
  if p_outcome = 'success' then
    perform tendril_core.end_job(p_job.id, 'SUCCESS', null, p_report -> 'result');
  elsif p_outcome = 'cancelled' and p_job.state = 'CLAIMED' and p_job.expires_at <= clock_timestamp() then
    perform tendril_core.end_job(p_job.id, 'FAILED', tendril_core.expired(p_job.expires_at), p_report -> 'result');
  elsif p_outcome = 'cancelled' then
    perform tendril_core.end_job(p_job.id, 'CANCELLED', coalesce(p_report ->> 'error', 'cancelled'), p_report -> 'result');
  elsif p_outcome = 'released' and (p_job.state = 'CLAIMED' or not p_job.mutating) then
    update tendril_core.attempts set superseded_at = clock_timestamp() where id = p_job.attempt_id;
    v_times := (select count(*) from tendril_core.attempts a where a.job_id = p_job.id and a.outcome = 'released');
    -- By a runner that shuts down it is not the job's fault, and does not count; a thousand times it is nobody's shutdown any more.
    if not v_permanent and v_times < 1000 then
      update tendril_core.jobs set max_attempts = max_attempts + 1 where id = p_job.id returning * into p_job;
    end if;
    -- The first three may be those of a fleet that is restarted. Never longer than a lease: what can be done is soon tried.
    if v_permanent or v_times > 3 then
      v_delay := least(interval '1 s' * power(2, least(case when v_permanent then v_times else v_times - 4 end, 9)),
                       (select s.lease_ttl from tendril_core.settings s));
    end if;
    perform tendril_core.requeue(p_job, v_why, v_delay);
  elsif not p_job.mutating and p_job.retry_failures and not v_permanent
        and p_job.cancel_requested_at is null and p_job.attempts < p_job.max_attempts then
    perform tendril_core.requeue(p_job, v_why, least(interval '1 s' * power(2, least(p_job.attempts - 1, 9)), interval '5 min'));
  else
    perform tendril_core.end_job(p_job.id, 'FAILED', v_why, p_report -> 'result');
  end if;
end $$;

revoke execute on all functions in schema tendril_core from public;
