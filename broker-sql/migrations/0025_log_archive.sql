-- The archive of closed logs: what waits to be archived, who is at it, and where what was archived lies. The work itself is
-- done by tendril-broker serve, which holds no transaction open meanwhile: it takes a lease here, and records what it verified.

alter table tendril_core.settings
  add column logs_kept        interval not null default '30 days' check (logs_kept >= '1 day'),
  add column archive_url      text check (archive_url ~ '^s3://'),
  add column archive_required boolean  not null default true;
comment on column tendril_core.settings.logs_kept is 'How long log rows stay in the database; then their day is removed.';
comment on column tendril_core.settings.archive_url is 'The archive that serve was started with last; NULL when there never was one.';
comment on column tendril_core.settings.archive_required is 'Where there is an archive: whether a day is removed only when all of it is archived.';

create table tendril_core.log_archives (
  attempt_id     uuid        primary key,
  deployment_id  uuid        not null,
  cluster_id     uuid        not null,
  claim_day      date        not null,
  state          text        not null default 'waiting' check (state in ('waiting', 'stored', 'empty')),
  closed_at      timestamptz not null default clock_timestamp(),
  due_at         timestamptz not null default clock_timestamp(),
  claimed_by     uuid,
  tries          integer     not null default 0,
  upload_id      text,
  trouble        text,
  url            text,
  first_seq      bigint,
  last_seq       bigint,
  log_rows       bigint,
  text_bytes     bigint,
  object_bytes   bigint,
  sha256         text,
  frames         jsonb,
  stored_at      timestamptz,
  check (state <> 'stored' or (url is not null and frames is not null and last_seq >= first_seq and stored_at is not null))
) with (fillfactor = 80);
create index log_archives_due on tendril_core.log_archives (due_at) where state = 'waiting';
create index log_archives_waiting_by_day on tendril_core.log_archives (claim_day) where state = 'waiting';
create index log_archives_oldest on tendril_core.log_archives (closed_at) where state = 'waiting';
create index log_archives_by_deployment on tendril_core.log_archives (deployment_id);
comment on table  tendril_core.log_archives is 'One row per closed log that may hold something: waiting for the archive, or where it lies there.';
comment on column tendril_core.log_archives.attempt_id is 'The attempt that printed it.';
comment on column tendril_core.log_archives.deployment_id is 'Its deployment.';
comment on column tendril_core.log_archives.cluster_id is 'Its cluster.';
comment on column tendril_core.log_archives.claim_day is 'Its partition.';
comment on column tendril_core.log_archives.state is 'waiting, stored, or empty when no row was there.';
comment on column tendril_core.log_archives.closed_at is 'When the log was closed.';
comment on column tendril_core.log_archives.due_at is 'Not before: end of the lease of who is at it, or of the pause after a failure.';
comment on column tendril_core.log_archives.claimed_by is 'The newest claim: only who made it may record anything.';
comment on column tendril_core.log_archives.tries is 'How often it was claimed.';
comment on column tendril_core.log_archives.upload_id is 'A multipart upload that was begun and not recorded as done: the next who tries aborts it.';
comment on column tendril_core.log_archives.trouble is 'Why the newest try failed.';
comment on column tendril_core.log_archives.url is 'The object.';
comment on column tendril_core.log_archives.first_seq is 'Number of its first record.';
comment on column tendril_core.log_archives.last_seq is 'Number of its last record.';
comment on column tendril_core.log_archives.log_rows is 'How many rows it holds.';
comment on column tendril_core.log_archives.text_bytes is 'Bytes of their text.';
comment on column tendril_core.log_archives.object_bytes is 'Bytes of the object.';
comment on column tendril_core.log_archives.sha256 is 'Digest of the object.';
comment on column tendril_core.log_archives.frames is 'Its index: [offset, bytes, first record, last record] of each frame.';
comment on column tendril_core.log_archives.stored_at is 'When it was verified and recorded.';

create function tendril_core.log_closed() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if new.log_state = 'incomplete' or new.log_end >= 0 then
    insert into tendril_core.log_archives (attempt_id, deployment_id, cluster_id, claim_day)
      values (new.id, new.deployment_id, new.cluster_id, new.claim_day) on conflict (attempt_id) do nothing;
  end if;
  return null;
end $$;
comment on function tendril_core.log_closed is 'Puts a log that is closed onto the archive''s list.';
create trigger log_closed after update of log_state on tendril_core.attempts
  for each row when (old.log_state = 'open' and new.log_state <> 'open') execute function tendril_core.log_closed();
