//! A database of its own for each test, cloned from a migrated template that is made once per server.
//!
//! `TENDRIL_TEST_DATABASE_URL` names a server and a role on it with CREATEROLE and CREATEDB, which is no superuser.
//! Any number of test processes may use one server at once.
#![expect(clippy::expect_used, reason = "a test that cannot have its database has nothing to go on with")]

pub mod figures;
pub mod history;
pub mod hostile;
pub mod mutants;
pub mod neighbour;
pub mod pooler;
pub mod shelf;
pub mod standby;
pub mod tenant;

use std::sync::Mutex;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};
use tokio::sync::OnceCell;
use uuid::Uuid;

use crate::clock::new_id;
use crate::operator::clusters::{self, IssuedCredential};
use crate::operator::grants::{self, Scope};
use crate::operator::migration;
use crate::session::Address;
use crate::token::AgentToken;

/// Taken on the maintenance database while the template is made.
const TEMPLATE_LOCK: i64 = 0x7465_6e64_7269_6c01;

/// A database that is dropped, with its roles, when this value is.
#[derive(Debug)]
pub struct TestDatabase {
    server: ServerUrl,
    name: String,
    roles: Mutex<Vec<String>>,
}

/// A portal's login.
#[derive(Clone, Debug)]
pub struct TestPortal {
    /// Its role.
    pub role: String,
    /// How it connects.
    pub url: String,
}

impl TestDatabase {
    /// A database with the newest schema.
    ///
    /// # Panics
    /// When `TENDRIL_TEST_DATABASE_URL` is not set or its server cannot be used.
    pub async fn create() -> Self {
        static TEMPLATE: OnceCell<String> = OnceCell::const_new();
        let server = ServerUrl::from_env();
        let template = TEMPLATE.get_or_init(|| make_template(&server)).await;
        let database = Self::made(server, &format!("template {template}")).await;
        let mut operator = database.operator().await;
        run(&mut operator, "select tendril_core.ensure_partitions()").await;
        database
    }

    /// A database with nothing in it.
    ///
    /// # Panics
    /// As [`TestDatabase::create`].
    pub async fn empty() -> Self {
        Self::made(ServerUrl::from_env(), "").await
    }

    /// A database with the schema as it was before that migration: what an upgrade finds.
    ///
    /// # Panics
    /// When there is no such migration, and as [`TestDatabase::create`].
    pub async fn before(version: i64) -> Self {
        let script = migration::script();
        let older = script.split_once(&format!("\n-- migration {version:04}:"));
        let (older, _) = older.expect("a migration of this program");
        let database = Self::empty().await;
        let sql = format!("begin; {older}; commit; select tendril_core.ensure_partitions()");
        run(&mut database.operator().await, &sql).await;
        database
    }

    async fn made(server: ServerUrl, from: &str) -> Self {
        let name = format!("tendril_test_{}", new_id().simple());
        let mut maintenance = server.connect().await;
        run(&mut maintenance, &format!("create database {name} {from}")).await;
        Self { server, name, roles: Mutex::new(Vec::new()) }
    }

    /// The database's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How the operator connects: the role that owns the schema.
    pub fn url(&self) -> String {
        self.server.with(None, &self.name)
    }

    /// The same as an address.
    pub fn address(&self) -> Address {
        self.url().parse().expect("the test server's URL was used before")
    }

    /// How a superuser connects, for the few tests that look into the server itself; `None` when
    /// `TENDRIL_TEST_SUPERUSER_URL` is not set.
    pub fn superuser_url(&self) -> Option<String> {
        let url = std::env::var("TENDRIL_TEST_SUPERUSER_URL").ok()?;
        Some(ServerUrl::parse(&url).with(None, &self.name))
    }

    /// A session of the operator.
    pub async fn operator(&self) -> PgConnection {
        connect(&self.url()).await
    }

