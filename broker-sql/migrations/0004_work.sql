-- Behind the surface: jobs, the queue, attempts, runners and their leases, held keys, log writers, artifacts, counters.
--
-- Lock order everywhere: runner lease, deployment, job, attempt, held key, log writer; within a table by id.
-- Hot tables have no foreign keys: a check per row is what they cannot afford, and functions are their only door.

create table tendril_core.jobs (
  id                   uuid        primary key default tendril_core.uuidv7(),
  cluster_id           uuid        not null,
  deployment_id        uuid        not null,
  name                 text        not null,
  kind                 text        not null,
  mutating             boolean     not null,
  optional             boolean     not null default false,
  needs_approval       boolean     not null default false,
  retry_failures       boolean     not null default false,
  state                text        not null check (state in ('BLOCKED', 'QUEUED', 'CLAIMED', 'STARTED', 'UNKNOWN',
                         'AWAITING_APPROVAL', 'SUCCESS', 'FAILED', 'CANCELLED', 'SKIPPED')),
  needs_left           smallint    not null default 0,
  attempts             smallint    not null default 0,
  max_attempts         smallint    not null default 3,
  priority             smallint    not null,
  timeout_ms           bigint      not null,
  kill_grace_ms        bigint      not null,
  attempt_id           uuid,
  fence                bigint,
  state_key            text,
  requires             text[]      not null,
  spec                 jsonb       not null,
  reason               text,
  result               jsonb,
  cancel_requested_at  timestamptz,
  created_at           timestamptz not null default clock_timestamp(),
  queued_at            timestamptz,
  started_at           timestamptz,
  ended_at             timestamptz,
  deadline_at          timestamptz,
  retry_of             uuid,
  unique (deployment_id, name)
) with (fillfactor = 70, toast_tuple_target = 512);
create index jobs_unknown on tendril_core.jobs (deadline_at) where state = 'UNKNOWN';
comment on table  tendril_core.jobs is 'Units of work; a deployment''s jobs form a graph by job_needs.';
comment on column tendril_core.jobs.id is 'UUIDv7.';
comment on column tendril_core.jobs.cluster_id is 'The deployment''s cluster.';
comment on column tendril_core.jobs.deployment_id is 'The deployment it belongs to.';
comment on column tendril_core.jobs.name is 'Unique within the deployment.';
comment on column tendril_core.jobs.kind is 'terraform.plan, terraform.apply, terraform.destroy, infracost.breakdown or exec.';
comment on column tendril_core.jobs.mutating is 'Whether it changes the world: then it starts at most once.';
comment on column tendril_core.jobs.optional is 'Whether its failure leaves the deployment''s success alone.';
comment on column tendril_core.jobs.needs_approval is 'Whether somebody has to approve it before it is queued.';
comment on column tendril_core.jobs.retry_failures is 'Whether a failure, not only a loss, is tried again.';
comment on column tendril_core.jobs.state is 'The state machine of docs/PROTOCOL.md.';
comment on column tendril_core.jobs.needs_left is 'How many needed jobs have not succeeded yet.';
comment on column tendril_core.jobs.attempts is 'How many attempts were claimed; the newest one''s ordinal.';
comment on column tendril_core.jobs.max_attempts is 'Bound of attempts, losses included.';
comment on column tendril_core.jobs.priority is 'Smaller is claimed earlier.';
comment on column tendril_core.jobs.timeout_ms is 'Longest run of the job''s command, in milliseconds.';
comment on column tendril_core.jobs.kill_grace_ms is 'Time between the one SIGINT and SIGKILL, in milliseconds.';
comment on column tendril_core.jobs.attempt_id is 'The current attempt.';
comment on column tendril_core.jobs.fence is 'Its fence.';
comment on column tendril_core.jobs.state_key is 'State that it changes: backend, location and workspace. NULL: none.';
comment on column tendril_core.jobs.requires is 'Labels that a runner must have: kind=, engine=, place= and the user''s own.';
comment on column tendril_core.jobs.spec is 'What is the job''s alone; the rest is the deployment''s config_snapshot.';
comment on column tendril_core.jobs.reason is 'Why it is in this state, when that needs saying.';
comment on column tendril_core.jobs.result is 'What the accepted attempt reported: figures, outputs, artifact names.';
comment on column tendril_core.jobs.cancel_requested_at is 'Set while a holder has still to stop it.';
comment on column tendril_core.jobs.created_at is 'When it was submitted.';
comment on column tendril_core.jobs.queued_at is 'When it became claimable last.';
comment on column tendril_core.jobs.started_at is 'When its current attempt started.';
comment on column tendril_core.jobs.ended_at is 'When it reached a terminal state.';
comment on column tendril_core.jobs.deadline_at is 'Start + timeout + kill grace + unknown_kill_grace: when an UNKNOWN job ends.';
comment on column tendril_core.jobs.retry_of is 'The job that a user''s retry does again.';

