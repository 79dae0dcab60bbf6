-- Foundation: schemas, the installation and its group roles, settings, identity of the caller, stable errors.
--
-- Needs a role with CREATEROLE and CREATE on the database; no superuser, no extension. Postgres 15 to 18.

create schema if not exists tendril;
create schema if not exists tendril_core;
comment on schema tendril is 'The surface: contract tables, views and functions for portals, runners and operators.';
comment on schema tendril_core is 'Behind the surface: tables and functions that only the owner reaches. No promise is made about them.';

-- Roles are server-wide, so that their names carry the id of this installation.
create table tendril_core.installation (
  one         boolean primary key default true check (one),
  id          text        not null check (id ~ '^[0-9a-f]{8}$'),
  api_min     integer     not null,
  api_max     integer     not null check (api_max >= api_min),
  created_at  timestamptz not null default clock_timestamp()
);
comment on table  tendril_core.installation is 'One row: who this installation is and which runner protocols it speaks.';
comment on column tendril_core.installation.one is 'Always true: keeps the table at one row.';
comment on column tendril_core.installation.id is 'Eight hex digits; part of the group roles'' names, since roles are shared by all databases of a server.';
comment on column tendril_core.installation.api_min is 'Oldest runner protocol version that is served.';
comment on column tendril_core.installation.api_max is 'Newest runner protocol version that is served.';
comment on column tendril_core.installation.created_at is 'When the first migration ran.';

create table tendril_core.settings (
  one                    boolean  primary key default true check (one),
  lease_ttl              interval not null default '30 s',
  heartbeat_interval     interval not null default '10 s',
  unknown_kill_grace     interval not null default '30 s',
  log_window             interval not null default '24 h',
  drain_for              interval not null default '1 h',
  session_max_age        interval not null default '10 s',
  copy_max_age           interval not null default '30 s',
  partitions_ahead       integer  not null default 7 check (partitions_ahead between 1 and 60),
  artifact_max_bytes     integer  not null default 33554432 check (artifact_max_bytes between 65536 and 268435456),
  snapshot_max_bytes     integer  not null default 1048576 check (snapshot_max_bytes between 4096 and 16777216),
  runner_connections     integer  not null default 16 check (runner_connections between 4 and 1000),
  listeners_max          integer  not null default 100 check (listeners_max >= 0),
  ring_gap               interval not null default '50 ms',
  check (lease_ttl between '1 s' and '1 h'),
  check (heartbeat_interval <= lease_ttl / 3),
  check (log_window >= '1 min')
);
comment on table  tendril_core.settings is 'One row: the numbers an operator may change, with their relations checked.';
comment on column tendril_core.settings.one is 'Always true: keeps the table at one row.';
comment on column tendril_core.settings.lease_ttl is 'How long a runner may stay silent before its attempts count as lost.';
comment on column tendril_core.settings.heartbeat_interval is 'How often a runner renews its lease; at most a third of lease_ttl.';
comment on column tendril_core.settings.unknown_kill_grace is 'Added to a job''s own timeout and kill grace before an UNKNOWN job ends as "outcome unknown".';
comment on column tendril_core.settings.log_window is 'How long after its end an attempt may still append log rows.';
comment on column tendril_core.settings.drain_for is 'How long a rotated or revoked credential may finish what it holds.';
comment on column tendril_core.settings.session_max_age is 'Oldest transaction a runner''s session may hold before it is ended.';
comment on column tendril_core.settings.copy_max_age is 'The same for a COPY that makes progress.';
comment on column tendril_core.settings.partitions_ahead is 'Days for which log partitions exist in advance.';
comment on column tendril_core.settings.artifact_max_bytes is 'Largest artifact that is accepted, in bytes.';
comment on column tendril_core.settings.snapshot_max_bytes is 'Largest config_snapshot that is accepted, in bytes of its text.';
comment on column tendril_core.settings.runner_connections is 'CONNECTION LIMIT of each credential generation.';
comment on column tendril_core.settings.listeners_max is 'Up to how many online runners are told to LISTEN; the others poll with their heartbeat.';
comment on column tendril_core.settings.ring_gap is 'Shortest time between two doorbell rings for one cluster.';
insert into tendril_core.settings default values;

