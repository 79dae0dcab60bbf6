-- Schedules: deployments by the clock. One row each, taken by one replica of serve at a time; its next moment moves on in the
-- transaction that submits, so each due moment has one deployment at most.

create table tendril_core.schedules (
  id                  uuid        primary key default tendril_core.uuidv7(),
  cluster_id          uuid        not null references tendril.clusters (id),
  name                text        not null check (name ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$'),
  user_id             text,
  cron                text        not null,
  time_zone           text        not null,
  missed              text        not null check (missed in ('skip', 'once', 'all')),
  catch_up_max        integer     not null check (catch_up_max between 1 and 100),
  drift               boolean     not null,
  enabled             boolean     not null,
  config_snapshot     jsonb       not null,
  next_at             timestamptz not null,
  last_at             timestamptz,
  last_deployment_id  uuid,
  last_error          text,
  skipped             bigint      not null default 0,
  created_at          timestamptz not null default clock_timestamp(),
  unique (cluster_id, name)
) with (fillfactor = 70);
create index schedules_due on tendril_core.schedules (next_at) where enabled;
comment on table  tendril_core.schedules is 'Deployments by the clock.';
comment on column tendril_core.schedules.id is 'UUIDv7.';
comment on column tendril_core.schedules.cluster_id is 'Where they run.';
comment on column tendril_core.schedules.name is 'Unique within the cluster.';
comment on column tendril_core.schedules.user_id is 'Whose the deployments are: the portal''s user who made the schedule, else the cluster''s.';
comment on column tendril_core.schedules.cron is 'Minute, hour, day, month, weekday; or @hourly and so on.';
comment on column tendril_core.schedules.time_zone is 'Whose calendar and clock.';
comment on column tendril_core.schedules.missed is 'What becomes of moments at which nobody served: skip, once (the newest), all (the newest catch_up_max).';
comment on column tendril_core.schedules.catch_up_max is 'How many are made up for by all.';
comment on column tendril_core.schedules.drift is 'Whether it plans only, to see what has changed outside.';
comment on column tendril_core.schedules.enabled is 'Whether it runs.';
comment on column tendril_core.schedules.config_snapshot is 'What to do.';
comment on column tendril_core.schedules.next_at is 'Its next moment.';
comment on column tendril_core.schedules.last_at is 'The newest moment that was served or passed over.';
comment on column tendril_core.schedules.last_deployment_id is 'The deployment of the newest one that was served.';
comment on column tendril_core.schedules.last_error is 'Why the newest one made no deployment.';
comment on column tendril_core.schedules.created_at is 'When it was made.';
comment on column tendril_core.schedules.skipped is 'How many moments made no deployment, since they were missed or refused.';

alter table tendril.deployments add column schedule_id uuid, add column scheduled_for timestamptz;
create unique index deployments_scheduled on tendril.deployments (schedule_id, scheduled_for) where schedule_id is not null;
comment on column tendril.deployments.schedule_id is 'The schedule that made it.';
comment on column tendril.deployments.scheduled_for is 'The moment it was due.';

create or replace function tendril_core.submit_row() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
set jit = off set plan_cache_mode = force_generic_plan as $$
declare
  c tendril.clusters;
begin
  perform set_config('synchronous_commit', 'on', true);
  select * into c from tendril.clusters where id = new.cluster_id;
  -- The same answer for a cluster that is not there and for one that is somebody else's.
  if c.id is null or not tendril_core.sees(c.id, c.user_id) then
    perform tendril_core.fail('TD002', format('there is no cluster %s that %s may submit to', coalesce(new.cluster_id::text, 'NULL'), tendril_core.caller()),
      'look into tendril.clusters; an operator grants access with tendril.portal_grant');
  end if;
  if c.status = 'REVOKED' then
    perform tendril_core.fail('TD003', format('cluster %s is revoked', c.name), 'create a new cluster');
  end if;
  if c.draining then
    perform tendril_core.fail('TD003', format('cluster %s is being drained%s', c.name, coalesce(': ' || c.pause_reason, '')), 'submit to another cluster, or wait until it is resumed');
  end if;
  if new.status <> 'QUEUED' then
    perform tendril_core.fail('TD001', format('status: must be QUEUED or left out, not %s', new.status));
  end if;
  if new.config_snapshot is null then
    perform tendril_core.fail('TD001', 'config_snapshot: is required');
  end if;
  new.config_snapshot := tendril_core.with_template_state(new.config_snapshot);
  perform tendril_core.check_snapshot(new.config_snapshot);
  new.id := coalesce(new.id, tendril_core.uuidv7());
  new.status := 'QUEUED';
  -- A schedule is served by the operator, for whom it was made.
  if new.schedule_id is not null then
    select s.user_id into new.user_id from tendril_core.schedules s where s.id = new.schedule_id;
  else
    new.user_id := tendril.portal_user();
  end if;
  -- Only tendril.retry may set retry_of, and it has seen that the caller may see that deployment.
  if new.user_id is null and new.retry_of is not null then
    select o.user_id into new.user_id from tendril.deployments o where o.id = new.retry_of;
  end if;
  new.user_id := coalesce(new.user_id, c.user_id);
  new.unique_key := new.config_snapshot ->> 'unique_key';
  if new.unique_key is not null then
    perform tendril_core.check_unique(new.cluster_id, new.unique_key, new.id);
  end if;
  new.state_location := tendril_core.state_key_of(new.config_snapshot);
  return new;
end $$;

create function tendril.schedule_set(p_cluster uuid, p_name text, p_cron text, p_snapshot jsonb, p_options jsonb default '{}') returns uuid
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  c          tendril.clusters;
  v_zone     text := coalesce(p_options ->> 'time_zone', 'UTC');
  v_missed   text := coalesce(p_options ->> 'missed', 'once');
  v_snapshot jsonb := p_snapshot;
  v_drift    boolean := p_options -> 'drift' is not distinct from 'true';
  v_key      text;
  v_id       uuid;
begin
  perform tendril_core.guard();
  select * into c from tendril.clusters where id = p_cluster;
  if c.id is null or not tendril_core.sees(c.id, c.user_id) then
    perform tendril_core.fail('TD002', format('there is no cluster %s that %s may submit to', coalesce(p_cluster::text, 'NULL'), tendril_core.caller()));
  elsif c.status = 'REVOKED' then
    perform tendril_core.fail('TD003', format('cluster %s is revoked', c.name), 'create a new cluster');
  elsif coalesce(p_name !~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$', true) then
    perform tendril_core.fail('TD001', format('name: %s is not a schedule''s name', coalesce(quote_literal(p_name), 'NULL')), 'letters, digits, dot, dash, underscore; at most 63');
  elsif jsonb_typeof(p_options) is distinct from 'object' then
    perform tendril_core.fail('TD001', 'options: must be an object', 'time_zone, missed, catch_up_max, drift, enabled');
  end if;
  for v_key in select jsonb_object_keys(p_options) loop
    if v_key not in ('time_zone', 'missed', 'catch_up_max', 'drift', 'enabled') then
      perform tendril_core.fail('TD001', format('options.%s: is unknown', v_key), 'time_zone, missed, catch_up_max, drift, enabled');
    elsif v_key in ('drift', 'enabled') and jsonb_typeof(p_options -> v_key) <> 'boolean' then
      perform tendril_core.fail('TD001', format('options.%s: must be true or false', v_key));
    end if;
  end loop;
  if v_missed not in ('skip', 'once', 'all') then
    perform tendril_core.fail('TD001', format('options.missed: must be skip, once or all, not %s', v_missed));
  elsif coalesce(p_options ->> 'catch_up_max', '10') !~ '^([1-9][0-9]?|100)$' then
    perform tendril_core.fail('TD001', 'options.catch_up_max: must lie between 1 and 100');
  end if;
  perform tendril_core.check_zone(v_zone);
  if v_drift then
    if p_snapshot ? 'jobs' or not p_snapshot ? 'template' then
      perform tendril_core.fail('TD001', 'options.drift: needs a template, whose state is planned', 'leave jobs out');
    end if;
    v_snapshot := (p_snapshot - 'approval') || '{"action": "plan", "cost": "off"}';
  end if;
  v_snapshot := tendril_core.with_template_state(v_snapshot);
  perform tendril_core.check_snapshot(v_snapshot);
  insert into tendril_core.schedules as s (cluster_id, name, user_id, cron, time_zone, missed, catch_up_max, drift, enabled, config_snapshot, next_at)
    values (p_cluster, p_name, coalesce(tendril.portal_user(), c.user_id), p_cron, v_zone, v_missed, coalesce((p_options ->> 'catch_up_max')::integer, 10), v_drift,
      coalesce((p_options ->> 'enabled')::boolean, true), v_snapshot, tendril_core.cron_next(p_cron, v_zone, clock_timestamp()))
    on conflict (cluster_id, name) do update set cron = excluded.cron, time_zone = excluded.time_zone, missed = excluded.missed,
      catch_up_max = excluded.catch_up_max, drift = excluded.drift, enabled = excluded.enabled, config_snapshot = excluded.config_snapshot,
      next_at = excluded.next_at, last_error = null
      where tendril_core.sees(s.cluster_id, s.user_id)
    returning s.id into v_id;
  if v_id is null then
    perform tendril_core.fail('TD002', format('schedule %s is somebody else''s', p_name), 'choose another name');
  end if;
  return v_id;
end $$;
comment on function tendril.schedule_set(uuid, text, text, jsonb, jsonb) is 'Makes a schedule, or changes the one of that name; its next moment counts from now.';

create function tendril.schedule_delete(p_schedule uuid) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  perform tendril_core.guard();
  delete from tendril_core.schedules s where s.id = p_schedule and tendril_core.sees(s.cluster_id, s.user_id);
  if not found then
    perform tendril_core.fail('TD002', format('there is no schedule %s that %s may see', coalesce(p_schedule::text, 'NULL'), tendril_core.caller()), 'look into tendril.schedules');
  end if;
end $$;
comment on function tendril.schedule_delete(uuid) is 'Removes a schedule; its deployments stay.';

-- name of the function: due
-- Late by more than a minute is missed: nobody served then. After a long absence only its end is looked at, since the newest count.
create function tendril_core.due(s tendril_core.schedules, p_now timestamptz, out moments timestamptz[], out passed bigint)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_wanted constant integer := case s.missed when 'all' then s.catch_up_max else 1 end;
  v_window interval;
  v_at     timestamptz;
begin
  foreach v_window in array array[interval '2 h', interval '3 days', interval '60 days', interval '10 years'] loop
    v_at := case when s.next_at > p_now - v_window then s.next_at else tendril_core.cron_next(s.cron, s.time_zone, p_now - v_window) end;
    moments := '{}';
    while v_at <= p_now loop
      moments := moments || v_at;
      v_at := tendril_core.cron_next(s.cron, s.time_zone, v_at);
    end loop;
    exit when s.next_at > p_now - v_window or cardinality(moments) >= v_wanted;
  end loop;
  passed := cardinality(moments);
  moments := array(select m from (select m from unnest(moments) m where s.missed <> 'skip' or m > p_now - interval '1 min' order by m desc limit v_wanted) n order by m);
  passed := passed - cardinality(moments);
end $$;
comment on function tendril_core.due is 'The moments of a schedule that are served now, and at least how many are passed over.';

create function tendril_core.duty_schedules() returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  s       tendril_core.schedules;
  v_now   timestamptz := clock_timestamp();
  v_due   record;
  v_at    timestamptz;
  v_id    uuid;
  v_error text;
  v_lost  bigint;
  v_n     bigint := 0;
begin
  for s in select * from tendril_core.schedules x where x.enabled and x.next_at <= v_now order by x.next_at limit 50 for update skip locked loop
    v_due := tendril_core.due(s, v_now);
    v_lost := v_due.passed;
    v_id := null;
    v_error := null;
    foreach v_at in array v_due.moments loop
      -- What is refused (the cluster is drained, a unique key lives) holds up no other schedule.
      begin
        insert into tendril.deployments (cluster_id, config_snapshot, schedule_id, scheduled_for) values (s.cluster_id, s.config_snapshot, s.id, v_at)
          on conflict (schedule_id, scheduled_for) where schedule_id is not null do nothing returning id into v_id;
        v_n := v_n + 1;
      exception when others then
        get stacked diagnostics v_error = message_text;
        v_lost := v_lost + 1;
      end;
    end loop;
    update tendril_core.schedules x set next_at = tendril_core.cron_next(s.cron, s.time_zone, v_now), last_at = v_now,
           last_deployment_id = coalesce(v_id, x.last_deployment_id), last_error = v_error, skipped = x.skipped + v_lost
     where x.id = s.id;
  end loop;
  return v_n;
end $$;
comment on function tendril_core.duty_schedules is 'Submits what schedules are due; returns how many deployments.';
insert into tendril_core.duties (name, every) values ('schedules', '1 s');

create view tendril.schedules with (security_barrier) as
  select s.id, s.cluster_id, c.name as cluster, s.name, s.user_id, s.cron, s.time_zone, s.missed, s.catch_up_max, s.drift, s.enabled, s.config_snapshot,
         case when s.enabled then s.next_at end as next_at, s.last_at, s.last_deployment_id, d.status as last_status, s.last_error, s.skipped,
         case when s.drift and p.result ? 'summary' then p.result -> 'summary' end as changes,
         case when s.drift and p.result ? 'summary' then
           exists (select from jsonb_each_text(p.result -> 'summary') e where e.key in ('add', 'change', 'destroy', 'remove', 'import') and e.value <> '0') end as drifted
    from tendril_core.schedules s join tendril.clusters c on c.id = s.cluster_id
    left join tendril.deployments d on d.id = s.last_deployment_id
    left join lateral (select j.result from tendril_core.jobs j join tendril.deployments o on o.id = j.deployment_id
                        where o.schedule_id = s.id and j.kind = 'terraform.plan' and j.state = 'SUCCESS'
                        order by o.scheduled_for desc limit 1) p on s.drift
   where (select tendril_core.sees_all()) or s.cluster_id = any ((select tendril_core.seen_clusters())::uuid[])
      or s.user_id = (select tendril_core.seen_user()) or (select tendril_core.is_owner());
comment on view tendril.schedules is 'Schedules that the caller sees, with their next and last moments, and what drift was seen.';
comment on column tendril.schedules.id is 'UUIDv7.';
comment on column tendril.schedules.cluster_id is 'Where they run.';
comment on column tendril.schedules.cluster is 'The cluster''s name.';
comment on column tendril.schedules.name is 'Unique within the cluster.';
comment on column tendril.schedules.user_id is 'Whose the deployments are.';
comment on column tendril.schedules.cron is 'Minute, hour, day, month, weekday; or @hourly and so on.';
comment on column tendril.schedules.time_zone is 'Whose calendar and clock.';
comment on column tendril.schedules.missed is 'What becomes of moments at which nobody served: skip, once (the newest), all (the newest catch_up_max).';
comment on column tendril.schedules.catch_up_max is 'How many are made up for by all.';
comment on column tendril.schedules.drift is 'Whether it plans only, to see what has changed outside.';
comment on column tendril.schedules.enabled is 'Whether it runs.';
comment on column tendril.schedules.config_snapshot is 'What to do.';
comment on column tendril.schedules.next_at is 'Its next moment; NULL while it is disabled.';
comment on column tendril.schedules.last_at is 'When it was served last.';
comment on column tendril.schedules.last_deployment_id is 'The newest deployment of it.';
comment on column tendril.schedules.last_status is 'That deployment''s status.';
comment on column tendril.schedules.last_error is 'Why the newest moment made no deployment.';
comment on column tendril.schedules.skipped is 'How many moments made no deployment, since they were missed or refused.';
comment on column tendril.schedules.changes is 'Of drift detection: what the newest plan would change (add, change, destroy, import).';
comment on column tendril.schedules.drifted is 'Whether that is anything; NULL: no plan yet, or no drift detection.';

revoke execute on all functions in schema tendril, tendril_core from public;
do $$
begin
  execute format('grant execute on function tendril.schedule_set(uuid, text, text, jsonb, jsonb), tendril.schedule_delete(uuid) to %I', tendril_core.group_role('portal'));
  execute format('grant select on tendril.schedules to %I', tendril_core.group_role('portal'));
end $$;
