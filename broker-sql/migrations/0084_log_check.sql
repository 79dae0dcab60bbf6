-- The check of log batches, in a file of its name: as it was made in 0074.

-- name of the function: log_check
create or replace function tendril_core.log_check() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set enable_material = off set jit = off as $$
declare
  c_bounds  constant float8[] := '{0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 10800}';
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
  v_rows    bigint;
  v_lag     float8;
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
           min(b.seq) filter (where b.gap_kind = 'quota') as quota, count(*) as rows, min(b.ts) as oldest,
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
    select c.rows, c.oldest, c.attempt_id, c.bytes, c.quota, c.hi, c.counted_to, c.counted, case when c.known then c.stored else -1 end as stored, case
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
         coalesce(sum(j.bytes), 0), sum(j.rows), greatest(extract(epoch from clock_timestamp() - min(j.oldest) filter (where j.reason is null)), 0)
    into v_refused, v_counted, v_closed, v_bytes, v_rows, v_lag from judged j;

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
  if v_rows > 0 then
    insert into tendril_core.happening_deltas (cluster_id, what, label, n, total)
      values (w.cluster_id, 'log', '', v_rows, v_bytes), (w.cluster_id, 'lag', width_bucket(v_lag, c_bounds)::text, 1, v_lag);
  end if;
  return null;
end $$;
