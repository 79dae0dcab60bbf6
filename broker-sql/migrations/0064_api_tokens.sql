-- API tokens: what a program that serves holders of tokens (control-api) may see and do is what the token may that it
-- presents in a transaction. Its own role sees nothing; the tokens' secrets are not here, only their digests.

create table tendril_core.api_tokens (
  id            uuid        primary key default tendril_core.uuidv7(),
  name          text        not null check (name ~ '^[[:alnum:]][[:alnum:] ._-]{0,62}$'),
  hash          bytea       not null unique check (octet_length(hash) = 32),
  scopes        text[]      not null check (cardinality(scopes) > 0 and scopes <@ array['read', 'logs', 'submit', 'cancel', 'approve']),
  sees_all      boolean     not null,
  user_id       text,
  created_by    text        not null,
  created_at    timestamptz not null default clock_timestamp(),
  expires_at    timestamptz,
  revoked_at    timestamptz,
  last_used_at  timestamptz
);
create unique index api_tokens_name on tendril_core.api_tokens (name) where revoked_at is null;
comment on table  tendril_core.api_tokens is 'Who may use the HTTP API, and for what.';
comment on column tendril_core.api_tokens.id is 'UUIDv7.';
comment on column tendril_core.api_tokens.name is 'For people; unique among the tokens that are not revoked. Decisions of the token''s holder bear it.';
comment on column tendril_core.api_tokens.hash is 'SHA-256 of the token, which itself is 256 random bits and stored nowhere.';
comment on column tendril_core.api_tokens.scopes is 'What it may do: read, logs, submit, cancel, approve.';
comment on column tendril_core.api_tokens.sees_all is 'Whether it sees every cluster; else those of api_token_clusters and what is user_id''s own.';
comment on column tendril_core.api_tokens.user_id is 'The portal''s user that its holder is: becomes deployments.user_id, and without clusters it sees that user''s own.';
comment on column tendril_core.api_tokens.created_by is 'The role that made it.';
comment on column tendril_core.api_tokens.created_at is 'When it was made.';
comment on column tendril_core.api_tokens.expires_at is 'From then on it is as if revoked; NULL for never.';
comment on column tendril_core.api_tokens.revoked_at is 'When it was revoked.';
comment on column tendril_core.api_tokens.last_used_at is 'When it was presented last, to the minute.';

create table tendril_core.api_token_clusters (
  token_id    uuid not null references tendril_core.api_tokens (id),
  cluster_id  uuid not null references tendril.clusters (id),
  primary key (token_id, cluster_id)
);
comment on table  tendril_core.api_token_clusters is 'The clusters that a token was granted one by one.';
comment on column tendril_core.api_token_clusters.token_id is 'The token.';
comment on column tendril_core.api_token_clusters.cluster_id is 'The cluster.';

alter table tendril_core.portal_grants drop constraint portal_grants_scope_check;
alter table tendril_core.portal_grants add constraint portal_grants_scope_check check (scope in ('all', 'cluster', 'own', 'tokens'));
comment on column tendril_core.portal_grants.scope is
  'all: every cluster; cluster: that one; own: rows whose user_id is portal_user(); tokens: what the API token may that was presented in the transaction.';

-- ---------------------------------------------------------------------------------------------------------------
-- Identity. Every rule about who sees what asks one of the functions below, so a token changes these and nothing else.
-- ---------------------------------------------------------------------------------------------------------------

create function tendril_core.login() returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
  -- Inside SECURITY DEFINER current_user is the owner: the caller is the role that was set, else the login.
  return case when current_setting('role') in ('none', '') then session_user::text else current_setting('role') end;
end $$;
comment on function tendril_core.login is 'The role that called, whatever token it presents.';

-- name of the function: takes_tokens
-- Only of such a role a presented token counts: for everybody else the setting is a word without meaning.
create function tendril_core.takes_tokens() returns boolean
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
  return exists (select from tendril_core.portal_grants g where g.scope = 'tokens' and g.role = tendril_core.login());
end $$;
comment on function tendril_core.takes_tokens is 'Whether the caller sees what a presented token may.';

create function tendril_core.token_id() returns uuid
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_hash text := current_setting('tendril.api_token', true);
begin
  if coalesce(v_hash, '') = '' or not tendril_core.takes_tokens() then
    return null;
  end if;
  -- Whoever presents something that is no token any more is nobody, not the role itself.
  return coalesce((select t.id from tendril_core.api_tokens t
     where v_hash ~ '^[0-9a-f]{64}$' and t.hash = decode(v_hash, 'hex') and t.revoked_at is null
       and (t.expires_at is null or t.expires_at > clock_timestamp())), '00000000-0000-0000-0000-000000000000');
