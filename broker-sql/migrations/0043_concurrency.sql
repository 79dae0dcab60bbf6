-- Concurrency keys of the users' own: at most so many jobs with one key run at once.

create table tendril_core.concurrency_keys (
  cluster_id       uuid        not null,
  concurrency_key  text        not null,
  used_at          timestamptz not null default clock_timestamp(),
  primary key (cluster_id, concurrency_key)
) with (fillfactor = 70);
comment on table  tendril_core.concurrency_keys is 'A row for each key that was claimed lately: claims that want the same key come one after the other.';
comment on column tendril_core.concurrency_keys.cluster_id is 'The cluster.';
comment on column tendril_core.concurrency_keys.concurrency_key is 'The key.';
comment on column tendril_core.concurrency_keys.used_at is 'Newest claim; what was not used for an hour is forgotten.';

alter table tendril_core.jobs add column concurrency_key text, add column concurrency_limit integer;
comment on column tendril_core.jobs.concurrency_key is 'At most concurrency_limit jobs of the cluster with this key run at once.';
comment on column tendril_core.jobs.concurrency_limit is 'Each job is held to its own.';
create index jobs_by_concurrency_key on tendril_core.jobs (cluster_id, concurrency_key)
  where concurrency_key is not null and state in ('CLAIMED', 'STARTED', 'UNKNOWN');
alter table tendril_core.queue add column concurrency_key text;
comment on column tendril_core.queue.concurrency_key is 'Copied from the job, likewise.';
create index queue_by_concurrency_key on tendril_core.queue (cluster_id, concurrency_key) where concurrency_key is not null;
alter table tendril_core.parked add column concurrency_key text, drop constraint parked_why_check,
  add constraint parked_why_check check (why in ('key', 'limit', 'later'));
create index parked_by_concurrency_key on tendril_core.parked (cluster_id, concurrency_key, rank, seq) where why = 'limit';
comment on column tendril_core.parked.concurrency_key is 'The concurrency key that it waits for, or will need.';
comment on column tendril_core.parked.why is 'key: another job has its state key, or comes first; limit: as many as may run with its concurrency key; later: its time has not come.';

create function tendril_core.running_with(p_cluster uuid, p_key text) returns bigint
language plpgsql stable set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set enable_bitmapscan = off set enable_material = off set jit = off as $$
begin
  return (select count(*) from tendril_core.jobs j
           where j.cluster_id = p_cluster and j.concurrency_key = p_key and j.concurrency_key is not null and j.state in ('CLAIMED', 'STARTED', 'UNKNOWN'));
end $$;
comment on function tendril_core.running_with is 'How many jobs with a concurrency key run.';

create or replace function tendril_core.hindrance(j tendril_core.jobs, p_behind boolean) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set enable_bitmapscan = off set enable_material = off set jit = off as $$
begin
  if j.run_after > clock_timestamp() then
    return 'later';
  end if;
  if j.state_key is not null and (
       exists (select from tendril_core.held_keys h where h.cluster_id = j.cluster_id and h.state_key = j.state_key)
       or exists (select from tendril_core.queue q where q.cluster_id = j.cluster_id and q.state_key = j.state_key)
       or p_behind and exists (select from tendril_core.parked p where p.cluster_id = j.cluster_id and p.state_key = j.state_key and p.why = 'key')) then
    return 'key';
  end if;
  if j.concurrency_key is not null and (
       tendril_core.running_with(j.cluster_id, j.concurrency_key)
         + (select count(*) from tendril_core.queue q where q.cluster_id = j.cluster_id and q.concurrency_key = j.concurrency_key) >= j.concurrency_limit
       or p_behind and exists (select from tendril_core.parked p where p.cluster_id = j.cluster_id and p.concurrency_key = j.concurrency_key and p.why = 'limit')) then
    return 'limit';
  end if;
  return null;
end $$;

create or replace function tendril_core.admit(p_job uuid, p_behind boolean) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set enable_bitmapscan = off set enable_material = off set jit = off as $$
declare
  j     tendril_core.jobs;
  v_why text;
