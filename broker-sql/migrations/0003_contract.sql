-- The three contract tables that portals rely on, and who of them sees what.

-- ---------------------------------------------------------------------------------------------------------------
-- clusters
-- ---------------------------------------------------------------------------------------------------------------

create table tendril.clusters (
  id            uuid        primary key default tendril_core.uuidv7(),
  user_id       text,
  name          text        not null check (name ~ '^[[:alnum:]][[:alnum:] ._-]{0,62}$'),
  status        text        not null default 'OFFLINE' check (status in ('ONLINE', 'OFFLINE', 'REVOKED')),
  last_seen_at  timestamptz,
  created_at    timestamptz not null default clock_timestamp(),
  revoked_at    timestamptz,
  incarnation   bigint      not null default 1
);
create unique index clusters_name on tendril.clusters (coalesce(user_id, ''), name) where status <> 'REVOKED';
comment on table  tendril.clusters is 'Registered customer environments: the tenants.';
comment on column tendril.clusters.id is 'UUIDv7; also part of the names of the cluster''s login roles.';
comment on column tendril.clusters.user_id is 'The portal''s user that owns the cluster; NULL when the portal has no such notion.';
comment on column tendril.clusters.name is 'Unique per user among the clusters that are not revoked.';
comment on column tendril.clusters.status is 'ONLINE while a runner''s lease is live, OFFLINE otherwise, REVOKED for good.';
comment on column tendril.clusters.last_seen_at is 'Newest heartbeat of any runner, folded every few seconds.';
comment on column tendril.clusters.created_at is 'When the cluster was registered.';
comment on column tendril.clusters.revoked_at is 'When its credentials were withdrawn.';
comment on column tendril.clusters.incarnation is 'Rises when the database was set back in time; orders fences across such a step.';

-- ---------------------------------------------------------------------------------------------------------------
-- deployments
-- ---------------------------------------------------------------------------------------------------------------

create table tendril.deployments (
  id                   uuid        primary key default tendril_core.uuidv7(),
  cluster_id           uuid        not null references tendril.clusters (id),
  user_id              text,
  config_snapshot      jsonb       not null,
  status               text        not null default 'QUEUED'
    check (status in ('QUEUED', 'PROCESSING', 'AWAITING_APPROVAL', 'SUCCESS', 'FAILED', 'CANCELLED')),
  error_message        text,
  waiting_for          text,
  outputs              jsonb,
  engine               text,
  engine_version       text,
  state_location       text,
  created_at           timestamptz not null default clock_timestamp(),
  started_at           timestamptz,
  ended_at             timestamptz,
  cancel_requested_at  timestamptz,
  cancel_reason        text,
  retry_of             uuid references tendril.deployments (id)
) with (toast_tuple_target = 256, fillfactor = 80);
create index deployments_by_cluster on tendril.deployments (cluster_id, created_at);
create index deployments_by_user on tendril.deployments (user_id, created_at) where user_id is not null;
create index deployments_unfinished on tendril.deployments (created_at)
  where status in ('QUEUED', 'PROCESSING', 'AWAITING_APPROVAL');
create index deployments_retry_of on tendril.deployments (retry_of) where retry_of is not null;
comment on table  tendril.deployments is 'A user''s intents. INSERT is a submit; everything else goes through functions.';
comment on column tendril.deployments.id is 'Made by the client (UUIDv7) so that a submit whose reply was lost can be sent again.';
comment on column tendril.deployments.cluster_id is 'Where it runs.';
comment on column tendril.deployments.user_id is 'Who asked: portal_user(), else the cluster''s user. Set by the database.';
comment on column tendril.deployments.config_snapshot is 'What to do, frozen; docs/config-snapshot.schema.json.';
comment on column tendril.deployments.status is 'QUEUED -> PROCESSING -> SUCCESS or FAILED; also AWAITING_APPROVAL and CANCELLED.';
comment on column tendril.deployments.error_message is 'Why it failed, in one sentence; the log has the rest.';
comment on column tendril.deployments.waiting_for is 'In plain words what has to happen before it goes on; NULL when nothing is missing.';
comment on column tendril.deployments.outputs is 'Outputs of the last apply; sensitive ones are masked.';
comment on column tendril.deployments.engine is 'terraform or tofu, once a runner chose it.';
comment on column tendril.deployments.engine_version is 'The engine''s version as it reported it.';
comment on column tendril.deployments.state_location is 'Where the Terraform state lies: the state key in readable form.';
comment on column tendril.deployments.created_at is 'When it was submitted.';
comment on column tendril.deployments.started_at is 'When its first job was claimed.';
comment on column tendril.deployments.ended_at is 'When its last job ended.';
comment on column tendril.deployments.cancel_requested_at is 'When somebody asked to cancel it.';
comment on column tendril.deployments.cancel_reason is 'The reason given for that.';
comment on column tendril.deployments.retry_of is 'The deployment that this one does again.';

