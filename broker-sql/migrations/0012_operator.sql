-- What operators call: clusters and credentials, portals' grants, templates, decisions about lost work.

-- ---------------------------------------------------------------------------------------------------------------
-- Credentials. A secret never stands in a statement: the verifier is computed here, and CREATE ROLE gets that.
-- ---------------------------------------------------------------------------------------------------------------

create function tendril_core.bits_to_bytes(p_bits bit varying) returns bytea
language sql immutable strict set search_path = pg_catalog, pg_temp as $$
  select string_agg(decode(lpad(to_hex(substring(p_bits from i * 8 + 1 for 8)::bit(8)::integer), 2, '0'), 'hex'), '' order by i)
    from generate_series(0, length(p_bits) / 8 - 1) i
$$;
comment on function tendril_core.bits_to_bytes is 'A bit string as bytes.';

-- name of the function: scram_verifier
-- RFC 5802 and 7677: PBKDF2 with HMAC-SHA-256. The two pads of the key are hashed with each round; 4096 rounds take
-- a few tens of milliseconds, and a cluster is made once.
create function tendril_core.scram_verifier(p_secret text) returns text
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  c_rounds constant integer := 4096;
  v_salt   bytea := uuid_send(gen_random_uuid());
  v_inner  bytea;
  v_outer  bytea;
  v_key    bit(512) := (rpad('x' || encode(convert_to(p_secret, 'UTF8'), 'hex'), 129, '0'))::bit(512);
  u        bytea;
  v_sum    bit(256);
  v_client bytea;
  v_server bytea;