create table tendril_core.job_needs (
  job_id    uuid not null references tendril_core.jobs (id) on delete cascade,
  needs_id  uuid not null references tendril_core.jobs (id) on delete cascade,
  primary key (needs_id, job_id)
);
create index job_needs_by_job on tendril_core.job_needs (job_id);
comment on table  tendril_core.job_needs is 'The edges of a deployment''s graph.';
comment on column tendril_core.job_needs.job_id is 'The job that waits.';
comment on column tendril_core.job_needs.needs_id is 'The job it waits for.';

create table tendril_core.queue (
  job_id      uuid        primary key,
  cluster_id  uuid        not null,
  priority    smallint    not null,
  seq         bigint      not null generated always as identity (cache 256),
  run_after   timestamptz not null default '-infinity',
  state_key   text,
  requires    text[]      not null
) with (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0);
create index queue_in_claim_order on tendril_core.queue (cluster_id, priority, seq);
comment on table  tendril_core.queue is 'Jobs that can be claimed, and nothing else: a row leaves when its job is claimed.';
comment on column tendril_core.queue.job_id is 'The job.';
comment on column tendril_core.queue.cluster_id is 'Its cluster: a claim reads one cluster''s part of the index.';
comment on column tendril_core.queue.priority is 'Smaller first.';
comment on column tendril_core.queue.seq is 'Order of arrival within a priority.';
comment on column tendril_core.queue.run_after is 'Not before: backoff of a retry.';
comment on column tendril_core.queue.state_key is 'Copied from the job, so that the claim reads one row.';
comment on column tendril_core.queue.requires is 'Copied from the job, likewise.';

create table tendril_core.parked (
  job_id      uuid     primary key,
  cluster_id  uuid     not null,
  state_key   text     not null,
  priority    smallint not null,
  seq         bigint   not null
);
create index parked_by_key on tendril_core.parked (cluster_id, state_key, priority, seq);
comment on table  tendril_core.parked is 'Queued jobs whose key is held: kept out of the claim''s way until it is freed.';
comment on column tendril_core.parked.job_id is 'The job.';
comment on column tendril_core.parked.cluster_id is 'Its cluster.';
comment on column tendril_core.parked.state_key is 'The key it waits for.';
comment on column tendril_core.parked.priority is 'As in the queue.';
comment on column tendril_core.parked.seq is 'As in the queue: order of arrival survives the wait.';

create sequence tendril_core.fences as bigint;

create table tendril_core.attempts (
  id             uuid        primary key default tendril_core.uuidv7(),
  fence          bigint      not null default nextval('tendril_core.fences'),
  job_id         uuid        not null,
  cluster_id     uuid        not null,
  deployment_id  uuid        not null,
  ordinal        smallint    not null,
  claim_no       bigint      not null,
  runner_id      uuid        not null,
  log_writer     uuid        not null,
  claim_day      date        not null default (clock_timestamp() at time zone 'UTC')::date,
  claimed_at     timestamptz not null default clock_timestamp(),
  started_at     timestamptz,
  ended_at       timestamptz,
  superseded_at  timestamptz,
  log_end        bigint,
  log_state      text        not null default 'open' check (log_state in ('open', 'complete', 'incomplete')),
  outcome        text,
  report         jsonb,
  progress       jsonb
) with (fillfactor = 70, toast_tuple_target = 512);
alter sequence tendril_core.fences owned by tendril_core.attempts.fence;
create index attempts_by_job on tendril_core.attempts (job_id);
create index attempts_by_deployment on tendril_core.attempts (deployment_id);
create index attempts_open on tendril_core.attempts (runner_id) where ended_at is null and superseded_at is null;
create index attempts_log_open on tendril_core.attempts (log_writer) where log_state = 'open';
comment on table  tendril_core.attempts is 'Claims of jobs by runners. (id, fence) addresses one even in a database set back in time.';
comment on column tendril_core.attempts.id is 'UUIDv7.';
comment on column tendril_core.attempts.fence is 'From a sequence, never used again: a later attempt has a larger one.';
comment on column tendril_core.attempts.job_id is 'The job.';
comment on column tendril_core.attempts.cluster_id is 'Its cluster.';
comment on column tendril_core.attempts.deployment_id is 'Its deployment.';
comment on column tendril_core.attempts.ordinal is '1, 2, 3 within the job.';
comment on column tendril_core.attempts.claim_no is 'Number of the runner''s claim that took it: the same number asks for the same attempts.';
comment on column tendril_core.attempts.runner_id is 'Who claimed it.';
comment on column tendril_core.attempts.log_writer is 'Whose batches may carry its log rows.';
comment on column tendril_core.attempts.claim_day is 'UTC day of the claim: the log partition.';
comment on column tendril_core.attempts.claimed_at is 'When it was claimed.';
comment on column tendril_core.attempts.started_at is 'When it started; the claim itself for kinds that only read.';
comment on column tendril_core.attempts.ended_at is 'When its finish was accepted.';
comment on column tendril_core.attempts.superseded_at is 'When the job went on without it: from then on it is stale.';
comment on column tendril_core.attempts.log_end is 'Number of its last log record, -1 when it printed nothing; NULL until it finished.';
comment on column tendril_core.attempts.log_state is 'open, complete, or incomplete when the log window closed too early.';
comment on column tendril_core.attempts.outcome is 'How it ended, in the runner''s word, or lost.';
comment on column tendril_core.attempts.report is 'The accepted finish report: exit, duration_ms, peak_memory_bytes and so on.';
comment on column tendril_core.attempts.progress is 'Per-resource progress while it runs.';

