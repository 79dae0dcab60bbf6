-- Log text is kept by LZ4 where the server was built with it: in a table with rows of 16 KiB it is stored and read in about
-- half the time that Postgres's own method takes, and needs no more room (docs/BENCHMARKS.md, "what a line takes on disk").

-- name of the function: ensure_partitions
create or replace function tendril_core.ensure_partitions() returns integer
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_day  date;
  v_name text;
  v_lz4  boolean := coalesce((select 'lz4' = any (s.enumvals) from pg_settings s where s.name = 'default_toast_compression'), false);
  v_made integer := 0;
begin
  -- Created alone, then attached: CREATE ... PARTITION OF would wait for an open COPY, and all others behind it.
  perform set_config('lock_timeout', '500ms', true);
  for v_day in select (clock_timestamp() at time zone 'UTC')::date + i
                 from generate_series(-1, (select partitions_ahead from tendril_core.settings)) i loop
    v_name := 'log_day_' || to_char(v_day, 'YYYYMMDD');
    if to_regclass('tendril_core.' || v_name) is null then
      execute format('create table tendril_core.%I (like tendril.log_inbox including defaults including constraints including comments)', v_name);
      -- Day by day and not on the inbox: a partition has a method of its own, and nobody waits for a lock on the inbox.
      if v_lz4 then
        execute format('alter table tendril_core.%I alter column log_chunk set compression lz4', v_name);
      end if;
      execute format('alter table tendril.log_inbox attach partition tendril_core.%I for values from (%L) to (%L)', v_name, v_day, v_day + 1);
      v_made := v_made + 1;
    end if;
  end loop;
  return v_made;
end $$;

-- Days that exist: those to come, and today's if nobody is storing just now. What is stored stays as it is. A day that is in
-- use keeps its method; the next one has the new.
do $$
declare
  v_leaf regclass;
begin
  if not coalesce((select 'lz4' = any (s.enumvals) from pg_settings s where s.name = 'default_toast_compression'), false) then
    return;
  end if;
  perform set_config('lock_timeout', '500ms', true);
  for v_leaf in select t.relid from pg_partition_tree('tendril.log_inbox') t where t.isleaf loop
    begin
      execute format('alter table %s alter column log_chunk set compression lz4', v_leaf);
    exception when lock_not_available then
      raise notice '% is in use and keeps its compression', v_leaf;
    end;
  end loop;
end $$;
