-- The queue holds what can run, and nothing else. What cannot (its key is held, its time has not come) is parked; what only
-- other runners can take stands in a class of its own, so that a claim never reads it. Places in the queue are moments: waiting
-- makes a job more urgent without anybody touching its row.
--
-- Lock order, as everywhere: runner's lease, deployment, job, attempt, held key, log writer. Rows of queue and parked are taken
-- with SKIP LOCKED, or by who has their job locked, and nobody waits for one while they hold another's.

alter table tendril_core.settings
  add column ageing interval not null default '1 min' check (ageing between '0' and '1 day');
comment on column tendril_core.settings.ageing is
  'Waiting for so long counts as much as one point of priority, or as one job of the same deployment that stands before.';

alter table tendril_core.jobs
  add column rank      bigint,
  add column run_after timestamptz;
comment on column tendril_core.jobs.rank is 'Place in the queue: microseconds since 1970, later for what is less urgent. Kept when it is queued again.';
comment on column tendril_core.jobs.run_after is 'Not before: the snapshot''s word, a snooze, or the backoff of a retry.';

alter table tendril_core.queue add column rank bigint;
alter table tendril_core.parked add column rank bigint, add column why text not null default 'key' check (why in ('key', 'later')),
  add column run_after timestamptz, alter column state_key drop not null;

do $$
declare
  v_ageing bigint := (select extract(epoch from ageing) * 1000000 from tendril_core.settings);
begin
  update tendril_core.jobs j set rank = (extract(epoch from coalesce(j.queued_at, j.created_at)) * 1000000)::bigint + j.priority * v_ageing
   where j.state = 'QUEUED';
  update tendril_core.queue q set rank = j.rank from tendril_core.jobs j where j.id = q.job_id;
  update tendril_core.parked p set rank = j.rank from tendril_core.jobs j where j.id = p.job_id;
  update tendril_core.jobs j set run_after = q.run_after from tendril_core.queue q where q.job_id = j.id and q.run_after > clock_timestamp();
  with later as (delete from tendril_core.queue q where q.run_after > clock_timestamp() returning q.*)
  insert into tendril_core.parked (job_id, cluster_id, state_key, priority, seq, rank, why, run_after)
    select l.job_id, l.cluster_id, l.state_key, l.priority, l.seq, l.rank, 'later', l.run_after from later l;
end $$;

-- Postgres computes the class: equal for two jobs that want the same labels in the same order.
alter table tendril_core.queue
  alter column rank set not null,
  add column class bigint not null generated always as (hash_array_extended(requires, 0)) stored,
  drop column priority, drop column run_after;
create index queue_in_claim_order on tendril_core.queue (cluster_id, class, rank, seq);
create index queue_by_key on tendril_core.queue (cluster_id, state_key) where state_key is not null;
comment on column tendril_core.queue.class is 'Hash of requires: a claim reads the classes that its runner can take, and no other row.';
comment on column tendril_core.queue.rank is 'Smaller first, within the class and among classes.';
comment on column tendril_core.queue.seq is 'Order of arrival within a rank.';
comment on table tendril_core.queue is 'Jobs that can be claimed now by a runner with their labels, and nothing else: a row leaves when its job is claimed.';

drop index tendril_core.parked_by_key;
alter table tendril_core.parked alter column rank set not null, alter column why drop default, drop column priority;
create index parked_by_key on tendril_core.parked (cluster_id, state_key, rank, seq) where why = 'key';
create index parked_by_time on tendril_core.parked (run_after) where why = 'later';
comment on table tendril_core.parked is 'Queued jobs that nobody could run now: kept out of the claim''s way until that changes.';
comment on column tendril_core.parked.state_key is 'The key that it waits for, or will need.';
comment on column tendril_core.parked.rank is 'As in the queue: the place survives the wait.';
comment on column tendril_core.parked.seq is 'As in the queue.';
comment on column tendril_core.parked.why is 'key: another job has its state key, or comes first; later: its time has not come.';
comment on column tendril_core.parked.run_after is 'When its time comes.';
create sequence tendril_core.places as bigint cache 256;

-- ---------------------------------------------------------------------------------------------------------------
-- Into the queue, or aside
-- ---------------------------------------------------------------------------------------------------------------

create function tendril_core.hindrance(j tendril_core.jobs, p_behind boolean) returns text
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
  return null;
