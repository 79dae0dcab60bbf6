-- A database that was set back in time, by a restore or by a failover that lost commits, may queue again what has been done.
-- Runners know better: they keep a witness of what the broker had acknowledged to them. Until all that were there have presented
-- theirs, nothing that changes the world is started; where one knows more than the database, people decide.
--
-- Lock order: the cluster's row before all others.

alter table tendril_core.settings add column witness_patience interval not null default '5 min' check (witness_patience between '1 s' and '1 day');
comment on column tendril_core.settings.witness_patience is
  'After a restore or failover, how long the runners of a cluster have to be heard before its waiting changes are left to people.';

-- name of the function: origin
create function tendril_core.origin() returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return (select s.system_identifier from pg_control_system() s) || ':' || (select d.oid from pg_database d where d.datname = current_database())
    || ':' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8);
end $$;
comment on function tendril_core.origin is
  'Which history of a database this is: server, database and timeline. A failover or a restore to a point in time begins a new timeline; a restored dump is another database.';

alter table tendril.clusters
  add column origin            text not null default tendril_core.origin(),
  add column doubted_at        timestamptz,
  add column heard_at          timestamptz,
  add column quarantined_at    timestamptz,
  add column quarantine_reason text;
comment on column tendril.clusters.origin is 'The history of the database that the cluster''s runners agree with.';
comment on column tendril.clusters.doubted_at is 'Since when it is another one, and nothing is started that changes the world.';
comment on column tendril.clusters.heard_at is 'Since when, in this doubt, the first of its runners has said what it knows.';
comment on column tendril.clusters.quarantined_at is 'When the changes that waited were last left to people, because the database had been set back.';
comment on column tendril.clusters.quarantine_reason is 'Why.';

alter table tendril_core.runner_leases add column witnessed text not null default '';
comment on column tendril_core.runner_leases.witnessed is 'The history of the database in which the runner has last said what it knows; empty before.';

alter table tendril_core.jobs add column doubted boolean not null default false;
comment on column tendril_core.jobs.doubted is 'It may have been done already, in a time that the database does not know of any more: only people let it run.';

create function tendril_core.leave_to_people(p_deployment uuid, p_reason text) returns integer
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_ids uuid[];
begin
  perform from tendril.deployments d where d.id = p_deployment for update;
  v_ids := array(select j.id from tendril_core.jobs j where j.deployment_id = p_deployment and j.mutating
                    and j.state in ('BLOCKED', 'QUEUED', 'CLAIMED', 'AWAITING_APPROVAL') order by j.id for update);
  -- One that is claimed is refused its start, and comes back here when its runner has dropped it.
  update tendril_core.jobs set doubted = true, needs_approval = true, reason = p_reason where id = any (v_ids);
  perform tendril_core.dequeue(array(select j.id from tendril_core.jobs j where j.id = any (v_ids) and j.state = 'QUEUED'));
  update tendril_core.jobs set state = 'AWAITING_APPROVAL' where id = any (v_ids) and state = 'QUEUED';
  perform tendril_core.settle(p_deployment);
  return cardinality(v_ids);
end $$;
comment on function tendril_core.leave_to_people is 'Lets nothing of a deployment that has yet to change the world do so without an approval; returns how many jobs.';

create function tendril_core.quarantine(p_cluster uuid, p_above bigint, p_why text) returns integer
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_reason text := format('the database was set back in time (%s): look whether it has been done already', p_why);
  v_all    integer := 0;
  v        uuid;
begin
  update tendril.clusters set incarnation = greatest(incarnation, p_above) + 1, origin = tendril_core.origin(), doubted_at = null, heard_at = null,
         quarantined_at = clock_timestamp(), quarantine_reason = p_why
   where id = p_cluster;
  for v in select distinct j.deployment_id from tendril_core.jobs j join tendril.deployments d on d.id = j.deployment_id
            where d.cluster_id = p_cluster and d.status in ('QUEUED', 'PROCESSING', 'AWAITING_APPROVAL')
              and j.mutating and j.state in ('BLOCKED', 'QUEUED', 'CLAIMED', 'AWAITING_APPROVAL') order by 1 loop
    v_all := v_all + tendril_core.leave_to_people(v, v_reason);
  end loop;
  return v_all;
end $$;
comment on function tendril_core.quarantine is
  'Leaves all that waits to change the world in a cluster to people''s approval, and raises the incarnation above p_above; returns how many jobs. The cluster is locked by the caller.';

create function tendril_core.doubt(p_cluster uuid) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_origin text := tendril_core.origin();
  v_all    boolean;
  v_set    tendril_core.settings;
  c        tendril.clusters;
