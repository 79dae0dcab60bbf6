//! Sessions of operators and portals: where the database is, and why it cannot be reached.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgDatabaseError, PgSslMode};
use sqlx::{ConnectOptions, Connection, Executor};

use crate::hosts::{self, Lead};
use crate::refusal::Error;
use crate::unreachable::{CONNECT_TIMEOUT, Unreachable};

/// The state-changing functions refuse to run under another isolation, which a database may have as its default.
const SESSION: &str = "-- session settings\nset default_transaction_isolation = 'read committed'";

/// What a session that is kept open is asked now and again.
const STILL_THERE: &str = "-- still there\nshow transaction_read_only";
/// It takes a millisecond; a server that says nothing for this long is given up.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Where the database is and who we are there.
///
/// A URL may name several hosts, `postgres://one:5432,two:5432/database`: the one that takes writes is found, and found again
/// after a failover.
///
/// What the URL leaves out comes from `PGHOST`, `PGPORT`, `PGUSER`, `PGPASSWORD`, `PGSSLMODE`, `PGSSLROOTCERT` and the
/// password file, as with libpq. `Debug` and `Display` never show the password.
#[derive(Clone)]
pub struct Address {
    /// One for each host; never empty.
    hosts: Arc<[PgConnectOptions]>,
    lead: Lead,
}

/// A URL that does not say where a database is.
#[derive(Debug, thiserror::Error)]
#[error("{0}; it has the form postgres://USER:PASSWORD@HOST:5432/DATABASE?sslmode=verify-full")]
pub struct BadAddress(String);

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(url: &str) -> Result<Self, BadAddress> {
        // The URL may hold a password: what is wrong is said without quoting it.
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(BadAddress("the database URL does not begin with postgres://".into()));
        }
        let url = without_target(url)?;
        let hosts = hosts::each(&url).iter().map(|url| host(url)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self::at(hosts))
    }
}

/// The URL without the word for what every session of ours has to be.
fn without_target(url: &str) -> Result<String, BadAddress> {
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    let mut rest = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("target_session_attrs", word)) if hosts::may_write(word) => {}
            Some(("target_session_attrs", _)) => {
                return Err(BadAddress("target_session_attrs of the database URL must be read-write".into()));
            }
            _ => rest.push(pair),
        }
    }
    Ok(if rest.is_empty() { base.to_owned() } else { format!("{base}?{}", rest.join("&")) })
}

fn host(url: &str) -> Result<PgConnectOptions, BadAddress> {
    PgConnectOptions::from_str(url).map_err(|error| {
        let why = match &error {
            sqlx::Error::Configuration(why) => why.to_string(),
            other => other.to_string(),
        };
        BadAddress(format!("the database URL cannot be read: {why}"))
    })
}