create table tendril_core.attempt_notes (
  attempt_id  uuid        not null references tendril_core.attempts (id) on delete cascade,
  noted_at    timestamptz not null default clock_timestamp(),
  actor       text        not null,
  what        text        not null,
  report      jsonb,
  primary key (attempt_id, noted_at)
);
comment on table  tendril_core.attempt_notes is 'What became known about an attempt and changed nothing: late reports, operators'' decisions.';
comment on column tendril_core.attempt_notes.attempt_id is 'The attempt.';
comment on column tendril_core.attempt_notes.noted_at is 'When.';
comment on column tendril_core.attempt_notes.actor is 'The role that said so.';
comment on column tendril_core.attempt_notes.what is 'In one sentence.';
comment on column tendril_core.attempt_notes.report is 'The late report itself.';

create table tendril_core.held_keys (
  cluster_id  uuid        not null,
  state_key   text        not null,
  attempt_id  uuid        not null,
  fence       bigint      not null,
  job_id      uuid        not null,
  taken_at    timestamptz not null default clock_timestamp(),
  primary key (cluster_id, state_key)
);
create index held_keys_by_attempt on tendril_core.held_keys (attempt_id);
comment on table  tendril_core.held_keys is 'One mutating run per state: freed by its holder or an operator, never by a timer once started.';
comment on column tendril_core.held_keys.cluster_id is 'The cluster.';
comment on column tendril_core.held_keys.state_key is 'The key.';
comment on column tendril_core.held_keys.attempt_id is 'The attempt that holds it.';
comment on column tendril_core.held_keys.fence is 'Its fence.';
comment on column tendril_core.held_keys.job_id is 'Its job.';
comment on column tendril_core.held_keys.taken_at is 'Since when.';

create table tendril_core.cluster_credentials (
  cluster_id   uuid        not null references tendril.clusters (id),
  generation   integer     not null check (generation > 0),
  role_name    text        not null unique,
  status       text        not null default 'active' check (status in ('active', 'draining', 'ended')),
  created_at   timestamptz not null default clock_timestamp(),
  drain_until  timestamptz,
  ended_at     timestamptz,
  primary key (cluster_id, generation)
);
comment on table  tendril_core.cluster_credentials is 'One login role per cluster and generation; names are never used again.';
comment on column tendril_core.cluster_credentials.cluster_id is 'The cluster.';
comment on column tendril_core.cluster_credentials.generation is '1, 2, 3: rotation makes a new one.';
comment on column tendril_core.cluster_credentials.role_name is 'r_<32 hex digits of the cluster>_<generation>.';
comment on column tendril_core.cluster_credentials.status is 'active; draining: finishes what it holds, claims nothing; ended: the role is gone, or has no login and no rights any more.';
comment on column tendril_core.cluster_credentials.created_at is 'When it was made.';
comment on column tendril_core.cluster_credentials.drain_until is 'When a draining one ends.';
comment on column tendril_core.cluster_credentials.ended_at is 'When that was.';

