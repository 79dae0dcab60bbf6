-- Every unfinished deployment is explained in turn, however many there are; the newest at each run, since somebody has just
-- asked for them.

-- By id, too: so a turn is read from the index alone, however many deployments there are or were made at one moment.
drop index tendril.deployments_unfinished;
create index deployments_unfinished on tendril.deployments (created_at, id)
  where status in ('QUEUED', 'PROCESSING', 'AWAITING_APPROVAL');

create table tendril_core.explained (
  one            boolean     primary key default true check (one),
  created_at     timestamptz not null default '-infinity',
  deployment_id  uuid        not null default '00000000-0000-0000-0000-000000000000'
) with (fillfactor = 50);
insert into tendril_core.explained default values;
comment on table  tendril_core.explained is 'One row: how far the duty explain has come in this round.';
comment on column tendril_core.explained.one is 'Always true: keeps the table at one row.';
comment on column tendril_core.explained.created_at is 'created_at of the deployment that was the last.';
comment on column tendril_core.explained.deployment_id is 'That deployment.';

create or replace function tendril_core.duty_explain() returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  c_turn   constant integer := 400;
  c_newest constant integer := 100;
  e        tendril_core.explained;
  v        uuid;
  v_turn   uuid[];
  v_newest uuid[];
  v_n      bigint;
begin
  -- A claim passes over a deployment that somebody had locked; its status is mended here.
  for v in select d.id from tendril.deployments d
            where d.status in ('QUEUED', 'AWAITING_APPROVAL') and d.id in (
              select a.deployment_id from tendril_core.attempts a join tendril_core.jobs j on j.id = a.job_id and j.attempt_id = a.id
               where a.ended_at is null and a.superseded_at is null and j.state in ('CLAIMED', 'STARTED', 'UNKNOWN'))
            order by d.id limit 500 for update skip locked loop
    perform tendril_core.settle(v);
  end loop;
  select * into e from tendril_core.explained;
  v_turn := array(
    select d.id from tendril.deployments d
     where d.status in ('QUEUED', 'PROCESSING', 'AWAITING_APPROVAL')
       and (d.created_at, d.id) > (e.created_at, e.deployment_id)
     order by d.created_at, d.id limit c_turn);
  -- Where the round is over the next one begins; few deployments are all looked at in each run.
  v_turn := v_turn || array(
    select d.id from tendril.deployments d
     where d.status in ('QUEUED', 'PROCESSING', 'AWAITING_APPROVAL')
       and (d.created_at, d.id) <= (e.created_at, e.deployment_id)
     order by d.created_at, d.id limit c_turn - cardinality(v_turn));
  v_newest := array(
    select d.id from tendril.deployments d
     where d.status in ('QUEUED', 'PROCESSING', 'AWAITING_APPROVAL') order by d.created_at desc, d.id desc limit c_newest);
  update tendril_core.explained x set created_at = d.created_at, deployment_id = d.id
    from tendril.deployments d where d.id = v_turn[cardinality(v_turn)] and d.id <> x.deployment_id;
  with waiting as (
    select d.id, (select tendril_core.waiting_for(j) from tendril_core.jobs j
                   where not r.running and j.deployment_id = d.id and j.state in ('QUEUED', 'AWAITING_APPROVAL', 'UNKNOWN')
                   order by j.created_at, j.id limit 1) as what
      from tendril.deployments d, lateral (select exists (select from tendril_core.jobs j
        where j.deployment_id = d.id and j.state in ('CLAIMED', 'STARTED')) as running) r
     -- A claim may have come between our look and our update: what runs and says that it waits is mended, too.
     where d.id = any (v_turn || v_newest)
       and d.status in ('QUEUED', 'PROCESSING', 'AWAITING_APPROVAL') and (not r.running or d.waiting_for is not null)),
  locked as (
    select d.id, w.what from waiting w join tendril.deployments d on d.id = w.id
     where d.waiting_for is distinct from w.what and d.ended_at is null order by d.id for update of d skip locked)
  update tendril.deployments d set waiting_for = l.what from locked l where d.id = l.id;
  get diagnostics v_n = row_count;
  return v_n;
end $$;
comment on function tendril_core.duty_explain is
  'Keeps waiting_for of unfinished deployments true: of 400 at each run, all of them in turn, and of the newest 100.';
