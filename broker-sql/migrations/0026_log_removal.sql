-- Removal of old log days. What is decided stands in a table; the removal itself is DETACH CONCURRENTLY, which runs in no
-- function and no transaction block, and then DROP: tendril-broker serve does both on a session of its own.

create table tendril_core.log_removals (
  day         date        primary key,
  decided_at  timestamptz not null default clock_timestamp(),
  removed_at  timestamptz
);
comment on table  tendril_core.log_removals is 'Log days that are to be removed, or were.';
comment on column tendril_core.log_removals.day is 'The UTC day of the claims.';
comment on column tendril_core.log_removals.decided_at is 'When all its logs were closed, and archived where that is required.';
comment on column tendril_core.log_removals.removed_at is 'When its table was dropped.';

create table tendril_core.log_upkeep (
  one         boolean     primary key default true check (one),
  every       interval    not null default '1 min',
  removal_at  timestamptz not null default '-infinity'
) with (fillfactor = 50);
insert into tendril_core.log_upkeep default values;
comment on table  tendril_core.log_upkeep is 'One row: when a replica of serve last looked for days to remove.';
comment on column tendril_core.log_upkeep.one is 'Always true: keeps the table at one row.';
comment on column tendril_core.log_upkeep.every is 'How often to look.';
comment on column tendril_core.log_upkeep.removal_at is 'When one last did.';

create function tendril_core.removable_log_days() returns setof date
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return query
    select d.day from (
        select to_date(right(c.relname, 8), 'YYYYMMDD') as day from pg_inherits i join pg_class c on c.oid = i.inhrelid
         where i.inhparent = 'tendril.log_inbox'::regclass and c.relname ~ '^log_day_[0-9]{8}$') d, tendril_core.settings s
     where (d.day + 1)::timestamp at time zone 'UTC' <= clock_timestamp() - s.logs_kept
       and not exists (select from tendril_core.attempts a where a.log_state = 'open' and a.claim_day = d.day)
       and (s.archive_url is null or not s.archive_required
            or not exists (select from tendril_core.log_archives l where l.state = 'waiting' and l.claim_day = d.day))
     order by d.day;
end $$;
comment on function tendril_core.removable_log_days is 'Days that are old enough, whose logs are all closed, and archived where that is required.';

-- name of the function: removal_due
-- Whoever comes next and finds an unfinished removal goes on with it.
create function tendril_core.removal_due() returns table (day date, partition text, attached boolean, pending boolean)
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  perform tendril_core.guard();
  update tendril_core.log_upkeep u set removal_at = clock_timestamp()
   where u.one in (select x.one from tendril_core.log_upkeep x where x.removal_at + x.every <= clock_timestamp() for update skip locked);
  if not found then
    return;
  end if;
  insert into tendril_core.log_removals (day) select d from tendril_core.removable_log_days() d on conflict do nothing;
  return query
    select r.day, 'log_day_' || to_char(r.day, 'YYYYMMDD'), i.inhrelid is not null, coalesce(i.inhdetachpending, false)
      from tendril_core.log_removals r
      left join pg_inherits i on i.inhrelid = to_regclass('tendril_core.log_day_' || to_char(r.day, 'YYYYMMDD'))
     where r.removed_at is null order by coalesce(i.inhdetachpending, false) desc, r.day;
end $$;
comment on function tendril_core.removal_due is 'Decides which days go, and returns those that have not gone yet; nothing when another replica just looked.';

create function tendril_core.removal_done(p_day date) returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_n bigint;
begin
  perform tendril_core.guard();
  -- What was removed without an archive waits for none any more.
  delete from tendril_core.log_archives l where l.claim_day = p_day and l.state = 'waiting';
  get diagnostics v_n = row_count;
  update tendril_core.log_removals set removed_at = clock_timestamp() where day = p_day and removed_at is null
     and to_regclass('tendril_core.log_day_' || to_char(p_day, 'YYYYMMDD')) is null;
  return v_n;
end $$;
comment on function tendril_core.removal_done is 'Records that a day''s table is gone; returns how many logs went with it that were archived nowhere.';

revoke execute on all functions in schema tendril_core from public;