begin
  select * into c from tendril.clusters x where x.id = p_cluster for no key update;
  if c.origin = v_origin then
    return false;
  end if;
  if c.doubted_at is null then
    update tendril.clusters set doubted_at = clock_timestamp() where id = p_cluster returning doubted_at into c.doubted_at;
    -- Gone for long already in the time before. Asked once, at the beginning: later a runner that is not heard now is judged lost too.
    update tendril_core.runner_leases l set witnessed = v_origin
     where l.cluster_id = p_cluster and l.judged_lost
       and l.heartbeat_at < (select max(y.heartbeat_at) from tendril_core.runner_leases y where y.cluster_id = p_cluster) - interval '10 min';
  end if;
  select * into v_set from tendril_core.settings;
  v_all := not exists (select from tendril_core.runner_leases l where l.cluster_id = p_cluster and l.witnessed <> v_origin);
  -- One that registered in the lost time is not known; alive, it speaks within a lease of the first one's coming back. As long as nobody comes,
  -- nobody is there to start anything.
  if v_all and c.heard_at + v_set.lease_ttl <= clock_timestamp() then
    update tendril.clusters set origin = v_origin, doubted_at = null, heard_at = null where id = p_cluster;
    return false;
  elsif not v_all and c.doubted_at + greatest(v_set.witness_patience, v_set.lease_ttl) <= clock_timestamp() then
    perform tendril_core.quarantine(p_cluster, c.incarnation, 'not all runners of that time were heard again');
    return false;
  end if;
  return true;
end $$;
comment on function tendril_core.doubt is
  'Whether the runners of a cluster have yet to say what they know of a new history of the database. Ends the doubt when all have and one lease has passed, or when their time is over.';

create function tendril_core.duty_doubts() returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_origin text := tendril_core.origin();
  v        uuid;
  v_n      bigint := 0;
begin
  -- A tenant who keeps a deployment locked holds up nobody else; in no order, so that those whose time is not over do not either.
  perform set_config('lock_timeout', '100ms', true);
  for v in select c.id from tendril.clusters c where c.origin <> v_origin and c.status <> 'REVOKED' order by random() limit 200 loop
    begin
      perform from tendril.clusters c where c.id = v for no key update skip locked;
      if found then
        v_n := v_n + (not tendril_core.doubt(v))::integer;
      end if;
    exception when others then
      raise warning 'the doubt of cluster % goes on: %', v, sqlerrm;
    end;
  end loop;
  return v_n;
end $$;
comment on function tendril_core.duty_doubts is 'Ends doubts whose time is over; returns how many.';
insert into tendril_core.duties (name, every) values ('doubts', '2 s');

create function tendril.runner_witness(p_runner uuid, p_witness jsonb) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set enable_bitmapscan = off set enable_material = off set jit = off as $$
declare
  v_me      tendril_core.runner_identity := tendril_core.runner_identity();
  v_inc     bigint;
  v_fence   bigint;
  v_known   uuid[];
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
  perform tendril_core.lock_lease(p_runner, v_me.cluster_id);
  -- A number that no quarantine can have reached is nobody's but the one who made it up, and would leave no room above it.
  v_inc := least(v_inc, c.incarnation + 1000000);
  v_known := array(select a.id from jsonb_to_recordset((p_witness -> 'open') || (p_witness -> 'ended')) w(attempt_id uuid, fence bigint)
                     join tendril_core.attempts a on a.id = w.attempt_id and a.fence = w.fence and a.cluster_id = v_me.cluster_id);
  -- Not known, or given up before its end, or its acknowledged start, was heard of.
  v_lost := array(select w.attempt_id from jsonb_to_recordset((p_witness -> 'open') || (p_witness -> 'ended')) w(attempt_id uuid)
                   where w.attempt_id is not null and w.attempt_id <> all (v_known)
                  union
                  select a.id from jsonb_to_recordset(p_witness -> 'ended') w(attempt_id uuid) join tendril_core.attempts a on a.id = w.attempt_id
                   where a.id = any (v_known) and a.ended_at is null and a.superseded_at is not null);
  v_resend := array(select a.id from jsonb_to_recordset(p_witness -> 'ended') w(attempt_id uuid)
                      join tendril_core.attempts a on a.id = w.attempt_id where a.id = any (v_known) and a.ended_at is null and a.superseded_at is null);
  v_why := case when v_inc > c.incarnation then format('a runner has seen incarnation %s', v_inc)
                when v_inc = c.incarnation and v_fence > (select f.last_value from tendril_core.fences f) then format('a runner has seen fence %s', v_fence)
                when cardinality(v_lost) > 0 then format('a runner knows %s attempts that it does not', cardinality(v_lost))
                when cardinality(v_resend) > 0 then format('a runner knows the ends of %s attempts that it does not', cardinality(v_resend)) end;
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
comment on function tendril.runner_witness(uuid, jsonb) is
  'A runner says what the broker had acknowledged to it. Where the database knows less, it was set back: the cluster''s waiting changes are left to people. Returns whose reports to send again, and whether to ask again: others, or one lease, are still waited for.';

