-- Live log lines for Supabase Realtime, which follows plain tables under row-level security and not partitions of one: a small
-- table with the newest chunks of those deployments that somebody watches just now. It is a hint, as a doorbell is: what
-- counts is read by position.

alter table tendril_core.settings
  add column log_watch_for      interval not null default '60 s' check (log_watch_for between '5 s' and '1 h'),
  add column log_watches_user   integer  not null default 20     check (log_watches_user >= 0),
  add column log_watches_max    integer  not null default 200    check (log_watches_max between 0 and 10000),
  add column live_logs_kept     interval not null default '60 s' check (live_logs_kept between '5 s' and '1 h');
comment on column tendril_core.settings.log_watch_for is 'How long watch_logs counts before it has to be called again.';
comment on column tendril_core.settings.log_watches_user is 'How many deployments a portal''s user may watch at once.';
comment on column tendril_core.settings.log_watches_max is 'How many watches a cluster may have at once.';
comment on column tendril_core.settings.live_logs_kept is 'How long a row of live_logs is kept.';

create table tendril_core.log_watches (
  deployment_id  uuid        not null,
  watcher        text        not null,
  cluster_id     uuid        not null,
  expires_at     timestamptz not null,
  primary key (deployment_id, watcher)
) with (fillfactor = 50);
create index log_watches_by_cluster on tendril_core.log_watches (cluster_id);
comment on table  tendril_core.log_watches is 'Who watches the log of which deployment just now.';
comment on column tendril_core.log_watches.deployment_id is 'The deployment.';
comment on column tendril_core.log_watches.watcher is 'The role, and the portal''s user if there is one.';
comment on column tendril_core.log_watches.cluster_id is 'The deployment''s cluster.';
comment on column tendril_core.log_watches.expires_at is 'Until when, unless it is renewed.';

