-- What a config_snapshot may say, and what it expands to.

create table tendril_core.kinds (
  kind      text     primary key,
  mutating  boolean  not null,
  priority  smallint not null,
  engine    boolean  not null
);
comment on table  tendril_core.kinds is 'The kinds of jobs that submit accepts.';
comment on column tendril_core.kinds.kind is 'The name, as in a snapshot''s jobs and in a runner''s labels (kind=...).';
comment on column tendril_core.kinds.mutating is 'Whether it changes the world unless the snapshot says otherwise.';
comment on column tendril_core.kinds.priority is 'Place in the queue: smaller is claimed earlier.';
comment on column tendril_core.kinds.engine is 'Whether it runs terraform or tofu on the snapshot''s template.';
insert into tendril_core.kinds (kind, mutating, priority, engine) values
  ('terraform.apply', true, 10, true), ('terraform.destroy', true, 10, true), ('exec', true, 20, false),
  ('terraform.plan', false, 20, true), ('infracost.breakdown', false, 30, false);

-- name of the function: snapshot_schema
-- The published JSON Schema is this very value, and the check below is made with it; what a schema in our subset cannot
-- say (one of several forms, references between jobs) stands in snapshot_rules.
create function tendril_core.snapshot_schema() returns jsonb
language sql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
select $json${
  "title": "config_snapshot",
  "description": "What a deployment does. Either template and action, or jobs.",
  "type": "object", "additionalProperties": false,
  "properties": {
    "template": {
      "description": "Where the files come from: name (shipped with the runner or registered), git, or inline.",
      "type": "object", "additionalProperties": false,
      "properties": {
        "name": {"type": "string", "pattern": "^[a-z][a-z0-9-]{0,62}$"},
        "version": {"type": "string", "pattern": "^[0-9]+[.][0-9]+[.][0-9]+(-[0-9A-Za-z.-]+)?$"},
        "git": {"type": "string", "description": "https://, ssh:// or user@host:path", "minLength": 8, "maxLength": 2048},
        "ref": {"type": "string", "description": "branch, tag or commit", "pattern": "^[A-Za-z0-9_][A-Za-z0-9_./+-]{0,254}$"},
        "path": {"type": "string", "description": "folder within the repository", "maxLength": 1024, "pattern": "^[A-Za-z0-9_][A-Za-z0-9_./ -]*$"},
        "submodules": {"type": "boolean"},
        "inline": {"type": "object", "description": "relative path -> text"}
      }
    },
    "inputs": {"type": "object", "description": "The template's inputs; become Terraform variables."},
    "action": {"type": "string", "enum": ["plan", "apply", "destroy"], "default": "apply"},
    "engine": {"type": "string", "enum": ["terraform", "tofu"]},
    "engine_version": {"type": "string", "pattern": "^[0-9]+[.][0-9]+[.][0-9]+(-[0-9A-Za-z.-]+)?$"},
    "backend": {
      "description": "Where the state lies. Credentials never stand here: they belong to the runner.",
      "type": "object", "additionalProperties": false, "required": ["type"],
      "properties": {
        "type": {"type": "string", "enum": ["local", "s3", "gcs", "azurerm", "http", "pg", "own"]},
        "place": {"type": "string", "pattern": "^[a-z0-9][a-z0-9._-]{0,62}$"},
        "path": {"type": "string", "pattern": "^[A-Za-z0-9_][A-Za-z0-9_./-]{0,254}$"},
        "config": {"type": "object"}
      }
    },
    "workspace": {"type": "string", "pattern": "^[A-Za-z0-9_][A-Za-z0-9_-]{0,89}$", "default": "default"},
    "state_key": {"type": "string", "description": "Identity of the state where it cannot be derived from backend.", "minLength": 1, "maxLength": 512},
    "stateless": {"type": "boolean", "description": "The state is thrown away with the work folder."},
    "labels": {"type": "array", "maxItems": 32, "uniqueItems": true, "items": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._/=@:-]{0,127}$"}},
    "limits": {
      "type": "object", "additionalProperties": false,
      "properties": {
        "timeout_s": {"type": "integer", "minimum": 1, "maximum": 604800, "default": 3600},
        "kill_grace_s": {"type": "integer", "minimum": 0, "maximum": 3600, "default": 60},
        "max_attempts": {"type": "integer", "minimum": 1, "maximum": 20, "description": "For kinds that only read. When given, failures are tried again, not only losses."}
      }
    },
    "approval": {"type": "string", "enum": ["required", "none"], "default": "none"},
    "cost": {"type": "string", "enum": ["auto", "on", "off"], "default": "auto", "description": "auto: when a runner of the cluster offers infracost.breakdown"},
    "jobs": {
      "type": "array", "minItems": 1, "maxItems": 200,
      "items": {
        "type": "object", "additionalProperties": false, "required": ["name", "kind"],
        "properties": {
          "name": {"type": "string", "pattern": "^[a-z0-9][a-z0-9_-]{0,62}$"},
          "kind": {"type": "string"},
          "needs": {"type": "array", "uniqueItems": true, "maxItems": 200, "items": {"type": "string"}},
          "argv": {"type": "array", "minItems": 1, "maxItems": 256, "items": {"type": "string", "maxLength": 131072}, "description": "exec only: program and arguments, never a shell string"},
          "reading": {"type": "boolean", "description": "exec only: it changes nothing and may start again after a loss"},
          "destroy": {"type": "boolean", "description": "terraform.plan only: plan the destruction"},
          "labels": {"type": "array", "maxItems": 32, "uniqueItems": true, "items": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._/=@:-]{0,127}$"}},
          "limits": {
            "type": "object", "additionalProperties": false,
            "properties": {
              "timeout_s": {"type": "integer", "minimum": 1, "maximum": 604800},
              "kill_grace_s": {"type": "integer", "minimum": 0, "maximum": 3600},
              "max_attempts": {"type": "integer", "minimum": 1, "maximum": 20}
            }
          },
          "approval": {"type": "string", "enum": ["required", "none"]},
          "optional": {"type": "boolean", "description": "its failure does not fail the deployment"}
        }
      }
    }
  }
}$json$::jsonb
$$;
comment on function tendril_core.snapshot_schema is 'JSON Schema of config_snapshot, as published in docs/config-snapshot.schema.json.';