end $$;
comment on function tendril_core.token_id is 'The API token that was presented in this transaction; the nil UUID for one that does not hold, NULL for none.';

create or replace function tendril_core.caller() returns text
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_token uuid;
begin
  if coalesce(current_setting('tendril.api_token', true), '') <> '' then
    v_token := tendril_core.token_id();
  end if;
  if v_token is not null then
    return 'token ' || coalesce((select t.name from tendril_core.api_tokens t where t.id = v_token), 'unknown');
  end if;
  -- Inside SECURITY DEFINER current_user is the owner: the caller is the role that was set, else the login.
  return case when current_setting('role') in ('none', '') then session_user::text else current_setting('role') end;
end $$;
comment on function tendril_core.caller is 'The role that called, also from inside SECURITY DEFINER functions; with a token presented, that token.';

create or replace function tendril_core.sees_all() returns boolean
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_token uuid := tendril_core.token_id();
begin
  if v_token is not null then
    return exists (select from tendril_core.api_tokens t where t.id = v_token and t.sees_all);
  end if;
  return exists (select from tendril_core.portal_grants g
                  where g.scope = 'all' and g.role = tendril_core.caller());
end $$;

create or replace function tendril_core.seen_clusters() returns uuid[]
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_token uuid := tendril_core.token_id();
begin
  if v_token is not null then
    return (select coalesce(array_agg(c.cluster_id), '{}') from tendril_core.api_token_clusters c where c.token_id = v_token);
  end if;
  return (select coalesce(array_agg(g.cluster_id), '{}') from tendril_core.portal_grants g
           where g.scope = 'cluster' and g.role = tendril_core.caller());
end $$;

create or replace function tendril_core.seen_user() returns text
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_token uuid := tendril_core.token_id();
begin
  if v_token is not null then
    return (select t.user_id from tendril_core.api_tokens t where t.id = v_token
             and not exists (select from tendril_core.api_token_clusters c where c.token_id = v_token));
  end if;
  return (select tendril.portal_user() from tendril_core.portal_grants g
           where g.scope = 'own' and g.role = tendril_core.caller());
end $$;

create or replace function tendril_core.is_owner() returns boolean
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
  return tendril_core.token_id() is null
     and pg_has_role(tendril_core.login(), (select nspowner from pg_namespace where nspname = 'tendril_core'), 'USAGE');
end $$;

-- Fires behind submit_row, by its name; who presents no token does not get as far as calling it.
create function tendril_core.submit_token_user() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  new.user_id := coalesce((select t.user_id from tendril_core.api_tokens t where t.id = tendril_core.token_id()), new.user_id);
  return new;
end $$;
comment on function tendril_core.submit_token_user is 'A deployment that came with a user''s token is that user''s.';
create trigger submit_token_user before insert on tendril.deployments for each row
  when (current_setting('tendril.api_token', true) <> '') execute function tendril_core.submit_token_user();

-- ---------------------------------------------------------------------------------------------------------------
-- For the program that serves their holders
-- ---------------------------------------------------------------------------------------------------------------

create function tendril.token_present(p_hash bytea, p_scope text) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  t tendril_core.api_tokens;
begin
  if not tendril_core.takes_tokens() then
    perform tendril_core.fail('TD004', format('%s may not present API tokens', tendril_core.login()),
      'tendril-broker portal grant ROLE --scope tokens');
  end if;
  -- What was presented before in this transaction is taken back, whatever comes of this.
  perform set_config('tendril.api_token', repeat('0', 64), true);
  select * into t from tendril_core.api_tokens x
   where x.hash = p_hash and x.revoked_at is null and (x.expires_at is null or x.expires_at > clock_timestamp());
  if not found then
    return null;
  end if;
  if p_scope is null or not p_scope = any (t.scopes) then
    return jsonb_build_object('id', t.id, 'name', t.name, 'allowed', false, 'scopes', t.scopes);
  end if;
  perform set_config('tendril.api_token', encode(p_hash, 'hex'), true);
  -- Once a minute, and never waiting for a request of the same token that is under way.
  if coalesce(t.last_used_at < clock_timestamp() - interval '1 min', true) then
    update tendril_core.api_tokens x set last_used_at = clock_timestamp()
     where x.id in (select y.id from tendril_core.api_tokens y where y.id = t.id for no key update skip locked);
  end if;
  return jsonb_build_object('id', t.id, 'name', t.name, 'allowed', true, 'scopes', t.scopes);
end $$;
comment on function tendril.token_present(bytea, text) is
  'Makes the rest of the transaction that of an API token with this SHA-256, if it has the scope; NULL for no such token.';

-- ---------------------------------------------------------------------------------------------------------------
-- For operators
-- ---------------------------------------------------------------------------------------------------------------

