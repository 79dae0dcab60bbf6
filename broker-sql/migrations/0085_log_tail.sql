-- The tail of logs, in a file of its name: as it was made in 0065.

-- name of the function: tail_rows
-- First which of the deployments have something to read, then each gets its part of the page, so that a loud one does not
-- starve the others. Where bytes run out, the order among equals is another one at each call. Each attempt is asked for by its
-- claim day: only that partition is looked into. Who may read what has been looked at by the caller.
create or replace function tendril_core.tail_rows(p_deployments uuid[], p_position jsonb, p_limit integer, p_max_bytes integer)
returns table (deployment_id uuid, attempt_id uuid, job text, attempt smallint, seq bigint, seq_to bigint, stream text, log_chunk text,
  ts timestamptz, gap_kind text, gap_bytes bigint, at_end text)
language plpgsql stable set search_path = pg_catalog, pg_temp
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
comment on function tendril_core.tail_rows is 'Log chunks of many deployments behind one position vector, and whose log is at its end.';

create or replace function tendril.tail(p_deployments uuid[], p_position jsonb default '{}', p_limit integer default 1000, p_max_bytes integer default 1048576)
returns table (deployment_id uuid, attempt_id uuid, job text, attempt smallint, seq bigint, seq_to bigint, stream text, log_chunk text,
  ts timestamptz, gap_kind text, gap_bytes bigint, at_end text)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set enable_bitmapscan = off set enable_material = off
set jit = off set plan_cache_mode = force_generic_plan as $$
begin
  perform tendril_core.seen_deployments(p_deployments);
  perform tendril_core.check_position(p_deployments, p_position);
  return query select * from tendril_core.tail_rows(p_deployments, p_position, p_limit, p_max_bytes);
end $$;
