-- Logs, further: what a row may hold, how much a cluster may store, and reading many logs at once.

alter table tendril_core.settings
  add column log_attempt_bytes     bigint not null default 268435456   check (log_attempt_bytes between 0 and 1125899906842624),
  add column log_day_bytes bigint not null default 53687091200 check (log_day_bytes between 0 and 1125899906842624);
comment on column tendril_core.settings.log_attempt_bytes is 'Most bytes of log text that an attempt may store; 0 for no such bound.';
comment on column tendril_core.settings.log_day_bytes is 'Most bytes of log text that a cluster may store in a UTC day; 0 for no such bound.';

-- One row per writer and day, changed once per batch under the writer's row, which the batch holds anyway: nobody fights over
-- it, and a transaction that pins old rows keeps one narrow row per batch, not one per attempt.
create table tendril_core.log_volume (
  writer_id   uuid   not null,
  day         date   not null,
  cluster_id  uuid   not null,
  bytes       bigint not null,
  primary key (writer_id, day)
) with (fillfactor = 50);
create index log_volume_by_cluster on tendril_core.log_volume (cluster_id, day);
comment on table  tendril_core.log_volume is 'How much log text each writer stored on each day of the last week.';
comment on column tendril_core.log_volume.writer_id is 'The writer.';
comment on column tendril_core.log_volume.day is 'The UTC day on which it was stored.';
comment on column tendril_core.log_volume.cluster_id is 'Its cluster.';
comment on column tendril_core.log_volume.bytes is 'Bytes of text.';

create table tendril_core.log_usage (
  attempt_id  uuid   primary key,
  seq_to      bigint not null,
  bytes       bigint not null,
  quota_at    timestamptz
) with (fillfactor = 50);
create index log_usage_quota on tendril_core.log_usage (quota_at) where quota_at is not null;
comment on table  tendril_core.log_usage is 'Attempts whose stored text was counted, because it could be too much.';
comment on column tendril_core.log_usage.attempt_id is 'The attempt.';
comment on column tendril_core.log_usage.seq_to is 'Up to which record it was counted.';
comment on column tendril_core.log_usage.bytes is 'Bytes of text up to there.';
comment on column tendril_core.log_usage.quota_at is 'When its log was closed by a gap of kind quota.';

-- Counting each attempt at each batch would cost a row version per attempt and batch. A record has at most 20 KiB, so the
-- numbers alone say how much an attempt can have at most: only when that could be too much is it counted, from where the
-- last count ended. So each stored row is read once more at most. Attempts that began together are counted at different
-- times: for each, another part of what is left counts as all of it.
create function tendril_core.log_count(p_attempts uuid[], p_max bigint) returns uuid[]
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_over  uuid[] := '{}';
  v_id    uuid;
  v_hi    bigint;
  v_bytes bigint;
begin
  foreach v_id in array p_attempts loop
    select max(i.seq_to), coalesce(max(u.bytes), 0) + coalesce(sum(octet_length(i.log_chunk)), 0) into v_hi, v_bytes
      from tendril_core.attempts a left join tendril_core.log_usage u on u.attempt_id = a.id
      join tendril.log_inbox i on i.deployment_id = a.deployment_id and i.attempt_id = a.id and i.claim_day = a.claim_day
       and i.cluster_id = a.cluster_id and i.seq > coalesce(u.seq_to, -1)
     where a.id = v_id;
    if v_bytes > p_max then
      v_over := v_over || v_id;
    else
      insert into tendril_core.log_usage as u (attempt_id, seq_to, bytes) values (v_id, v_hi, v_bytes)
        on conflict (attempt_id) do update set seq_to = excluded.seq_to, bytes = excluded.bytes;
    end if;
  end loop;
  return v_over;
end $$;
comment on function tendril_core.log_count is 'Counts what these attempts have stored; returns those that have more than p_max bytes.';

create function tendril_core.log_day_is_over(p_writer uuid, p_cluster uuid, p_bytes bigint, p_max bigint) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_day  date := (clock_timestamp() at time zone 'UTC')::date;
  v_step bigint := least(greatest(p_max / 1024, 1), 1048576);
  v_mine bigint;
begin
  insert into tendril_core.log_volume as v (writer_id, day, cluster_id, bytes) values (p_writer, v_day, p_cluster, p_bytes)
    on conflict (writer_id, day) do update set bytes = v.bytes + excluded.bytes returning v.bytes into v_mine;
  -- The cluster's writers are summed once per step of each, so that a thousand of them do not read each other's rows all the time.
  if p_max = 0 or v_mine / v_step = (v_mine - p_bytes) / v_step then
    return false;
  end if;
  return (select sum(v.bytes) > p_max from tendril_core.log_volume v where v.cluster_id = p_cluster and v.day = v_day);