begin
  select * into j from tendril_core.jobs where id = p_job and state = 'QUEUED';
  if not found then
    return false;
  end if;
  v_why := tendril_core.hindrance(j, p_behind);
  if v_why is not null then
    insert into tendril_core.parked (job_id, cluster_id, state_key, concurrency_key, rank, seq, why, run_after)
      values (j.id, j.cluster_id, j.state_key, j.concurrency_key, j.rank, nextval('tendril_core.places'), v_why, j.run_after);
    return false;
  end if;
  insert into tendril_core.queue (job_id, cluster_id, rank, state_key, concurrency_key, requires)
    values (j.id, j.cluster_id, j.rank, j.state_key, j.concurrency_key, j.requires);
  return true;
end $$;

create or replace function tendril_core.let_in(p tendril_core.parked, p_why text) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set enable_bitmapscan = off set enable_material = off set jit = off as $$
begin
  if p_why is not null then
    insert into tendril_core.parked (job_id, cluster_id, state_key, concurrency_key, rank, seq, why, run_after)
      values (p.job_id, p.cluster_id, p.state_key, p.concurrency_key, p.rank, p.seq, p_why, p.run_after);
    return false;
  end if;
  insert into tendril_core.queue (job_id, cluster_id, rank, seq, state_key, concurrency_key, requires) overriding system value
    select j.id, j.cluster_id, j.rank, p.seq, j.state_key, j.concurrency_key, j.requires
      from tendril_core.jobs j where j.id = p.job_id and j.state = 'QUEUED';
  if not found then
    return false;
  end if;
  insert into tendril_core.queue_deltas (cluster_id, kind, state, n)
    select j.cluster_id, j.kind, 'QUEUED', d.n from tendril_core.jobs j, (values (1), (-1)) d(n) where j.id = p.job_id;
  return true;
end $$;

create or replace function tendril_core.let_in_next(p_cluster uuid, p_key text) returns integer
language plpgsql set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set enable_bitmapscan = off set enable_material = off set jit = off as $$
declare
  p tendril_core.parked;
  j tendril_core.jobs;
begin
  loop
    delete from tendril_core.parked where job_id = (
        select x.job_id from tendril_core.parked x
         where x.cluster_id = p_cluster and x.state_key = p_key and x.why = 'key'
         order by x.rank, x.seq limit 1 for update skip locked)
      returning * into p;
    if not found then
      return 0;
    end if;
    select * into j from tendril_core.jobs where id = p.job_id;
    j.state_key := null;
    -- A limit of its own may hold it: then it is the next one's turn.
    if tendril_core.let_in(p, tendril_core.hindrance(j, true)) then
      return 1;
    end if;
  end loop;
end $$;

create function tendril_core.let_in_limited(p_cluster uuid, p_key text) returns integer
language plpgsql set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set enable_bitmapscan = off set enable_material = off set jit = off as $$
declare
  p   tendril_core.parked;
  j   tendril_core.jobs;
  v_n integer := 0;
begin
  loop
    select x.* into p from tendril_core.parked x
     where x.cluster_id = p_cluster and x.concurrency_key = p_key and x.why = 'limit' order by x.rank, x.seq limit 1 for update skip locked;
    exit when not found;
    select * into j from tendril_core.jobs where id = p.job_id;
    exit when tendril_core.hindrance(j, false) = 'limit';
    delete from tendril_core.parked where job_id = p.job_id;
    v_n := v_n + tendril_core.let_in(p, tendril_core.hindrance(j, false))::integer;
  end loop;
  return v_n;
end $$;
comment on function tendril_core.let_in_limited is 'Lets as many jobs with a concurrency key into the queue as may run; returns how many.';

-- name of the function: take_room
-- Before the state keys are taken: who is held up by a limit must not hold one. In the keys' order, so that claims wait for each
-- other in one direction only. Who frees a place may pass over a job that is parked right now; the duty unpark finds it.
create function tendril_core.take_room(p_cluster uuid, p_jobs uuid[]) returns uuid[]
language plpgsql set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set enable_bitmapscan = off set enable_material = off set jit = off as $$
declare
  v      record;
  v_over uuid[] := '{}';
