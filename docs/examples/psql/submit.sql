-- Submits a deployment and follows it to its end; exit code 3 when it is refused or does not succeed.
--
--   psql -X -v cluster=CLUSTER_ID -v file=snapshot.json [-v id=DEPLOYMENT_ID] < submit.sql
\set ON_ERROR_STOP on
\set QUIET on
\set snapshot `cat :'file'`

-- The id is made here, before anything is sent: the same statement sent twice, after a lost reply, queues once.
-- This is a UUIDv7; on PostgreSQL 18 it is just uuidv7().
\if :{?id}
\else
  SELECT encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid())
           placing substring(int8send((extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3) FROM 1 FOR 6),
           52, 1), 53, 1), 'hex')::uuid AS id \gset
\endif
\echo deployment :id

-- A snapshot that is refused leaves nothing behind: TD001 names the wrong key, DETAIL lists all of them as JSON.
\set VERBOSITY verbose
INSERT INTO tendril.deployments (id, cluster_id, config_snapshot) VALUES (:'id', :'cluster', :'snapshot')
  ON CONFLICT (id) DO NOTHING;

-- Positions are vectors, {attempt: number of its last record that was read}: each attempt counts from 0.
-- Every look is a transaction of its own, so that nothing stays open while jobs run.
\set VERBOSITY terse
SELECT set_config('example.deployment', :'id', false) \g /dev/null
DO $follow$
DECLARE
  v_id       uuid  := current_setting('example.deployment');
  v_position jsonb := '{}';
  v_state    jsonb;
  v_shown    text;
  v_chunk    record;
  v_quiet    integer := 0;
BEGIN
  IF NOT EXISTS (SELECT FROM tendril.deployments WHERE id = v_id) THEN
    RAISE EXCEPTION 'deployment % is somebody else''s: make a new id', v_id;
  END IF;
  LOOP
    -- The state first: what it says about the logs' ends is then older than the rows that are read after it.
    v_state := tendril.status(v_id);
    IF v_shown IS DISTINCT FROM concat_ws(', waits for ', v_state ->> 'status', v_state ->> 'waiting_for') THEN
      v_shown := concat_ws(', waits for ', v_state ->> 'status', v_state ->> 'waiting_for');
      RAISE INFO '%', v_shown;
    END IF;
    FOR v_chunk IN SELECT * FROM tendril.logs_after(v_id, v_position) LOOP
      RAISE INFO '[%] %', v_chunk.job, rtrim(v_chunk.log_chunk, E'\n');
      v_position := v_position || jsonb_build_object(v_chunk.attempt_id, v_chunk.seq_to);
    END LOOP;
    IF NOT FOUND AND v_state ->> 'status' IN ('SUCCESS', 'FAILED', 'CANCELLED') THEN
      EXIT WHEN NOT EXISTS (
        SELECT FROM jsonb_to_recordset(v_state -> 'logs') AS l (attempt_id uuid, log_end bigint, log_state text)
         WHERE l.log_state = 'open'
           AND coalesce((v_position ->> l.attempt_id::text)::bigint, -1) < coalesce(l.log_end, 'infinity'::float8));
      -- The log of a runner that was lost may come hours later: nobody waits for that here.
      v_quiet := v_quiet + 1;
      EXIT WHEN v_quiet > 20;
    END IF;
    COMMIT;
    PERFORM pg_sleep(0.5);
  END LOOP;
  IF v_state ->> 'status' <> 'SUCCESS' THEN
    RAISE EXCEPTION 'the deployment ended as %', concat_ws(': ', v_state ->> 'status', v_state ->> 'error_message');
  END IF;
END $follow$;

SELECT jsonb_pretty(outputs) AS outputs FROM tendril.deployments WHERE id = :'id';
