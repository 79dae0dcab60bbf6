//! The way in for a program that serves holders of API tokens: a pool whose role sees nothing by itself, and transactions
//! in which a token was presented, which see and do what that token may.

use std::mem::replace;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use serde::Deserialize;
use sqlx::postgres::{PgConnection, PgPool, PgPoolOptions, Postgres};
use sqlx::{Executor, Transaction};
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use crate::portal::api_token::TokenHash;
use crate::refusal::Error;
use crate::session::Address;

/// What a token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenScope {
    /// See clusters, deployments and lists of artifacts.
    Read,
    /// Read logs.
    Logs,
    /// Submit, and do again what has failed.
    Submit,
    /// Cancel.
    Cancel,
    /// Approve and reject.
    Approve,
}

impl TokenScope {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Read, Self::Logs, Self::Submit, Self::Cancel, Self::Approve];

    /// Its name in the database and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Logs => "logs",
            Self::Submit => "submit",
            Self::Cancel => "cancel",
            Self::Approve => "approve",
        }
    }
}

/// How a [`TokenPool`] uses its database.
#[derive(Clone, Copy, Debug)]
pub struct TokenPoolOptions {
    /// At most so many sessions.
    pub connections: u32,
    /// How long one waits for a session, and a statement may take.
    pub patience: Duration,
}

/// Sessions for holders of tokens.
#[derive(Clone, Debug)]
pub struct TokenPool {
    /// The one to take sessions from; another one after a failover to another host.
    pool: Arc<RwLock<PgPool>>,
    address: Address,
    /// Ends the lookout for a failover with the last clone.
    _lookout: Arc<DropGuard>,
}

/// Whose token was presented.
#[derive(Clone, Debug, Deserialize)]
pub struct Holder {
    /// The token's id: no secret.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// Whether it has the scope that was asked for.
    allowed: bool,
    /// What it may do.
    pub scopes: Vec<String>,
}

/// What came of presenting a token.
#[derive(Debug)]
pub enum Presented {
    /// The transaction is the holder's.
    Welcome(Session),
    /// No such token: unknown, expired or revoked, which look the same.
    Unknown,
    /// It may not do this.
    NotAllowed(Holder),
}

/// A transaction in which a token was presented. Dropped, it is rolled back.
#[derive(Debug)]
pub struct Session {
    transaction: Transaction<'static, Postgres>,
    /// Whose token it is.
    pub holder: Holder,
}

impl Session {
    /// Commits.
    ///
    /// # Errors
    /// What the database refuses, or [`Error::Broken`] when nobody knows whether it has happened.
    pub async fn commit(self) -> Result<(), Error> {
        Ok(self.transaction.commit().await?)
    }
}

impl Deref for Session {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.transaction
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.transaction
    }
}

impl TokenPool {
    /// One that connects when it is used first; `application` shows in `pg_stat_activity`.
    pub fn new(address: &Address, application: &str, options: TokenPoolOptions) -> Self {
        let pool = Arc::new(RwLock::new(pool(address, application, options)));
        let end = CancellationToken::new();
        if address.may_move() {
            let following = follow(pool.clone(), address.clone(), application.to_owned(), options);
            let end = end.clone();
            tokio::spawn(async move { end.run_until_cancelled(following).await });
        }
        Self { pool, address: address.clone(), _lookout: Arc::new(end.drop_guard()) }
    }

    pub(super) fn pool(&self) -> PgPool {
        self.pool.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the database answers, has what this program needs, and lets its role present tokens.
    ///
    /// # Errors
    /// TD004 for a role that may not; otherwise why there is no answer.
    pub async fn look(&self) -> Result<(), Error> {
        let mut connection = self.pool().acquire().await.map_err(|error| self.unreachable(error))?;
        let nobody = sqlx::query_scalar!(
            "-- present nobody's token
            select tendril.token_present('', 'read')"
        );
        Ok(nobody.fetch_one(&mut *connection).await.map(drop)?)
    }

    /// Begins a transaction and presents a token that is to have an scope.
    ///
    /// # Errors
    /// TD004 when the role may not present tokens; otherwise why there is no answer.
    pub async fn present(&self, token: TokenHash, scope: TokenScope) -> Result<Presented, Error> {
        let mut transaction = self.pool().begin().await.map_err(|error| self.unreachable(error))?;
        let holder = sqlx::query_scalar!(
            "-- present API token
            select tendril.token_present($1, $2)",
            token.as_bytes(),
            scope.name()
        );
        let Some(holder) = holder.fetch_one(&mut *transaction).await? else {
            return Ok(Presented::Unknown);
        };
        let holder = Holder::deserialize(holder).map_err(|error| Error::Reply(sqlx::Error::Decode(error.into())))?;
        Ok(match holder.allowed {
            true => Presented::Welcome(Session { transaction, holder }),
            false => Presented::NotAllowed(holder),
        })
    }

    /// Sessions that are open, and those of them that nobody uses.
    pub fn sessions(&self) -> (u32, usize) {
        let pool = self.pool();
        (pool.size(), pool.num_idle())
    }

    /// Closes all sessions.
    pub async fn close(&self) {
        self.pool().close().await;
    }

    /// A pool that has no session in time is an outage as well; what the server says is told as it is.
    pub(super) fn unreachable(&self, error: sqlx::Error) -> Error {
        match error {
            sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => Error::Broken(error),
            other => self.address.unreachable(other).into(),
        }
    }
}

fn pool(address: &Address, application: &str, options: TokenPoolOptions) -> PgPool {
    let patience_ms = options.patience.as_millis();
    // A client that has gone away must hold neither rows nor a session for long.
    let settings = format!(
        "-- session settings
        set default_transaction_isolation = 'read committed';
        set statement_timeout = {patience_ms};
        set idle_in_transaction_session_timeout = {patience_ms};"
    );
    PgPoolOptions::new()
        .max_connections(options.connections)
        .acquire_timeout(options.patience)
        .after_connect(move |connection, _| {
            let settings = settings.clone();
            Box::pin(async move { connection.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(settings))).await.map(drop) })
        })
        .connect_lazy_with(address.options_for(application))
}

/// Has sessions opened where writes are taken, whenever that is somewhere else than before.
async fn follow(pool: Arc<RwLock<PgPool>>, address: Address, application: String, options: TokenPoolOptions) {
    loop {
        let lead = address.lead();
        address.lost(lead, &application).await;
        let next = self::pool(&address, &application, options);
        let before = replace(&mut *pool.write().unwrap_or_else(PoisonError::into_inner), next);
        tokio::spawn(async move { before.close().await });
    }
}