-- The key is a number that says nothing: whoever follows the table is told the keys of deleted rows, whatever the policy says.
create table tendril.live_logs (
  id             bigint      primary key,
  cluster_id     uuid        not null,
  deployment_id  uuid        not null,
  user_id        text,
  attempt_id     uuid        not null,
  job            text        not null,
  attempt        smallint    not null,
  seq            bigint      not null,
  seq_to         bigint      not null,
  stream         text        not null,
  log_chunk      text        not null,
  ts             timestamptz not null,
  gap_kind       text,
  gap_bytes      bigint,
  stored_at      timestamptz not null default clock_timestamp()
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
comment on table  tendril.live_logs is 'The newest chunks of watched deployments, for a minute: a hint for readers, who fill what is missing by position.';
comment on column tendril.live_logs.id is 'As in deployment_logs; never a position to read from.';
comment on column tendril.live_logs.cluster_id is 'Where it ran.';
comment on column tendril.live_logs.deployment_id is 'The deployment.';
comment on column tendril.live_logs.user_id is 'Whose deployment it is.';
comment on column tendril.live_logs.attempt_id is 'The attempt that printed it.';
comment on column tendril.live_logs.job is 'The job''s name within the deployment.';
comment on column tendril.live_logs.attempt is 'Ordinal of the attempt within its job: 1, 2, 3.';
comment on column tendril.live_logs.seq is 'Number of the first framed record.';
comment on column tendril.live_logs.seq_to is 'Number of the last record in this chunk.';
comment on column tendril.live_logs.stream is 'stdout, stderr, or system for lines of Tendril''s own.';
comment on column tendril.live_logs.log_chunk is 'The records'' text, sanitised; line ends included.';
comment on column tendril.live_logs.ts is 'Arrival of the first record by the runner''s clock.';
comment on column tendril.live_logs.gap_kind is 'Set on a row that stands for lost output: what lost it.';
comment on column tendril.live_logs.gap_bytes is 'Bytes lost; NULL when unknown.';
comment on column tendril.live_logs.stored_at is 'When it was stored.';

alter table tendril.live_logs enable row level security;
create policy portal_reads on tendril.live_logs for select using (
  (select tendril_core.sees_all()) or cluster_id = any ((select tendril_core.seen_clusters())::uuid[])
  or user_id = (select tendril_core.seen_user()));

create function tendril.watch_logs(p_deployment uuid) returns timestamptz
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set enable_bitmapscan = off set enable_material = off set jit = off as $$
declare
  d         tendril.deployments := tendril_core.seen_deployment(p_deployment);
  s         tendril_core.settings;
  v_user    text := tendril.portal_user();
  v_watcher text := tendril_core.caller() || coalesce(' ' || v_user, '');
  v_now     timestamptz := clock_timestamp();
begin
  perform tendril_core.guard();
  select * into s from tendril_core.settings;
  if not exists (select from tendril_core.log_watches w where w.deployment_id = d.id and w.watcher = v_watcher and w.expires_at > v_now) then
    if (select count(*) from tendril_core.log_watches w where w.cluster_id = d.cluster_id and w.expires_at > v_now) >= s.log_watches_max then
      perform tendril_core.fail('TD011', format('the cluster''s deployments have %s watches', s.log_watches_max), 'poll tendril.tail; an operator can raise log_watches_max');
    end if;
    if v_user is not null and (select count(*) from tendril_core.log_watches w where w.watcher = v_watcher and w.expires_at > v_now) >= s.log_watches_user then
      perform tendril_core.fail('TD011', format('%s watches %s deployments', v_user, s.log_watches_user),
        format('let one go, which takes %s s, or poll tendril.tail', tendril_core.ms(s.log_watch_for) / 1000));
    end if;
  end if;
  insert into tendril_core.log_watches as w (deployment_id, watcher, cluster_id, expires_at)
    values (d.id, v_watcher, d.cluster_id, v_now + s.log_watch_for)
    on conflict (deployment_id, watcher) do update set expires_at = excluded.expires_at;
  return v_now + s.log_watch_for;
end $$;
comment on function tendril.watch_logs(uuid) is
  'Has new log chunks of a deployment copied to live_logs for a minute; call it again to go on. Returns until when.';

-- name of the function: log_live
-- Once per batch, after the check. When nobody watches it costs one look into an index. Of a flood only the newest chunks are
-- shown: who wants all of it reads by position anyway.
create function tendril_core.log_live() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
set enable_hashjoin = off set enable_mergejoin = off set enable_seqscan = off set enable_bitmapscan = off set enable_material = off set jit = off as $$
declare
  v_watched uuid[] := array(select w.deployment_id from tendril_core.log_watches w
    where w.cluster_id = substr(session_user::text, 3, 32)::uuid and w.expires_at > clock_timestamp());
begin
  if cardinality(v_watched) = 0 then
    return null;
  end if;
  insert into tendril.live_logs (id, cluster_id, deployment_id, user_id, attempt_id, job, attempt, seq, seq_to, stream, log_chunk, ts, gap_kind, gap_bytes)
    select n.id, n.cluster_id, n.deployment_id, (select d.user_id from tendril.deployments d where d.id = n.deployment_id),
           n.attempt_id, n.job, n.attempt, n.seq, n.seq_to, n.stream, n.log_chunk, n.ts, n.gap_kind, n.gap_bytes
      from (select x.* from (
              select b.*, row_number() over (partition by b.attempt_id order by b.seq desc) as nth from batch b where b.deployment_id = any (v_watched)) x
             where x.nth <= 50 order by x.nth limit 500) n
     order by n.attempt_id, n.seq;
  return null;
end $$;
comment on function tendril_core.log_live is 'Copies a batch''s newest chunks of watched deployments to live_logs.';
create trigger log_live after insert on tendril.log_inbox
  referencing new table as batch for each statement execute function tendril_core.log_live();

create function tendril_core.duty_live_logs() returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_n bigint;
begin
  delete from tendril_core.log_watches where expires_at < clock_timestamp();
  delete from tendril.live_logs l where l.stored_at < clock_timestamp() - (select live_logs_kept from tendril_core.settings)
      or l.id in (select x.id from (select y.id, row_number() over (partition by y.deployment_id order by y.stored_at desc, y.id desc) as nth from tendril.live_logs y) x
                   where x.nth > 2000);
  get diagnostics v_n = row_count;
  return v_n;
end $$;
comment on function tendril_core.duty_live_logs is 'Removes old rows of live_logs, all but 2000 of a deployment, and watches that nobody renewed.';
insert into tendril_core.duties (name, every) values ('live_logs', '5 s');

revoke execute on all functions in schema tendril, tendril_core from public;
do $$
begin
  execute format('grant select on tendril.live_logs to %I', tendril_core.group_role('portal'));
  execute format('grant execute on function tendril.watch_logs(uuid) to %I', tendril_core.group_role('portal'));
end $$;
