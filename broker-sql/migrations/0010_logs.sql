-- Log rows: partitions, the check of each batch, takeover of a writer, and reading by position.

create function tendril_core.ensure_partitions() returns integer
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_day  date;
  v_name text;
  v_made integer := 0;
begin
  -- Created alone, then attached: CREATE ... PARTITION OF would wait for an open COPY, and all others behind it.
  perform set_config('lock_timeout', '500ms', true);
  for v_day in select (clock_timestamp() at time zone 'UTC')::date + i
                 from generate_series(-1, (select partitions_ahead from tendril_core.settings)) i loop
    v_name := 'log_day_' || to_char(v_day, 'YYYYMMDD');
    if to_regclass('tendril_core.' || v_name) is null then
      execute format('create table tendril_core.%I (like tendril.log_inbox including defaults including constraints including comments)', v_name);
      execute format('alter table tendril.log_inbox attach partition tendril_core.%I for values from (%L) to (%L)', v_name, v_day, v_day + 1);
      v_made := v_made + 1;
    end if;
  end loop;
  return v_made;
end $$;
comment on function tendril_core.ensure_partitions is 'Creates the log partitions of yesterday to partitions_ahead days from now.';

create function tendril_core.stored_position(p_attempt tendril_core.attempts) returns bigint
language sql stable set search_path = pg_catalog, pg_temp as $$
  select coalesce((select i.seq_to from tendril.log_inbox i
    where i.deployment_id = p_attempt.deployment_id and i.attempt_id = p_attempt.id and i.claim_day = p_attempt.claim_day
      and i.cluster_id = p_attempt.cluster_id order by i.seq desc limit 1), -1)
$$;
comment on function tendril_core.stored_position is 'Number of the last stored record of an attempt; -1 when there is none.';

-- name of the function: log_check
-- Once per batch. It takes the writer's row, which everybody takes who changes what an attempt may append, so it needs
-- no lock per attempt. It can only refuse the whole batch, so it lists all refused attempts at once; foreign and absent
-- ones look the same.
create function tendril_core.log_check() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set jit = off as $$
declare
  v_me      tendril_core.runner_identity := tendril_core.runner_identity();
  v_who     text := coalesce(current_setting('tendril.writer', true), '');
  w         tendril_core.log_writers;
  v_refused jsonb;
begin
  perform tendril_core.guard();
  if v_who !~ '^[0-9a-f-]{36}:[0-9]{1,18}$' then
    perform tendril_core.fail('TD009', 'the batch does not say whose it is', 'set_config(''tendril.writer'', ''<id>:<epoch>'', true) after log_takeover');
  end if;
  select * into w from tendril_core.log_writers x
   where x.id = split_part(v_who, ':', 1)::uuid and x.cluster_id = v_me.cluster_id for update;
  if not found or w.epoch <> split_part(v_who, ':', 2)::bigint or w.pid <> pg_backend_pid() then
    perform tendril_core.fail('TD009', 'another session has taken this writer over', 'call log_takeover and resume from its positions', '{"writer": "superseded"}');
  end if;
  with parts as (
    select b.attempt_id, b.fence, b.deployment_id, b.claim_day, b.job, b.attempt, min(b.seq) as lo, max(b.seq_to) as hi,
           bool_or(b.seq <> b.prev + 1) as broken
      from (select n.*, lag(n.seq_to) over (partition by n.attempt_id order by n.seq) as prev from batch n) b
     group by 1, 2, 3, 4, 5, 6),
  checked as (
    select p.*, a.log_state, a.log_end, coalesce(a.cluster_id = v_me.cluster_id and a.log_writer = w.id and a.fence = p.fence
             and a.deployment_id = p.deployment_id and a.claim_day = p.claim_day and a.ordinal = p.attempt
             and (select j.name from tendril_core.jobs j where j.id = a.job_id) = p.job, false) as known,
           coalesce((select i.seq_to from tendril.log_inbox i
              where i.deployment_id = p.deployment_id and i.attempt_id = p.attempt_id and i.claim_day = p.claim_day
                and i.cluster_id = v_me.cluster_id and i.seq < p.lo order by i.seq desc limit 1), -1) as stored
      from parts p left join tendril_core.attempts a on a.id = p.attempt_id),
  judged as (
    select c.attempt_id, case when c.known then c.stored else -1 end as stored, case
        when not c.known then 'unknown'
        when c.log_state <> 'open' then 'closed'
        when c.hi > c.log_end then 'beyond_end'
        when c.broken then 'gap'
        when c.lo <> c.stored + 1 then 'position' end as reason
      from checked c)
  select jsonb_agg(jsonb_build_object('attempt_id', j.attempt_id, 'reason', j.reason, 'stored', j.stored)) into v_refused
    from judged j where j.reason is not null;
  if v_refused is not null then
    perform tendril_core.fail('TD009', format('log rows of %s attempts refused', jsonb_array_length(v_refused)),
      'drop or rewind the attempts in DETAIL and send the rest once more', v_refused::text);
  end if;
  return null;