create function tendril.token_create(p_name text, p_hash bytea, p_scopes text[], p_clusters uuid[] default null,
  p_user text default null, p_all boolean default false, p_expires_in interval default null) returns uuid
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_id      uuid;
  v_missing uuid;
begin
  if (p_all and p_clusters is not null) or not (p_all or coalesce(cardinality(p_clusters) > 0, false) or p_user is not null) then
    perform tendril_core.fail('TD001', 'clusters: a token sees all clusters, some, or what is a user''s own', 'say one of them');
  end if;
  if p_expires_in <= interval '0' then
    perform tendril_core.fail('TD001', format('expires_in: %s is over already', p_expires_in), 'such as 90 days');
  end if;
  v_missing := (select u.id from unnest(p_clusters) u(id) left join tendril.clusters c on c.id = u.id where c.id is null limit 1);
  if v_missing is not null then
    perform tendril_core.fail('TD002', format('there is no cluster %s', v_missing), 'tendril-broker cluster list');
  end if;
  insert into tendril_core.api_tokens (name, hash, scopes, sees_all, user_id, created_by, expires_at)
    values (p_name, p_hash, array(select distinct s from unnest(p_scopes) s order by 1), p_all, p_user, tendril_core.caller(), clock_timestamp() + p_expires_in)
    returning id into v_id;
  insert into tendril_core.api_token_clusters (token_id, cluster_id) select distinct v_id, u from unnest(p_clusters) u;
  return v_id;
exception
  when check_violation or not_null_violation then
    perform tendril_core.fail('TD001', format('token: %s', sqlerrm),
      'a name of letters, digits, space, dot, dash, underscore; scopes read, logs, submit, cancel, approve; the token''s SHA-256');
  when unique_violation then
    perform tendril_core.fail('TD003', format('there is a token %s already', p_name), 'revoke it first, or take another name');
end $$;
comment on function tendril.token_create(text, bytea, text[], uuid[], text, boolean, interval) is
  'Makes an API token of which only the SHA-256 is known here; returns its id.';

create function tendril.token_revoke(p_token text) returns uuid
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_id uuid;
begin
  update tendril_core.api_tokens t set revoked_at = clock_timestamp()
   where (t.id::text = p_token or t.name = p_token) and t.revoked_at is null returning t.id into v_id;
  if v_id is null then
    perform tendril_core.fail('TD002', format('there is no token %s that is not revoked', coalesce(p_token, 'NULL')), 'tendril-broker token list');
  end if;
  return v_id;
end $$;
comment on function tendril.token_revoke(text) is 'Revokes an API token, by name or id: it ends at once, streams within seconds.';

create or replace function tendril.portal_grant(p_role text, p_scope text, p_cluster uuid default null) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  c_scopes constant text := 'all, own, tokens, or cluster together with a cluster''s id';
begin
  if not exists (select from pg_roles where rolname = p_role) then
    perform tendril_core.fail('TD002', format('there is no role %s on this server', coalesce(p_role, 'NULL')), 'create it first');
  end if;
  -- A runner sees its own cluster through its credential; as a portal it would see others'.
  if exists (select from tendril_core.cluster_credentials c where c.role_name = p_role) then
    perform tendril_core.fail('TD001', format('role: %s is a runner''s credential', p_role), 'give the portal a role of its own');
  end if;
  if p_scope is null or p_scope not in ('all', 'own', 'cluster', 'tokens') then
    perform tendril_core.fail('TD001', format('scope: %s is none', coalesce(p_scope, 'NULL')), c_scopes);
  end if;
  -- A role that serves tokens must see nothing without one.
  if exists (select from tendril_core.portal_grants g where g.role = p_role and (g.scope = 'tokens') <> (p_scope = 'tokens')) then
    perform tendril_core.fail('TD003', format('role %s has a grant of another kind: scope tokens stands alone', p_role),
      'give the API a role of its own');
  end if;
  insert into tendril_core.portal_grants (role, scope, cluster_id) values (p_role, p_scope, p_cluster) on conflict do nothing;
  execute format('grant %I to %I', tendril_core.group_role('portal'), p_role);
exception
  when check_violation then
    perform tendril_core.fail('TD001', case p_scope when 'cluster' then 'scope: cluster needs a cluster''s id'
      else format('scope: %s names no cluster', p_scope) end, c_scopes);
  when foreign_key_violation then
    perform tendril_core.fail('TD002', format('there is no cluster %s', p_cluster), 'tendril-broker cluster list');
end $$;

revoke execute on all functions in schema tendril, tendril_core from public;
do $$
begin
  execute format('grant execute on function tendril.token_present(bytea, text) to %I', tendril_core.group_role('portal'));
end $$;
