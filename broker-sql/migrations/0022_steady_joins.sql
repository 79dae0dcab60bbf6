-- Also no copy of a table in memory within a join: what was 60 rows when a session made its plan is all of a long queue later.

do $$
declare
  f regprocedure;
begin
  for f in select p.oid::regprocedure from pg_proc p
            where p.pronamespace in ('tendril'::regnamespace, 'tendril_core'::regnamespace)
              and 'enable_hashjoin=off' = any (p.proconfig) loop
    execute format('alter function %s set enable_material = off', f);
  end loop;
end $$;

create or replace function tendril_core.duty_unpark() returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_n bigint;
begin
  -- Who frees a key passes over a parked job that a cancel has locked; if that cancel is rolled back, the job waits here.
  -- And who was let into the queue may be cancelled there, or be a job that no runner can take: so one more at each run.
  with stuck as (
    select distinct on (p.cluster_id, p.state_key) p.job_id from tendril_core.parked p
     where not exists (select from tendril_core.held_keys h where h.cluster_id = p.cluster_id and h.state_key = p.state_key)
     order by p.cluster_id, p.state_key, p.priority, p.seq),
  locked as (
    select p.job_id from tendril_core.parked p where p.job_id in (select s.job_id from stuck s) order by p.job_id for update skip locked),
  gone as (delete from tendril_core.parked p using locked l where p.job_id = l.job_id returning p.*),
  -- The offset holds the planner to looking up each job that is gone: statistics of a quiet queue make the other way round look cheap.
  back as (
    insert into tendril_core.queue (job_id, cluster_id, priority, seq, state_key, requires) overriding system value
      select j.id, j.cluster_id, j.priority, g.seq, j.state_key, j.requires
        from gone g cross join lateral (select * from tendril_core.jobs j where j.id = g.job_id offset 0) j
       where j.state = 'QUEUED' returning job_id)
  select count(*) into v_n from back;
  return v_n;
end $$;
