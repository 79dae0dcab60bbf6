-- A runner starts and ends many attempts in one transaction. Each rule stands once: what calls with one attempt do is what calls with
-- many do, with a set of one.
--
-- Calls with many wait for no deployment, job or attempt: what somebody else has locked is answered 'busy', to be asked for by itself. So
-- they wait in a circle with nobody, be it each other with the same attempts in another order, or a portal that has cancelled several
-- deployments in one transaction; and nobody's open transaction holds up more than its own deployments.
--
-- Lock order: leases, in the order of their ids; deployments, jobs and attempts, as far as they are free; held keys, then log writers, each
-- in their order. After that nothing is waited for.

create view tendril_core.current_attempts as
  select a.id as attempt_id, a.fence, a.ended_at, j.id as job_id, j.deployment_id
    from tendril_core.attempts a join tendril_core.jobs j on j.id = a.job_id and j.attempt_id = a.id and j.fence = a.fence
   where a.superseded_at is null and j.state not in ('SUCCESS', 'FAILED', 'CANCELLED', 'SKIPPED');
comment on view tendril_core.current_attempts is 'Attempts that their jobs, which have not ended, point to: all others are superseded.';
comment on column tendril_core.current_attempts.attempt_id is 'The attempt.';
comment on column tendril_core.current_attempts.fence is 'Its fence.';
comment on column tendril_core.current_attempts.ended_at is 'When its finish was accepted.';
comment on column tendril_core.current_attempts.job_id is 'Its job.';
comment on column tendril_core.current_attempts.deployment_id is 'Its deployment.';

-- ---------------------------------------------------------------------------------------------------------------
-- Starts
-- ---------------------------------------------------------------------------------------------------------------

create function tendril_core.start_attempts(p_attempts uuid[], p_active boolean)
returns table (attempt_id uuid, code text, message text, hint text)
language plpgsql set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set enable_bitmapscan = off set enable_material = off set jit = off
set plan_cache_mode = force_generic_plan as $$
declare
  v             record;
  v_attempts    uuid[] := '{}';
  v_jobs        uuid[] := '{}';
  v_deployments uuid[] := '{}';
begin
  -- From here on nobody takes the key from one that starts.
  perform from tendril_core.held_keys h where h.attempt_id = any (p_attempts) order by h.state_key for share;
  for v in
    select a.id, j.id as job_id, j.deployment_id, d.status, j.state_key, j.expires_at,
           case when c.attempt_id is null then 'superseded'
                when j.state = 'STARTED' then 'started'
                -- Another attempt may have done it, in the time that the database does not know of any more.
                when (select t.origin from tendril.clusters t where t.id = j.cluster_id) <> (select tendril_core.origin()) then 'origin'
                when j.doubted then 'doubted'
                when x.lease_expires_at <= clock_timestamp() or x.judged_lost or not p_active then 'lease'
                when j.state_key is not null and not exists (
                  select from tendril_core.held_keys h where h.attempt_id = a.id and h.fence = a.fence) then 'key'
                when j.cancel_requested_at is not null then 'cancelled'
                when j.expires_at <= clock_timestamp() then 'expired' end as bar
      from tendril_core.attempts a
      join tendril_core.runner_leases x on x.runner_id = a.runner_id
      join tendril_core.jobs j on j.id = a.job_id
      join tendril.deployments d on d.id = j.deployment_id
      left join tendril_core.current_attempts c on c.attempt_id = a.id
     where a.id = any (p_attempts)
  loop
    if v.bar is null then
      v_attempts := v_attempts || v.id;
      v_jobs := v_jobs || v.job_id;
      -- A claimed job and a started one show their deployment alike.
      if v.status <> 'PROCESSING' then
        v_deployments := v_deployments || v.deployment_id;
      end if;
    end if;
    continue when v.bar is null or v.bar = 'started';
    attempt_id := v.id;
    code := 'TD005';
    hint := 'do not start; drop the work';
    case v.bar
      when 'superseded' then
        message := 'the attempt is not current any more: it was superseded';
      when 'origin' then
        code := 'TD015';
        message := 'the database is another one than before: nothing is started until all runners have said what they know';
        hint := 'ask again; an operator can end this with tendril.after_restore';
      when 'doubted' then
        message := 'the database was set back in time: the job may have been done already';
      when 'lease' then
        code := 'TD006';
        message := 'the lease has run out or the credential is being drained';
        hint := 'do not start; send a heartbeat';
      when 'key' then
        message := format('the attempt holds key %s no more: an operator released it', v.state_key);
      when 'cancelled' then
        code := 'TD013';
        message := 'the job is to be cancelled';
        hint := 'do not start; finish it as cancelled';
      when 'expired' then
        code := 'TD013';
        message := tendril_core.expired(v.expires_at);
        hint := 'do not start; finish it as cancelled';
    end case;
    return next;
  end loop;
  if cardinality(v_jobs) = 0 then
    return;
  end if;
  with started as (
    update tendril_core.attempts a set started_at = clock_timestamp() where a.id = any (v_attempts))
  update tendril_core.jobs j set state = 'STARTED', started_at = clock_timestamp(),
         deadline_at = clock_timestamp() + (j.timeout_ms + j.kill_grace_ms) * interval '1 ms' + (select s.unknown_kill_grace from tendril_core.settings s)
   where j.id = any (v_jobs);
  if cardinality(v_deployments) > 0 then
    perform tendril_core.settle_all(v_deployments);
  end if;