create table tendril_core.runners (
  id             uuid        primary key,
  cluster_id     uuid        not null references tendril.clusters (id),
  generation     integer     not null,
  name           text        not null,
  version        text        not null,
  place          text,
  labels         text[]      not null,
  slots          integer     not null,
  log_writer     uuid        not null,
  registered_at  timestamptz not null default clock_timestamp(),
  left_at        timestamptz
);
create index runners_by_cluster on tendril_core.runners (cluster_id, registered_at);
comment on table  tendril_core.runners is 'One row per start of a runner process.';
comment on column tendril_core.runners.id is 'UUIDv7, made by the process at its start.';
comment on column tendril_core.runners.cluster_id is 'Its cluster, by its login role.';
comment on column tendril_core.runners.generation is 'Generation of the credential it registered with.';
comment on column tendril_core.runners.name is 'Host or pod name, for people.';
comment on column tendril_core.runners.version is 'Version of the runner.';
comment on column tendril_core.runners.place is 'The disk that outlives the process, if it has one.';
comment on column tendril_core.runners.labels is 'What it can do: kind=, engine=, place= and the operator''s own.';
comment on column tendril_core.runners.slots is 'How many jobs it runs at once.';
comment on column tendril_core.runners.log_writer is 'The writer that its new attempts'' log rows come by.';
comment on column tendril_core.runners.registered_at is 'When it registered.';
comment on column tendril_core.runners.left_at is 'When it said goodbye.';

create table tendril_core.runner_leases (
  runner_id         uuid        primary key,
  cluster_id        uuid        not null,
  lease_expires_at  timestamptz not null,
  heartbeat_at      timestamptz not null,
  claim_no          bigint      not null default 0,
  judged_lost       boolean     not null default false
) with (fillfactor = 50);
comment on table  tendril_core.runner_leases is 'One narrow row per runner, updated in place (heap-only) by each heartbeat.';
comment on column tendril_core.runner_leases.runner_id is 'The runner.';
comment on column tendril_core.runner_leases.cluster_id is 'Its cluster.';
comment on column tendril_core.runner_leases.lease_expires_at is 'By the database''s clock; also moved by a re-base after a gap of the pulse.';
comment on column tendril_core.runner_leases.heartbeat_at is 'Newest heartbeat.';
comment on column tendril_core.runner_leases.claim_no is 'Number of the newest claim.';
comment on column tendril_core.runner_leases.judged_lost is 'Set by expiry, cleared by a heartbeat: a lost runner is judged once.';

create table tendril_core.log_writers (
  id             uuid        primary key,
  cluster_id     uuid        not null,
  epoch          bigint      not null,
  pid            integer     not null,
  backend_start  timestamptz not null
) with (fillfactor = 50);
comment on table  tendril_core.log_writers is 'One row per spool: only the session that took it over last may append.';
comment on column tendril_core.log_writers.id is 'Made by the runner.';
comment on column tendril_core.log_writers.cluster_id is 'Its cluster.';
comment on column tendril_core.log_writers.epoch is 'Rises with each takeover.';
comment on column tendril_core.log_writers.pid is 'Session that holds it.';
comment on column tendril_core.log_writers.backend_start is 'That session''s start, since process ids come again.';

create table tendril_core.artifacts (
  id           uuid        primary key default tendril_core.uuidv7(),
  cluster_id   uuid        not null,
  attempt_id   uuid        not null references tendril_core.attempts (id) on delete cascade,
  fence        bigint      not null,
  name         text        not null check (name ~ '^[a-z][a-z0-9._-]{0,63}$'),
  media_type   text        not null,
  sha256       text        not null check (sha256 ~ '^[0-9a-f]{64}$'),
  size_bytes   integer     not null,
  data         bytea       not null,
  created_at   timestamptz not null default clock_timestamp(),
  unique (attempt_id, name)
);
alter table tendril_core.artifacts alter column data set storage external;
comment on table  tendril_core.artifacts is 'What attempts leave behind, encrypted by the runner with a key that the broker never holds.';
comment on column tendril_core.artifacts.id is 'UUIDv7.';
comment on column tendril_core.artifacts.cluster_id is 'Its cluster.';
comment on column tendril_core.artifacts.attempt_id is 'The attempt that made it.';
comment on column tendril_core.artifacts.fence is 'Its fence.';
comment on column tendril_core.artifacts.name is 'plan, cost, state and so on; unique within the attempt.';
comment on column tendril_core.artifacts.media_type is 'Type of the content before encryption.';
comment on column tendril_core.artifacts.sha256 is 'Digest of the stored bytes, as the runner computed it and the broker checked it.';
comment on column tendril_core.artifacts.size_bytes is 'Stored bytes.';
comment on column tendril_core.artifacts.data is 'The stored bytes.';
comment on column tendril_core.artifacts.created_at is 'When it was stored.';

