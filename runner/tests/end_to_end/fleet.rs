//! A database, a cluster, and runner processes that end with the test.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::unistd::{Uid, chown, mkfifo};
use serde_json::Value;
use tempfile::TempDir;
use tendril_broker::connect::{Address, Connector};
use tendril_broker::operator::grants::Scope;
use tendril_broker::testing::pooler::{self, Pooler};
use tendril_broker::testing::{TestDatabase, run};
use tendril_runner::clock::BootTime;
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

use crate::barriers::{Gate, Locks};
pub use crate::running::until;
use crate::running::{PATIENCE, Runner, find};

/// The user that owns nothing.
const NOBODY: u32 = 65534;

/// Arguments for `tools.terraform`, when there is one.
pub fn terraform() -> Option<Vec<PathBuf>> {
    let named = std::env::var_os("TENDRIL_TEST_TERRAFORM").map(PathBuf::from);
    let on_path = || {
        std::env::split_paths(&std::env::var_os("PATH")?).map(|dir| dir.join("terraform")).find(|path| path.is_file())
    };
    let found = named.or_else(on_path);
    if found.is_none() {
        eprintln!("skipped: no terraform; TENDRIL_TEST_TERRAFORM names one");
    }
    found.map(|path| vec![path])
}

/// A database with one cluster.
pub struct Fleet {
    folder: TempDir,
    token: String,
    cluster: Uuid,
    portal: Client,
    portal_url: String,
    /// Lines of the settings' last section, `[shutdown]`.
    shutdown: &'static str,
    /// Whose processes runners are, if not this test's own user's.
    user: Option<u32>,
    /// Their limits of open files, soft and hard, if not this test's own.
    open_files: Option<(u64, u64)>,
    // Last: dropped when nobody uses it any more.
    database: TestDatabase,
}

async fn session(url: &str) -> Client {
    let (session, driver) = tokio_postgres::connect(url, NoTls).await.expect("a session");
    tokio::spawn(driver);
    session
}

