-- Checks template inputs against the JSON Schema subset that templates are written in.
--
-- The same check exists in Rust (crate tendril-templates) and gives the same paths and messages;
-- templates/cases/schema.json and a generated comparison hold both to it. A schema gets here through
-- `template register`, which refuses what lies outside the subset; what gets past it raises an error here
-- and never passes silently.
--
-- Bounds: a value has at most 32 levels and 10,000 values, which bounds the recursion; a pattern has at
-- most 256 characters and is tried on at most 10,000; at most 100 errors are listed.

create function tendril_core.schema_number(n numeric) returns numeric
language plpgsql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
set extra_float_digits = 1
as $$
begin
    -- Outside these bounds the cast to a double would raise an error. No other parser can hold the large
    -- ones, and the small ones are zero to it.
    if abs(n) >= 1.797e308 then
        return n;
    elsif abs(n) < 1e-310 or abs(n::float8) < 1e-300::float8 then
        return 0;
    end if;
    return n::float8::text::numeric;
end
$$;
comment on function tendril_core.schema_number(numeric) is
    'The decimal that is read back from the double nearest to n: what most JSON parsers make of it. Magnitudes below 1e-300 are 0.';
revoke execute on function tendril_core.schema_number(numeric) from public;

create function tendril_core.schema_canonical(value jsonb) returns jsonb
language plpgsql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
begin
    case jsonb_typeof(value)
        when 'number' then
            return to_jsonb(tendril_core.schema_number(value::numeric));
        when 'array' then
            return coalesce((select jsonb_agg(tendril_core.schema_canonical(e.item) order by e.place)
                from jsonb_array_elements(value) with ordinality as e (item, place)), '[]');
        when 'object' then
            return coalesce((select jsonb_object_agg(e.key, tendril_core.schema_canonical(e.value))
                from jsonb_each(value) as e), '{}');
        else
            return value;
    end case;
end
$$;
comment on function tendril_core.schema_canonical(jsonb) is
    'The value with every number passed through schema_number, so that = is the equality that JSON Schema means.';
revoke execute on function tendril_core.schema_canonical(jsonb) from public;

create function tendril_core.schema_path(parent text, key text) returns text
language plpgsql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
begin
    if char_length(key) > 64 then
        return parent || '[' || to_jsonb(left(key, 64) || chr(8230))::text || ']';
    elsif key !~ '^[A-Za-z_][A-Za-z0-9_-]*$' then
        return parent || '[' || to_jsonb(key)::text || ']';
    end if;
    return case parent when '' then key else parent || '.' || key end;
end
$$;
comment on function tendril_core.schema_path(text, text) is
    'The path of a key below parent: parent.key for a plain key, parent["any text"] for others, cut after 64 characters.';
revoke execute on function tendril_core.schema_path(text, text) from public;

create function tendril_core.schema_counted(n numeric, noun text) returns text
language plpgsql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
begin
    return n || ' ' || noun || case when n = 1 then '' else 's' end;
end
$$;
comment on function tendril_core.schema_counted(numeric, text) is 'A number with its noun in singular or plural, for messages.';
revoke execute on function tendril_core.schema_counted(numeric, text) from public;

create function tendril_core.schema_check_fixed(schema jsonb, value jsonb, at text) returns text[]
language plpgsql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    errors text[] := '{}';
    fixed constant jsonb := schema -> 'const';
    allowed constant jsonb := schema -> 'enum';
begin
    -- Values that are equal as they stand are the normal case and cost no walk through them.
    if fixed <> value and tendril_core.schema_canonical(fixed) <> tendril_core.schema_canonical(value) then
        errors := errors || array[at, 'must be ' || case
            when jsonb_typeof(fixed) in ('array', 'object') then 'the one fixed value'
            else tendril_core.schema_canonical(fixed)::text
        end];
    end if;
    -- For scalars @> asks whether the list holds the value, which needs no query.
    if allowed is null or (jsonb_typeof(value) not in ('array', 'object') and allowed @> value) then
        return errors;
    end if;
    if not exists (select from jsonb_array_elements(allowed) as e (item)
        where jsonb_typeof(e.item) = jsonb_typeof(value) and jsonb_typeof(value) in ('number', 'array', 'object')
            and (e.item = value or tendril_core.schema_canonical(e.item) = tendril_core.schema_canonical(value))) then
        errors := errors || array[at, case
            when jsonb_array_length(allowed) > 12
                or jsonb_path_exists(allowed, 'strict $[*] ? (@.type() == "array" || @.type() == "object")')
            then 'must be one of the ' || jsonb_array_length(allowed) || ' allowed values'
            else 'must be one of ' || (
                select string_agg(tendril_core.schema_canonical(e.item)::text, ', ' order by e.place)
                from jsonb_array_elements(allowed) with ordinality as e (item, place))
        end];
    end if;
    return errors;