create function tendril.after_restore(p_cluster uuid default null, p_reason text default null) returns setof jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v   uuid;
  v_n integer;
begin
  perform tendril_core.guard();
  if p_cluster is not null then
    perform tendril_core.lock_cluster(p_cluster);
  end if;
  for v in select c.id from tendril.clusters c where c.id = coalesce(p_cluster, c.id) and c.status <> 'REVOKED' order by c.id loop
    perform from tendril.clusters c where c.id = v for no key update;
    v_n := tendril_core.quarantine(v, 0, coalesce(p_reason, 'told by ' || tendril_core.caller()));
    return query select jsonb_build_object('cluster_id', c.id, 'name', c.name, 'incarnation', c.incarnation, 'jobs', v_n) from tendril.clusters c where c.id = v;
  end loop;
end $$;
comment on function tendril.after_restore(uuid, text) is
  'After the database was restored, where nothing shows it by itself: leaves all changes that wait, of a cluster or of all, to people''s approval.';

create or replace function tendril_core.requeue(p_job tendril_core.jobs, p_why text, p_delay interval default '0') returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if p_job.cancel_requested_at is not null then
    perform tendril_core.end_job(p_job.id, 'CANCELLED', 'cancelled');
  elsif p_job.attempts >= p_job.max_attempts then
    perform tendril_core.end_job(p_job.id, 'FAILED', format('%s; gave up after %s attempts', p_why, p_job.attempts));
  else
    if p_job.doubted then
      update tendril_core.jobs set state = 'AWAITING_APPROVAL', attempt_id = null, fence = null where id = p_job.id;
    else
      perform tendril_core.enqueue(array[p_job.id],
        case when p_delay > '0' then clock_timestamp() + p_delay else '-infinity' end);
    end if;
    perform tendril_core.settle(p_job.deployment_id);
  end if;
end $$;

create or replace function tendril_core.duty_schedules() returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  s       tendril_core.schedules;
  v_now   timestamptz := clock_timestamp();
  v_due   record;
  v_at    timestamptz;
  v_id    uuid;
  v_error text;
  v_lost  bigint;
  v_n     bigint := 0;
  c       tendril.clusters;
begin
  for s in select * from tendril_core.schedules x where x.enabled and x.next_at <= v_now order by x.next_at limit 50 for update skip locked loop
    v_due := tendril_core.due(s, v_now);
    v_lost := v_due.passed;
    v_id := null;
    v_error := null;
    foreach v_at in array v_due.moments loop
      -- What is refused (the cluster is drained, a unique key lives) holds up no other schedule.
      begin
        insert into tendril.deployments (cluster_id, config_snapshot, schedule_id, scheduled_for) values (s.cluster_id, s.config_snapshot, s.id, v_at)
          on conflict (schedule_id, scheduled_for) where schedule_id is not null do nothing returning id into v_id;
        -- Its moment may have been served before, in the time that the database has forgotten.
        select * into c from tendril.clusters x where x.id = s.cluster_id;
        if v_id is not null and (v_at <= c.quarantined_at or c.origin <> tendril_core.origin()) then
          perform tendril_core.leave_to_people(v_id, format('the database was set back in time (%s), and this moment may have been served before', coalesce(c.quarantine_reason, 'its runners are waited for')));
        end if;
        v_n := v_n + 1;
      exception when others then
        get stacked diagnostics v_error = message_text;
        v_lost := v_lost + 1;
      end;
    end loop;
    update tendril_core.schedules x set next_at = tendril_core.cron_next(s.cron, s.time_zone, v_now), last_at = v_now,
           last_deployment_id = coalesce(v_id, x.last_deployment_id), last_error = v_error, skipped = x.skipped + v_lost
     where x.id = s.id;
  end loop;
  return v_n;
end $$;

create or replace function tendril.approve(p_deployment uuid, p_job text default null, p_reason text default null) returns integer
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set enable_bitmapscan = off set enable_material = off set jit = off as $$
declare
  d     tendril.deployments := tendril_core.seen_deployment(p_deployment);
  v_ids uuid[];
  v_old timestamptz;