end $$;
comment on function tendril_core.hindrance is
  'Why a queued job cannot run now; NULL when it can. With p_behind it also stands behind those that wait for the same. It reads and locks nothing: claim and duty mend what two transactions could not see of each other.';

-- name of the function: admit
-- The one way into queue and parked. A key has at most one job in the queue, so that claims do not meet the others.
create function tendril_core.admit(p_job uuid, p_behind boolean) returns boolean
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
    insert into tendril_core.parked (job_id, cluster_id, state_key, rank, seq, why, run_after)
      values (j.id, j.cluster_id, j.state_key, j.rank, nextval('tendril_core.places'), v_why, j.run_after);
    return false;
  end if;
  insert into tendril_core.queue (job_id, cluster_id, rank, state_key, requires)
    values (j.id, j.cluster_id, j.rank, j.state_key, j.requires);
  return true;
end $$;
comment on function tendril_core.admit is 'Puts a queued job into the queue, or aside when it cannot run now; returns whether it can be claimed.';

create or replace function tendril_core.enqueue(p_jobs uuid[], p_run_after timestamptz default '-infinity') returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_now    timestamptz := clock_timestamp();
  v_ageing bigint := (select extract(epoch from ageing) * 1000000 from tendril_core.settings);
  v        uuid;
begin
  -- What was queued before keeps its place. What is new stands behind those of its deployment that wait or run.
  update tendril_core.jobs j
     set state = 'QUEUED', queued_at = v_now, attempt_id = null, fence = null, reason = null,
         run_after = nullif(greatest(j.run_after, p_run_after), '-infinity'),
         rank = coalesce(j.rank, (extract(epoch from greatest(v_now, j.run_after)) * 1000000)::bigint + v_ageing * (j.priority + n.before
           + (select count(*) from tendril_core.jobs o where o.deployment_id = j.deployment_id and o.state in ('QUEUED', 'CLAIMED', 'STARTED', 'UNKNOWN'))))
    from (select x.id, row_number() over (order by x.created_at, x.id) - 1 as before from tendril_core.jobs x where x.id = any (p_jobs)) n
   where j.id = n.id;
  for v in select x.id from tendril_core.jobs x where x.id = any (p_jobs) order by x.rank, x.id loop
    perform tendril_core.admit(v, true);
  end loop;
end $$;
comment on function tendril_core.enqueue is 'Makes jobs claimable, or parks them until they are.';

-- name of the function: let_in
-- Both directions of the count stand for "there is something new to claim": the bell hears of it.
create function tendril_core.let_in(p tendril_core.parked, p_why text) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set enable_bitmapscan = off set enable_material = off set jit = off as $$
begin
  if p_why is not null then
    insert into tendril_core.parked (job_id, cluster_id, state_key, rank, seq, why, run_after)
      values (p.job_id, p.cluster_id, p.state_key, p.rank, p.seq, p_why, p.run_after);
    return false;
  end if;
  insert into tendril_core.queue (job_id, cluster_id, rank, seq, state_key, requires) overriding system value
    select j.id, j.cluster_id, j.rank, p.seq, j.state_key, j.requires
      from tendril_core.jobs j where j.id = p.job_id and j.state = 'QUEUED';
  if not found then
    return false;
  end if;
  insert into tendril_core.queue_deltas (cluster_id, kind, state, n)
    select j.cluster_id, j.kind, 'QUEUED', d.n from tendril_core.jobs j, (values (1), (-1)) d(n) where j.id = p.job_id;
  return true;
end $$;
comment on function tendril_core.let_in is 'A job that was parked and is deleted from there: into the queue, or back with another reason.';

-- name of the function: let_in_next
-- A claim that parks a job behind a held key has that key's row in share mode: so who has deleted it sees all that it has parked.
-- What a submit has parked, which locks nothing, and nobody has seen, the duty lets in.
create function tendril_core.let_in_next(p_cluster uuid, p_key text) returns integer
language plpgsql set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set enable_bitmapscan = off set enable_material = off set jit = off as $$
declare
  p tendril_core.parked;
begin
  delete from tendril_core.parked where job_id = (
      select x.job_id from tendril_core.parked x
       where x.cluster_id = p_cluster and x.state_key = p_key and x.why = 'key'
       order by x.rank, x.seq limit 1 for update skip locked)
    returning * into p;
  if not found then
    return 0;
  end if;
  return tendril_core.let_in(p, null)::integer;