end
$$;
comment on function tendril_core.schema_check_fixed(jsonb, jsonb, text) is
    'What `const` and `enum` find, as pairs of path and message.';
revoke execute on function tendril_core.schema_check_fixed(jsonb, jsonb, text) from public;

create function tendril_core.schema_check_number(schema jsonb, n numeric, at text) returns text[]
language plpgsql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    errors text[] := '{}';
    bound numeric;
begin
    bound := tendril_core.schema_number((schema -> 'minimum')::numeric);
    if n < bound then
        errors := errors || array[at, 'must be at least ' || bound];
    end if;
    bound := tendril_core.schema_number((schema -> 'maximum')::numeric);
    if n > bound then
        errors := errors || array[at, 'must be at most ' || bound];
    end if;
    bound := tendril_core.schema_number((schema -> 'exclusiveMinimum')::numeric);
    if n <= bound then
        errors := errors || array[at, 'must be more than ' || bound];
    end if;
    bound := tendril_core.schema_number((schema -> 'exclusiveMaximum')::numeric);
    if n >= bound then
        errors := errors || array[at, 'must be less than ' || bound];
    end if;
    return errors;
end
$$;
comment on function tendril_core.schema_check_number(jsonb, numeric, text) is
    'What the rules for numbers find, as pairs of path and message.';
revoke execute on function tendril_core.schema_check_number(jsonb, numeric, text) from public;

create function tendril_core.schema_check_text(schema jsonb, content text, at text) returns text[]
language plpgsql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    errors text[] := '{}';
    length constant int := char_length(content);
    bound numeric;
    pattern constant text := schema ->> 'pattern';
begin
    bound := tendril_core.schema_number((schema -> 'minLength')::numeric);
    if length < bound then
        errors := errors || array[at, 'must be at least ' || tendril_core.schema_counted(bound, 'character') || ' long'];
    end if;
    bound := tendril_core.schema_number((schema -> 'maxLength')::numeric);
    if length > bound then
        errors := errors || array[at, 'must be at most ' || tendril_core.schema_counted(bound, 'character') || ' long'];
    end if;
    if char_length(pattern) > 256 then
        raise exception 'the pattern at % is longer than 256 characters', at
            using errcode = 'invalid_parameter_value', hint = 'register the template again: its schema is outside what is checked here';
    end if;
    if length > 10000 and pattern is not null then
        errors := errors || array[at, 'must be at most 10000 characters long to be matched'];
    elsif content collate "C" !~ pattern then
        errors := errors || array[at, 'must match the pattern ' || pattern];
    end if;
    return errors;
end
$$;
comment on function tendril_core.schema_check_text(jsonb, text, text) is
    'What the rules for strings find, as pairs of path and message. Lengths count code points.';
revoke execute on function tendril_core.schema_check_text(jsonb, text, text) from public;

create function tendril_core.schema_check(schema jsonb, value jsonb, at text, room int) returns text[]
language plpgsql immutable strict parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    errors text[] := '{}';
    kind constant text := jsonb_typeof(value);
    wanted constant jsonb := case jsonb_typeof(schema -> 'type')
        when 'string' then jsonb_build_array(schema -> 'type') else schema -> 'type' end;
    n numeric;
    bound numeric;
    item record;