impl Fleet {
    pub async fn new() -> Self {
        let database = TestDatabase::create().await;
        let mut operator = database.operator().await;
        run(&mut operator, "update tendril_core.settings set lease_ttl = '3 s', heartbeat_interval = '200 ms'").await;
        database.pulse().await;
        let credential = database.cluster("fleet").await;
        let portal = database.portal(Scope::All).await;
        let portal_url = portal.url.clone();
        let portal = session(&portal_url).await;
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("outside")).expect("a folder");
        let token = credential.token.reveal().to_owned();
        Self {
            folder,
            token,
            cluster: credential.id,
            portal,
            portal_url,
            shutdown: "",
            user: None,
            open_files: None,
            database,
        }
    }

    /// Connects as a runner of the cluster does.
    pub fn connector(&self) -> Connector {
        let token = self.token.parse().expect("a token");
        Address::parse(&Self::url(&self.database, &self.token))
            .and_then(|address| address.connector(&token))
            .expect("a connector")
    }

    /// The database's address, without user and password.
    fn url(database: &TestDatabase, token: &str) -> String {
        let url = database.runner_url(token);
        let (scheme, rest) = url.split_once("://").expect("a URL");
        let (_, host) = rest.rsplit_once('@').expect("a URL with a role");
        format!("{scheme}://{host}")
    }

    /// Keeps the database as it is now, to come back to.
    pub async fn snapshot(&mut self) {
        let name = self.database.name();
        let sql = "select r.rolname::text from pg_roles r join pg_database d on d.datdba = r.oid where d.datname = current_database()";
        let owner = self.portal.query_one(sql, &[]).await.expect("it has one");
        let owner: String = owner.get(0);
        self.unplugged(&format!("create database {name}_then template {name} owner {owner}")).await;
    }

    /// Restores the snapshot: the database of now is gone.
    pub async fn restore(&mut self) {
        let name = self.database.name();
        self.unplugged(&format!(
            "drop database {name}; alter database {name}_then rename to {name}; grant connect, temporary on database {name} to public"
        ))
        .await;
    }

    /// From now on the database only reads, as a standby does, or writes again.
    pub async fn read_only(&mut self, only: bool) {
        let name = self.database.name();
        let set = if only { "set default_transaction_read_only = on" } else { "reset default_transaction_read_only" };
        self.unplugged(&format!("alter database {name} {set}")).await;
    }

    /// Does something to the database that needs it for itself.
    async fn unplugged(&mut self, what: &str) {
        let url = self.database.superuser_url().expect("the tests' server lets its superuser in");
        let (server, name) = url.rsplit_once('/').expect("a database's URL");
        let server = session(&format!("{server}/postgres")).await;
        let closing = [
            format!("alter database {name} allow_connections false"),
            format!("select pg_terminate_backend(pid, 60000) from pg_stat_activity where datname = '{name}'"),
        ];
        for sql in closing.iter().map(String::as_str).chain(what.split("; ")) {
            server.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        }
        server.batch_execute(&format!("alter database {name} allow_connections true")).await.expect("it is there");
        self.portal = session(&self.portal_url).await;
    }

    /// Runs a statement as the operator.
    pub async fn operate(&self, sql: &str) {
        run(&mut self.database.operator().await, sql).await;
    }

    /// Nothing here takes this long unless it is stuck.
    pub fn patience(&self) -> Duration {
        PATIENCE
    }

    /// The stored chunks of all attempts, in their order.
    pub async fn chunks(&self, deployment: Uuid) -> Vec<(Uuid, String)> {
        let sql = "select attempt_id, log_chunk from tendril.deployment_logs where deployment_id = $1 order by attempt_id, seq";
        let rows = self.portal.query(sql, &[&deployment]).await.expect("rows");
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    }

    /// Where the database is, and what runners show there.
    pub fn door(&self) -> (String, String) {
        (Self::url(&self.database, &self.token), self.token.clone())
    }

    /// A runner with another token than the first, or another way to the database.
    pub fn runner_by(&self, name: &str, url: &str, token: &str) -> Runner {
        self.start_by(url, name, &[], token)
    }

    /// A pooler before the database, if there is one to be had.
    pub async fn pooler(&self, mode: pooler::Mode) -> Option<Pooler> {
        Pooler::start(&self.database, mode, 16).await
    }

    /// Asks the database as the operator for a word.
    pub async fn ask(&self, sql: &str) -> String {
        let session = session(&self.database.url()).await;
        session.query_one(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error}")).get(0)
    }

    /// The cluster.
    pub fn cluster(&self) -> Uuid {
        self.cluster
    }

    /// A runner that is ready for work.
    pub async fn runner(&self, name: &str, terraform: &[PathBuf]) -> Runner {
        let mut runner = self.start(name, terraform, &self.token);
        runner.said("registered").await;
        runner
    }

    /// One more process in the folder of a runner, whatever becomes of it.
    pub fn second(&self, name: &str) -> Runner {
        self.start(name, &[], &self.token)
    }

    /// A runner with a token whose secret is wrong.
    pub async fn stranger(&self) -> Runner {
        let (known, _) = self.token.rsplit_once('.').expect("a token");
        self.start("stranger", &[], &format!("{known}.{}", "0".repeat(48)))
    }

    /// From now on runners leave what changes the world to the next process.
    pub fn hand_over(&mut self) {
        self.shutdown = "hand_over = true\n";
    }

    /// From now on runners are started with these limits of open files, soft and hard.
    pub fn limit_open_files(&mut self, soft: u64, hard: u64) {
        self.open_files = Some((soft, hard));
    }

    /// From now on runners are not root, also when this test is.
    pub fn without_root(&mut self) {
        if Uid::current().is_root() {
            for folder in [self.folder.path().to_owned(), self.meeting_place()] {
                chown(&folder, Some(NOBODY.into()), Some(NOBODY.into())).expect("a folder of nobody's");
            }
            self.user = Some(NOBODY);
        }
    }

    /// A folder that jobs may use, where tests wait for them.
    pub fn meeting_place(&self) -> PathBuf {
        self.folder.path().join("outside")
    }

    /// A runner with a good token, at the door of another database.
    pub async fn lost(&self, database: &TestDatabase) -> Runner {
        self.start_at(database, "lost", &[], &self.token)
    }

    fn start(&self, name: &str, terraform: &[PathBuf], token: &str) -> Runner {
        self.start_at(&self.database, name, terraform, token)
    }

    fn start_at(&self, database: &TestDatabase, name: &str, terraform: &[PathBuf], token: &str) -> Runner {
        self.start_by(&Self::url(database, token), name, terraform, token)
    }

    fn start_by(&self, url: &str, name: &str, terraform: &[PathBuf], token: &str) -> Runner {
        let binary = env!("CARGO_BIN_EXE_tendril-runner");
        let key = self.folder.path().join("artifact-key");
        if !key.exists() {
            let made = Command::new(binary).arg("artifact-key").output().expect("a key");
            std::fs::write(&key, made.stdout).expect("a key file");
        }
        let state = self.folder.path().join(name);
        let port = free_port();
        let config = self.folder.path().join(format!("{name}.toml"));
        let text = format!(
            "artifact_key_file = {key:?}\nstate_dir = {state:?}\nplace = \"test\"\n[tools]\nterraform = {terraform:?}\ntofu = []\n\
             [sandbox]\nprograms = [\"/bin\", \"/usr\"]\nwrite = [{:?}]\n\
             [http]\nlisten = \"127.0.0.1:{port}\"\n[logs]\nflush_interval_ms = 50\n[shutdown]\nreport_within_s = 5\n{}",
            self.meeting_place(),
            self.shutdown
        );
        std::fs::write(&config, text).expect("a settings file");
        let mut command = Command::new(binary);
        if let Some(user) = self.user {
            // The build's folder may be closed to others.
            let copy = self.folder.path().join("tendril-runner");
            std::fs::copy(binary, &copy).expect("a copy");
            command = Command::new(copy);
            command.uid(user).gid(user);
        }
        if let Some((soft, hard)) = self.open_files {
            let limited = command;
            command = Command::new("prlimit");
            command.arg(format!("--nofile={soft}:{hard}")).arg(limited.get_program());
        }
        command.arg("--config").arg(&config).stderr(Stdio::piped());
        command.env("TENDRIL_DATABASE_URL", url).env("TENDRIL_AGENT_TOKEN", token);
        Runner::of(command.spawn().expect("a runner"), state, port)
    }

    pub async fn submit(&self, snapshot: &Value) -> Uuid {
        let sql = "insert into tendril.deployments (cluster_id, config_snapshot) values ($1, $2) returning id";
        self.portal.query_one(sql, &[&self.cluster, snapshot]).await.expect("a submit").get(0)
    }

    pub async fn cancel(&self, deployment: Uuid) {
        self.portal.query_one("select tendril.cancel($1, 'a test')", &[&deployment]).await.expect("a cancel");
    }

    pub async fn status(&self, deployment: Uuid) -> Value {
        self.portal.query_one("select tendril.status($1)", &[&deployment]).await.expect("a status").get(0)
    }

    /// Waits until the deployment's first job is in this state.
    pub async fn job_is(&self, deployment: Uuid, state: &str) {
        let is = async || (self.status(deployment).await["jobs"][0]["state"] == state).then_some(());
        until(state, is).await;
    }

    /// The leases of all runners run out, and `serve` judges them. All in one transaction, so that no slow machine comes between the
    /// beat and the judgement.
    pub async fn runners_are_lost(&self) {
        self.operate(
            "with beat as materialized (select tendril_core.pulse()) select 1 from beat;
             update tendril_core.pulse set rebased_at = null;
             update tendril_core.runner_leases set lease_expires_at = clock_timestamp() - interval '1 s';
             do $$ begin perform tendril_core.duty_expire(); end $$",
        )
        .await;
    }

    /// The status of a deployment that has ended.
    pub async fn ended(&self, deployment: Uuid) -> Value {
        until("the deployment's end", async || {
            let status = self.status(deployment).await;
            (!status["ended_at"].is_null()).then_some(status)
        })
        .await
    }

    /// How long it ran, by the database's clock.
    pub async fn seconds(&self, deployment: Uuid) -> f64 {
        let sql = "select extract(epoch from ended_at - started_at)::float8 from tendril.deployments where id = $1";
        self.portal.query_one(sql, &[&deployment]).await.expect("its times").get(0)
    }

    /// What is stored of its log, Tendril's own lines left out.
    pub async fn log(&self, deployment: Uuid) -> String {
        let sql = "select coalesce(string_agg(log_chunk, '' order by attempt_id, seq), '') from tendril.deployment_logs \
                   where deployment_id = $1 and stream <> 'system'";
        self.portal.query_one(sql, &[&deployment]).await.expect("a log").get(0)
    }

    /// The same, once all attempts' logs are stored up to the ends that the runner reported.
    pub async fn whole_log(&self, deployment: Uuid) -> String {
        until("the log's end", async || {
            let sql = "select attempt_id, max(seq_to) from tendril.deployment_logs where deployment_id = $1 group by 1";
            let rows = self.portal.query(sql, &[&deployment]).await.expect("positions");
            let stored = |attempt: &Value| {
                let row = rows.iter().find(|row| row.get::<_, Uuid>(0).to_string() == *attempt);
                row.map_or(-1, |row| row.get::<_, i64>(1))
            };
            let status = self.status(deployment).await;
            let logs = status["logs"].as_array().expect("logs");
            logs.iter().all(|log| log["log_end"] == stored(&log["attempt_id"])).then_some(())
        })
        .await;
        self.log(deployment).await
    }

    /// The first line for which `pick` has an answer.
    pub async fn line<T>(&self, deployment: Uuid, pick: impl Fn(&str) -> Option<T>) -> T {
        until("a line of the log", async || self.log(deployment).await.lines().find_map(&pick)).await
    }

    /// Waits for that many lines.
    pub async fn lines(&self, deployment: Uuid, count: usize) {
        until("lines of the log", async || (self.log(deployment).await.lines().count() >= count).then_some(())).await;
    }

    /// Keeps every claim that finds something waiting.
    pub async fn lock_attempts(&self) -> Locks {
        self.lock("lock table tendril_core.attempts in share row exclusive mode").await
    }

    /// Keeps the ends of a deployment's jobs waiting.
    pub async fn lock_deployment(&self, deployment: Uuid) -> Locks {
        self.lock(&format!("select from tendril.deployments where id = '{deployment}' for update")).await
    }

    /// From now on an attempt may store this much.
    pub async fn set_log_quota(&self, bytes: u32) {
        let sql = format!("update tendril_core.settings set log_attempt_bytes = {bytes}");
        run(&mut self.database.operator().await, &sql).await;
    }

    /// From now on log rows are refused, and the sessions that bring them are not.
    pub async fn refuse_logs(&self) {
        let sql = "do $$ begin
            execute format('revoke insert on tendril.log_inbox from %I', tendril_core.group_role('runner')); end $$";
        run(&mut self.database.operator().await, sql).await;
    }

    /// Waits until so many sessions have taken a log writer over.
    pub async fn log_sessions(&self, count: i64) {
        let (operator, driver) = tokio_postgres::connect(&self.database.url(), NoTls).await.expect("a session");
        tokio::spawn(driver);
        let sql = "select coalesce(max(epoch), 0) from tendril_core.log_writers";
        let enough = async || {
            let epoch: i64 = operator.query_one(sql, &[]).await.expect("an epoch").get(0);
            (epoch >= count).then_some(())
        };
        until("sessions for logs", enough).await;
    }

    /// Keeps every log row from being stored, while all else goes on.
    pub async fn lock_logs(&self) -> Locks {
        self.lock("select from tendril_core.log_writers for update").await
    }

    async fn lock(&self, sql: &str) -> Locks {
        let (operator, driver) = tokio_postgres::connect(&self.database.url(), NoTls).await.expect("a session");
        tokio::spawn(driver);
        operator.batch_execute(&format!("begin; {sql}")).await.expect("locks");
        Locks(operator)
    }

    /// Waits until a call of a runner waits for a lock.
    pub async fn waits_for_a_lock(&self, call: &str) {
        let url = self.database.superuser_url().expect("a superuser, who sees what others run");
        let (all, driver) = tokio_postgres::connect(&url, NoTls).await.expect("a session");
        tokio::spawn(driver);
        let sql =
            "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query like '-- ' || $1 || '%'";
        until(call, async || {
            let waiting: i64 = all.query_one(sql, &[&call]).await.expect("a count").get(0);
            (waiting > 0).then_some(())
        })
        .await;
    }

    /// The number of the COPY that brought this of an attempt, where the test has them counted.
    pub async fn copy_that_brought(&self, attempt: Uuid, text: &str) -> i64 {
        let (operator, driver) = tokio_postgres::connect(&self.database.url(), NoTls).await.expect("a session");
        tokio::spawn(driver);
        let sql = "select copy from public.brought where attempt_id = $1 and text = $2";
        operator.query_one(sql, &[&attempt, &text]).await.expect("it was brought once").get(0)
    }

    /// Rings the doorbell without need, each time in a transaction of its own, as any role may; returns how long it took.
    pub async fn ring(&self, times: u32) -> Duration {
        let begun = BootTime::now();
        let channel = format!("tendril_{}", self.cluster.simple());
        for _ in 0..times {
            self.portal.query("select pg_notify($1, '')", &[&channel]).await.expect("a ring");
        }
        begun.elapsed()
    }

    /// A file that a job may write to.
    pub fn file(&self, name: &str) -> String {
        self.meeting_place().join(name).display().to_string()
    }

    /// Waits until a runner's folder has a file of this name.
    pub async fn appears(&self, state: &Path, name: &str) {
        until(name, async || find(state, &|file| file.file_name().is_some_and(|found| found == name))).await;
    }

    /// Waits until there is such a file.
    pub async fn exists(&self, path: &str) {
        until(path, async || Path::new(path).exists().then_some(())).await;
    }

    /// Removes what a spool holds; whose it is stays.
    pub fn forget_segments(&self, state: &Path) {
        let is_segment = |file: &Path| file.extension().is_some_and(|end| end == "seg");
        while let Some(segment) = find(state, &is_segment) {
            std::fs::remove_file(segment).expect("removed");
        }
    }

    /// A gate that a job reads from, and that blocks it until it is opened.
    pub fn gate(&self) -> Gate {
        self.another_gate("gate")
    }

    pub fn another_gate(&self, name: &str) -> Gate {
        let path = self.meeting_place().join(name);
        mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
        Gate(path)
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address").port()
}
