-- Moments of a cron expression, in a time zone of people's.

create function tendril_core.cron_field(p_field text, p_name text, p_low integer, p_high integer, p_words text[] default '{}') returns integer[]
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  v_item text;
  v_part text[];
  v_from integer;
  v_to   integer;
  v_step integer;
  v_all  integer[] := '{}';
begin
  for i in 1 .. cardinality(p_words) loop
    p_field := regexp_replace(p_field, '\m' || p_words[i] || '\M', (p_low + i - 1)::text, 'gi');
  end loop;
  foreach v_item in array string_to_array(p_field, ',') loop
    v_part := regexp_match(v_item, '^(\*|([0-9]{1,2})(-([0-9]{1,2}))?)(/([0-9]{1,2}))?$');
    if v_part is null then
      perform tendril_core.fail('TD001', format('cron: %s is no %s', quote_literal(v_item), p_name), 'minute hour day month weekday, each *, a number, a-b, */n, or several with commas');
    end if;
    v_from := coalesce(v_part[2]::integer, p_low);
    v_to := case when v_part[1] = '*' or v_part[4] is null and v_part[6] is not null then p_high else coalesce(v_part[4]::integer, v_from) end;
    v_step := coalesce(v_part[6]::integer, 1);
    if v_from < p_low or v_to > p_high or v_from > v_to or v_step < 1 then
      perform tendril_core.fail('TD001', format('cron: %s is no %s: it lies between %s and %s', quote_literal(v_item), p_name, p_low, p_high));
    end if;
    v_all := v_all || array(select generate_series(v_from, v_to, v_step));
  end loop;
  return array(select distinct x from unnest(v_all) x order by x);
end $$;
comment on function tendril_core.cron_field is 'The numbers that a field of a cron expression means.';

-- name of the function: cron_next
-- By the local calendar, day by day. A time that the clocks skip runs as much later as they skip, one that they have twice runs at
-- the first; with * for the hour it is every hour that passes.
create function tendril_core.cron_next(p_cron text, p_zone text, p_after timestamptz) returns timestamptz
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_cron    text := case lower(btrim(p_cron)) when '@hourly' then '0 * * * *' when '@daily' then '0 0 * * *' when '@weekly' then '0 0 * * 0'
                      when '@monthly' then '0 0 1 * *' when '@yearly' then '0 0 1 1 *' else btrim(p_cron) end;
  v_field   text[] := regexp_split_to_array(v_cron, '\s+');
  v_minutes integer[];
  v_hours   integer[];
  v_days    integer[];
  v_months  integer[];
  v_weekday integer[];
  v_every   boolean;
  v_day     date;
  v_hour    integer;
  v_at      timestamptz;
begin
  if cardinality(v_field) is distinct from 5 then
    perform tendril_core.fail('TD001', format('cron: %s has not five fields', coalesce(quote_literal(p_cron), 'NULL')), 'minute hour day month weekday, or @hourly, @daily, @weekly, @monthly, @yearly');
  end if;
  v_minutes := tendril_core.cron_field(v_field[1], 'minute', 0, 59);
  v_hours := tendril_core.cron_field(v_field[2], 'hour', 0, 23);
  v_days := tendril_core.cron_field(v_field[3], 'day of the month', 1, 31);
  v_months := tendril_core.cron_field(v_field[4], 'month', 1, 12, '{jan,feb,mar,apr,may,jun,jul,aug,sep,oct,nov,dec}');
  v_weekday := array(select distinct x % 7 from unnest(tendril_core.cron_field(v_field[5], 'weekday', 0, 7, '{sun,mon,tue,wed,thu,fri,sat}')) x);
  v_every := cardinality(v_hours) = 24;
  v_day := (p_after at time zone p_zone)::date;
  -- Eight years hold a 29th of February on their worst.
  for i in 0 .. 3000 loop
    if extract(month from v_day)::integer = any (v_months)
       and (case when v_field[3] <> '*' and v_field[5] <> '*'
             then extract(day from v_day)::integer = any (v_days) or extract(dow from v_day)::integer = any (v_weekday)
             else extract(day from v_day)::integer = any (v_days) and extract(dow from v_day)::integer = any (v_weekday) end) then
      foreach v_hour in array v_hours loop
        -- Of the first day only what can still come.
        continue when i = 0 and v_hour < extract(hour from p_after at time zone p_zone) - 1;
        select min(t.at) into v_at
          from unnest(v_minutes) m,
               lateral (select v_day + make_time(v_hour, m, 0) as local) l,
               lateral (select l.local at time zone p_zone as at) g,
               lateral (select case when ((g.at - interval '1 h') at time zone p_zone) = l.local then g.at - interval '1 h' else g.at end as at
                        union all select g.at where v_every and ((g.at - interval '1 h') at time zone p_zone) = l.local) t
         where t.at > p_after and not (v_every and (g.at at time zone p_zone) <> l.local);
        if v_at is not null then
          return v_at;
        end if;
      end loop;
    end if;
    v_day := v_day + 1;
  end loop;
  perform tendril_core.fail('TD001', format('cron: %s never comes', quote_literal(p_cron)));
end $$;
comment on function tendril_core.cron_next is 'The first moment of a cron expression after another moment.';

create function tendril.cron_times(p_cron text, p_time_zone text default 'UTC', p_after timestamptz default clock_timestamp(), p_count integer default 5)
returns setof timestamptz
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_at timestamptz := p_after;
begin
  perform tendril_core.check_zone(p_time_zone);
  if p_count not between 1 and 100 then
    perform tendril_core.fail('TD001', format('count: %s does not lie between 1 and 100', p_count));
  end if;
  for i in 1 .. p_count loop
    v_at := tendril_core.cron_next(p_cron, p_time_zone, v_at);
    return next v_at;
  end loop;
end $$;
comment on function tendril.cron_times(text, text, timestamptz, integer) is 'The next moments of a cron expression in a time zone.';

create function tendril_core.check_zone(p_zone text) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  if not exists (select from pg_timezone_names n where n.name = p_zone) then
    perform tendril_core.fail('TD001', format('time_zone: there is no %s', coalesce(quote_literal(p_zone), 'NULL')), 'a name as Europe/Berlin or UTC; pg_timezone_names lists them');
  end if;
end $$;
comment on function tendril_core.check_zone is 'Refuses what is no name of a time zone.';

revoke execute on all functions in schema tendril, tendril_core from public;
do $$
begin
  execute format('grant execute on function tendril.cron_times(text, text, timestamptz, integer) to %I', tendril_core.group_role('portal'));
end $$;