    /// A portal's login role with a password and a grant.
    pub async fn portal(&self, scope: Scope) -> TestPortal {
        let portal = self.login_role().await;
        let mut operator = self.operator().await;
        let granted = grants::grant(&mut operator, &portal.role, scope).await;
        granted.expect("the operator may grant");
        portal
    }

    /// A login role with a password and no grant.
    pub async fn login_role(&self) -> TestPortal {
        let role = format!("portal_{}", new_id().simple());
        let mut operator = self.operator().await;
        run(&mut operator, &format!("create role {role} login password 'portal'")).await;
        self.adopt_role(&role);
        // Ending its sessions, when the database is dropped, takes membership.
        run(&mut operator, &format!("grant {role} to current_user")).await;
        let url = self.server.with(Some((&role, "portal")), &self.name);
        TestPortal { role, url }
    }

    /// Has a role dropped together with the database.
    pub fn adopt_role(&self, role: &str) {
        let mut roles = self.roles.lock().expect("no test panics while it adds a role");
        roles.push(role.to_owned());
    }

    /// A cluster with its first credential.
    pub async fn cluster(&self, name: &str) -> IssuedCredential {
        let mut operator = self.operator().await;
        let issued = clusters::create(&mut operator, name, None).await;
        issued.expect("the operator may create clusters")
    }

    /// How a runner with this token connects.
    pub fn runner_url(&self, token: &str) -> String {
        let token: AgentToken = token.parse().expect("a token of this broker");
        let (role, secret) = (token.role(), token.secret());
        self.server.with(Some((&role, secret)), &self.name)
    }

    /// A session of a runner with this token.
    pub async fn runner(&self, token: &str) -> PgConnection {
        connect(&self.runner_url(token)).await
    }

    /// Runs a duty of `serve` at once, due or not; returns how much it did.
    pub async fn duty(&self, name: &str) -> i64 {
        let mut operator = self.operator().await;
        let sql = format!("select tendril_core.duty_{name}()");
        let done = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut operator);
        done.await.expect("a duty runs")
    }

    /// One beat of the pulse.
    pub async fn pulse(&self) {
        run(&mut self.operator().await, "select tendril_core.pulse()").await;
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let (server, name) = (self.server.clone(), self.name.clone());
        let roles = std::mem::take(&mut *self.roles.lock().expect("no test panics while it adds a role"));
        // A runtime of its own: the test's may be shutting down, and a drop cannot wait in it.
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(drop_all(server, name, roles));
        });
        let dropped = dropping.join();
        if !std::thread::panicking() {
            dropped.expect("the test database is dropped");
        }
    }
}

async fn drop_all(server: ServerUrl, name: String, mut roles: Vec<String>) {
    let mut operator = connect(&server.with(None, &name)).await;
    // Without a schema there are no credentials.
    let credentials = sqlx::query_scalar::<_, String>(
        "-- credentials of a test\nselect c.role_name from tendril_core.cluster_credentials c join pg_roles r on r.rolname = c.role_name",
    );
    roles.extend(credentials.fetch_all(&mut operator).await.unwrap_or_default());
    let group = "-- group roles of a test\nselect 'tendril_' || k || '_' || id from tendril_core.installation, (values ('runner'), ('portal')) g(k)";
    let groups = sqlx::query_scalar::<_, String>(group).fetch_all(&mut operator).await;
    drop(operator.close().await);
    let mut maintenance = server.connect().await;
    // Not WITH (FORCE): that fails on an autovacuum worker, which a plain DROP sends away by itself.
    let sessions = "-- end a test's sessions\nselect pg_terminate_backend(pid) from pg_stat_activity where datname = $1 and pg_has_role(usesysid, 'USAGE')";
    let ended = sqlx::query(sessions).bind(&name).execute(&mut maintenance).await;
    ended.expect("the test's own sessions can be ended");
    run(&mut maintenance, &format!("drop database {name}")).await;
    for role in roles {
        run(&mut maintenance, &format!("drop role if exists {role}")).await;
    }
    // A database that migrated by itself has group roles of its own; those of a clone belong to the template too.
    for role in groups.unwrap_or_default() {
        let dropped = sqlx::query(AssertSqlSafe(format!("drop role if exists {role}")));
        drop(dropped.execute(&mut maintenance).await);
    }
}