end $$;
comment on function tendril_core.let_in_next is 'The next job of a key that is free goes into the queue; returns how many did.';

create or replace function tendril_core.free_key(p_attempt uuid, p_fence bigint) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_held tendril_core.held_keys;
begin
  delete from tendril_core.held_keys where attempt_id = p_attempt and fence = p_fence returning * into v_held;
  if not found then
    return false;
  end if;
  perform tendril_core.let_in_next(v_held.cluster_id, v_held.state_key);
  return true;
end $$;

-- name of the function: duty_unpark
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
       and not exists (select from tendril_core.queue q
                        where q.cluster_id = k.cluster_id and q.state_key = k.state_key and tendril_core.can_be_taken(q.cluster_id, q.requires))
     limit c_most
  loop
    v_n := v_n + tendril_core.let_in_next(v.cluster_id, v.state_key);
  end loop;
  return v_n;
end $$;
comment on function tendril_core.duty_unpark is 'Lets jobs into the queue whose time has come, or whose key nobody has any more; returns how many.';

create function tendril_core.readmit(p tendril_core.parked) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  j tendril_core.jobs;
begin
  select * into j from tendril_core.jobs where id = p.job_id;
  return tendril_core.let_in(p, tendril_core.hindrance(j, true));
end $$;
comment on function tendril_core.readmit is 'A job that is no longer parked for its time: into the queue, or behind others.';

create function tendril_core.can_be_taken(p_cluster uuid, p_requires text[]) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set enable_bitmapscan = off set enable_material = off set jit = off as $$
begin
  return exists (select from tendril_core.runner_leases l join tendril_core.runners r on r.id = l.runner_id
                  where l.cluster_id = p_cluster and l.lease_expires_at > clock_timestamp() and p_requires <@ r.labels);
end $$;
comment on function tendril_core.can_be_taken is 'Whether a runner of the cluster is online that has these labels.';

-- ---------------------------------------------------------------------------------------------------------------
-- Out of the queue
-- ---------------------------------------------------------------------------------------------------------------

-- name of the function: classes
-- From one class to the next by the index: its other rows are not read.
create function tendril_core.classes(p_cluster uuid, p_labels text[], out ids bigint[], out ranks bigint[])
language plpgsql stable set search_path = pg_catalog, pg_temp set enable_sort = off as $$
declare
  v_class    bigint := -9223372036854775808;
  v_rank     bigint;
  v_requires text[];
begin
  ids := '{}';
  ranks := '{}';
  select q.class, q.rank, q.requires into v_class, v_rank, v_requires from tendril_core.queue q
   where q.cluster_id = p_cluster order by q.class, q.rank, q.seq limit 1;
  while found loop
    if v_requires <@ p_labels then
      ids := ids || v_class;
      ranks := ranks || v_rank;
    end if;
    select q.class, q.rank, q.requires into v_class, v_rank, v_requires from tendril_core.queue q
     where q.cluster_id = p_cluster and q.class > v_class order by q.class, q.rank, q.seq limit 1;
  end loop;
end $$;
comment on function tendril_core.classes is 'Classes of a cluster''s queue that a runner with these labels can take, each with the rank of its first job.';

create or replace function tendril_core.pick(p_cluster uuid, p_labels text[], p_slots integer) returns uuid[]
language plpgsql set search_path = pg_catalog, pg_temp set enable_sort = off as $$
declare
  v_most constant integer := least(greatest(p_slots, 0), 1000);
  v_ids  bigint[];
  v_from bigint[];
  v_jobs uuid[];