end $$;
comment on function tendril_core.log_check is 'Refuses a batch with a row of a foreign, closed or mis-numbered attempt.';
create trigger log_check after insert on tendril.log_inbox
  referencing new table as batch for each statement execute function tendril_core.log_check();

create function tendril.log_positions(p_writer uuid) returns table (attempt_id uuid, fence bigint, stored bigint)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_me tendril_core.runner_identity := tendril_core.runner_identity();
begin
  return query select a.id, a.fence, tendril_core.stored_position(a) from tendril_core.attempts a
    where a.log_writer = p_writer and a.cluster_id = v_me.cluster_id and a.log_state = 'open';
end $$;
comment on function tendril.log_positions(uuid) is 'How far the log of each open attempt of a writer is stored.';

-- name of the function: log_takeover
-- Each log connection takes the writer over: it ends the session that held it, which may still be about to commit, and
-- only then reads positions. A session that the client gave up on can so never append behind the new one's back.
create function tendril.log_takeover(p_writer uuid) returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_me    tendril_core.runner_identity := tendril_core.runner_identity();
  v_start timestamptz := (select s.backend_start from pg_stat_get_activity(pg_backend_pid()) s);
  w       tendril_core.log_writers;
begin
  perform tendril_core.guard();
  insert into tendril_core.log_writers (id, cluster_id, epoch, pid, backend_start)
    values (p_writer, v_me.cluster_id, 1, pg_backend_pid(), v_start) on conflict (id) do nothing;
  if found then
    return 1;
  end if;
  select * into w from tendril_core.log_writers x where x.id = p_writer;
  if w.cluster_id <> v_me.cluster_id then
    perform tendril_core.fail('TD002', 'the log writer is somebody else''s', 'make a new UUIDv7 for each spool');
  end if;
  perform pg_terminate_backend(s.pid, 5000) from pg_stat_get_activity(w.pid) s
    where s.backend_start = w.backend_start and s.pid <> pg_backend_pid()
      and exists (select from tendril_core.cluster_credentials c join pg_roles o on o.rolname = c.role_name
                   where c.cluster_id = v_me.cluster_id and o.oid = s.usesysid);
  update tendril_core.log_writers x set epoch = x.epoch + 1, pid = pg_backend_pid(), backend_start = v_start
   where x.id = p_writer returning * into w;
  return w.epoch;
end $$;
comment on function tendril.log_takeover(uuid) is 'Makes this session the writer''s only one; returns the epoch that its batches must name.';

-- ---------------------------------------------------------------------------------------------------------------
-- Reading
-- ---------------------------------------------------------------------------------------------------------------

create function tendril_core.seen_deployment(p_deployment uuid) returns tendril.deployments
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  d tendril.deployments;
begin
  select * into d from tendril.deployments where id = p_deployment;
  if d.id is null or not tendril_core.sees(d.cluster_id, d.user_id) then
    perform tendril_core.fail('TD002', format('there is no deployment %s that %s may see', coalesce(p_deployment::text, 'NULL'), tendril_core.caller()));
  end if;
  return d;
end $$;
comment on function tendril_core.seen_deployment is 'A deployment that the caller may see; the same error for absent and foreign.';

-- name of the function: logs_after
create function tendril.logs_after(p_deployment uuid, p_position jsonb default '{}', p_limit integer default 1000)
returns table (attempt_id uuid, job text, attempt smallint, seq bigint, seq_to bigint, stream text, log_chunk text, ts timestamptz,
  gap_kind text, gap_bytes bigint)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set jit = off as $$
begin
  perform tendril_core.seen_deployment(p_deployment);
  if jsonb_typeof(p_position) is distinct from 'object' then
    perform tendril_core.fail('TD001', 'position: must be an object of attempt_id -> seq');
  end if;
  return query
    select l.attempt_id, l.job, l.attempt, l.seq, l.seq_to, l.stream, l.log_chunk, l.ts, l.gap_kind, l.gap_bytes
      from tendril_core.attempts a,
      lateral (select * from tendril.log_inbox i
                where i.deployment_id = a.deployment_id and i.attempt_id = a.id and i.claim_day = a.claim_day
                  and i.seq > coalesce((p_position ->> a.id::text)::bigint, -1)
                order by i.seq limit least(greatest(p_limit, 1), 10000)) l
     where a.deployment_id = p_deployment
     order by a.fence, l.seq limit least(greatest(p_limit, 1), 10000);
exception when invalid_text_representation or numeric_value_out_of_range then
  perform tendril_core.fail('TD001', 'position: must be an object of attempt_id -> seq');
end $$;
comment on function tendril.logs_after(uuid, jsonb, integer) is
  'Log chunks behind a position vector {attempt_id: seq_to of the last chunk read}; attempts in order of their claims.';

select tendril_core.ensure_partitions();
revoke execute on all functions in schema tendril, tendril_core from public;
do $$
begin
  execute format('grant execute on function tendril.log_takeover(uuid), tendril.log_positions(uuid) to %I', tendril_core.group_role('runner'));
  execute format('grant execute on function tendril.logs_after(uuid, jsonb, integer) to %I', tendril_core.group_role('portal'));
end $$;