begin
  if not exists (select from unnest(p_jobs) u(id)
                  where (select q.concurrency_key from tendril_core.queue q where q.job_id = u.id) is not null) then
    return p_jobs;
  end if;
  for v in select q.concurrency_key, array_agg(u.id order by u.ord) as ids
             from unnest(p_jobs) with ordinality u(id, ord) join tendril_core.queue q on q.job_id = u.id
            where q.concurrency_key is not null group by 1 order by 1 loop
    insert into tendril_core.concurrency_keys as k (cluster_id, concurrency_key) values (p_cluster, v.concurrency_key)
      on conflict (cluster_id, concurrency_key) do update set used_at = clock_timestamp();
    v_over := v_over || array(
      select u.id from unnest(v.ids) with ordinality u(id, ord) join tendril_core.jobs j on j.id = u.id
       where tendril_core.running_with(p_cluster, v.concurrency_key) + u.ord > j.concurrency_limit);
  end loop;
  with gone as (delete from tendril_core.queue q where q.job_id = any (v_over) returning q.*)
  insert into tendril_core.parked (job_id, cluster_id, state_key, concurrency_key, rank, seq, why)
    select g.job_id, g.cluster_id, g.state_key, g.concurrency_key, g.rank, g.seq, 'limit' from gone g;
  return array(select u.id from unnest(p_jobs) with ordinality u(id, ord) where u.id <> all (v_over) order by u.ord);
end $$;
comment on function tendril_core.take_room is 'Those of some picked jobs that may run with their concurrency keys; parks the others.';

create or replace function tendril_core.take_keys(p_cluster uuid, p_given tendril_core.given[]) returns tendril_core.given[]
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_taken uuid[];
  v_free  tendril_core.given[];
begin
  -- Asked for each job by itself: a join may be turned round and read the whole queue.
  if not exists (select from unnest(p_given) g
                  where (select q.state_key from tendril_core.queue q where q.job_id = g.job_id) is not null) then
    return p_given;
  end if;
  -- In the keys' order, so that two claims of one cluster wait for each other in one direction only.
  with taken as (
    insert into tendril_core.held_keys (cluster_id, state_key, attempt_id, fence, job_id)
      select p_cluster, k.state_key, k.attempt_id, k.fence, k.job_id
        from (select distinct on (q.state_key) q.state_key, g.job_id, g.attempt_id, g.fence
                from unnest(p_given) g join tendril_core.queue q on q.job_id = g.job_id
               where q.state_key is not null order by q.state_key, g.fence) k
      on conflict (cluster_id, state_key) do nothing returning job_id)
  select coalesce(array_agg(job_id), '{}') into v_taken from taken;
  v_free := array(select g from unnest(p_given) g join tendril_core.queue q on q.job_id = g.job_id
                   where q.state_key is null or g.job_id = any (v_taken) order by g.fence);
  -- The key's row is locked in share mode before a job is parked behind it: whoever frees the key comes after, and sees it.
  -- A key that is being freed right now is not waited for, since who frees several could wait for us in turn: its job stays
  -- in the queue for the next claim.
  with held as materialized (
    select q.job_id from unnest(p_given) g
      join tendril_core.queue q on q.job_id = g.job_id
      join tendril_core.held_keys h on h.cluster_id = p_cluster and h.state_key = q.state_key
     where q.job_id <> all (array(select f.job_id from unnest(v_free) f)) for key share of h skip locked),
  gone as (delete from tendril_core.queue q using held where q.job_id = held.job_id returning q.*)
  insert into tendril_core.parked (job_id, cluster_id, state_key, concurrency_key, rank, seq, why)
    select p.job_id, p.cluster_id, p.state_key, p.concurrency_key, p.rank, p.seq, 'key' from gone p;
  return v_free;
end $$;

create or replace function tendril_core.duty_unpark() returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  c_most constant integer := 2000;
  p      tendril_core.parked;
  v      record;
  v_n    bigint := 0;