begin
  select c.ids, c.ranks into v_ids, v_from from tendril_core.classes(p_cluster, p_labels) c;
  if cardinality(v_ids) = 0 or v_most = 0 then
    return '{}';
  elsif cardinality(v_ids) = 1 then
    return array(
      select q.job_id from tendril_core.queue q join tendril_core.jobs j on j.id = q.job_id
       where q.cluster_id = p_cluster and q.class = v_ids[1] and q.rank >= v_from[1] and q.requires <@ p_labels and j.state = 'QUEUED'
       order by q.rank, q.seq limit v_most for update of q, j skip locked);
  end if;
  v_jobs := tendril_core.pick_first(p_cluster, p_labels, v_most, v_ids, v_from);
  -- Fewer than asked for: there are no more, or others have just taken what we saw. So class by class.
  for i in 1 .. cardinality(v_ids) loop
    exit when cardinality(v_jobs) >= v_most;
    v_jobs := v_jobs || array(
      select q.job_id from tendril_core.queue q join tendril_core.jobs j on j.id = q.job_id
       where q.cluster_id = p_cluster and q.class = v_ids[i] and q.rank >= v_from[i] and q.requires <@ p_labels and j.state = 'QUEUED'
         and q.job_id <> all (v_jobs)
       order by q.rank, q.seq limit v_most - cardinality(v_jobs) for update of q, j skip locked);
  end loop;
  return v_jobs;
end $$;
comment on function tendril_core.pick is 'The next jobs of a cluster for a runner with these labels, locked.';

-- name of the function: pick_first
-- A few more than are wanted are looked at, since others may have locked some; only what is taken is locked.
create function tendril_core.pick_first(p_cluster uuid, p_labels text[], p_most integer, p_ids bigint[], p_from bigint[]) returns uuid[]
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  return array(
    select q.job_id
      from (select h.job_id, h.rank, h.seq
              from unnest(p_ids, p_from) c(id, rank)
              cross join lateral (
                select x.job_id, x.rank, x.seq from tendril_core.queue x
                 where x.cluster_id = p_cluster and x.class = c.id and x.rank >= c.rank order by x.rank, x.seq limit p_most + 16) h
             order by h.rank, h.seq limit p_most + 16) t
      join tendril_core.queue q on q.job_id = t.job_id
      join tendril_core.jobs j on j.id = t.job_id
     where q.requires <@ p_labels and j.state = 'QUEUED'
     order by t.rank, t.seq limit p_most for update of q, j skip locked);
end $$;
comment on function tendril_core.pick_first is 'The first jobs of several classes, in the order of their ranks, locked.';

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
  insert into tendril_core.parked (job_id, cluster_id, state_key, rank, seq, why)
    select p.job_id, p.cluster_id, p.state_key, p.rank, p.seq, 'key' from gone p;
  return v_free;
end $$;

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
  select r.labels, r.log_writer, c.status into v_labels, v_writer, v_status
    from tendril_core.runners r join tendril.clusters c on c.id = r.cluster_id where r.id = p_runner;
  if v_me.status <> 'active' or v_status = 'REVOKED' then
    perform tendril_core.fail('TD008', 'the credential is being drained: it may finish, not claim');
  end if;
  if l.lease_expires_at <= clock_timestamp() or l.judged_lost then
    perform tendril_core.fail('TD006', 'the lease has run out', 'send a heartbeat first');
  end if;
  update tendril_core.runner_leases set claim_no = p_claim_no where runner_id = p_runner;

  -- Once more where all that was picked turned out to be held up: what can run may stand behind it.
  for turn in 1 .. 3 loop
    v_jobs := tendril_core.pick(v_me.cluster_id, v_labels, p_slots);
    exit when cardinality(v_jobs) = 0;
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
comment on function tendril.runner_claim(uuid, bigint, integer) is
  'Claims up to p_slots jobs whose labels the runner has. Numbers only rise; the same number again returns the same attempts.';

create or replace function tendril.runner_heartbeat(p_runner uuid, p_settled bigint, p_holding uuid[]) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set enable_bitmapscan = off set enable_material = off set jit = off
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
    'cancel', (select coalesce(jsonb_agg(a.id), '[]') from tendril_core.attempts a join tendril_core.jobs j on j.id = a.job_id and j.attempt_id = a.id
                where a.runner_id = p_runner and a.ended_at is null and a.superseded_at is null and j.cancel_requested_at is not null),
    'listen', (select runners_online from tendril_core.pulse) <= (select listeners_max from tendril_core.settings),
    'work', cardinality((select c.ids from tendril_core.classes(v_me.cluster_id, (select r.labels from tendril_core.runners r where r.id = p_runner)) c)) > 0,
    'draining', v_me.status <> 'active' or (select c.status from tendril.clusters c where c.id = v_me.cluster_id) = 'REVOKED',
    'lease_ttl_ms', tendril_core.ms(v_ttl));
end $$;

revoke execute on all functions in schema tendril, tendril_core from public;
revoke all on sequence tendril_core.places from public;
