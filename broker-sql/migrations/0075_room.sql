-- What Prometheus is told of the tables themselves, and of jobs that should have ended.

-- Only jobs that change the world have a deadline.
create index jobs_overdue on tendril_core.jobs (deadline_at) where state = 'STARTED' and deadline_at is not null;

-- name of the function: table_room
-- An estimate from what the server knows anyway, without reading a row: good to a tenth or so once a table was analysed. Log
-- partitions are left out: nothing in them is ever changed, and they go as a whole.
create function tendril_core.table_room() returns table (of_table text, of_index text, bytes bigint, bloat_bytes bigint, dead_rows bigint)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return query
    with tables as materialized (
      select c.oid, n.nspname || '.' || c.relname as name, n.nspname, c.relname, pg_relation_size(c.oid) as size, s.n_live_tup as live, s.n_dead_tup as dead,
             coalesce((regexp_match(c.reloptions::text, 'fillfactor=([0-9]+)'))[1]::float8, 100) / 100 as fill
        from pg_class c join pg_namespace n on n.oid = c.relnamespace join pg_stat_user_tables s on s.relid = c.oid
       where n.nspname in ('tendril', 'tendril_core') and c.relkind = 'r' and not c.relispartition and c.relname not like 'log\_day\_%'),
    widths as materialized (
      select t.oid, p.attname, (1 - p.null_frac) * p.avg_width as width
        from tables t join pg_stats p on p.schemaname = t.nspname and p.tablename = t.relname),
    indexes as (
      select t.name, i.relname, pg_relation_size(i.oid) as size, greatest(i.reltuples, 0) as live,
             (select sum(coalesce(w.width, 8)) from pg_attribute a left join widths w on w.oid = t.oid and w.attname = a.attname where a.attrelid = i.oid) as width
        from tables t join pg_index x on x.indrelid = t.oid join pg_class i on i.oid = x.indexrelid)
    select t.name, null::text, t.size,
           greatest(t.size - 8192 * ceil(t.live * (28 + (select sum(w.width) from widths w where w.oid = t.oid)) / (8168 * t.fill)), 0)::bigint, t.dead
      from tables t
    union all
    select i.name, i.relname::text, i.size, greatest(i.size - 8192 * (1 + ceil(i.live * (16 + i.width) / (8152 * 0.9))), 0)::bigint, null
      from indexes i;
end $$;
comment on function tendril_core.table_room is 'What each table and index takes, how much of that an estimate calls bloat (NULL before the first ANALYZE), and how many dead rows wait for vacuum.';

revoke execute on all functions in schema tendril, tendril_core from public;
