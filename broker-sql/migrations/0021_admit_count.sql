-- A refusal says how many runners are online, which are more than runners_max where that was lowered.

-- name of the function: admit_runner
-- Two sessions that register at once may both be the last that fits. Rows of runners that said goodbye, or were not heard for
-- an hour, are kept for people to look at, but not more than twice runners_max of them: a tenant cleans up after itself here.
create or replace function tendril_core.admit_runner(p_cluster uuid) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  s        tendril_core.settings;
  v_now    timestamptz := clock_timestamp();
  v_online bigint := (select count(*) from tendril_core.runner_leases l where l.cluster_id = p_cluster and l.lease_expires_at > v_now);
begin
  select * into s from tendril_core.settings;
  if v_online >= s.runners_max then
    perform tendril_core.fail('TD011', format('the cluster has %s runners online, and may have %s', v_online, s.runners_max),
      format('stop some; leases of those that crashed run out within %s s; an operator can raise runners_max', tendril_core.ms(s.lease_ttl) / 1000));
  end if;
  if (select count(*) from (select from tendril_core.runners r where r.cluster_id = p_cluster limit 2 * s.runners_max) known) < 2 * s.runners_max then
    return;
  end if;
  perform tendril_core.forget_runners(array(
    select r.id from tendril_core.runners r left join tendril_core.runner_leases l on l.runner_id = r.id
     where r.cluster_id = p_cluster and coalesce(l.lease_expires_at < v_now - interval '1 h', true)
       and not tendril_core.holds_something(r.id, p_cluster)
     order by r.registered_at limit 10));
end $$;
