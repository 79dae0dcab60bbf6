-- Also no copy of a table in memory within a join: what was 60 rows when a session made its plan is all of a long queue later.

do $$
declare
  f regprocedure;
begin
  for f in select p.oid::regprocedure from pg_proc p
            where p.pronamespace in ('tendril'::regnamespace, 'tendril_core'::regnamespace)
              and 'enable_hashjoin=off' = any (p.proconfig) loop
    execute format('alter function %s set enable_material = off', f);
  end loop;
end $$;
