//! A tenant that means no good: a session with a cluster's own credential, and what can be done with it.

use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor};
use uuid::Uuid;

use crate::refusal::Error;
use crate::session::Address;
use crate::token::AgentToken;

/// Between two looks whether a session is still there.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How its sessions call themselves.
pub const APPLICATION: &str = "tendril-chaos tenant";

/// Sessions of one credential.
#[derive(Clone, Debug)]
pub struct Tenant {
    address: Address,
    cluster: Uuid,
}

impl Tenant {
    /// With that token at a database whose URL, without a login, `url_of` makes from one (`role:secret`).
    ///
    /// # Panics
    /// The token is none, or the URL.
    pub fn new(token: &str, url_of: impl Fn(&str) -> String) -> Self {
        let token: AgentToken = token.parse().expect("a token that the broker has made");
        let address = url_of(&format!("{}:{}", token.role(), token.secret())).parse().expect("a URL of our own");
        Self { address, cluster: token.cluster() }
    }

    /// Opens sessions until it is refused one.
    ///
    /// # Errors
    /// It is refused for another reason than their number.
    pub async fn all_sessions(&self) -> Result<Vec<PgConnection>, Error> {
        let mut all = Vec::new();
        loop {
            match self.address.connect(APPLICATION).await {
                Ok(session) => all.push(session),
                Err(error) if error.is_outage() => return Ok(all),
                Err(error) => return Err(error),
            }
        }
    }

    /// Locks its runner's lease in a transaction and keeps that open. Returns what ended it, or nothing after `longest`.
    ///
    /// # Errors
    /// The transaction could not be begun.
    pub async fn hold_lease(&self, runner: Uuid, longest: Duration) -> Result<Option<Error>, Error> {
        let mut session = self.address.connect(APPLICATION).await?;
        session.execute("-- hold\nbegin").await?;
        let beat = "-- forged heartbeat\nselect tendril.runner_heartbeat($1, 0, '{}')";
        sqlx::query(beat).bind(runner).execute(&mut session).await?;
        let held = async {
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                if let Err(error) = session.execute("-- still open\nselect 1").await {
                    return error.into();
                }
            }
        };
        Ok(tokio::time::timeout(longest, held).await.ok())
    }

    /// Rings its doorbell for so long, a hundred times a statement, from transactions that portals have nothing to do with.
    ///
    /// # Errors
    /// What the database refuses.
    pub async fn flood(&self, span: Duration) -> Result<u64, Error> {
        let mut session = self.address.connect(APPLICATION).await?;
        let channel = format!("tendril_{}", self.cluster.simple());
        let ring = format!("-- ring\nselect pg_notify('{channel}', n::text) from generate_series(1, 100) n");
        let mut rings = 0;
        let flooded = async {
            loop {
                if let Err(error) = session.execute(AssertSqlSafe(ring.clone())).await {
                    return Error::from(error);
                }
                rings += 100;
            }
        };
        match tokio::time::timeout(span, flooded).await {
            Ok(error) if !error.is_outage() => Err(error),
            _ => Ok(rings),
        }
    }
}

/// A runner of the database that was heard last, if there is any.
///
/// # Errors
/// What the database refuses.
pub async fn a_runner(operator: &mut PgConnection) -> Result<Option<Uuid>, Error> {
    let sql = "-- runner that was heard last\nselect runner_id from tendril_core.runner_leases order by heartbeat_at desc limit 1";
    Ok(sqlx::query_scalar(sql).fetch_optional(operator).await?)
}

/// Keeps every row version that is there now for so long.
///
/// # Errors
/// What the database refuses.
pub async fn pin_xmin(operator: &mut PgConnection, span: Duration) -> Result<(), Error> {
    operator.execute("-- pin xmin\nbegin isolation level repeatable read; select count(*) from pg_class").await?;
    tokio::time::sleep(span).await;
    operator.execute("-- let go\nrollback").await?;
    Ok(())
}

/// Lets credentials that are made from now on have connections for so many runners.
///
/// # Errors
/// What the database refuses.
pub async fn make_room_for(operator: &mut PgConnection, runners: u32) -> Result<(), Error> {
    let set = "-- connections\nupdate tendril_core.settings set runner_connections = greatest(16, least(8 * $1, 1000))";
    sqlx::query(set).bind(i32::try_from(runners).unwrap_or(i32::MAX / 8)).execute(operator).await?;
    Ok(())
}
