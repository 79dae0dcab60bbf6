-- A plan is shown in JSON only where a cost job reads it: that takes another run of the engine. And a template that works with
-- one engine is left to runners that have it.

create or replace function tendril_core.jobs_of(p_snapshot jsonb, p_cost boolean)
returns table (name text, kind text, needs text[], mutating boolean, optional boolean, needs_approval boolean, priority smallint,
  timeout_ms bigint, kill_grace_ms bigint, max_attempts smallint, retry_failures boolean, requires text[], state_key text, spec jsonb)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_action text  := coalesce(p_snapshot ->> 'action', 'apply');
  v_jobs   jsonb := p_snapshot -> 'jobs';
  v_engine text  := coalesce(p_snapshot ->> 'engine', (
    select t.engines[1] from tendril_core.templates t
     where t.name = p_snapshot #>> '{template,name}' and t.version = p_snapshot #>> '{template,version}' and cardinality(t.engines) = 1));
begin
  if v_jobs is null then
    v_jobs := jsonb_build_array(jsonb_build_object('name', 'plan', 'kind', 'terraform.plan', 'destroy', v_action = 'destroy'));
    if p_cost and v_action <> 'destroy' then
      v_jobs := v_jobs || jsonb_build_array('{"name": "cost", "kind": "infracost.breakdown", "needs": ["plan"], "optional": true}'::jsonb);
    end if;
    if v_action <> 'plan' then
      v_jobs := v_jobs || jsonb_build_array(jsonb_build_object('name', v_action, 'kind', 'terraform.' || v_action,
        'needs', '["plan"]'::jsonb, 'approval', coalesce(p_snapshot ->> 'approval', 'none')));
    end if;
  end if;
  return query
    select j.job ->> 'name', k.kind, array(select jsonb_array_elements_text(coalesce(j.job -> 'needs', '[]'))),
           k.mutating and not coalesce((j.job ->> 'reading')::boolean, false), coalesce((j.job ->> 'optional')::boolean, false),
           coalesce(j.job ->> 'approval' = 'required', false), k.priority,
           1000 * coalesce((l.limits -> 'timeout_s')::bigint, 3600), 1000 * coalesce((l.limits -> 'kill_grace_s')::bigint, 60),
           coalesce((l.limits -> 'max_attempts')::smallint, 3::smallint), l.limits ? 'max_attempts',
           array['kind=' || k.kind]
             || case when k.engine and v_engine is not null
                  then array['engine=' || v_engine || coalesce('@' || (p_snapshot ->> 'engine_version'), '')] else '{}' end
             || case when k.engine and p_snapshot #>> '{backend,type}' = 'local' then array['place=' || (p_snapshot #>> '{backend,place}')] else '{}' end
             || array(select jsonb_array_elements_text(coalesce(p_snapshot -> 'labels', '[]') || coalesce(j.job -> 'labels', '[]'))),
           case when k.engine and k.mutating then tendril_core.state_key_of(p_snapshot) end,
           jsonb_strip_nulls(jsonb_build_object('argv', j.job -> 'argv', 'destroy', j.job -> 'destroy', 'needs', j.job -> 'needs',
             'plan_json', case when k.kind = 'terraform.plan' and not exists (select from jsonb_array_elements(v_jobs) o
               where o ->> 'kind' = 'infracost.breakdown' and o -> 'needs' ? (j.job ->> 'name')) then false end))
      from jsonb_array_elements(v_jobs) with ordinality j(job, ord)
      join tendril_core.kinds k on k.kind = j.job ->> 'kind',
      lateral (select coalesce(p_snapshot -> 'limits', '{}') || coalesce(j.job -> 'limits', '{}') as limits) l
     order by j.ord;
end $$;
comment on function tendril_core.jobs_of is 'The jobs that a checked snapshot expands to, in order; the default ones are plan, cost and apply.';