begin
  if octet_length(p_secret) > 64 then
    perform tendril_core.fail('TD001', 'the secret has more than 64 bytes');
  end if;
  v_inner := tendril_core.bits_to_bytes(v_key # repeat('00110110', 64)::bit(512));
  v_outer := tendril_core.bits_to_bytes(v_key # repeat('01011100', 64)::bit(512));
  u := sha256(v_outer || sha256(v_inner || v_salt || decode('00000001', 'hex')));
  v_sum := ('x' || encode(u, 'hex'))::bit(256);
  for i in 2 .. c_rounds loop
    u := sha256(v_outer || sha256(v_inner || u));
    v_sum := v_sum # ('x' || encode(u, 'hex'))::bit(256);
  end loop;
  v_key := (rpad(v_sum::text, 512, '0'))::bit(512);
  v_inner := tendril_core.bits_to_bytes(v_key # repeat('00110110', 64)::bit(512));
  v_outer := tendril_core.bits_to_bytes(v_key # repeat('01011100', 64)::bit(512));
  v_client := sha256(v_outer || sha256(v_inner || convert_to('Client Key', 'UTF8')));
  v_server := sha256(v_outer || sha256(v_inner || convert_to('Server Key', 'UTF8')));
  return format('SCRAM-SHA-256$%s:%s$%s:%s', c_rounds, encode(v_salt, 'base64'), encode(sha256(v_client), 'base64'), encode(v_server, 'base64'));
end $$;
comment on function tendril_core.scram_verifier is 'SCRAM-SHA-256 verifier of a secret of at most 64 bytes.';

create function tendril_core.add_credential(p_cluster uuid) returns jsonb
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_gen    integer := coalesce((select max(generation) from tendril_core.cluster_credentials where cluster_id = p_cluster), 0) + 1;
  v_hex    text := replace(p_cluster::text, '-', '');
  v_role   text := format('r_%s_%s', v_hex, v_gen);
  v_secret text := encode(substring(sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())) from 1 for 24), 'hex');
begin
  execute format('create role %I login password %L connection limit %s in role %I', v_role, tendril_core.scram_verifier(v_secret),
    (select runner_connections from tendril_core.settings), tendril_core.group_role('runner'));
  -- Ending a tenant's sessions takes membership in its role.
  execute format('grant %I to %I', v_role, current_user);
  execute format('alter role %I set idle_in_transaction_session_timeout = %L', v_role, '10s');
  execute format('comment on role %I is %L', v_role, 'Tendril: credential of cluster ' || p_cluster);
  insert into tendril_core.cluster_credentials (cluster_id, generation, role_name) values (p_cluster, v_gen, v_role);
  return jsonb_build_object('generation', v_gen, 'role', v_role, 'token', format('trt1.%s.%s.%s', v_hex, v_gen, v_secret));
exception when insufficient_privilege then
  perform tendril_core.fail('42501', 'cannot create the login role: ' || sqlerrm, 'the owner of schema tendril_core needs CREATEROLE');
end $$;
comment on function tendril_core.add_credential is 'A login role of the next generation; the token is returned this once and stored nowhere.';

create function tendril.cluster_create(p_name text, p_user_id text default null) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_id uuid;
begin
  perform tendril_core.guard();
  insert into tendril.clusters (name, user_id) values (p_name, p_user_id) returning id into v_id;
  return jsonb_build_object('id', v_id, 'name', p_name, 'user_id', p_user_id) || tendril_core.add_credential(v_id);
exception
  when unique_violation then
    perform tendril_core.fail('TD003', format('there is a cluster %s already', p_name), 'choose another name, or rotate its credential');
  when check_violation or not_null_violation then
    perform tendril_core.fail('TD001', format('name: %s is not a cluster''s name', coalesce(quote_literal(p_name), 'NULL')), 'letters, digits, space, dot, dash, underscore; at most 63');
end $$;
comment on function tendril.cluster_create(text, text) is 'Registers a cluster; returns its id and, this once, the runner''s token.';

create function tendril_core.lock_cluster(p_cluster uuid) returns tendril.clusters
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  c tendril.clusters;
begin
  select * into c from tendril.clusters where id = p_cluster for no key update;
  if not found then
    perform tendril_core.fail('TD002', format('there is no cluster %s', coalesce(p_cluster::text, 'NULL')), 'tendril-broker cluster list');
  elsif c.status = 'REVOKED' then
    perform tendril_core.fail('TD003', format('cluster %s is revoked', c.name));
  end if;
  return c;
end $$;
comment on function tendril_core.lock_cluster is 'A cluster that is not revoked, locked.';

create function tendril.cluster_rotate(p_cluster uuid, p_drain interval default null) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  c       tendril.clusters := tendril_core.lock_cluster(p_cluster);
  v_until timestamptz := clock_timestamp() + coalesce(p_drain, (select drain_for from tendril_core.settings));
begin
  perform tendril_core.guard();
  if exists (select from tendril_core.cluster_credentials where cluster_id = p_cluster and status = 'draining') then
    perform tendril_core.fail('TD003', 'an older credential of the cluster is still being drained', 'two generations live at once; wait, or revoke the cluster');
  end if;
  update tendril_core.cluster_credentials set status = 'draining', drain_until = v_until where cluster_id = p_cluster and status = 'active';
  return jsonb_build_object('id', c.id, 'name', c.name, 'drain_until', v_until) || tendril_core.add_credential(p_cluster);
end $$;
comment on function tendril.cluster_rotate(uuid, interval) is 'A new credential; the old one finishes what it holds until drain_until.';

create function tendril.cluster_revoke(p_cluster uuid, p_now boolean default false) returns jsonb
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  c       tendril.clusters;
  v_until timestamptz := clock_timestamp() + case when p_now then interval '0' else (select drain_for from tendril_core.settings) end;
  v_gen   integer;
begin
  perform tendril_core.guard();
  select * into c from tendril.clusters where id = p_cluster for no key update;
  if not found then
    perform tendril_core.fail('TD002', format('there is no cluster %s', coalesce(p_cluster::text, 'NULL')), 'tendril-broker cluster list');
  end if;
  update tendril.clusters set status = 'REVOKED', revoked_at = coalesce(revoked_at, clock_timestamp()) where id = p_cluster;
  update tendril_core.cluster_credentials set status = 'draining', drain_until = least(drain_until, v_until)
   where cluster_id = p_cluster and status <> 'ended';
  if p_now then
    for v_gen in select generation from tendril_core.cluster_credentials where cluster_id = p_cluster and status <> 'ended' loop
      perform tendril_core.end_credential(p_cluster, v_gen);
    end loop;
  end if;
  return jsonb_build_object('id', c.id, 'name', c.name, 'drain_until', v_until, 'ended', p_now);
end $$;
comment on function tendril.cluster_revoke(uuid, boolean) is
  'Withdraws a cluster''s credentials: they drain until a deadline, or end at once with p_now.';

create function tendril_core.end_credential(p_cluster uuid, p_generation integer) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  v_role text := (select role_name from tendril_core.cluster_credentials where cluster_id = p_cluster and generation = p_generation);
begin
  if exists (select from pg_roles where rolname = v_role) then
    execute format('alter role %I nologin', v_role);
    perform pg_terminate_backend(s.pid, 2000) from pg_stat_activity s where s.usename = v_role;
    begin
      execute format('drop owned by %I', v_role);
      execute format('drop role %I', v_role);
    exception when others then
      -- What the tenant has made for itself in another database keeps the role; it must not keep the access.
      execute format('revoke %I from %I', tendril_core.group_role('runner'), v_role);
      raise warning 'role % stays, without login and rights: %', v_role, sqlerrm using hint = 'drop what it owns in other databases, then the role';
    end;
  end if;
  update tendril_core.cluster_credentials set status = 'ended', ended_at = clock_timestamp()
   where cluster_id = p_cluster and generation = p_generation;
end $$;
comment on function tendril_core.end_credential is 'Ends the sessions of a credential and drops its role; one that cannot be dropped stays without login and rights.';

-- ---------------------------------------------------------------------------------------------------------------
-- Portals and templates
-- ---------------------------------------------------------------------------------------------------------------

create function tendril.portal_grant(p_role text, p_scope text, p_cluster uuid default null) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  if not exists (select from pg_roles where rolname = p_role) then
    perform tendril_core.fail('TD002', format('there is no role %s on this server', p_role), 'create it first');
  end if;
  insert into tendril_core.portal_grants (role, scope, cluster_id) values (p_role, p_scope, p_cluster) on conflict do nothing;
  execute format('grant %I to %I', tendril_core.group_role('portal'), p_role);
exception
  when check_violation then
    perform tendril_core.fail('TD001', format('scope: %s', p_scope), 'all, own, or cluster together with a cluster''s id');
  when foreign_key_violation then
    perform tendril_core.fail('TD002', format('there is no cluster %s', p_cluster));
end $$;
comment on function tendril.portal_grant(text, text, uuid) is 'Lets a role see and submit: all clusters, one cluster, or what is portal_user()''s own.';

create function tendril.portal_revoke(p_role text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  delete from tendril_core.portal_grants where role = p_role;
  if not found then
    perform tendril_core.fail('TD002', format('role %s has no grant', p_role));
  end if;
  if exists (select from pg_roles where rolname = p_role) then
    execute format('revoke %I from %I', tendril_core.group_role('portal'), p_role);
  end if;
end $$;
comment on function tendril.portal_revoke(text) is 'Takes all of a role''s grants back.';

create function tendril.template_register(p_record jsonb) returns boolean
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  if p_record ->> 'name' is null or p_record ->> 'version' is null or jsonb_typeof(p_record -> 'inputs') is distinct from 'object'
     or jsonb_typeof(p_record -> 'engine') is distinct from 'object' then
    perform tendril_core.fail('TD001', 'template record: needs name, version, inputs and engine', 'tendril-broker template register DIR makes it');
  end if;
  insert into tendril_core.templates (name, version, inputs, engines, record)
    values (p_record ->> 'name', p_record ->> 'version', p_record -> 'inputs',
      array(select jsonb_object_keys(p_record -> 'engine') order by 1), p_record)
    on conflict (name, version) do nothing;
  if found then
    return true;
  end if;
  if not exists (select from tendril_core.templates t where t.name = p_record ->> 'name' and t.version = p_record ->> 'version' and t.record = p_record) then
    perform tendril_core.fail('TD003', format('template %s %s is registered already, with other content', p_record ->> 'name', p_record ->> 'version'),
      'raise its version');
  end if;
  return false;
end $$;
comment on function tendril.template_register(jsonb) is 'Registers a template''s version, so that submits are checked against its inputs; false when it was there.';

-- ---------------------------------------------------------------------------------------------------------------
-- Decisions about lost work
-- ---------------------------------------------------------------------------------------------------------------

create function tendril_core.lease_is_live(p_runner uuid) returns boolean
language sql stable set search_path = pg_catalog, pg_temp as $$
  select exists (select from tendril_core.runner_leases l where l.runner_id = p_runner and l.lease_expires_at > clock_timestamp())
$$;
comment on function tendril_core.lease_is_live is 'Whether a runner is heard.';

create function tendril.declare_lost(p_deployment uuid, p_job text, p_reason text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  a tendril_core.attempts;
  j tendril_core.jobs;
begin
  perform tendril_core.guard();
  select t.* into a from tendril_core.jobs x join tendril_core.attempts t on t.id = x.attempt_id
   where x.deployment_id = p_deployment and x.name = p_job;
  perform from tendril_core.runner_leases l where l.runner_id = a.runner_id for update;
  perform from tendril.deployments d where d.id = p_deployment for update;
  select * into j from tendril_core.jobs x where x.deployment_id = p_deployment and x.name = p_job for update;
  if j.id is null then
    perform tendril_core.fail('TD002', format('deployment %s has no job %s', p_deployment, p_job));
  elsif j.attempt_id is distinct from a.id then
    perform tendril_core.fail('TD003', format('job %s has gone on with another attempt meanwhile', p_job), 'look again with tendril.status');
  elsif j.state not in ('STARTED', 'UNKNOWN') then
    perform tendril_core.fail('TD003', format('job %s is %s: only one that started can be declared lost', p_job, j.state));
  elsif tendril_core.lease_is_live(a.runner_id) then
    perform tendril_core.fail('TD003', format('the runner of job %s is alive', p_job), 'cancel the deployment instead');
  end if;
  insert into tendril_core.attempt_notes (attempt_id, actor, what) values (a.id, tendril_core.caller(), 'declared lost: ' || coalesce(p_reason, 'no reason given'));
  perform tendril_core.supersede(a.id, 'declared lost');
  -- The key stays held: nobody knows whether the child still writes. tendril.key_release frees it.
  perform tendril_core.end_job(j.id, 'FAILED', 'declared lost: ' || coalesce(p_reason, 'no reason given'));
end $$;
comment on function tendril.declare_lost(uuid, text, text) is 'Ends a started job whose runner is silent; refused while its lease is live. Its key stays held.';

create function tendril.key_release(p_cluster uuid, p_key text, p_reason text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  h tendril_core.held_keys;
  v_runner uuid;
begin
  perform tendril_core.guard();
  select * into h from tendril_core.held_keys where cluster_id = p_cluster and state_key = p_key;
  if h.attempt_id is null then
    perform tendril_core.fail('TD002', format('key %s is not held in cluster %s', p_key, p_cluster));
  end if;
  select runner_id into v_runner from tendril_core.attempts where id = h.attempt_id;
  perform from tendril_core.runner_leases l where l.runner_id = v_runner for update;
  if tendril_core.lease_is_live(v_runner) then
    perform tendril_core.fail('TD003', 'the key''s holder is alive', 'cancel its deployment, or stop the runner and wait for its lease to run out');
  end if;
  insert into tendril_core.attempt_notes (attempt_id, actor, what)
    values (h.attempt_id, tendril_core.caller(), format('key %s released: %s', p_key, coalesce(p_reason, 'no reason given')));
  perform tendril_core.free_key(h.attempt_id, h.fence);
end $$;
comment on function tendril.key_release(uuid, text, text) is
  'Frees a held key; refused while its holder''s lease is live. Terraform''s own lock is another matter.';

revoke execute on all functions in schema tendril, tendril_core from public;