begin
  -- Whose time has come.
  for p in delete from tendril_core.parked x where x.job_id in (
             select y.job_id from tendril_core.parked y where y.why = 'later' and y.run_after <= clock_timestamp()
              order by y.run_after limit c_most for update skip locked) returning x.* loop
    v_n := v_n + tendril_core.readmit(p)::integer;
  end loop;
  -- Who frees a key passes over a parked job that a cancel has locked; if that cancel is rolled back, the job waits here.
  -- And who was let into the queue may be cancelled there, or be a job that no runner can take: so one more at each run.
  for v in
    with recursive keys (cluster_id, state_key) as (
      (select x.cluster_id, x.state_key from tendril_core.parked x where x.why = 'key' order by x.cluster_id, x.state_key limit 1)
      union all
      select n.cluster_id, n.state_key from keys k cross join lateral (
        select x.cluster_id, x.state_key from tendril_core.parked x
         where x.why = 'key' and (x.cluster_id, x.state_key) > (k.cluster_id, k.state_key)
         order by x.cluster_id, x.state_key limit 1) n)
    select k.cluster_id, k.state_key from keys k
     where not exists (select from tendril_core.held_keys h where h.cluster_id = k.cluster_id and h.state_key = k.state_key)
       and (not exists (select from tendril_core.queue q where q.cluster_id = k.cluster_id and q.state_key = k.state_key)
            or tendril_core.can_be_taken(k.cluster_id, '{}')
               and not exists (select from tendril_core.queue q
                                where q.cluster_id = k.cluster_id and q.state_key = k.state_key and tendril_core.can_be_taken(q.cluster_id, q.requires)))
     limit c_most
  loop
    v_n := v_n + tendril_core.let_in_next(v.cluster_id, v.state_key);
  end loop;
  -- Whose concurrency key has room that nobody saw, or has more of it now.
  for v in
    with recursive keys (cluster_id, concurrency_key) as (
      (select x.cluster_id, x.concurrency_key from tendril_core.parked x where x.why = 'limit' order by x.cluster_id, x.concurrency_key limit 1)
      union all
      select n.cluster_id, n.concurrency_key from keys k cross join lateral (
        select x.cluster_id, x.concurrency_key from tendril_core.parked x
         where x.why = 'limit' and (x.cluster_id, x.concurrency_key) > (k.cluster_id, k.concurrency_key)
         order by x.cluster_id, x.concurrency_key limit 1) n)
    select k.cluster_id, k.concurrency_key from keys k limit c_most
  loop
    v_n := v_n + tendril_core.let_in_limited(v.cluster_id, v.concurrency_key);
  end loop;
  delete from tendril_core.concurrency_keys k where (k.cluster_id, k.concurrency_key) in (
    select x.cluster_id, x.concurrency_key from tendril_core.concurrency_keys x
     where x.used_at < clock_timestamp() - interval '1 h' limit 100 for update skip locked);
  return v_n;
end $$;
comment on function tendril_core.duty_unpark is 'Lets jobs into the queue whose time has come, or whose key or limit has room; returns how many.';


create or replace function tendril_core.end_job(p_job uuid, p_state text, p_reason text, p_result jsonb default null) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_job tendril_core.jobs;
begin
  update tendril_core.jobs set state = p_state, reason = p_reason, result = p_result, ended_at = clock_timestamp(),
         cancel_requested_at = null
   where id = p_job and state not in ('SUCCESS', 'FAILED', 'CANCELLED', 'SKIPPED')
   returning * into v_job;
  if not found then
    perform tendril_core.fail('TD003', 'the job has ended already');
  end if;
  if p_state = 'SUCCESS' then
    perform tendril_core.carry_plan(v_job);
    perform tendril_core.unblock(p_job);
  else
    perform tendril_core.skip_dependents(p_job, format('job %s ended as %s', v_job.name, p_state));
  end if;
  if v_job.concurrency_key is not null then
    perform tendril_core.let_in_limited(v_job.cluster_id, v_job.concurrency_key);
  end if;
  perform tendril_core.settle(v_job.deployment_id);
end $$;

revoke execute on all functions in schema tendril, tendril_core from public;