-- ---------------------------------------------------------------------------------------------------------------
-- Errors. Every refusal of ours carries one of these SQLSTATEs; docs/SQL.md lists them.
-- ---------------------------------------------------------------------------------------------------------------

create function tendril_core.fail(p_code text, p_message text, p_hint text default '', p_detail text default '') returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  raise exception using errcode = p_code, message = p_message, hint = p_hint, detail = p_detail;
end $$;
comment on function tendril_core.fail is 'Raises an error with one of the stable SQLSTATEs TD001 to TD013.';

-- name of the function: guard
-- A check under an older snapshot would let a superseded attempt pass; and a tenant must not lower the durability
-- of a transition. A SET clause of the calling function would be undone before the commit: hence set_config.
create function tendril_core.guard() returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    perform tendril_core.fail('TD007', format('transaction isolation is %s', current_setting('transaction_isolation')),
      'begin the transaction with ISOLATION LEVEL READ COMMITTED');
  end if;
  perform set_config('synchronous_commit', 'on', true);
end $$;
comment on function tendril_core.guard is 'First line of every state-changing function: read committed only, durable commit.';

-- ---------------------------------------------------------------------------------------------------------------
-- Ids and identity
-- ---------------------------------------------------------------------------------------------------------------

-- A function in SQL that has a SET clause is parsed and planned anew by each statement that calls it; one in PL/pgSQL once
-- per session. What runs at each submit, claim or start is therefore written in PL/pgSQL.

create function tendril_core.uuidv7() returns uuid
language plpgsql volatile parallel safe set search_path = pg_catalog, pg_temp as $$
begin
  -- 48 bits of milliseconds over a random v4, then the version bits 0100 become 0111 (RFC 9562).
  return encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid())
           placing substring(int8send((extract(epoch from clock_timestamp()) * 1000)::bigint) from 3) from 1 for 6),
           52, 1), 53, 1), 'hex')::uuid;
end $$;
comment on function tendril_core.uuidv7 is 'A time-ordered UUID (RFC 9562, version 7).';

create function tendril_core.caller() returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  -- Inside SECURITY DEFINER current_user is the owner: the caller is the role that was set, else the login.
  return case when current_setting('role') in ('none', '') then session_user::text else current_setting('role') end;
end $$;
comment on function tendril_core.caller is 'The role that called, also from inside SECURITY DEFINER functions.';

create function tendril_core.group_role(p_kind text) returns text
language sql stable set search_path = pg_catalog, pg_temp as $$
  -- name of the function: group_role
  select 'tendril_' || p_kind || '_' || id from tendril_core.installation
$$;
comment on function tendril_core.group_role is 'Name of this installation''s group role: kind is runner or portal.';

do $$
declare
  v_id   text := substr(replace(gen_random_uuid()::text, '-', ''), 1, 8);
  v_role text;
begin
  insert into tendril_core.installation (id, api_min, api_max) values (v_id, 1, 1);
  foreach v_role in array array['tendril_runner_' || v_id, 'tendril_portal_' || v_id] loop
    execute format('create role %I nologin', v_role);
    execute format('grant usage on schema tendril to %I', v_role);
  end loop;
  execute format('comment on role %I is %L', 'tendril_runner_' || v_id, 'Tendril: what every runner credential may do');
  execute format('comment on role %I is %L', 'tendril_portal_' || v_id, 'Tendril: what every portal may do');
exception when insufficient_privilege then
  raise exception using errcode = '42501', message = 'cannot create the group roles: ' || sqlerrm,
    hint = 'run the migrations as a role with CREATEROLE and CREATE on the database (ALTER ROLE name CREATEROLE)';
end $$;

revoke execute on all functions in schema tendril_core from public;
