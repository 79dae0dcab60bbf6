//! A database with a portal, a cluster and runners that do by plain SQL what real ones do.
#![expect(clippy::unwrap_used, reason = "what a test of the contract cannot get, it fails by")]

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sqlx::postgres::{PgConnection, PgQueryResult};
use sqlx::types::time::Date;
use sqlx::{AssertSqlSafe, Connection, FromRow};
use tendril_broker::operator::clusters::IssuedCredential;
use tendril_broker::operator::grants::Scope;
use tendril_broker::portal::deployments;
use tendril_broker::testing::TestDatabase;
use tendril_broker::{Error, Refusal};
use uuid::Uuid;

/// A database, a portal that sees all, the operator and one cluster.
pub struct Fleet {
    pub database: TestDatabase,
    pub operator: PgConnection,
    pub portal: PgConnection,
    pub cluster: IssuedCredential,
}

/// A runner process: one session, its claim number and its log writer.
pub struct Runner {
    pub session: PgConnection,
    pub id: Uuid,
    pub writer: Uuid,
    pub claim_no: i64,
    pub epoch: i64,
}

/// What a claim handed out.
#[derive(Clone, Debug, FromRow)]
pub struct Claimed {
    pub attempt_id: Uuid,
    pub fence: i64,
    pub ordinal: i16,
    pub claim_day: Date,
    pub deployment_id: Uuid,
    pub job: String,
    pub kind: String,
    pub mutating: bool,
    pub state_key: Option<String>,
    pub plan_attempt_id: Option<Uuid>,
}

pub fn id() -> Uuid {
    // Unique, which is all that a test needs.
    Uuid::new_v5(&Uuid::NAMESPACE_OID, &next().to_be_bytes())
}

fn next() -> u128 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    (u128::from(std::process::id()) << 64) + u128::from(NEXT.fetch_add(1, Ordering::Relaxed))
}

pub async fn connect(url: &str) -> PgConnection {
    PgConnection::connect(url).await.unwrap()
}

/// Runs a statement that has to succeed.
pub async fn run(session: &mut PgConnection, sql: &str) -> PgQueryResult {
    match sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(session).await {
        Ok(done) => done,
        Err(error) => panic!("{sql}: {error}"),
    }
}

/// Runs a statement that has to be refused; returns how.
pub async fn refused(session: &mut PgConnection, sql: &str) -> Refusal {
    match sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(session).await {
        Ok(_) => panic!("was not refused: {sql}"),
        Err(error) => refusal(error),
    }
}

/// The SQLSTATE of a statement that has to be refused.
pub async fn sqlstate(session: &mut PgConnection, sql: &str) -> String {
    refused(session, sql).await.sqlstate
}

pub fn refusal(error: sqlx::Error) -> Refusal {
    match Error::from(error) {
        Error::Refused(refusal) => *refusal,
        other => panic!("not a refusal: {other:?}"),
    }
}

/// One value, which has to be there.
pub async fn one<T>(session: &mut PgConnection, sql: &str) -> T
where
    T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
{
    match sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(session).await {
        Ok(value) => value,
        Err(error) => panic!("{sql}: {error}"),
    }
}

/// A job that changes something.
pub fn exec(name: &str) -> Value {
    json!({"name": name, "kind": "exec", "argv": ["true"]})
}

/// A job that only reads.
pub fn reading(name: &str) -> Value {
    json!({"name": name, "kind": "exec", "argv": ["true"], "reading": true})
}

/// The same with needs.
pub fn needing(mut job: Value, needs: &[&str]) -> Value {
    job["needs"] = json!(needs);
    job
}

/// A job with limits.
pub fn limited(mut job: Value, limits: Value) -> Value {
    job["limits"] = limits;
    job
}

/// An apply of a template whose state lies at `path` of place `p`.
pub fn apply_at(path: &str) -> Value {
    json!({"template": {"name": "hello"}, "backend": {"type": "local", "place": "p", "path": path}})
}

impl Fleet {
    pub async fn new() -> Self {
        Self::at(TestDatabase::create().await).await
    }

    pub async fn at(database: TestDatabase) -> Self {
        let cluster = database.cluster("one").await;
        let portal = connect(&database.portal(Scope::All).await.url).await;
        let operator = database.operator().await;
        Self { database, operator, portal, cluster }
    }