create function tendril_core.state_key_of(p_snapshot jsonb) returns text
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
  b      jsonb := p_snapshot -> 'backend';
  c      jsonb := coalesce(b -> 'config', '{}');
  v_tail text  := '#' || coalesce(p_snapshot ->> 'workspace', 'default');
begin
  return case b ->> 'type'
    when 'local' then 'local://' || (b ->> 'place') || '/' || (b ->> 'path') || v_tail
    when 's3'    then 's3://' || (c ->> 'bucket') || '/' || (c ->> 'key')
                      || coalesce('@' || rtrim(lower(coalesce(c ->> 'endpoint', c #>> '{endpoints,s3}')), '/'), '') || v_tail
    when 'gcs'   then 'gcs://' || (c ->> 'bucket') || '/' || coalesce(c ->> 'prefix', '') || v_tail
    when 'azurerm' then 'azurerm://' || (c ->> 'storage_account_name') || '/' || (c ->> 'container_name') || '/' || (c ->> 'key') || v_tail
    when 'http'  then lower(substring(c ->> 'address' from '^[^/]*//[^/]*')) || rtrim(substring(c ->> 'address' from '^[^/]*//[^/]*(.*)'), '/') || v_tail
    else p_snapshot ->> 'state_key'
  end;
end $$;
comment on function tendril_core.state_key_of is 'Canonical backend, location and workspace: equal for two snapshots that write one state.';

create function tendril_core.backend_errors(p_snapshot jsonb) returns table (path text, message text)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  b      jsonb := p_snapshot -> 'backend';
  c      jsonb := coalesce(b -> 'config', '{}');
  v_type text  := b ->> 'type';
  k      text;
begin
  if v_type = 'local' then
    foreach k in array array['place', 'path'] loop
      if not b ? k then return query select 'backend.' || k, 'is required for a local backend'; end if;
    end loop;
    if b ->> 'path' ~ '(^|/)[.]{1,2}(/|$)|//|/$' then return query select 'backend.path', 'must not contain empty or dotted parts'; end if;
    if b ? 'config' then return query select 'backend.config', 'has no meaning for a local backend'; end if;
  else
    foreach k in array array['place', 'path'] loop
      if b ? k then return query select 'backend.' || k, 'belongs to a local backend'; end if;
    end loop;
  end if;
  foreach k in array (case v_type when 's3' then array['bucket', 'key'] when 'gcs' then array['bucket']
      when 'azurerm' then array['storage_account_name', 'container_name', 'key'] when 'http' then array['address'] else '{}' end) loop
    if coalesce(jsonb_typeof(c -> k), '') <> 'string' then return query select 'backend.config.' || k, 'is required for a backend of type ' || v_type; end if;
  end loop;
  -- Terraform cleans the prefix as it would a path: the same state by another name.
  if v_type = 'gcs' and c ->> 'prefix' ~ '(^|/)[.]{1,2}(/|$)|//|^/|/$' then
    return query select 'backend.config.prefix', 'must not contain empty or dotted parts';
  end if;
  if v_type = 'http' and c ->> 'address' !~ '^https?://[^@?#[:space:]]+$' then
    return query select 'backend.config.address', 'must be an http or https address without user, query or fragment';
  end if;
  for k in select jsonb_object_keys(c) loop
    if k ~ '(password|secret|token|access_key|conn_str|credentials|sas|private_key)' then
      return query select 'backend.config.' || k, 'is a credential: set it on the runner, not in a snapshot';
    end if;
  end loop;
  if v_type in ('pg', 'own') and not p_snapshot ? 'state_key' then
    return query select 'state_key', 'is required for a backend of type ' || v_type || ': its location cannot be derived';
  elsif v_type not in ('pg', 'own') and p_snapshot ? 'state_key' then
    return query select 'state_key', 'is derived from the backend of type ' || v_type || '; remove it';
  end if;
  -- The key is indexed; a job whose key no index can hold would fail every claim of its cluster.
  if octet_length(tendril_core.state_key_of(p_snapshot)) > 2000 then
    return query select 'backend'::text, 'names its state in more than 2000 bytes'::text;
  end if;
  if v_type = 'own' and c <> '{}' then return query select 'backend.config', 'has no meaning for a backend block of your own'; end if;
end $$;
comment on function tendril_core.backend_errors is 'What is wrong with a snapshot''s backend.';

create function tendril_core.template_errors(p_snapshot jsonb) returns table (path text, message text)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  t       jsonb := p_snapshot -> 'template';
  k       text;
  v       jsonb;
  v_reg   tendril_core.templates;
begin
  if (t ? 'name')::int + (t ? 'git')::int + (t ? 'inline')::int <> 1 then
    return query select 'template'::text, 'needs exactly one of name, git, inline'::text;
    return;
  end if;
  foreach k in array array['ref', 'path', 'submodules'] loop
    if t ? k and not t ? 'git' then return query select 'template.' || k, 'belongs to a git template'::text; end if;
  end loop;
  if t ? 'version' and not t ? 'name' then return query select 'template.version'::text, 'belongs to a named template'::text; end if;
  if t ? 'git' then
    if t ->> 'git' !~ '^(https://[A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]+)?/|ssh://([a-z][a-z0-9_-]*@)?[A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]+)?/|[a-z][a-z0-9_-]*@[A-Za-z0-9][A-Za-z0-9.-]*:)[A-Za-z0-9_~.][A-Za-z0-9_./~+-]*$' then
      return query select 'template.git'::text, 'must be an https or ssh address without a password'::text;
    end if;
    if t ->> 'path' ~ '(^|/)[.]{1,2}(/|$)|//' then return query select 'template.path'::text, 'must not contain empty or dotted parts'::text; end if;
    if t ->> 'ref' ~ '[.][.]|//|[.]lock$|/$' then return query select 'template.ref'::text, 'is not a name that git accepts'::text; end if;
  end if;
  for k, v in select * from jsonb_each(coalesce(t -> 'inline', '{}')) loop
    if jsonb_typeof(v) <> 'string' then return query select 'template.inline.' || k, 'must be a string'::text; end if;
    if k !~ '^[A-Za-z0-9_.@ -]+(/[A-Za-z0-9_.@ -]+)*$' or k ~ '(^|/)([.]{1,2}|[.]git|[.]terraform)(/|$)' or length(k) > 255 then
      return query select 'template.inline.' || k, 'is not a safe relative path'::text;
    end if;
  end loop;
  if t -> 'inline' = '{}' then return query select 'template.inline'::text, 'has no files'::text; end if;
  select * into v_reg from tendril_core.templates r where r.name = t ->> 'name' and r.version = t ->> 'version';
  if found then
    return query select e.path, e.message from tendril_core.schema_errors(v_reg.inputs, coalesce(p_snapshot -> 'inputs', '{}'), 'inputs') e;
    if p_snapshot ->> 'engine' <> all (v_reg.engines) then
      return query select 'engine'::text, format('template %s %s runs on %s', v_reg.name, v_reg.version, coalesce(nullif(array_to_string(v_reg.engines, ', '), ''), 'none'));
    end if;
  end if;
end $$;
comment on function tendril_core.template_errors is 'What is wrong with a snapshot''s template and, if it is registered, with its inputs.';

create function tendril_core.graph_errors(p_jobs jsonb) returns table (path text, message text)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_left  text[];
  v_done  text[];
begin
  return query
    select format('jobs[%s].name', j.ord - 1), format('job %s stands there twice', j.job ->> 'name')
      from jsonb_array_elements(p_jobs) with ordinality j(job, ord)
     where exists (select from jsonb_array_elements(p_jobs) with ordinality o(job, ord)
                    where o.ord < j.ord and o.job ->> 'name' = j.job ->> 'name');
  return query
    select format('jobs[%s].needs[%s]', j.ord - 1, n.ord - 1), format('no job is named %s', n.name)
      from jsonb_array_elements(p_jobs) with ordinality j(job, ord),
           jsonb_array_elements_text(coalesce(j.job -> 'needs', '[]')) with ordinality n(name, ord)
     where not exists (select from jsonb_array_elements(p_jobs) o where o ->> 'name' = n.name);
  -- Take away what needs nothing that is left, until nothing more goes: the rest is a cycle or behind one.
  select array_agg(j ->> 'name') into v_left from jsonb_array_elements(p_jobs) j;
  loop
    select array_agg(j ->> 'name') into v_done from jsonb_array_elements(p_jobs) j
     where j ->> 'name' = any (v_left)
       and not exists (select from jsonb_array_elements_text(coalesce(j -> 'needs', '[]')) n where n = any (v_left));
    exit when v_done is null;
    select coalesce(array_agg(x), '{}') into v_left from unnest(v_left) x where x <> all (v_done);
  end loop;
  if cardinality(v_left) > 0 then
    return query select 'jobs'::text, 'needs form a cycle: ' || array_to_string(v_left, ', ');
  end if;
end $$;
comment on function tendril_core.graph_errors is 'Names that stand there twice, needs without a job, cycles.';

create function tendril_core.job_errors(p_snapshot jsonb) returns table (path text, message text)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  j      jsonb;
  v_at   text;
  v_ord  bigint;
  v_kind tendril_core.kinds;
  v_plan integer;
begin
  for j, v_ord in select e.job, e.ord from jsonb_array_elements(p_snapshot -> 'jobs') with ordinality e(job, ord) loop
    v_at := format('jobs[%s].', v_ord - 1);
    select * into v_kind from tendril_core.kinds k where k.kind = j ->> 'kind';
    if not found then
      return query select v_at || 'kind', format('unknown kind %s; known are %s', j ->> 'kind',
        (select string_agg(k.kind, ', ' order by k.kind) from tendril_core.kinds k));
      continue;
    end if;
    if (j ? 'argv') <> (v_kind.kind = 'exec') then
      return query select v_at || 'argv', case when j ? 'argv' then 'belongs to kind exec' else 'is required for kind exec' end;
    end if;
    if j ? 'reading' and v_kind.kind <> 'exec' then return query select v_at || 'reading', 'belongs to kind exec'::text; end if;
    if j ? 'destroy' and v_kind.kind <> 'terraform.plan' then return query select v_at || 'destroy', 'belongs to kind terraform.plan'::text; end if;
    if v_kind.mutating and (j #> '{limits,max_attempts}') is not null and not coalesce((j ->> 'reading')::boolean, false) then
      return query select v_at || 'limits.max_attempts', 'is for jobs that only read: one that changes the world starts at most once'::text;
    end if;
    if v_kind.kind <> 'exec' and not p_snapshot ? 'template' then
      return query select v_at || 'kind', format('%s needs a template', v_kind.kind);
    end if;
    if v_kind.kind in ('terraform.apply', 'terraform.destroy') then
      select count(*) into v_plan from jsonb_array_elements(p_snapshot -> 'jobs') o
       where o ->> 'kind' = 'terraform.plan' and o ->> 'name' in (select jsonb_array_elements_text(coalesce(j -> 'needs', '[]')))
         and coalesce((o ->> 'destroy')::boolean, false) = (v_kind.kind = 'terraform.destroy');
      if v_plan <> 1 then
        return query select v_at || 'needs', format('%s needs exactly one terraform.plan job%s, whose plan it runs', v_kind.kind,
          case when v_kind.kind = 'terraform.destroy' then ' with destroy: true' else ' without destroy' end);
      end if;
    end if;
  end loop;
  return query select * from tendril_core.graph_errors(p_snapshot -> 'jobs');
end $$;
comment on function tendril_core.job_errors is 'What is wrong with a snapshot''s jobs, beyond their form.';

create function tendril_core.snapshot_errors(p_snapshot jsonb) returns table (path text, message text)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  k text;
begin
  return query select e.path, e.message
    from tendril_core.schema_errors(tendril_core.snapshot_schema(), p_snapshot, 'config_snapshot') e;
  -- The rules below trust the form; after an error of form they would only repeat it.
  if found then return; end if;
  if not p_snapshot ? 'template' and not p_snapshot ? 'jobs' then
    return query select 'config_snapshot'::text, 'needs a template or jobs'::text;
  end if;
  foreach k in array array['action', 'approval', 'cost'] loop
    if p_snapshot ? k and p_snapshot ? 'jobs' then
      return query select 'config_snapshot.' || k, 'belongs to the default jobs of a template; jobs stand beside it'::text;
    end if;
  end loop;
  foreach k in array array['inputs', 'engine', 'engine_version', 'backend', 'workspace', 'state_key', 'stateless'] loop
    if p_snapshot ? k and not p_snapshot ? 'template' then
      return query select 'config_snapshot.' || k, 'has no meaning without a template'::text;
    end if;
  end loop;
  if p_snapshot ? 'engine_version' and not p_snapshot ? 'engine' then
    return query select 'config_snapshot.engine_version'::text, 'needs engine'::text;
  end if;
  if p_snapshot ? 'template' then
    return query select 'config_snapshot.' || e.path, e.message from tendril_core.template_errors(p_snapshot) e;
    if p_snapshot ? 'backend' then
      return query select 'config_snapshot.' || e.path, e.message from tendril_core.backend_errors(p_snapshot) e;
      if coalesce((p_snapshot ->> 'stateless')::boolean, false) then
        return query select 'config_snapshot.stateless'::text, 'contradicts backend'::text;
      end if;
    elsif not coalesce((p_snapshot ->> 'stateless')::boolean, false) then
      return query select 'config_snapshot.backend'::text, 'is required, or stateless: true when the state may be thrown away'::text;
    elsif p_snapshot ?| array['state_key', 'workspace'] then
      return query select 'config_snapshot.stateless'::text, 'contradicts state_key and workspace'::text;
    end if;
  end if;
  if p_snapshot ? 'jobs' then
    return query select 'config_snapshot.' || e.path, e.message from tendril_core.job_errors(p_snapshot) e;
  end if;
end $$;
comment on function tendril_core.snapshot_errors is 'Everything that is wrong with a snapshot, each with the path of the key.';

create function tendril_core.check_snapshot(p_snapshot jsonb) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_max    integer := (select snapshot_max_bytes from tendril_core.settings);
  v_errors jsonb;
begin
  if octet_length(p_snapshot::text) > v_max then
    perform tendril_core.fail('TD001', format('config_snapshot: has more than %s bytes', v_max), 'put large files into git or a template');
  end if;
  select jsonb_agg(jsonb_build_object('path', e.path, 'message', e.message)) into v_errors
    from tendril_core.snapshot_errors(p_snapshot) e;
  if v_errors is not null then
    perform tendril_core.fail('TD001', format('%s: %s', v_errors #>> '{0,path}', v_errors #>> '{0,message}'),
      'docs/SQL.md describes config_snapshot', v_errors::text);
  end if;
end $$;
comment on function tendril_core.check_snapshot is 'Refuses a bad snapshot with TD001; DETAIL lists all errors as JSON.';

-- name of the function: jobs_of
create function tendril_core.jobs_of(p_snapshot jsonb, p_cost boolean)
returns table (name text, kind text, needs text[], mutating boolean, optional boolean, needs_approval boolean, priority smallint,
  timeout_ms bigint, kill_grace_ms bigint, max_attempts smallint, retry_failures boolean, requires text[], state_key text, spec jsonb)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_action text  := coalesce(p_snapshot ->> 'action', 'apply');
  v_jobs   jsonb := p_snapshot -> 'jobs';
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
             || case when k.engine and p_snapshot ? 'engine'
                  then array['engine=' || (p_snapshot ->> 'engine') || coalesce('@' || (p_snapshot ->> 'engine_version'), '')] else '{}' end
             || case when k.engine and p_snapshot #>> '{backend,type}' = 'local' then array['place=' || (p_snapshot #>> '{backend,place}')] else '{}' end
             || array(select jsonb_array_elements_text(coalesce(p_snapshot -> 'labels', '[]') || coalesce(j.job -> 'labels', '[]'))),
           case when k.engine and k.mutating then tendril_core.state_key_of(p_snapshot) end,
           jsonb_strip_nulls(jsonb_build_object('argv', j.job -> 'argv', 'destroy', j.job -> 'destroy', 'needs', j.job -> 'needs'))
      from jsonb_array_elements(v_jobs) with ordinality j(job, ord)
      join tendril_core.kinds k on k.kind = j.job ->> 'kind',
      lateral (select coalesce(p_snapshot -> 'limits', '{}') || coalesce(j.job -> 'limits', '{}') as limits) l
     order by j.ord;
end $$;
comment on function tendril_core.jobs_of is 'The jobs that a checked snapshot expands to, in order; the default ones are plan, cost and apply.';

revoke execute on all functions in schema tendril_core from public;
