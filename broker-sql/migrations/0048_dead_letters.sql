-- Dead letters: jobs that only read and have used up their attempts, by losses or failures. A redrive makes new jobs of them.

create index jobs_dead on tendril_core.jobs (deployment_id) where state = 'FAILED' and not mutating and attempts >= max_attempts;

create view tendril.dead_letters with (security_barrier) as
  select j.deployment_id, j.cluster_id, c.name as cluster, j.id as job_id, j.name as job, j.kind, j.attempts, j.reason, j.ended_at,
         (select r.id from tendril.deployments r where r.retry_of = j.deployment_id order by r.created_at desc, r.id desc limit 1) as redriven_as
    from tendril_core.jobs j join tendril.deployments d on d.id = j.deployment_id join tendril.clusters c on c.id = j.cluster_id
   where j.state = 'FAILED' and not j.mutating and j.attempts >= j.max_attempts
     and ((select tendril_core.sees_all()) or j.cluster_id = any ((select tendril_core.seen_clusters())::uuid[])
      or d.user_id = (select tendril_core.seen_user()) or (select tendril_core.is_owner()));
comment on view tendril.dead_letters is 'Jobs that only read and have used up their attempts, of the deployments that the caller sees.';
comment on column tendril.dead_letters.deployment_id is 'The deployment.';
comment on column tendril.dead_letters.cluster_id is 'Its cluster.';
comment on column tendril.dead_letters.cluster is 'The cluster''s name.';
comment on column tendril.dead_letters.job_id is 'The job.';
comment on column tendril.dead_letters.job is 'Its name.';
comment on column tendril.dead_letters.kind is 'Its kind.';
comment on column tendril.dead_letters.attempts is 'How many attempts it had.';
comment on column tendril.dead_letters.reason is 'What the last one came to.';
comment on column tendril.dead_letters.ended_at is 'When it ended.';
comment on column tendril.dead_letters.redriven_as is 'The newest deployment that does it again; NULL: none yet.';

-- name of the function: redrive_snapshot
-- The dead jobs, what was skipped behind them, and the plans that those run; what has succeeded is not done again. What needs a
-- job that failed otherwise stays out, too.
create function tendril_core.redrive_snapshot(d tendril.deployments) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_jobs  jsonb := d.config_snapshot -> 'jobs';
  v_names text[];
  v_more  text[];
begin
  -- The default jobs of a template are done as a whole.
  if v_jobs is null then
    return d.config_snapshot;
  end if;
  v_names := array(select j.name from tendril_core.jobs j
    where j.deployment_id = d.id and j.state = 'FAILED' and not j.mutating and j.attempts >= j.max_attempts);
  loop
    select array_agg(e ->> 'name') into v_more from jsonb_array_elements(v_jobs) e join tendril_core.jobs j on j.deployment_id = d.id and j.name = e ->> 'name'
     where j.name <> all (v_names)
       and (j.state = 'SKIPPED' and (e -> 'needs') ?| v_names
                and not exists (select from jsonb_array_elements_text(e -> 'needs') n join tendril_core.jobs o on o.deployment_id = d.id and o.name = n
                                 where o.state <> 'SUCCESS' and n <> all (v_names))
            or j.kind = 'terraform.plan' and exists (select from jsonb_array_elements(v_jobs) a
                                where a ->> 'name' = any (v_names) and a ->> 'kind' in ('terraform.apply', 'terraform.destroy') and a -> 'needs' ? j.name));
    exit when v_more is null;
    v_names := v_names || v_more;
  end loop;
  return d.config_snapshot || jsonb_build_object('jobs', (
    select jsonb_agg(e || case when e ? 'needs' then jsonb_build_object('needs', (select coalesce(jsonb_agg(n), '[]') from jsonb_array_elements_text(e -> 'needs') n where n = any (v_names))) else '{}' end
                       || case when e ? 'if_failed' then jsonb_build_object('if_failed', (select coalesce(jsonb_object_agg(f.key, f.value), '{}') from jsonb_each(e -> 'if_failed') f where f.key = any (v_names))) else '{}' end
             order by ord)
      from jsonb_array_elements(v_jobs) with ordinality x(e, ord) where e ->> 'name' = any (v_names)));
end $$;
comment on function tendril_core.redrive_snapshot is 'What of a deployment a redrive does again.';

create function tendril.redrive(p_deployment uuid, p_id uuid default null) returns uuid
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  d    tendril.deployments := tendril_core.seen_deployment(p_deployment);
  v_id uuid := coalesce(p_id, tendril_core.uuidv7());
begin
  if d.status not in ('FAILED', 'CANCELLED') then
    perform tendril_core.fail('TD003', format('the deployment is %s; only what has ended is done again', d.status));
  end if;
  if not exists (select from tendril_core.jobs j where j.deployment_id = d.id and j.state = 'FAILED' and not j.mutating and j.attempts >= j.max_attempts) then
    perform tendril_core.fail('TD003', 'no job of the deployment has used up its attempts', 'look into tendril.dead_letters; tendril.retry does the whole deployment again');
  end if;
  insert into tendril.deployments (id, cluster_id, config_snapshot, retry_of) values (v_id, d.cluster_id, tendril_core.redrive_snapshot(d), d.id)
    on conflict (id) do nothing;
  if not exists (select from tendril.deployments where id = v_id and retry_of = d.id) then
    perform tendril_core.fail('TD002', format('deployment %s is something else', v_id), 'make a new id (UUIDv7) for each redrive');
  end if;
  return v_id;
end $$;
comment on function tendril.redrive(uuid, uuid) is
  'Does the dead jobs of a deployment again, and what was skipped behind them, as a new deployment; what has succeeded is not done again.';

revoke execute on all functions in schema tendril, tendril_core from public;
do $$
begin
  execute format('grant execute on function tendril.redrive(uuid, uuid) to %I', tendril_core.group_role('portal'));
  execute format('grant select on tendril.dead_letters to %I', tendril_core.group_role('portal'));
end $$;