end $$;
comment on function tendril_core.log_day_is_over is 'Adds to the writer''s volume of today; whether its cluster has then stored more than p_max bytes.';

-- name of the function: log_check
-- Once per batch. It takes the writer's row, which everybody takes who changes what an attempt may append, so it needs
-- no lock per attempt. It can only refuse the whole batch, so it lists all refused attempts at once; foreign and absent
-- ones look the same. Without a hole is: each row but the first begins behind the end of another one; sums of hashes tell
-- that without a sort, and nobody can tell their seed before.
create or replace function tendril_core.log_check() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set enable_material = off set jit = off as $$
declare
  v_me      tendril_core.runner_identity := tendril_core.runner_identity();
  v_who     text := coalesce(current_setting('tendril.writer', true), '');
  v_seed    bigint := uuid_hash_extended(gen_random_uuid(), 0);
  s         tendril_core.settings;
  w         tendril_core.log_writers;
  v_refused jsonb;
  v_counted uuid[];
  v_closed  uuid[];
  v_over    uuid[];
  v_bytes   bigint;
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
  select * into s from tendril_core.settings;
  with parts as (
    select b.attempt_id, b.fence, b.deployment_id, b.claim_day, b.job, b.attempt, min(b.seq) as lo, max(b.seq) as last, max(least(b.seq_to, 9007199254740991)) as hi,
           coalesce(sum(octet_length(b.log_chunk)) filter (where b.gap_kind is distinct from 'quota'), 0) as bytes,
           min(b.seq) filter (where b.gap_kind = 'quota') as quota,
           bit_xor(hashint8extended(b.seq, v_seed) # hashint8extended(least(b.seq_to, 9007199254740991) + 1, v_seed)) as chain,
           bool_or(case when b.gap_kind is null
                        then octet_length(b.log_chunk) not between 1 and 69632 or b.seq_to - b.seq >= octet_length(b.log_chunk)
                             or (octet_length(b.log_chunk) - 1) / 20480 > b.seq_to - b.seq or b.gap_bytes is not null
                        else octet_length(b.log_chunk) > 1024 or b.gap_bytes < 0
                             or b.gap_kind not in ('overflow', 'dropped', 'lost', 'capped', 'expired', 'corrupt', 'quota') end
                   or b.seq_to > 9007199254740990 or b.ts not between '1970-01-01 00:00:00Z' and '2200-01-01 00:00:00Z') as malformed
      from batch b group by 1, 2, 3, 4, 5, 6),
  checked as materialized (
    select p.*, a.log_state, a.log_end, u.seq_to as counted_to, u.bytes as counted, u.quota_at, coalesce(a.cluster_id = v_me.cluster_id and a.log_writer = w.id and a.fence = p.fence
             and a.deployment_id = p.deployment_id and a.claim_day = p.claim_day and a.ordinal = p.attempt
             and (select j.name from tendril_core.jobs j where j.id = a.job_id) = p.job, false) as known,
           coalesce((select i.seq_to from tendril.log_inbox i
              where i.deployment_id = p.deployment_id and i.attempt_id = p.attempt_id and i.claim_day = p.claim_day
                and i.cluster_id = v_me.cluster_id and i.seq < p.lo order by i.seq desc limit 1), -1) as stored
      from parts p left join tendril_core.attempts a on a.id = p.attempt_id
      left join tendril_core.log_usage u on u.attempt_id = p.attempt_id),
  judged as materialized (
    select c.attempt_id, c.bytes, c.quota, c.hi, c.counted_to, c.counted, case when c.known then c.stored else -1 end as stored, case
        when not c.known then 'unknown'
        when c.log_state <> 'open' then 'closed'
        when c.malformed then 'malformed'
        when c.hi > c.log_end then 'beyond_end'
        when c.chain <> hashint8extended(c.lo, v_seed) # hashint8extended(c.hi + 1, v_seed) then 'gap'
        when c.lo <> c.stored + 1 then 'position'
        -- Nothing comes behind the gap that closed a log.
        when c.quota_at is not null or c.quota < c.last then 'quota' end as reason
      from checked c)
  select jsonb_agg(jsonb_build_object('attempt_id', j.attempt_id, 'reason', j.reason, 'stored', j.stored)) filter (where j.reason is not null),
         array_agg(j.attempt_id) filter (where j.reason is null and j.bytes > 0
           and s.log_attempt_bytes > 0 and j.hi - coalesce(j.counted_to, -1)
             > (s.log_attempt_bytes - coalesce(j.counted, 0)) / 20480 * (1024 + (uuid_hash(j.attempt_id) & 1023)) / 2048),
         array_agg(j.attempt_id) filter (where j.reason is null and j.quota is not null),
         coalesce(sum(j.bytes), 0)
    into v_refused, v_counted, v_closed, v_bytes from judged j;

  if v_counted is not null then
    v_over := tendril_core.log_count(v_counted, s.log_attempt_bytes);
  end if;
  if v_bytes > 0 and tendril_core.log_day_is_over(w.id, w.cluster_id, v_bytes, s.log_day_bytes) then
    v_over := array(select distinct b.attempt_id from batch b where b.gap_kind is distinct from 'quota');
  end if;
  if cardinality(v_over) > 0 then
    v_refused := coalesce(v_refused, '[]') || (
      select coalesce(jsonb_agg(jsonb_build_object('attempt_id', b.attempt_id, 'reason', 'quota', 'stored', b.lo - 1)), '[]')
        from (select x.attempt_id, min(x.seq) as lo from batch x where x.attempt_id = any (v_over) group by 1) b
       where not coalesce(v_refused, '[]') @> jsonb_build_array(jsonb_build_object('attempt_id', b.attempt_id)));
  end if;
  if v_refused is not null then
    perform tendril_core.fail('TD009', format('log rows of %s attempts refused', jsonb_array_length(v_refused)),
      'drop or rewind the attempts in DETAIL and send the rest once more', v_refused::text);
  end if;
  if v_closed is not null then
    insert into tendril_core.log_usage as u (attempt_id, seq_to, bytes, quota_at) select c, -1, 0, clock_timestamp() from unnest(v_closed) c
      on conflict (attempt_id) do update set quota_at = excluded.quota_at;
  end if;
  return null;
end $$;
comment on function tendril_core.log_check is 'Refuses a batch with a row of a foreign, closed, malformed or mis-numbered attempt, or of one over its quota.';

create function tendril_core.duty_log_usage() returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_n bigint;
begin
  delete from tendril_core.log_volume v where v.day < (clock_timestamp() at time zone 'UTC')::date - 7;
  delete from tendril_core.log_usage u where (u.quota_at is null or u.quota_at < clock_timestamp() - interval '30 days')
     and not exists (select from tendril_core.attempts a where a.id = u.attempt_id and a.log_state = 'open');
  get diagnostics v_n = row_count;
  return v_n;
end $$;
comment on function tendril_core.duty_log_usage is 'Forgets how much closed logs had, and the volume of days long gone.';
insert into tendril_core.duties (name, every) values ('log_usage', '1 min');

-- ---------------------------------------------------------------------------------------------------------------
-- Reading
-- ---------------------------------------------------------------------------------------------------------------

create function tendril_core.seen_deployments(p_deployments uuid[]) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_all      boolean := tendril_core.is_owner() or tendril_core.sees_all();
  v_clusters uuid[] := tendril_core.seen_clusters();
  v_user     text := tendril_core.seen_user();
  v_missing  uuid;
begin
  if cardinality(p_deployments) > 1000 then
    perform tendril_core.fail('TD011', format('deployments: %s, at most 1000 at once', cardinality(p_deployments)), 'ask for some, then for the others');
  end if;
  select u.id into v_missing from unnest(p_deployments) with ordinality u(id, n) left join tendril.deployments d on d.id = u.id
   where d.id is null or not coalesce(v_all or d.cluster_id = any (v_clusters) or d.user_id = v_user, false) order by u.n limit 1;
  if found or p_deployments is null then
    perform tendril_core.fail('TD002', format('there is no deployment %s that %s may see', coalesce(v_missing::text, 'NULL'), tendril_core.caller()));
  end if;
end $$;
comment on function tendril_core.seen_deployments is 'Refuses a list with a deployment that the caller may not see; the same error for absent and foreign.';

create function tendril_core.check_position(p_deployments uuid[], p_position jsonb) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_bad jsonb;
begin
  if jsonb_typeof(p_position) is distinct from 'object' then
    perform tendril_core.fail('TD001', 'position: must be an object of attempt_id -> seq', 'begin with {}, and put seq_to of each row into it');
  end if;
  select jsonb_agg(jsonb_build_object('path', 'position.' || k.key, 'message', case
      when k.key !~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then 'is no attempt''s id'
      when k.value::text !~ '^(-1|[0-9]{1,18})$' then 'must be the number of a record, a whole number from -1 on'
      else 'is no attempt of the deployments asked for' end) order by k.key) into v_bad
    from jsonb_each(p_position) k
   where case when k.key ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' and k.value::text ~ '^(-1|[0-9]{1,18})$'
              then not exists (select from tendril_core.attempts a where a.id = k.key::uuid and a.deployment_id = any (p_deployments))
              else true end;
  if v_bad is not null then
    perform tendril_core.fail('TD001', format('%s: %s', v_bad -> 0 ->> 'path', v_bad -> 0 ->> 'message'),
      'begin with {}, put seq_to of each row into it, and leave out deployments that you are done with', v_bad::text);
  end if;
end $$;
comment on function tendril_core.check_position is 'Refuses a position vector that names what is no attempt of these deployments.';

-- name of the function: tail
-- First which of the deployments have something to read, then each gets its part of the page, so that a loud one does not
-- starve the others. Where bytes run out, the order among equals is another one at each call. Each attempt is asked for by its
-- claim day: only that partition is looked into.
create function tendril.tail(p_deployments uuid[], p_position jsonb default '{}', p_limit integer default 1000, p_max_bytes integer default 1048576)
returns table (deployment_id uuid, attempt_id uuid, job text, attempt smallint, seq bigint, seq_to bigint, stream text, log_chunk text,
  ts timestamptz, gap_kind text, gap_bytes bigint, at_end text)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set enable_bitmapscan = off set enable_material = off
set jit = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
  v_limit integer := least(greatest(coalesce(p_limit, 1000), 1), 10000);
  v_bytes integer := least(greatest(coalesce(p_max_bytes, 1048576), 1), 67108864);
  v_all   uuid[] := array(select distinct u.id from unnest(p_deployments) u(id));
  v_news  uuid[];
  v_share integer;
begin
  perform tendril_core.seen_deployments(p_deployments);
  perform tendril_core.check_position(v_all, p_position);
  v_news := array(
    select d.id from unnest(v_all) d(id)
     where exists (
       select from tendril_core.attempts a, lateral (
         select from tendril.log_inbox i where i.deployment_id = a.deployment_id and i.attempt_id = a.id and i.claim_day = a.claim_day
            and i.seq > coalesce((p_position ->> a.id::text)::bigint, -1) limit 1) l
        where a.deployment_id = d.id and (a.log_state <> 'complete' or coalesce((p_position ->> a.id::text)::bigint, -1) < a.log_end))
     order by random());
  v_share := (v_limit + cardinality(v_news) - 1) / greatest(cardinality(v_news), 1);
  return query
    with picked as (
      select d.n, l.*, row_number() over (partition by d.n order by l.fence, l.seq) as rank
        from unnest(v_news) with ordinality d(id, n), lateral (
          select a.fence, i.deployment_id, i.attempt_id, i.job, i.attempt, i.seq, i.seq_to, i.stream, i.log_chunk, i.ts, i.gap_kind, i.gap_bytes
            from (select * from tendril_core.attempts x where x.deployment_id = d.id order by x.fence) a, lateral (
              select * from tendril.log_inbox o where o.deployment_id = a.deployment_id and o.attempt_id = a.id and o.claim_day = a.claim_day
                 and o.seq > coalesce((p_position ->> a.id::text)::bigint, -1) order by o.seq limit v_share) i
           order by a.fence, i.seq limit v_share) l),
    page as materialized (
      select s.* from (
        select p.*, row_number() over w as place, sum(octet_length(p.log_chunk)) over w as upto from picked p window w as (order by p.rank, p.n)) s
       where s.place <= v_limit and (s.upto <= v_bytes or s.place = 1)),
    reached as materialized (
      select p_position || coalesce((select jsonb_object_agg(r.attempt_id, r.seq_to) from (select g.attempt_id, max(g.seq_to) as seq_to from page g group by 1) r), '{}') as position),
    logs as materialized (
      select d.id as deployment_id, a.id, a.fence, a.ordinal, a.job_id, x.at_end, d.ended_at is not null
             and bool_and(a.id is null or coalesce(x.at_end, 'archived') <> 'archived') over w as done, bool_or(x.at_end = 'incomplete') over w as incomplete
        from unnest(v_all) u(id) join tendril.deployments d on d.id = u.id
        left join tendril_core.attempts a on a.deployment_id = d.id cross join reached p
       cross join lateral (select coalesce((p.position ->> a.id::text)::bigint, -1) as read) r
       cross join lateral (select case
          when r.read >= a.log_end then 'complete'
          when a.log_state <> 'open' and not exists (
            select from tendril.log_inbox i where i.deployment_id = a.deployment_id and i.attempt_id = a.id and i.claim_day = a.claim_day and i.seq > r.read limit 1)
          then case a.log_state when 'complete' then 'archived' else 'incomplete' end end as at_end) x
      window w as (partition by d.id))
    select o.deployment_id, o.attempt_id, o.job, o.attempt, o.seq, o.seq_to, o.stream, o.log_chunk, o.ts, o.gap_kind, o.gap_bytes, o.at_end
      from (
        select 1 as part, p.n, p.fence, p.deployment_id, p.attempt_id, p.job, p.attempt, p.seq, p.seq_to, p.stream, p.log_chunk, p.ts, p.gap_kind, p.gap_bytes, null as at_end
          from page p
        union all
        select 2, 0, l.fence, l.deployment_id, l.id, (select j.name from tendril_core.jobs j where j.id = l.job_id), l.ordinal,
               null, null, null, null, null, null, null, l.at_end
          from logs l where l.at_end is not null and not l.done
        union all
        select distinct 3, 0, 0::bigint, l.deployment_id, null::uuid, null, null::smallint, null::bigint, null::bigint, null, null, null::timestamptz, null, null::bigint,
               case when l.incomplete then 'incomplete' else 'complete' end
          from logs l where l.done) o
     order by o.part, o.n, o.fence, o.seq;
end $$;
comment on function tendril.tail(uuid[], jsonb, integer, integer) is
  'Log chunks of many deployments behind one position vector {attempt_id: seq_to of the last chunk read}; rows without a chunk say whose log is at its end.';

create or replace function tendril.logs_after(p_deployment uuid, p_position jsonb default '{}', p_limit integer default 1000)
returns table (attempt_id uuid, job text, attempt smallint, seq bigint, seq_to bigint, stream text, log_chunk text, ts timestamptz,
  gap_kind text, gap_bytes bigint)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_material = off set jit = off as $$
begin
  return query
    select t.attempt_id, t.job, t.attempt, t.seq, t.seq_to, t.stream, t.log_chunk, t.ts, t.gap_kind, t.gap_bytes
      from tendril.tail(array[p_deployment], p_position, p_limit) t where t.seq is not null;
end $$;
comment on function tendril.logs_after(uuid, jsonb, integer) is
  'Log chunks of one deployment behind a position vector {attempt_id: seq_to of the last chunk read}, at most 1 MiB of them; attempts in order of their claims.';

create or replace function tendril.status(p_deployment uuid) returns jsonb
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set enable_bitmapscan = off set enable_material = off set jit = off as $$
declare
  d tendril.deployments := tendril_core.seen_deployment(p_deployment);
begin
  return to_jsonb(d) - 'config_snapshot' || jsonb_build_object('jobs', (
    select coalesce(jsonb_agg(jsonb_build_object('name', j.name, 'kind', j.kind, 'state', j.state, 'reason', j.reason,
        'waiting_for', tendril_core.waiting_for(j), 'attempts', j.attempts, 'started_at', j.started_at, 'ended_at', j.ended_at, 'result', j.result,
        'attempt', (select to_jsonb(t) from (
            select a.id, a.fence, a.ordinal, a.runner_id, a.claimed_at, a.started_at, a.ended_at, a.outcome, a.report, a.progress
              from tendril_core.attempts a where a.id = j.attempt_id) t)) order by j.created_at, j.id), '[]')
      from tendril_core.jobs j where j.deployment_id = p_deployment),
    'logs', (select coalesce(jsonb_agg(jsonb_build_object('attempt_id', a.id, 'log_end', a.log_end, 'log_state', a.log_state,
        'over_quota_at', (select u.quota_at from tendril_core.log_usage u where u.attempt_id = a.id)) order by a.fence), '[]')
      from tendril_core.attempts a where a.deployment_id = p_deployment));
end $$;

revoke execute on all functions in schema tendril, tendril_core from public;
do $$
begin
  execute format('grant execute on function tendril.tail(uuid[], jsonb, integer, integer) to %I', tendril_core.group_role('portal'));
end $$;
