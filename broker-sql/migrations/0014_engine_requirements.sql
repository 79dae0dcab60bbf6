-- A registered template says which engines and versions carry it out: a snapshot that asks for another is refused at submit.
--
-- The same check exists in Rust (crate tendril-templates, Engines::check); a test holds both to one answer, word for word.

-- name of the function: version_key
-- Arrays of text in this form stand in the order of semantic versions under collation "C": numbers are padded, a part of a
-- pre-release begins with 0 (a number, by its length first) or 1 (a word), and a release has 2 there, behind all of them.
create function tendril_core.version_key(p_version text) returns text[]
language plpgsql immutable strict parallel safe set search_path = pg_catalog, pg_temp as $$
declare
  c_number constant text := '(0|[1-9][0-9]{0,19})';
  c_part   constant text := '(?:0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*)';
  v        constant text[] := regexp_match(p_version,
    format('^%s[.]%s[.]%s(?:-(%s(?:[.]%s)*))?$', c_number, c_number, c_number, c_part, c_part));
  v_key    text[] := array[lpad(v[1], 20, '0'), lpad(v[2], 20, '0'), lpad(v[3], 20, '0')];
begin
  -- Each number has 64 bits.
  if v is null or exists (select from unnest(v_key) n where n collate "C" > '18446744073709551615') then
    return null;
  end if;
  return v_key || case when v[4] is null then array['2'] else array(
    select case when p.part ~ '^[0-9]+$' then '0' || lpad(length(p.part)::text, 10, '0') || p.part else '1' || p.part end
      from string_to_table(v[4], '.') with ordinality p(part, ord) order by p.ord) end;
end $$;
comment on function tendril_core.version_key is 'A semantic version as an array that orders as versions do under collation "C"; NULL for what is none.';

-- name of the function: version_matches
-- A comparator may leave out patch and minor. Then only what it names is compared, and pre-releases stay outside but for ^.
create function tendril_core.version_matches(p_requirement text, p_version text) returns boolean
language plpgsql immutable strict parallel safe set search_path = pg_catalog, pg_temp as $$
declare
  c_number constant text := '(0|[1-9][0-9]{0,19})';
  k        constant text[] := tendril_core.version_key(p_version);
  v_named  boolean := k[4] = '2';
  v_fits   boolean := true;
  v_one    text;
  v        text[];
  n        integer;  -- how many of major, minor and patch the comparator names
  f        integer;  -- how many of them ^ and ~ keep as they are
  c        text[];   -- the comparator's key,
  p        text[];   -- and as much of the version's as it is compared with
begin
  foreach v_one in array case when p_requirement = '*' then '{}' else regexp_split_to_array(p_requirement, ' *, *') end loop
    v := regexp_match(v_one, format('^(=|>=|>|<=|<|~|\^)? ?%s(?:[.]%s(?:[.]%s(-[0-9A-Za-z.-]+)?)?)?([.][*])?$', c_number, c_number, c_number));
    n := 3 - (v[3] is null)::integer - (v[4] is null)::integer;
    c := tendril_core.version_key(format('%s.%s.%s%s', v[2], coalesce(v[3], '0'), coalesce(v[4], '0'), v[5]));
    if c is null or v[6] is not null and (v[1] is not null or n = 3) then
      raise exception '% is not a version requirement', p_requirement
        using errcode = 'invalid_parameter_value', hint = 'write it as in >=1.6, <2';
    end if;
    v_named := v_named or v[5] is not null and k[1:3] = c[1:3];
    p := case when n = 3 then k else k[1:n] end;
    c := case when n = 3 then c else c[1:n] end;
    f := case when v[1] = '~' then least(n, 2) when v[2] <> '0' then 1 when v[3] <> '0' then 2 else n end;
    v_fits := v_fits and case
      when v[1] = '>' then p collate "C" > c
      when v[1] = '<' then p collate "C" < c
      when v[1] = '=' or v[6] is not null then p = c and (n = 3 or k[4] = '2')
      when v[1] = '>=' then p collate "C" > c or p = c and (n = 3 or k[4] = '2')
      when v[1] = '<=' then p collate "C" < c or p = c and (n = 3 or k[4] = '2')
      when v[1] = '~' then p[1:f] = c[1:f] and p[f + 1:] collate "C" >= c[f + 1:] and (n = 3 or k[4] = '2')
      else p[1:f] = c[1:f] and p[f + 1:] collate "C" >= c[f + 1:] end;
  end loop;
  -- A pre-release is taken only where one of the same version is named.
  return v_fits and v_named;
end $$;
comment on function tendril_core.version_matches is
  'Whether a semantic version fits a requirement such as ">=1.6, <2"; 22023 for what is no requirement, NULL for what is no version.';

create function tendril_core.engine_errors(p_engines jsonb, p_engine text, p_version text) returns table (path text, message text)
language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
begin
  if p_engine is null then
    return;
  elsif not p_engines ? p_engine then
    return query select 'engine'::text, format('the template works with %s, not %s',
      coalesce((select string_agg(e, ' and ' order by e) from jsonb_object_keys(p_engines) e), 'no engine'), p_engine);
  elsif tendril_core.version_key(p_version) is null and p_version is not null then
    return query select 'engine_version'::text, 'must be a semantic version such as 1.6.2'::text;
  elsif not tendril_core.version_matches(p_engines ->> p_engine, p_version) then
    return query select 'engine_version'::text, format('the template needs %s %s, not %s', p_engine, p_engines ->> p_engine, p_version);
  end if;
end $$;
comment on function tendril_core.engine_errors is 'What is wrong with the engine and version that a snapshot asks for, by what its template says.';

create or replace function tendril_core.template_errors(p_snapshot jsonb) returns table (path text, message text)
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
    return query select e.path, e.message
      from tendril_core.engine_errors(v_reg.record -> 'engine', p_snapshot ->> 'engine', p_snapshot ->> 'engine_version') e;
  end if;
end $$;
comment on function tendril_core.template_errors is 'What is wrong with a snapshot''s template and, if it is registered, with its inputs and its engine.';

revoke execute on all functions in schema tendril_core from public;
