-- Secrets by reference: a snapshot says where a runner finds them. Values stand in no table.

create or replace function tendril_core.snapshot_schema() returns jsonb
language sql immutable parallel safe set search_path = pg_catalog, pg_temp
as $$
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
        "plan_max_age_s": {"type": "integer", "minimum": 60, "maximum": 31536000, "default": 86400, "description": "An older plan is not applied"},
        "max_attempts": {"type": "integer", "minimum": 1, "maximum": 20, "description": "For kinds that only read. When given, failures are tried again, not only losses."}
      }
    },
    "approval": {"type": "string", "enum": ["required", "none"], "default": "none"},
    "priority": {"type": "integer", "minimum": 0, "maximum": 100, "description": "Smaller is claimed earlier. Without it the kind says: 10 apply and destroy, 20 plan and exec, 30 cost."},
    "run_after": {"type": "string", "description": "Not before this moment (RFC 3339)", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]{1,6})?(Z|[+-][0-9]{2}:[0-9]{2})$"},
    "concurrency": {
      "type": "object", "additionalProperties": false, "required": ["key"],
      "description": "At most so many jobs of the cluster with this key run at once; counts for each job of the deployment",
      "properties": {
        "key": {"type": "string", "minLength": 1, "maxLength": 200},
        "limit": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 1}
      }
    },
    "budget": {
      "description": "What the template's resources may cost, by the estimate",
      "type": "object", "additionalProperties": false, "required": ["monthly"],
      "properties": {
        "monthly": {"type": "integer", "minimum": 0, "maximum": 1000000000, "description": "In the estimate's currency"},
        "over": {"type": "string", "enum": ["approval", "refuse"], "default": "approval"}
      }
    },
    "secrets": {
      "description": "Where the runner finds secrets for the commands of the jobs, and which variable each sets there. References only: a value never stands here",
      "type": "array", "maxItems": 64,
      "items": {
        "type": "object", "additionalProperties": false, "required": ["variable", "from"],
        "properties": {
          "variable": {"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]{0,127}$", "description": "The command's variable"},
          "from": {"type": "string", "enum": ["env", "file", "vault"]},
          "name": {"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]{0,127}$", "description": "env: the runner's variable"},
          "path": {"type": "string", "pattern": "^[A-Za-z0-9_][A-Za-z0-9_./-]{0,254}$", "description": "file: below one of the runner's folders for secrets; vault: the secret, without its mount"},
          "key": {"type": "string", "minLength": 1, "maxLength": 128, "description": "vault: the key within the secret"},
          "as": {"type": "string", "enum": ["env", "file"], "default": "env", "description": "file: the variable names a file with the value"},
          "jobs": {"type": "array", "minItems": 1, "maxItems": 200, "items": {"type": "string", "pattern": "^[a-z0-9][a-z0-9_-]{0,62}$"}, "description": "Names of jobs; all, if there are none"},
          "commands": {"type": "array", "minItems": 1, "maxItems": 16, "items": {"type": "string", "enum": ["init", "workspace", "plan", "show", "apply", "force-unlock", "exec", "policy", "infracost"]}, "description": "plan, apply, exec and policy, if there are none"}
        }
      }
    },
    "unique_key": {"type": "string", "description": "At most one deployment of the cluster with this key that has not ended", "minLength": 1, "maxLength": 200},
    "cost": {"type": "string", "enum": ["auto", "on", "off"], "default": "auto", "description": "auto: when a runner of the cluster offers infracost.breakdown"},
    "jobs": {
      "type": "array", "minItems": 1, "maxItems": 200,
      "items": {
        "type": "object", "additionalProperties": false, "required": ["name", "kind"],
        "properties": {
          "name": {"type": "string", "pattern": "^[a-z0-9][a-z0-9_-]{0,62}$"},
          "kind": {"type": "string"},
          "needs": {"type": "array", "uniqueItems": true, "maxItems": 200, "items": {"type": "string"}},
          "if_failed": {"type": "object", "description": "By the name of a need: skip (default) this job when that fails, continue, or always run, also when that was skipped or cancelled"},
          "argv": {"type": "array", "minItems": 1, "maxItems": 256, "items": {"type": "string", "maxLength": 131072}, "description": "exec and policy: program and arguments, never a shell string"},
          "reading": {"type": "boolean", "description": "exec only: it changes nothing and may start again after a loss"},
          "destroy": {"type": "boolean", "description": "terraform.plan only: plan the destruction"},
          "labels": {"type": "array", "maxItems": 32, "uniqueItems": true, "items": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._/=@:-]{0,127}$"}},
          "limits": {
            "type": "object", "additionalProperties": false,
            "properties": {
              "timeout_s": {"type": "integer", "minimum": 1, "maximum": 604800},
              "kill_grace_s": {"type": "integer", "minimum": 0, "maximum": 3600},
              "plan_max_age_s": {"type": "integer", "minimum": 60, "maximum": 31536000},
              "max_attempts": {"type": "integer", "minimum": 1, "maximum": 20}
            }
          },
          "approval": {"type": "string", "enum": ["required", "none"]},
          "priority": {"type": "integer", "minimum": 0, "maximum": 100},
          "concurrency": {
            "type": "object", "additionalProperties": false, "required": ["key"],
            "properties": {
              "key": {"type": "string", "minLength": 1, "maxLength": 200},
              "limit": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 1}
            }
          },
          "optional": {"type": "boolean", "description": "its failure does not fail the deployment"}
        }
      }
    }
  }
}$json$::jsonb
$$;