impl From<PgConnectOptions> for Address {
    fn from(options: PgConnectOptions) -> Self {
        Self::at(vec![options])
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let o = &self.hosts[0];
        write!(f, "{} at ", o.get_database().unwrap_or(o.get_username()))?;
        for (number, host) in self.hosts.iter().enumerate() {
            let comma = if number == 0 { "" } else { "," };
            match host.get_socket() {
                Some(socket) => write!(f, "{comma}{}", socket.display())?,
                None => write!(f, "{comma}{}:{}", host.get_host(), host.get_port())?,
            }
        }
        write!(f, " as {}", o.get_username())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

impl Address {
    fn at(hosts: Vec<PgConnectOptions>) -> Self {
        let hosts = hosts.into_iter().map(ConnectOptions::disable_statement_logging).collect();
        Self { hosts, lead: Lead::default() }
    }

    /// The host that had the last session, with a name that shows in `pg_stat_activity`.
    pub(crate) fn options_for(&self, application: &str) -> PgConnectOptions {
        self.hosts[self.lead.now()].clone().application_name(application)
    }

    /// Whether there are several hosts, of which any may be the one that takes writes.
    pub(crate) fn may_move(&self) -> bool {
        self.hosts.len() > 1
    }

    /// Opens a session; `application` shows in `pg_stat_activity`.
    ///
    /// # Errors
    /// [`Error::Unreachable`] with the reason.
    pub async fn connect(&self, application: &str) -> Result<PgConnection, Error> {
        // Pools stay with a name: when another one leads they follow it, whichever server it is.
        let open = |host| async move { Ok::<_, Error>((self.connect_to(host, application).await?, None)) };
        let (session, _) = self.lead.follow(self.hosts.len(), open, weight).await?;
        Ok(session)
    }

    async fn connect_to(&self, host: usize, application: &str) -> Result<PgConnection, Error> {
        let options = self.hosts[host].clone().application_name(application);
        let connecting = async {
            let mut connection = PgConnection::connect_with(&options).await?;
            let takes_writes = !self.may_move() || takes_writes(&mut connection).await?;
            Ok((connection, takes_writes))
        };
        match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(Ok((mut connection, true))) => {
                connection.execute(SESSION).await?;
                Ok(connection)
            }
            Ok(Ok((_, false))) => Err(Unreachable::Standby(self.to_string()).into()),
            Ok(Err(error)) => Err(self.unreachable(error).into()),
            Err(_) => Err(Unreachable::Silent(self.to_string()).into()),
        }
    }

    /// The host that had the last session, by its place in the URL.
    pub(crate) fn lead(&self) -> usize {
        self.lead.now()
    }

    /// Returns once sessions at the host with that place are not to be trusted any more: it was silent, or another one takes the
    /// writes. Not while it only ends sessions: those know that they are gone.
    pub(crate) async fn lost(&self, lead: usize, application: &str) {
        let mut was_silent = false;
        loop {
            if let Ok(mut lookout) = self.connect(application).await {
                if was_silent || self.lead() != lead {
                    return;
                }
                was_silent = loop {
                    tokio::time::sleep(LOOK_EVERY).await;
                    match tokio::time::timeout(ANSWERS_WITHIN, takes_writes(&mut lookout)).await {
                        Ok(Ok(true)) => {}
                        looked => break looked.is_err(),
                    }
                };
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Why an attempt to connect failed.
    pub(crate) fn unreachable(&self, error: sqlx::Error) -> Unreachable {
        let at = self.to_string();
        match error {
            sqlx::Error::Io(error) => Unreachable::from_io(at, &error),
            sqlx::Error::Tls(why) => Unreachable::Tls(at, why.to_string()),
            sqlx::Error::Database(error) => Unreachable::from_database(at, error.downcast_ref::<PgDatabaseError>()),
            sqlx::Error::PoolTimedOut => Unreachable::Silent(at),
            // What a server leaves on the line that dies in the middle of a greeting.
            sqlx::Error::Protocol(why) => Unreachable::NoServer(
                at,
                format!("it broke off in the middle of the greeting, or is no Postgres ({why})"),
            ),
            other => Unreachable::Other(at, other.to_string()),
        }
    }

    /// Whether the server's identity is not verified although the line leaves this machine.
    pub(crate) fn is_open_to_listeners(&self) -> bool {
        self.hosts.iter().any(|options| {
            let host = options.get_host();
            let local = options.get_socket().is_some()
                || host.starts_with('/')
                || matches!(host, "localhost" | "127.0.0.1" | "::1");
            let verified = matches!(options.get_ssl_mode(), PgSslMode::VerifyCa | PgSslMode::VerifyFull);
            !local && !verified
        })
    }
}

async fn takes_writes(connection: &mut PgConnection) -> sqlx::Result<bool> {
    sqlx::query_scalar::<_, String>(STILL_THERE).fetch_one(connection).await.map(|read_only| read_only == "off")
}

/// How much an error says: what waiting does not mend, more than an outage; but a login that is refused where nobody has had a
/// session less than that: a standby that lags behind does not know it yet, while the primary is the one that is away.
fn weight(error: &Error, had_a_session: bool) -> u8 {
    match error {
        Error::Unreachable(Unreachable::Standby(..)) => 0,
        Error::Unreachable(Unreachable::WrongPassword(..) | Unreachable::NotAdmitted(..)) if !had_a_session => 1,
        error if error.is_outage() => 2,
        _ => 3,
    }
}