-- ---------------------------------------------------------------------------------------------------------------
-- deployment_logs: the root has row-level security and is what readers see. COPY FROM is refused on such a table,
-- so its one child, the inbox, has none and is what runners may COPY into; the inbox is partitioned by day.
-- ---------------------------------------------------------------------------------------------------------------

create sequence tendril.deployment_logs_id_seq as bigint cache 256;

create table tendril.deployment_logs (
  id             bigint      not null default nextval('tendril.deployment_logs_id_seq'),
  cluster_id     uuid        not null,
  deployment_id  uuid        not null,
  attempt_id     uuid        not null,
  fence          bigint      not null,
  claim_day      date        not null,
  job            text        not null,
  attempt        smallint    not null,
  seq            bigint      not null check (seq >= 0),
  seq_to         bigint      not null,
  stream         text        not null check (stream in ('stdout', 'stderr', 'system')),
  log_chunk      text        not null,
  ts             timestamptz not null,
  gap_kind       text,
  gap_bytes      bigint,
  check (seq_to >= seq),
  -- Two rows collide only if all of the key is equal: with cluster_id in it, which no tenant chooses, one tenant's open
  -- COPY can never hold up another's. deployment_id leads, since that is what readers ask by.
  primary key (deployment_id, attempt_id, seq, cluster_id, claim_day)
) partition by range (claim_day);
alter sequence tendril.deployment_logs_id_seq owned by tendril.deployment_logs.id;
comment on table  tendril.deployment_logs is 'What jobs printed: append-only chunks of framed records.';
comment on column tendril.deployment_logs.id is 'A number of its own; given before commit, so never a position to read from.';
comment on column tendril.deployment_logs.cluster_id is 'Stamped by the database from the runner''s login role.';
comment on column tendril.deployment_logs.deployment_id is 'The deployment.';
comment on column tendril.deployment_logs.attempt_id is 'The attempt that printed it.';
comment on column tendril.deployment_logs.fence is 'The attempt''s fence.';
comment on column tendril.deployment_logs.claim_day is 'The UTC day of the attempt''s claim: the partition, however long the job runs.';
comment on column tendril.deployment_logs.job is 'The job''s name within the deployment.';
comment on column tendril.deployment_logs.attempt is 'Ordinal of the attempt within its job: 1, 2, 3.';
comment on column tendril.deployment_logs.seq is 'Number of the first framed record; an attempt''s records count from 0 without holes.';
comment on column tendril.deployment_logs.seq_to is 'Number of the last record in this chunk.';
comment on column tendril.deployment_logs.stream is 'stdout, stderr, or system for lines of Tendril''s own.';
comment on column tendril.deployment_logs.log_chunk is 'The records'' text, sanitised; line ends included.';
comment on column tendril.deployment_logs.ts is 'Arrival of the first record by the runner''s clock.';
comment on column tendril.deployment_logs.gap_kind is 'Set on a row that stands for lost output: what lost it.';
comment on column tendril.deployment_logs.gap_bytes is 'Bytes lost; NULL when unknown.';

create table tendril.log_inbox partition of tendril.deployment_logs (
  cluster_id default substr(session_user::text, 3, 32)::uuid,
  id         default nextval('tendril.deployment_logs_id_seq')
) for values from (minvalue) to (maxvalue) partition by range (claim_day);
comment on table tendril.log_inbox is 'The only door for log rows: runners COPY here, the check looks at each batch once.';

-- ---------------------------------------------------------------------------------------------------------------
-- Who sees what
-- ---------------------------------------------------------------------------------------------------------------

create table tendril_core.portal_grants (
  role        text not null,
  scope       text not null check (scope in ('all', 'cluster', 'own')),
  cluster_id  uuid references tendril.clusters (id),
  granted_at  timestamptz not null default clock_timestamp(),
  check ((scope = 'cluster') = (cluster_id is not null)),
  unique nulls not distinct (role, scope, cluster_id)
);
comment on table  tendril_core.portal_grants is 'What each portal role may see and submit.';
comment on column tendril_core.portal_grants.role is 'A role of this server.';
comment on column tendril_core.portal_grants.scope is 'all: every cluster; cluster: that one; own: rows whose user_id is portal_user().';
comment on column tendril_core.portal_grants.cluster_id is 'The cluster of scope cluster.';
comment on column tendril_core.portal_grants.granted_at is 'When it was granted.';