    /// A registered runner of the first cluster that takes everything.
    pub async fn runner(&self) -> Runner {
        self.runner_of(
            &self.cluster,
            &["kind=exec", "kind=terraform.plan", "kind=terraform.apply", "kind=terraform.destroy", "place=p"],
        )
        .await
    }

    pub async fn runner_of(&self, cluster: &IssuedCredential, labels: &[&str]) -> Runner {
        let session = self.database.runner(cluster.token.reveal()).await;
        let mut runner = Runner { session, id: id(), writer: id(), claim_no: 0, epoch: 0 };
        let info = json!({"name": "test", "version": "0", "labels": labels, "slots": 8, "log_writer": runner.writer});
        let sql = format!("select tendril.runner_register('{}', 1, '{info}')", runner.id);
        run(&mut runner.session, &sql).await;
        runner
    }

    /// Submits by the plain INSERT.
    pub async fn deploy(&mut self, snapshot: Value) -> Uuid {
        let id = id();
        let sql = self.insert(id, &snapshot);
        run(&mut self.portal, &sql).await;
        id
    }

    /// Submits jobs.
    pub async fn deploy_jobs(&mut self, jobs: &[Value]) -> Uuid {
        self.deploy(json!({"jobs": jobs})).await
    }

    pub fn insert(&self, id: Uuid, snapshot: &Value) -> String {
        let literal = snapshot.to_string().replace('\'', "''");
        format!(
            "insert into tendril.deployments (id, cluster_id, config_snapshot) values ('{id}', '{}', '{literal}')",
            self.cluster.id
        )
    }

    pub async fn state(&mut self, deployment: Uuid) -> deployments::State {
        deployments::state(&mut self.portal, deployment).await.unwrap()
    }

    pub async fn status(&mut self, deployment: Uuid) -> String {
        self.state(deployment).await.status
    }

    /// State of each job by name.
    pub async fn jobs(&mut self, deployment: Uuid) -> BTreeMap<String, String> {
        let state = self.state(deployment).await;
        state.jobs.into_iter().map(|job| (job.name, job.state)).collect()
    }

    pub async fn job(&mut self, deployment: Uuid, name: &str) -> String {
        self.jobs(deployment).await.remove(name).unwrap()
    }

    /// What the deployment waits for, after `serve` has looked.
    pub async fn waiting_for(&mut self, deployment: Uuid) -> Option<String> {
        self.database.duty("explain").await;
        one(&mut self.operator, &format!("select waiting_for from tendril.deployments where id = '{deployment}'")).await
    }

    /// Lets a runner's lease run out, without waiting for it.
    pub async fn silence(&mut self, runner: &Runner) {
        let sql = format!(
            "update tendril_core.runner_leases set lease_expires_at = clock_timestamp() - interval '1 s' where runner_id = '{}'",
            runner.id
        );
        run(&mut self.operator, &sql).await;
    }

    /// Lets a runner's lease run out and has `serve` judge it; returns how many attempts were lost. All in one
    /// transaction, so that no slow machine comes between the beat and the judgement.
    pub async fn lose(&mut self, runner: &Runner) -> i64 {
        let sql = format!(
            "with beat as materialized (select tendril_core.pulse()) select 1 from beat;
             update tendril_core.pulse set rebased_at = null;
             update tendril_core.pulse set rebased_at = null;
             update tendril_core.runner_leases set lease_expires_at = clock_timestamp() - interval '1 s' where runner_id = '{}';
             create temp table lost on commit drop as select tendril_core.duty_expire() as n;
             do $$ begin perform set_config('test.lost', (select n from lost)::text, false); end $$",
            runner.id
        );
        run(&mut self.operator, &sql).await;
        one::<String>(&mut self.operator, "select current_setting('test.lost')").await.parse().unwrap()
    }
}

impl Fleet {
    /// What waits for its time need not wait any more; how many jobs that were.
    pub async fn its_time_comes(&mut self) -> i64 {
        let sql =
            "update tendril_core.jobs set run_after = null; update tendril_core.parked set run_after = '-infinity'";
        run(&mut self.operator, sql).await;
        self.database.duty("unpark").await
    }
}

impl Runner {
    /// The next claim.
    pub async fn claim(&mut self, slots: i32) -> Vec<Claimed> {
        self.claim_no += 1;
        self.claim_again(slots).await
    }

    /// A claim that has to give exactly one job.
    pub async fn claim_one(&mut self) -> Claimed {
        let mut claimed = self.claim(1).await;
        assert_eq!(claimed.len(), 1, "one job is there to be claimed");
        claimed.remove(0)
    }