create table tendril_core.approvals (
  job_id      uuid        primary key references tendril_core.jobs (id) on delete cascade,
  actor       text        not null,
  reason      text,
  decided_at  timestamptz not null default clock_timestamp()
);
comment on table  tendril_core.approvals is 'Who let a job go on.';
comment on column tendril_core.approvals.job_id is 'The job.';
comment on column tendril_core.approvals.actor is 'The portal''s user, else the role.';
comment on column tendril_core.approvals.reason is 'What they said.';
comment on column tendril_core.approvals.decided_at is 'When.';

create table tendril_core.templates (
  name           text        not null,
  version        text        not null,
  inputs         jsonb       not null,
  engines        text[]      not null,
  record         jsonb       not null,
  registered_at  timestamptz not null default clock_timestamp(),
  primary key (name, version)
);
comment on table  tendril_core.templates is 'Registered template versions, so that a submit checks inputs at once.';
comment on column tendril_core.templates.name is 'The template.';
comment on column tendril_core.templates.version is 'SemVer; a registered version never changes.';
comment on column tendril_core.templates.inputs is 'JSON Schema of its inputs, in the documented subset.';
comment on column tendril_core.templates.engines is 'The engines that it runs on; empty when it needs none.';
comment on column tendril_core.templates.record is 'What was registered, whole.';
comment on column tendril_core.templates.registered_at is 'When.';

-- Counters never make one transaction wait for another: transitions insert small rows, serve folds them.
create table tendril_core.queue_deltas (
  id          bigint   generated always as identity primary key,
  cluster_id  uuid     not null,
  kind        text     not null,
  state       text     not null,
  n           integer  not null
);
comment on table  tendril_core.queue_deltas is 'Changes of the number of jobs by state that are not folded yet.';
comment on column tendril_core.queue_deltas.id is 'Order of folding.';
comment on column tendril_core.queue_deltas.cluster_id is 'The cluster.';
comment on column tendril_core.queue_deltas.kind is 'The jobs'' kind.';
comment on column tendril_core.queue_deltas.state is 'The state.';
comment on column tendril_core.queue_deltas.n is 'How many came (or, negative, left).';

create table tendril_core.queue_depth (
  cluster_id  uuid   not null,
  kind        text   not null,
  state       text   not null,
  n           bigint not null,
  primary key (cluster_id, kind, state)
) with (fillfactor = 50);
comment on table  tendril_core.queue_depth is 'Folded counts; queue_depth plus the unfolded deltas is the number of jobs.';
comment on column tendril_core.queue_depth.cluster_id is 'The cluster.';
comment on column tendril_core.queue_depth.kind is 'The jobs'' kind.';
comment on column tendril_core.queue_depth.state is 'A state that is not terminal.';
comment on column tendril_core.queue_depth.n is 'How many.';

create table tendril_core.bells (
  cluster_id  uuid        primary key,
  waiting     boolean     not null default false,
  rung_at     timestamptz not null default '-infinity'
) with (fillfactor = 50);
comment on table  tendril_core.bells is 'Whether somebody waits for a ring. The row is only ever taken with SKIP LOCKED.';
comment on column tendril_core.bells.cluster_id is 'The cluster; its channel is tendril_<32 hex digits>.';
comment on column tendril_core.bells.waiting is 'Set by a runner that listens and found nothing; cleared by the ring.';
comment on column tendril_core.bells.rung_at is 'Newest ring.';

create table tendril_core.pulse (
  one             boolean     primary key default true check (one),
  at              timestamptz not null default '-infinity',
  rebased_at      timestamptz,
  runners_online  integer     not null default 0
) with (fillfactor = 50);
insert into tendril_core.pulse default values;
comment on table  tendril_core.pulse is 'One row that serve writes each second: without it nobody is presumed dead.';
comment on column tendril_core.pulse.one is 'Always true: keeps the table at one row.';
comment on column tendril_core.pulse.at is 'Newest beat, by the database''s clock.';
comment on column tendril_core.pulse.rebased_at is 'When all leases were last assigned anew, after a gap or a step of the clock.';
comment on column tendril_core.pulse.runners_online is 'Runners whose lease is live, counted with each beat.';