-- A user's own portal_user() survives migrations. Ours asks Supabase where that is present, else knows nobody.
do $$
begin
  if to_regprocedure('tendril.portal_user()') is null then
    if to_regprocedure('auth.uid()') is not null then
      execute 'create function tendril.portal_user() returns text language sql stable as ''select auth.uid()::text''';
    else
      execute 'create function tendril.portal_user() returns text language sql stable as ''select null::text''';
    end if;
  end if;
  comment on function tendril.portal_user() is
    'Who the portal''s user is, for grants of scope own. Replace it; it counts only for roles that cannot run SQL of their own.';
end $$;

create function tendril_core.sees_all() returns boolean
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
  return exists (select from tendril_core.portal_grants g
                  where g.scope = 'all' and g.role = tendril_core.caller());
end $$;
comment on function tendril_core.sees_all is 'Whether the caller may see every cluster.';

create function tendril_core.seen_clusters() returns uuid[]
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
  return (select coalesce(array_agg(g.cluster_id), '{}') from tendril_core.portal_grants g
           where g.scope = 'cluster' and g.role = tendril_core.caller());
end $$;
comment on function tendril_core.seen_clusters is 'The clusters that the caller was granted one by one.';

create function tendril_core.seen_user() returns text
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
  return (select tendril.portal_user() from tendril_core.portal_grants g
           where g.scope = 'own' and g.role = tendril_core.caller());
end $$;
comment on function tendril_core.seen_user is 'The portal''s user, if the caller was granted what is that user''s own.';

create function tendril_core.is_owner() returns boolean
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
  return pg_has_role(tendril_core.caller(), (select nspowner from pg_namespace where nspname = 'tendril_core'), 'USAGE');
end $$;
comment on function tendril_core.is_owner is 'Whether the caller is the operator: owner of the schema, or somebody with the owner''s rights.';

create function tendril_core.sees(p_cluster uuid, p_user text) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  return tendril_core.is_owner() or tendril_core.sees_all() or p_cluster = any (tendril_core.seen_clusters())
      or coalesce(p_user = tendril_core.seen_user(), false);
end $$;
comment on function tendril_core.sees is 'Whether the caller may see a row of this cluster and user; for use inside functions.';

alter table tendril.clusters enable row level security;
alter table tendril.deployments enable row level security;
alter table tendril.deployment_logs enable row level security;

create policy portal_reads on tendril.clusters for select using (
  (select tendril_core.sees_all()) or id = any ((select tendril_core.seen_clusters())::uuid[])
  or user_id = (select tendril_core.seen_user()));
create policy portal_reads on tendril.deployments for select using (
  (select tendril_core.sees_all()) or cluster_id = any ((select tendril_core.seen_clusters())::uuid[])
  or user_id = (select tendril_core.seen_user()));
-- Which clusters a caller may submit to is checked by the row trigger, which can name the cluster in its error.
create policy portal_submits on tendril.deployments for insert with check (true);
create policy portal_reads on tendril.deployment_logs for select using (
  (select tendril_core.sees_all()) or cluster_id = any ((select tendril_core.seen_clusters())::uuid[])
  or exists (select from tendril.deployments d where d.id = deployment_logs.deployment_id));

revoke execute on all functions in schema tendril, tendril_core from public;
do $$
begin
  execute format('grant select on tendril.clusters, tendril.deployments, tendril.deployment_logs to %I',
    tendril_core.group_role('portal'));
  -- UPDATE on one column, without a policy: enough for a trigger to refuse it with a hint, too little to LOCK TABLE.
  execute format('grant insert (id, cluster_id, config_snapshot, status), update (status) on tendril.deployments to %I',
    tendril_core.group_role('portal'));
  execute format('grant execute on function tendril_core.sees_all(), tendril_core.seen_clusters(), '
    'tendril_core.seen_user(), tendril_core.uuidv7(), tendril.portal_user() to %I', tendril_core.group_role('portal'));
  execute format('grant insert (deployment_id, attempt_id, fence, claim_day, job, attempt, seq, seq_to, stream, '
    'log_chunk, ts, gap_kind, gap_bytes) on tendril.log_inbox to %I', tendril_core.group_role('runner'));
  execute format('grant usage on sequence tendril.deployment_logs_id_seq to %I', tendril_core.group_role('runner'));
end $$;