    /// The newest claim's number once more.
    pub async fn claim_again(&mut self, slots: i32) -> Vec<Claimed> {
        self.try_claim(slots).await.unwrap()
    }

    pub async fn try_claim(&mut self, slots: i32) -> Result<Vec<Claimed>, sqlx::Error> {
        sqlx::query_as(
            "select attempt_id, fence, ordinal, claim_day, deployment_id, job, kind, mutating, state_key, plan_attempt_id
               from tendril.runner_claim($1, $2, $3)",
        )
        .bind(self.id)
        .bind(self.claim_no)
        .bind(slots)
        .fetch_all(&mut self.session)
        .await
    }

    pub async fn start(&mut self, claimed: &Claimed) {
        run(&mut self.session, &start_sql(claimed)).await;
    }

    pub async fn finish(&mut self, claimed: &Claimed, outcome: &str) -> String {
        self.report(claimed, json!({"outcome": outcome, "log_end": -1})).await
    }

    pub async fn report(&mut self, claimed: &Claimed, report: Value) -> String {
        one(&mut self.session, &finish_sql(claimed, &report)).await
    }

    /// Claims, starts and finishes one job.
    pub async fn perform(&mut self, outcome: &str) -> Claimed {
        let claimed = self.claim_one().await;
        if claimed.mutating {
            self.start(&claimed).await;
        }
        assert_eq!(self.finish(&claimed, outcome).await, "accepted");
        claimed
    }

    pub async fn heartbeat(&mut self, holding: &[&Claimed]) -> Value {
        let ids: Vec<Uuid> = holding.iter().map(|claimed| claimed.attempt_id).collect();
        sqlx::query_scalar("select tendril.runner_heartbeat($1, $2, $3)")
            .bind(self.id)
            .bind(self.claim_no)
            .bind(ids)
            .fetch_one(&mut self.session)
            .await
            .unwrap()
    }

    pub async fn take_over(&mut self) {
        self.epoch = one(&mut self.session, &format!("select tendril.log_takeover('{}')", self.writer)).await;
    }

    /// Appends one chunk of an attempt's log as a batch of its own.
    pub async fn append(&mut self, claimed: &Claimed, seq: i64, seq_to: i64, text: &str) -> Result<(), sqlx::Error> {
        self.copy(&[row(claimed, seq, seq_to, text)]).await
    }

    /// One batch, as the protocol has it: BEGIN, whose it is, COPY, COMMIT.
    pub async fn copy(&mut self, rows: &[String]) -> Result<(), sqlx::Error> {
        let mut transaction = self.session.begin().await?;
        let writer = format!("{}:{}", self.writer, self.epoch);
        copy_as(&mut transaction, &writer, rows).await?;
        transaction.commit().await
    }
}

/// COPY within a transaction of the caller's, said to come from `writer`.
pub async fn copy_as(session: &mut PgConnection, writer: &str, rows: &[String]) -> Result<(), sqlx::Error> {
    sqlx::query("select set_config('tendril.writer', $1, true)").bind(writer).execute(&mut *session).await?;
    let mut copy = session.copy_in_raw(COPY).await?;
    copy.send(rows.concat().as_bytes()).await?;
    copy.finish().await.map(drop)
}

pub const COPY: &str = "copy tendril.log_inbox (deployment_id, attempt_id, fence, claim_day, job, attempt, seq, seq_to, stream, \
                        log_chunk, ts) from stdin";

/// A row of COPY's text format.
pub fn row(claimed: &Claimed, seq: i64, seq_to: i64, text: &str) -> String {
    format!(
        "{}\t{}\t{}\t{}\t{}\t{}\t{seq}\t{seq_to}\tstdout\t{}\t2026-01-01T00:00:00Z\n",
        claimed.deployment_id,
        claimed.attempt_id,
        claimed.fence,
        claimed.claim_day,
        claimed.job,
        claimed.ordinal,
        text.replace('\n', "\\n")
    )
}

pub fn start_sql(claimed: &Claimed) -> String {
    format!("select tendril.runner_start('{}', {})", claimed.attempt_id, claimed.fence)
}

pub fn finish_sql(claimed: &Claimed, report: &Value) -> String {
    format!("select tendril.runner_finish('{}', {}, '{report}')", claimed.attempt_id, claimed.fence)
}
