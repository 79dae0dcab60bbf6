-- The media type of an artifact was text without a bound: a way around artifact_max_bytes.

create or replace function tendril.runner_artifact_put(p_attempt uuid, p_fence bigint, p_name text, p_media_type text, p_data bytea) returns uuid
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  v_me  tendril_core.runner_identity := tendril_core.runner_identity();
  v_max integer := (select artifact_max_bytes from tendril_core.settings);
  v_id  uuid;
begin
  perform tendril_core.guard();
  if octet_length(p_data) > v_max then
    perform tendril_core.fail('TD011', format('artifact %s has %s bytes, the limit is %s', left(p_name, 64), octet_length(p_data), v_max),
      'an operator can raise artifact_max_bytes');
  end if;
  if octet_length(p_media_type) > 255 then
    perform tendril_core.fail('TD001', format('media type of artifact %s: has more than 255 bytes', left(p_name, 64)));
  end if;
  if not exists (select from tendril_core.attempts a where a.id = p_attempt and a.fence = p_fence and a.cluster_id = v_me.cluster_id) then
    perform tendril_core.fail('TD002', format('there is no attempt %s with fence %s of this cluster', p_attempt, p_fence));
  end if;
  if (select count(*) from tendril_core.artifacts a where a.attempt_id = p_attempt and a.name <> p_name) >= 32 then
    perform tendril_core.fail('TD011', format('attempt %s has 32 artifacts already', p_attempt));
  end if;
  insert into tendril_core.artifacts (cluster_id, attempt_id, fence, name, media_type, sha256, size_bytes, data)
    values (v_me.cluster_id, p_attempt, p_fence, p_name, p_media_type, encode(sha256(p_data), 'hex'), octet_length(p_data), p_data)
    on conflict (attempt_id, name) do nothing returning id into v_id;
  if v_id is null then
    -- Sent again after a lost reply: the stored bytes stay, since a sealed artifact differs at each sealing.
    select id into v_id from tendril_core.artifacts where attempt_id = p_attempt and name = p_name;
  end if;
  return v_id;
exception when check_violation then
  perform tendril_core.fail('TD001', format('artifact name %s: lower-case letters, digits, dot, dash and underscore', left(p_name, 64)));
end $$;