begin
    if jsonb_typeof(schema) <> 'object' or schema - array[
        'type', 'const', 'enum', 'minimum', 'maximum', 'exclusiveMinimum', 'exclusiveMaximum',
        'minLength', 'maxLength', 'pattern', 'items', 'minItems', 'maxItems', 'uniqueItems',
        'properties', 'required', 'additionalProperties', 'default', 'title', 'description',
        'examples', 'sensitive'] <> '{}' then
        raise exception 'the schema for % holds what is not checked here', at
            using errcode = 'invalid_parameter_value', hint = 'register the template again: its schema is outside what is checked here';
    end if;
    if kind = 'number' then
        n := tendril_core.schema_number(value::numeric);
        if abs(n) > 9007199254740991 then
            return array[at, 'must lie between -9007199254740991 and 9007199254740991; give it as text'];
        end if;
    end if;
    if not (wanted ? kind or (kind = 'number' and wanted ? 'integer' and n = trunc(n))) then
        return array[at, 'must be ' || (select string_agg(case
                when w.name = 'null' then 'null'
                when w.name in ('object', 'array', 'integer') then 'an ' || w.name
                else 'a ' || w.name
            end, ' or ' order by w.place)
            from jsonb_array_elements_text(wanted) with ordinality as w (name, place))];
    end if;
    if schema ? 'const' or schema ? 'enum' then
        errors := tendril_core.schema_check_fixed(schema, value, at);
    end if;
    case kind
        when 'number' then
            return errors || tendril_core.schema_check_number(schema, n, at);
        when 'string' then
            return errors || tendril_core.schema_check_text(schema, value #>> '{}', at);
        when 'array' then
            bound := tendril_core.schema_number((schema -> 'minItems')::numeric);
            if jsonb_array_length(value) < bound then
                errors := errors || array[at, 'must hold at least ' || tendril_core.schema_counted(bound, 'item')];
            end if;
            bound := tendril_core.schema_number((schema -> 'maxItems')::numeric);
            if jsonb_array_length(value) > bound then
                errors := errors || array[at, 'must hold at most ' || tendril_core.schema_counted(bound, 'item')];
            end if;
            if schema -> 'uniqueItems' = 'true' and jsonb_array_length(value) > (
                select count(distinct e.item)
                from jsonb_array_elements(tendril_core.schema_canonical(value)) as e (item)) then
                errors := errors || array[at, 'must not hold the same item twice'];
            end if;
            if schema ? 'items' then
                for item in
                    select e.value, e.place from jsonb_array_elements(value) with ordinality as e (value, place)
                    order by e.place
                loop
                    exit when cardinality(errors) >= 2 * room;
                    errors := errors || tendril_core.schema_check(schema -> 'items', item.value,
                        at || '[' || item.place - 1 || ']', room - cardinality(errors) / 2);
                end loop;
            end if;
        when 'object' then
            for i in 0 .. coalesce(jsonb_array_length(schema -> 'required'), 0) - 1 loop
                if not value ? (schema -> 'required' ->> i) then
                    errors := errors || array[tendril_core.schema_path(at, schema -> 'required' ->> i), 'is required'];
                end if;
            end loop;
            -- Without properties and open to others there is nothing to look at.
            if value = '{}' or not (schema ? 'properties' or schema -> 'additionalProperties' = 'false') then
                return errors;
            end if;
            for item in
                select e.key, e.value from jsonb_each(value) as e order by e.key collate "C"
            loop
                exit when cardinality(errors) >= 2 * room;
                if schema -> 'properties' ? item.key then
                    errors := errors || tendril_core.schema_check(schema -> 'properties' -> item.key, item.value,
                        tendril_core.schema_path(at, item.key), room - cardinality(errors) / 2);
                elsif schema -> 'additionalProperties' = 'false' then
                    errors := errors || array[tendril_core.schema_path(at, item.key), 'is not a known key'];
                end if;
            end loop;
        else
            null;
    end case;
    return errors;
end
$$;
comment on function tendril_core.schema_check(jsonb, jsonb, text, int) is
    'What one schema object finds in a value, children included, as pairs of path and message; stops soon after `room` errors. For schema_errors, which bounds the value first.';
revoke execute on function tendril_core.schema_check(jsonb, jsonb, text, int) from public;

create function tendril_core.schema_errors(schema jsonb, value jsonb, at text) returns table (path text, message text)
language plpgsql immutable parallel safe rows 10
set search_path = pg_catalog, pg_temp
as $$
declare
    errors text[];
begin
    if schema is null or value is null or at is null then
        raise exception 'schema, value and path must not be null'
            using errcode = 'null_value_not_allowed', hint = 'pass {} for inputs that are absent';
    end if;
    if jsonb_path_exists(value, 'strict $.**{33}') then
        errors := array[at, 'must not be nested deeper than 32 levels'];
    elsif jsonb_array_length(jsonb_path_query_array(value, 'strict $.**')) > 10000 then
        errors := array[at, 'must not hold more than 10000 values'];
    else
        errors := tendril_core.schema_check(schema, value, at, 100);
    end if;
    for i in 1 .. least(cardinality(errors) / 2, 100) loop
        path := errors[2 * i - 1];
        message := errors[2 * i];
        return next;
    end loop;
end
$$;
comment on function tendril_core.schema_errors(jsonb, jsonb, text) is
    'What is wrong with a template''s inputs: path (beginning with the third argument, e.g. inputs.zones[2]) and message, in the order of the value; no rows when the value fits. At most 100. Raises 22023 for a schema outside the supported subset. Messages never quote the value.';
revoke execute on function tendril_core.schema_errors(jsonb, jsonb, text) from public;