create function tendril_core.secret_errors(p_snapshot jsonb) returns table (path text, message text)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  s        jsonb;
  v_at     text;
  v_wanted text[];
  k        text;
begin
  for n in 0 .. jsonb_array_length(p_snapshot -> 'secrets') - 1 loop
    s := p_snapshot -> 'secrets' -> n;
    v_at := 'config_snapshot.secrets[' || n || '].';
    v_wanted := case s ->> 'from' when 'env' then array['name'] when 'file' then array['path'] else array['path', 'key'] end;
    foreach k in array v_wanted loop
      if not s ? k then return query select v_at || k, format('is required for a secret from %s', s ->> 'from'); end if;
    end loop;
    foreach k in array array['name', 'path', 'key'] loop
      if s ? k and k <> all (v_wanted) then return query select v_at || k, format('has no meaning for a secret from %s', s ->> 'from'); end if;
    end loop;
    if s ->> 'path' ~ '(^|/)[.]|//|/$' then return query select v_at || 'path', 'must not contain empty or dotted parts'::text; end if;
    if s ->> 'variable' ~* '^(tendril_|ld_|dyld_|git_|tf_cli_args)|_proxy$|^(path|home|tmpdir)$' then
      return query select v_at || 'variable', 'is set by the runner, or changes what programs load'::text;
    end if;
    for k in select jsonb_array_elements_text(coalesce(s -> 'jobs', '[]')) loop
      if p_snapshot ? 'jobs' and not exists (select from jsonb_array_elements(p_snapshot -> 'jobs') j where j ->> 'name' = k) then
        return query select v_at || 'jobs', format('there is no job %s', k);
      end if;
    end loop;
  end loop;
end $$;
comment on function tendril_core.secret_errors is 'What is wrong with the references to secrets in a snapshot.';

create or replace function tendril_core.check_snapshot(p_snapshot jsonb) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  v_bytes  integer := octet_length(p_snapshot::text);
  v_errors jsonb;
begin
  -- No setting is smaller than this.
  if v_bytes > 4096 and v_bytes > (select snapshot_max_bytes from tendril_core.settings) then
    perform tendril_core.fail('TD001', format('config_snapshot: has more than %s bytes', (select snapshot_max_bytes from tendril_core.settings)),
      'put large files into git or a template');
  end if;
  select jsonb_agg(jsonb_build_object('path', e.path, 'message', e.message)) into v_errors
    from tendril_core.snapshot_errors(p_snapshot) e;
  if v_errors is null and p_snapshot ?| array['run_after', 'budget'] then
    select jsonb_agg(jsonb_build_object('path', e.path, 'message', e.message)) into v_errors
      from tendril_core.queue_errors(p_snapshot) e;
  end if;
  if v_errors is null and p_snapshot ? 'secrets' then
    select jsonb_agg(jsonb_build_object('path', e.path, 'message', e.message)) into v_errors
      from tendril_core.secret_errors(p_snapshot) e;
  end if;
  if v_errors is not null then
    perform tendril_core.fail('TD001', format('%s: %s', v_errors #>> '{0,path}', v_errors #>> '{0,message}'),
      'docs/SQL.md describes config_snapshot', v_errors::text);
  end if;
end $$;

revoke execute on all functions in schema tendril, tendril_core from public;