end $$;
comment on function tendril_core.start_attempts is
  'Starts attempts whose leases, deployments, jobs and rows the caller has locked, and returns those that may not start, with why. p_active: the credential is.';

create or replace function tendril.runner_start(p_attempt uuid, p_fence bigint) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set enable_bitmapscan = off set enable_material = off set jit = off
set plan_cache_mode = force_generic_plan as $$
declare
  v_me tendril_core.runner_identity := tendril_core.runner_identity();
  v    record;
begin
  perform tendril_core.guard();
  -- The lease first, in share mode that only a heartbeat and expiry wait for, so that a runner claims on while it starts.
  perform from tendril_core.attempts a
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
  select * into v from tendril_core.start_attempts(array[p_attempt], v_me.status = 'active');
  if found then
    perform tendril_core.fail(v.code, v.message, v.hint);
  end if;
end $$;

-- ---------------------------------------------------------------------------------------------------------------
-- Ends
-- ---------------------------------------------------------------------------------------------------------------

create function tendril_core.settle_all(p_deployments uuid[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  update tendril.deployments d
     set status = s.status, error_message = s.error,
         started_at = coalesce(d.started_at, case when s.status = 'PROCESSING' then clock_timestamp() end),
         ended_at = case when s.status in ('SUCCESS', 'FAILED', 'CANCELLED') then coalesce(d.ended_at, clock_timestamp()) end,
         waiting_for = case s.status when 'AWAITING_APPROVAL' then d.waiting_for when 'QUEUED' then d.waiting_for end
    from (select j.deployment_id,
                 case
                   when bool_or(j.state in ('CLAIMED', 'STARTED', 'UNKNOWN')) then 'PROCESSING'
                   when bool_or(j.state = 'AWAITING_APPROVAL') and not bool_or(j.state = 'QUEUED') then 'AWAITING_APPROVAL'
                   when bool_or(j.state in ('QUEUED', 'BLOCKED', 'AWAITING_APPROVAL')) then
                     case when bool_or(j.attempts > 0 or j.ended_at is not null) then 'PROCESSING' else 'QUEUED' end
                   when bool_or(j.state = 'FAILED' and not j.optional) then 'FAILED'
                   when bool_or(j.state = 'CANCELLED') then 'CANCELLED'
                   else 'SUCCESS' end as status,
                 (array_agg(j.name || ': ' || j.reason order by j.ended_at)
                   filter (where j.reason is not null and (j.state = 'UNKNOWN' or j.state = 'FAILED' and not j.optional)))[1] as error
            from tendril_core.jobs j where j.deployment_id = any (p_deployments) group by j.deployment_id) s
   where d.id = s.deployment_id
     and (d.status is distinct from s.status or d.error_message is distinct from s.error);
end $$;
comment on function tendril_core.settle_all is 'Derives the status of deployments from their jobs.';

create or replace function tendril_core.settle(p_deployment uuid) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  perform tendril_core.settle_all(array[p_deployment]);
end $$;

drop function tendril_core.unblock(uuid);
create function tendril_core.unblock(p_jobs uuid[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_ready uuid[];
begin
  -- An update of nothing has its triggers all the same.
  if not exists (select from tendril_core.job_needs n where n.needs_id = any (p_jobs)) then
    return;
  end if;
  with ready as (
    update tendril_core.jobs j set needs_left = j.needs_left - 1
      from tendril_core.job_needs n
     where n.needs_id = any (p_jobs) and j.id = n.job_id and j.state = 'BLOCKED'
    returning j.id, j.needs_left)
  select array_agg(id order by id) into v_ready from ready where needs_left = 0;
  if v_ready is not null then
    perform tendril_core.ready(v_ready);
  end if;
end $$;
comment on function tendril_core.unblock is 'Makes ready what waited for these jobs alone; at most one of a deployment.';

drop function tendril_core.carry_plan(tendril_core.jobs);
create function tendril_core.carry_plan(p_jobs uuid[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if exists (select from tendril_core.jobs p where p.id = any (p_jobs) and p.kind = 'terraform.plan') then
    update tendril_core.jobs j
       set requires = case when p.result ->> 'engine' is null or p.result ->> 'engine_version' is null then j.requires
             else array(select r from unnest(j.requires) r where r not like 'engine=%')
               || ('engine=' || (p.result ->> 'engine') || '@' || (p.result ->> 'engine_version')) end,
           expires_at = p.ended_at + tendril_core.plan_max_age(j)
      from tendril_core.jobs p join tendril_core.job_needs n on n.needs_id = p.id
     where p.id = any (p_jobs) and p.kind = 'terraform.plan'
       and j.id = n.job_id and j.state = 'BLOCKED' and j.kind in ('terraform.apply', 'terraform.destroy');
  end if;
  if exists (select from tendril_core.jobs p where p.id = any (p_jobs) and (p.result ? 'engine' or p.result ? 'outputs')) then
    update tendril.deployments d
       set engine = coalesce(p.result ->> 'engine', d.engine), engine_version = coalesce(p.result ->> 'engine_version', d.engine_version),
           outputs = coalesce(nullif(p.result -> 'outputs', 'null'), d.outputs)
      from tendril_core.jobs p
     where p.id = any (p_jobs) and d.id = p.deployment_id
       and (p.result ->> 'engine' is not null or coalesce(p.result -> 'outputs', 'null') <> 'null');
  end if;
end $$;
comment on function tendril_core.carry_plan is
  'An apply or destroy goes to a runner with the engine and version that made the plan, and the plan grows old; outputs go to the deployment. At most one job of a deployment.';

create function tendril_core.end_jobs(p_jobs uuid[], p_state text, p_reason text, p_results jsonb[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_deployments uuid[];
  v_limited     boolean;
  v             record;
begin
  with ended as (
    update tendril_core.jobs j set state = p_state, reason = p_reason, result = r.result, ended_at = clock_timestamp(), cancel_requested_at = null
      from unnest(p_jobs, p_results) r(id, result)
     where j.id = r.id and j.state not in ('SUCCESS', 'FAILED', 'CANCELLED', 'SKIPPED')
    returning j.deployment_id, j.concurrency_key)
  select array_agg(e.deployment_id), bool_or(e.concurrency_key is not null) into v_deployments, v_limited from ended e;
  if cardinality(v_deployments) is distinct from cardinality(p_jobs) then
    perform tendril_core.fail('TD003', 'the job has ended already');
  end if;
  if p_state = 'SUCCESS' then
    perform tendril_core.carry_plan(p_jobs);
    perform tendril_core.unblock(p_jobs);
  else
    for v in select j as job, j.name from tendril_core.jobs j where j.id = any (p_jobs) order by j.id loop
      perform tendril_core.follow(v.job, format('job %s ended as %s', v.name, p_state));
    end loop;
  end if;
  if v_limited then
    for v in select distinct j.cluster_id, j.concurrency_key from tendril_core.jobs j
              where j.id = any (p_jobs) and j.concurrency_key is not null order by 1, 2 loop
      perform tendril_core.let_in_limited(v.cluster_id, v.concurrency_key);
    end loop;
  end if;
  perform tendril_core.settle_all(v_deployments);
end $$;
comment on function tendril_core.end_jobs is
  'Ends jobs in this state, each with its result, and does what follows from that. At most one of a deployment; what a policy says of a result is the caller''s to ask.';

create or replace function tendril_core.end_job(p_job uuid, p_state text, p_reason text, p_result jsonb default null) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_verdict record;
begin
  -- What a policy says of a result counts before the job has ended: it may end it as FAILED.
  if p_state = 'SUCCESS' then
    select * into v_verdict from tendril_core.judge(p_job, p_result);
    if v_verdict.verdict = 'refuse' then
      p_state := 'FAILED';
      p_reason := v_verdict.why;
    elsif v_verdict.verdict = 'approval' then
      update tendril_core.jobs j set needs_approval = true, reason = v_verdict.why
        from tendril_core.job_needs n where n.needs_id = p_job and j.id = n.job_id and j.state = 'BLOCKED';
    end if;
  end if;
  perform tendril_core.end_jobs(array[p_job], p_state, p_reason, array[p_result]);
end $$;

create function tendril_core.report_fault(p_report jsonb, out code text, out message text, out hint text)
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  if coalesce(p_report ->> 'outcome', '') not in ('success', 'failure', 'cancelled', 'timeout', 'released')
     or jsonb_typeof(p_report -> 'log_end') is distinct from 'number' or p_report ->> 'log_end' !~ '^(-1|[0-9]{1,18})$' then
    code := 'TD001';
    message := 'report: needs outcome (success, failure, cancelled, timeout, released) and log_end';
    hint := '';
  elsif octet_length(p_report::text) > 8388608 then
    code := 'TD011';
    message := 'report: has more than 8388608 bytes';
    hint := 'leave large outputs to artifacts';
  end if;
end $$;
comment on function tendril_core.report_fault is 'What is wrong with a report; nothing, if it can be taken.';

create function tendril_core.end_attempts(p_attempts uuid[], p_reports jsonb[]) returns void
language plpgsql set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set enable_bitmapscan = off set enable_material = off set jit = off
set plan_cache_mode = force_generic_plan as $$
declare
  v record;
begin
  update tendril_core.attempts a set ended_at = clock_timestamp(), outcome = r.report ->> 'outcome', report = r.report,
         log_end = (r.report ->> 'log_end')::bigint
    from unnest(p_attempts, p_reports) r(id, report) where a.id = r.id;
  -- Where the holder itself cannot say that nothing of it writes any more, nobody else may begin.
  for v in select h.attempt_id, h.fence from tendril_core.held_keys h
             join tendril_core.attempts a on a.id = h.attempt_id and a.fence = h.fence
             join tendril_core.jobs j on j.id = a.job_id
            where h.attempt_id = any (p_attempts)
              and not (j.mutating and a.started_at is not null and coalesce(a.report -> 'child_dead' = 'false', false))
            order by h.state_key loop
    perform tendril_core.free_key(v.attempt_id, v.fence);
  end loop;
  perform from tendril_core.log_writers w
    where w.id in (select a.log_writer from tendril_core.attempts a where a.id = any (p_attempts)) order by w.id for update;
end $$;
comment on function tendril_core.end_attempts is
  'Stores the reports of current attempts whose deployments, jobs and rows the caller has locked, and frees their keys unless a child may still write.';

create or replace function tendril.runner_finish(p_attempt uuid, p_fence bigint, p_report jsonb) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set enable_bitmapscan = off set jit = off
set plan_cache_mode = force_generic_plan as $$
declare
  v record;
  a tendril_core.attempts;
begin
  perform tendril_core.guard();
  v := tendril_core.report_fault(p_report);
  if v.code is not null then
    perform tendril_core.fail(v.code, v.message, v.hint);
  end if;
  v := tendril_core.address(p_attempt, p_fence);
  a := v.a;
  if a.ended_at is not null then
    return 'again';
  end if;
  if not exists (select from tendril_core.current_attempts c where c.attempt_id = a.id) then
    return tendril_core.note_late(a, p_report);
  end if;
  perform tendril_core.end_attempts(array[a.id], array[p_report]);
  perform tendril_core.conclude(v.j, p_report ->> 'outcome', p_report);
  return 'accepted';
end $$;

-- ---------------------------------------------------------------------------------------------------------------
-- Many at once
-- ---------------------------------------------------------------------------------------------------------------

create function tendril_core.check_sizes(p_names text, p_sizes integer[]) returns void
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
  if p_sizes[1] is null or p_sizes[1] <> any (array_replace(p_sizes, null, -1)) then
    perform tendril_core.fail('TD001', format('%s: are arrays of the same length, one element for each attempt', p_names));
  elsif p_sizes[1] > 1000 then
    perform tendril_core.fail('TD011', format('%s: have more than 1000 elements', p_names), 'ask in several calls');
  end if;
end $$;
comment on function tendril_core.check_sizes is 'Refuses arrays that do not belong together, or are too long.';

create function tendril.runner_start_all(p_attempts uuid[], p_fences bigint[])
returns table (n integer, attempt_id uuid, answer text, code text, message text, hint text)
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set enable_bitmapscan = off set enable_material = off set jit = off
set plan_cache_mode = force_generic_plan as $$
declare
  v_me     tendril_core.runner_identity := tendril_core.runner_identity();
  v_known  bigint[];
  v_locked uuid[];
  u        record;
begin
  perform tendril_core.guard();
  perform tendril_core.check_sizes('attempts, fences', array[cardinality(p_attempts), cardinality(p_fences)]);
  v_known := array(select w.n from unnest(p_attempts, p_fences) with ordinality w(attempt, fence, n)
    join tendril_core.attempts a on a.id = w.attempt and a.fence = w.fence and a.cluster_id = v_me.cluster_id);
  -- First and by themselves: whoever has waited for a heartbeat reads the lease anew in what follows.
  perform from tendril_core.runner_leases x
    where x.runner_id in (select a.runner_id from unnest(v_known) k(n) join tendril_core.attempts a on a.id = p_attempts[k.n])
    order by x.runner_id for key share;
  v_locked := array(select a.id from unnest(v_known) k(n)
    join tendril_core.attempts a on a.id = p_attempts[k.n]
    join tendril_core.runner_leases x on x.runner_id = a.runner_id
    join tendril.deployments d on d.id = a.deployment_id
    join tendril_core.jobs j on j.id = a.job_id
    for key share of x skip locked for update of d skip locked for update of j skip locked for update of a skip locked);
  for u in select w.n, w.attempt, w.fence, r.code, r.message, r.hint from unnest(p_attempts, p_fences) with ordinality w(attempt, fence, n)
             left join tendril_core.start_attempts(v_locked, v_me.status = 'active') r on r.attempt_id = w.attempt order by w.n loop
    n := u.n;
    attempt_id := u.attempt;
    code := u.code;
    message := u.message;
    hint := u.hint;
    answer := case when u.attempt = any (v_locked) and code is null then 'started' when not u.attempt = any (v_locked) then 'busy' end;
    if not u.n = any (v_known) then
      -- There is none: that waits for nobody.
      answer := null;
      begin
        perform tendril.runner_start(u.attempt, u.fence);
      exception when others then
        get stacked diagnostics code = returned_sqlstate, message = message_text, hint = pg_exception_hint;
        if code !~ '^(TD|22)' then
          raise;
        end if;
      end;
    end if;
    return next;
  end loop;
end $$;
comment on function tendril.runner_start_all(uuid[], bigint[]) is
  'runner_start for many attempts in one transaction: a row for each, with what it would have answered, or busy.';

create function tendril.runner_finish_all(p_attempts uuid[], p_fences bigint[], p_reports jsonb[])
returns table (n integer, attempt_id uuid, answer text, code text, message text, hint text)
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set enable_bitmapscan = off set enable_material = off set jit = off
set plan_cache_mode = force_generic_plan as $$
declare
  v_me     tendril_core.runner_identity := tendril_core.runner_identity();
  v_known  bigint[];
  v_locked uuid[];
  v        record;
  u        record;
begin
  perform tendril_core.guard();
  perform tendril_core.check_sizes('attempts, fences, reports', array[cardinality(p_attempts), cardinality(p_fences), cardinality(p_reports)]);
  v_known := array(select w.n from unnest(p_attempts, p_fences) with ordinality w(attempt, fence, n)
    join tendril_core.attempts a on a.id = w.attempt and a.fence = w.fence and a.cluster_id = v_me.cluster_id);
  v_locked := array(select a.id from unnest(v_known) k(n)
    join tendril_core.attempts a on a.id = p_attempts[k.n]
    join tendril.deployments d on d.id = a.deployment_id
    join tendril_core.jobs j on j.id = a.job_id
    for update of d skip locked for update of j skip locked for update of a skip locked);
  -- Of all of them before any is changed: after this nothing is waited for.
  perform from tendril_core.held_keys h where h.attempt_id = any (v_locked) order by h.state_key for update;
  perform from tendril_core.log_writers w
    where w.id in (select a.log_writer from tendril_core.attempts a where a.id = any (v_locked)) order by w.id for update;
  -- At once goes the first of each deployment that has succeeded, and of whose result no policy says anything.
  select array_agg(p.n) as numbers, array_agg(p.attempt_id) as attempts, array_agg(p.report) as reports,
         array_agg(p.job_id) as jobs, array_agg(p.report -> 'result') as results
    into v
    from (select distinct on (c.deployment_id) w.n, c.attempt_id, w.report, c.job_id
            from unnest(p_attempts, p_fences, p_reports) with ordinality w(attempt, fence, report, n)
            join tendril_core.current_attempts c on c.attempt_id = w.attempt and c.fence = w.fence
           where c.attempt_id = any (v_locked) and c.ended_at is null and w.report ->> 'outcome' = 'success'
             and (tendril_core.report_fault(w.report)).code is null
             and (tendril_core.judge(c.job_id, w.report -> 'result')).verdict is null
           order by c.deployment_id, w.n) p;
  if v.numbers is not null then
    perform tendril_core.end_attempts(v.attempts, v.reports);
    perform tendril_core.end_jobs(v.jobs, 'SUCCESS', null, v.results);
  end if;
  for u in select w.* from unnest(p_attempts, p_fences, p_reports) with ordinality w(attempt, fence, report, n) order by w.n loop
    n := u.n;
    attempt_id := u.attempt;
    answer := case when u.n = any (v.numbers) then 'accepted' when u.n = any (v_known) and not u.attempt = any (v_locked) then 'busy' end;
    code := null;
    message := null;
    hint := null;
    if answer is null then
      -- All that it could wait for is locked, or there is none.
      begin
        answer := tendril.runner_finish(u.attempt, u.fence, u.report);
      exception when others then
        get stacked diagnostics code = returned_sqlstate, message = message_text, hint = pg_exception_hint;
        if code !~ '^(TD|22)' then
          raise;
        end if;
      end;
    end if;
    return next;
  end loop;
end $$;
comment on function tendril.runner_finish_all(uuid[], bigint[], jsonb[]) is
  'runner_finish for many attempts in one transaction: a row for each, with what it would have answered, or busy.';

revoke execute on all functions in schema tendril_core from public;
revoke execute on function tendril.runner_start_all(uuid[], bigint[]), tendril.runner_finish_all(uuid[], bigint[], jsonb[]) from public;
do $$
begin
  execute format('grant execute on function tendril.runner_start_all(uuid[], bigint[]), tendril.runner_finish_all(uuid[], bigint[], jsonb[]) to %I',
    tendril_core.group_role('runner'));
end $$;

-- A runner that calls them is told at its start when a database does not have them yet.
update tendril_core.installation set api_max = 3;