begin
  perform tendril_core.guard();
  perform from tendril.deployments where id = p_deployment for update;
  v_ids := array(select j.id from tendril_core.jobs j
    where j.deployment_id = p_deployment and j.state = 'AWAITING_APPROVAL' and j.name = coalesce(p_job, j.name) order by j.id for update);
  if cardinality(v_ids) = 0 then
    perform tendril_core.fail('TD003', format('no job%s of the deployment waits for approval', coalesce(' ' || p_job, '')),
      format('the deployment is %s', d.status));
  end if;
  v_old := (select min(j.expires_at) from tendril_core.jobs j where j.id = any (v_ids) and j.expires_at <= clock_timestamp());
  if v_old is not null then
    perform tendril_core.fail('TD003', tendril_core.expired(v_old), 'plan again: tendril.retry, once this deployment has ended');
  end if;
  insert into tendril_core.approvals (job_id, decision, actor, reason)
    select id, 'approved', coalesce(tendril.portal_user(), tendril_core.caller()), p_reason from unnest(v_ids) id;
  update tendril_core.jobs set doubted = false, reason = null where id = any (v_ids) and doubted;
  perform tendril_core.enqueue(v_ids);
  perform tendril_core.settle(p_deployment);
  return cardinality(v_ids);
end $$;

create or replace function tendril.runner_start(p_attempt uuid, p_fence bigint) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set enable_bitmapscan = off set enable_material = off set jit = off
set plan_cache_mode = force_generic_plan as $$
declare
  v_me tendril_core.runner_identity := tendril_core.runner_identity();
  v    record;
begin
  perform tendril_core.guard();
  -- Locked in this order: the lease, in share mode that only a heartbeat and expiry wait for, so that a runner claims on while it
  -- starts; then deployment, job and attempt.
  select x.lease_expires_at, x.judged_lost, d.status, j.id as job_id, j.deployment_id, j.attempt_id, j.fence, j.state, j.state_key,
         j.cancel_requested_at, j.expires_at, j.doubted, a.superseded_at,
         (select c.origin from tendril.clusters c where c.id = j.cluster_id) as origin
    into v
    from tendril_core.attempts a
    join tendril_core.runner_leases x on x.runner_id = a.runner_id
    join tendril.deployments d on d.id = a.deployment_id
    join tendril_core.jobs j on j.id = a.job_id
   where a.id = p_attempt and a.fence = p_fence and a.cluster_id = v_me.cluster_id
     for key share of x for update of d for update of j for update of a;
  if not found then
    -- Says that there is no such attempt, unless it is the lease that is gone.
    perform tendril_core.address(p_attempt, p_fence);
    perform tendril_core.fail('TD006', 'the lease has run out or the credential is being drained', 'do not start; send a heartbeat');
  end if;
  if v.attempt_id is distinct from p_attempt or v.fence is distinct from p_fence or v.superseded_at is not null
     or v.state in ('SUCCESS', 'FAILED', 'CANCELLED', 'SKIPPED') then
    perform tendril_core.fail('TD005', 'the attempt is not current any more: it was superseded', 'do not start; drop the work');
  end if;
  if v.state = 'STARTED' then
    return;
  end if;
  -- Another attempt may have done it, in the time that the database does not know of any more.
  if v.origin <> tendril_core.origin() then
    perform tendril_core.fail('TD015', 'the database is another one than before: nothing is started until all runners have said what they know',
      'ask again; an operator can end this with tendril.after_restore');
  end if;
  if v.doubted then
    perform tendril_core.fail('TD005', 'the database was set back in time: the job may have been done already', 'do not start; drop the work');
  end if;
  if v.lease_expires_at <= clock_timestamp() or v.judged_lost or v_me.status <> 'active' then
    perform tendril_core.fail('TD006', 'the lease has run out or the credential is being drained', 'do not start; send a heartbeat');
  end if;
  if v.state_key is not null and not exists (
      select from tendril_core.held_keys h where h.attempt_id = p_attempt and h.fence = p_fence for share) then
    perform tendril_core.fail('TD005', format('the attempt holds key %s no more: an operator released it', v.state_key), 'do not start; drop the work');
  end if;
  if v.cancel_requested_at is not null then
    perform tendril_core.fail('TD013', 'the job is to be cancelled', 'do not start; finish it as cancelled');
  end if;
  if v.expires_at <= clock_timestamp() then
    perform tendril_core.fail('TD013', tendril_core.expired(v.expires_at), 'do not start; finish it as cancelled');
  end if;
  with started as (
    update tendril_core.attempts set started_at = clock_timestamp() where id = p_attempt)
  update tendril_core.jobs set state = 'STARTED', started_at = clock_timestamp(),
         deadline_at = clock_timestamp() + (timeout_ms + kill_grace_ms) * interval '1 ms' + (select unknown_kill_grace from tendril_core.settings)
   where id = v.job_id;
  -- A claimed job and a started one show their deployment alike.
  if v.status <> 'PROCESSING' then
    perform tendril_core.settle(v.deployment_id);
  end if;
end $$;

revoke execute on all functions in schema tendril, tendril_core from public;
do $$
begin
  execute format('grant execute on function tendril.runner_witness(uuid, jsonb) to %I', tendril_core.group_role('runner'));
end $$;