insert into tendril_core.log_archives (attempt_id, deployment_id, cluster_id, claim_day)
  select a.id, a.deployment_id, a.cluster_id, a.claim_day from tendril_core.attempts a
   where a.log_state = 'incomplete' or (a.log_state = 'complete' and a.log_end >= 0);

create function tendril_core.log_day_attached(p_day date) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return exists (select from pg_inherits i
    where i.inhrelid = to_regclass('tendril_core.log_day_' || to_char(p_day, 'YYYYMMDD')) and i.inhparent = 'tendril.log_inbox'::regclass
      and not i.inhdetachpending);
end $$;
comment on function tendril_core.log_day_attached is 'Whether the log rows of a day are in the database.';

-- ---------------------------------------------------------------------------------------------------------------
-- Work, shared by all replicas of serve
-- ---------------------------------------------------------------------------------------------------------------

create function tendril_core.archive_announce(p_url text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  perform tendril_core.guard();
  update tendril_core.settings set archive_url = p_url where archive_url is distinct from p_url;
end $$;
comment on function tendril_core.archive_announce is 'A replica of serve has this archive.';

-- name of the function: archive_claim
-- A short claim: the lease stands in the row, so that no transaction is open while bytes travel. Who stays silent loses it.
create function tendril_core.archive_claim(p_claim uuid, p_lease interval, p_limit integer)
returns table (attempt_id uuid, fence bigint, deployment_id uuid, cluster_id uuid, claim_day date, job text, attempt smallint,
  log_state text, log_end bigint, tries integer, upload_id text)
language plpgsql set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_material = off set jit = off as $$
begin
  perform tendril_core.guard();
  return query
    with due as materialized (
      select l.attempt_id as id from tendril_core.log_archives l where l.state = 'waiting' and l.due_at <= clock_timestamp()
       order by l.due_at limit p_limit for update skip locked),
    taken as (
      update tendril_core.log_archives l set claimed_by = p_claim, due_at = clock_timestamp() + p_lease, tries = l.tries + 1
        from due where l.attempt_id = due.id and l.state = 'waiting' returning l.*)
    select t.attempt_id, a.fence, t.deployment_id, t.cluster_id, t.claim_day, j.name, a.ordinal, a.log_state, a.log_end, t.tries, t.upload_id
      from taken t join tendril_core.attempts a on a.id = t.attempt_id join tendril_core.jobs j on j.id = a.job_id;
end $$;
comment on function tendril_core.archive_claim is 'Takes up to so many closed logs for a while; the longest due first.';

create function tendril_core.archive_renew(p_attempt uuid, p_claim uuid, p_lease interval, p_upload text) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  perform tendril_core.guard();
  update tendril_core.log_archives l set due_at = clock_timestamp() + p_lease, upload_id = p_upload
   where l.attempt_id = p_attempt and l.claimed_by = p_claim and l.state = 'waiting';
  return found;
end $$;
comment on function tendril_core.archive_renew is 'Before each part that is sent; false when somebody else has the log now.';

-- name of the function: archive_rows
-- A page by bytes, not by rows: the reader's memory is bounded whatever rows are like. The check lets rows of 68 KiB in;
-- larger ones of an older database are cut.
create function tendril_core.archive_rows(p_attempt uuid, p_after bigint, p_bytes bigint)
returns table (seq bigint, seq_to bigint, stream text, log_chunk text, ts timestamptz, gap_kind text, gap_bytes bigint)
language plpgsql stable set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_material = off set enable_seqscan = off set jit = off as $$
declare
  a      tendril_core.attempts;
  v_sent bigint := 0;
begin
  select * into a from tendril_core.attempts t where t.id = p_attempt;
  for seq, seq_to, stream, log_chunk, ts, gap_kind, gap_bytes in
      select i.seq, i.seq_to, i.stream,
             case when octet_length(i.log_chunk) <= 262144 then i.log_chunk
                  else left(i.log_chunk, 200000) || format(E'\n[cut in the archive: the row had %s bytes]\n', octet_length(i.log_chunk)) end,
             i.ts, i.gap_kind, i.gap_bytes from tendril.log_inbox i
       where i.deployment_id = a.deployment_id and i.attempt_id = a.id and i.claim_day = a.claim_day and i.cluster_id = a.cluster_id
         and i.seq > p_after order by i.seq loop
    return next;
    v_sent := v_sent + 100 + octet_length(log_chunk);
    exit when v_sent >= p_bytes;
  end loop;
end $$;
comment on function tendril_core.archive_rows is 'Rows of a log behind a position, about so many bytes of them.';

-- name of the function: archive_stored
-- The last look is at the rows themselves: a day that was removed meanwhile, or a row that came late, is no archive of it.
create function tendril_core.archive_stored(p_attempt uuid, p_claim uuid, p_record jsonb) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_material = off set enable_seqscan = off set jit = off as $$
declare
  a tendril_core.attempts;
begin
  perform tendril_core.guard();
  perform from tendril_core.log_archives l where l.attempt_id = p_attempt and l.claimed_by = p_claim and l.state = 'waiting' for update;
  if not found then
    return false;
  end if;
  select * into a from tendril_core.attempts t where t.id = p_attempt;
  if not tendril_core.log_day_attached(a.claim_day) or tendril_core.stored_position(a) <> coalesce((p_record ->> 'last_seq')::bigint, -1) then
    return false;
  end if;
  update tendril_core.log_archives l
     set state = case when p_record is null then 'empty' else 'stored' end, upload_id = null, trouble = null, stored_at = clock_timestamp(),
         url = p_record ->> 'url', first_seq = (p_record ->> 'first_seq')::bigint, last_seq = (p_record ->> 'last_seq')::bigint,
         log_rows = (p_record ->> 'log_rows')::bigint, text_bytes = (p_record ->> 'text_bytes')::bigint,
         object_bytes = (p_record ->> 'object_bytes')::bigint, sha256 = p_record ->> 'sha256', frames = p_record -> 'frames'
   where l.attempt_id = p_attempt;
  return true;
end $$;
comment on function tendril_core.archive_stored is 'Records a verified object, or with NULL that no row was there; false when the claim is lost or the rows are others.';

create function tendril_core.archive_failed(p_attempt uuid, p_claim uuid, p_trouble text, p_pause interval) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  perform tendril_core.guard();
  update tendril_core.log_archives l set due_at = clock_timestamp() + p_pause, claimed_by = null, trouble = left(p_trouble, 1000)
   where l.attempt_id = p_attempt and l.claimed_by = p_claim and l.state = 'waiting';
  return found;
end $$;
comment on function tendril_core.archive_failed is 'Gives a claimed log back, to be tried again after a pause.';

create function tendril_core.archive_lag() returns table (waiting bigint, lag_seconds double precision, troubled bigint, trouble text)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  -- Where there is no archive nothing is late; and what is far behind is not counted to its end.
  return query
    select count(*), coalesce(extract(epoch from clock_timestamp() - min(w.closed_at)), 0)::float8, count(w.trouble), max(w.trouble)
      from tendril_core.settings s,
      lateral (select l.closed_at, l.trouble from tendril_core.log_archives l where l.state = 'waiting' order by l.closed_at limit 50000) w
     where s.archive_url is not null;
end $$;
comment on function tendril_core.archive_lag is 'How many closed logs are not archived (50,000 at most), how long the oldest of them waits, and how many failed last.';

-- ---------------------------------------------------------------------------------------------------------------
-- Reading
-- ---------------------------------------------------------------------------------------------------------------

-- name of the function: log_archives
create function tendril.log_archives(p_deployment uuid)
returns table (attempt_id uuid, job text, attempt smallint, in_database boolean, log_state text, log_end bigint, url text, first_seq bigint,
  last_seq bigint, log_rows bigint, text_bytes bigint, object_bytes bigint, sha256 text, frames jsonb, stored_at timestamptz)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_material = off set jit = off as $$
begin
  perform tendril_core.seen_deployment(p_deployment);
  return query
    select a.id, j.name, a.ordinal, tendril_core.log_day_attached(a.claim_day), a.log_state, a.log_end, l.url, l.first_seq, l.last_seq,
           l.log_rows, l.text_bytes, l.object_bytes, l.sha256, l.frames, l.stored_at
      from tendril_core.attempts a join tendril_core.jobs j on j.id = a.job_id
      left join tendril_core.log_archives l on l.attempt_id = a.id
     where a.deployment_id = p_deployment and a.log_state <> 'open' and a.log_end is distinct from -1
       and (l.state = 'stored' or (l.state is distinct from 'empty' and not tendril_core.log_day_attached(a.claim_day)))
     order by a.fence;
end $$;
comment on function tendril.log_archives(uuid) is
  'Logs of a deployment that are archived or no longer in the database, in order of the claims: where they lie, and the index of each object.';

revoke execute on all functions in schema tendril, tendril_core from public;
do $$
begin
  execute format('grant execute on function tendril.log_archives(uuid) to %I', tendril_core.group_role('portal'));
end $$;