/// Makes the template if nobody has; returns its name, which changes with the migrations.
async fn make_template(server: &ServerUrl) -> String {
    let checksums: Vec<u8> = migration::migrator().iter().flat_map(|m| m.checksum.to_vec()).collect();
    let name = format!("tendril_template_{}", Uuid::new_v5(&Uuid::NAMESPACE_OID, &checksums).simple());
    let mut maintenance = server.connect().await;
    run(&mut maintenance, &format!("select pg_advisory_lock({TEMPLATE_LOCK})")).await;
    let exists =
        sqlx::query_scalar::<_, bool>("-- template exists\nselect exists (select from pg_database where datname = $1)");
    let exists = exists.bind(&name).fetch_one(&mut maintenance).await;
    if !exists.expect("the catalogue is readable") {
        let draft = format!("tendril_draft_{}", new_id().simple());
        run(&mut maintenance, &format!("create database {draft}")).await;
        let mut operator = connect(&server.with(None, &draft)).await;
        let migrated = migration::migrate(&mut operator).await;
        migrated.expect("the migrations apply");
        operator.close().await.expect("the session ends");
        run(&mut maintenance, &format!("alter database {draft} with allow_connections false")).await;
        run(&mut maintenance, &format!("alter database {draft} rename to {name}")).await;
    }
    run(&mut maintenance, &format!("select pg_advisory_unlock({TEMPLATE_LOCK})")).await;
    name
}

async fn connect(url: &str) -> PgConnection {
    let options: PgConnectOptions = url.parse().expect("a URL of this file's making");
    let options = options.disable_statement_logging().application_name("tendril-test");
    let connected = PgConnection::connect_with(&options).await;
    connected.expect("the test server takes connections")
}

/// Runs a statement that has to succeed.
///
/// # Panics
/// When it does not.
pub async fn run(connection: &mut PgConnection, sql: &str) {
    let done = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await;
    if let Err(error) = done {
        panic!("{sql}: {error}");
    }
}

/// `postgres://USER:PASSWORD@` + `HOST:PORT` + `/DATABASE` + `?OPTIONS`.
#[derive(Clone)]
struct ServerUrl {
    login: String,
    server: String,
    database: String,
    options: String,
}

impl std::fmt::Debug for ServerUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ServerUrl({})", self.server)
    }
}

impl ServerUrl {
    fn from_env() -> Self {
        let url = std::env::var("TENDRIL_TEST_DATABASE_URL").unwrap_or_else(|_| {
            panic!(
                "TENDRIL_TEST_DATABASE_URL is not set: run the tests by `./dev test`, which starts a server for them"
            )
        });
        Self::parse(&url)
    }

    fn parse(url: &str) -> Self {
        let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
        let (rest, options) = rest.split_once('?').unwrap_or((rest, ""));
        let (login, rest) = rest.rsplit_once('@').unwrap_or(("", rest));
        let (server, database) = rest.split_once('/').unwrap_or((rest, "postgres"));
        Self {
            login: login.to_owned(),
            server: server.to_owned(),
            database: database.to_owned(),
            options: options.to_owned(),
        }
    }

    fn with(&self, login: Option<(&str, &str)>, database: &str) -> String {
        let login = login.map(|(role, password)| format!("{role}:{password}"));
        let login = login.unwrap_or_else(|| self.login.clone());
        let mark = if self.options.is_empty() { "" } else { "?" };
        format!("postgres://{login}@{}/{database}{mark}{}", self.server, self.options)
    }

    async fn connect(&self) -> PgConnection {
        connect(&self.with(None, &self.database)).await
    }
}
