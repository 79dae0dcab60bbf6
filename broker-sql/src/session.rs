//! Sessions of operators and portals: where the database is, and why it cannot be reached.

use std::fmt;
use std::str::FromStr;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgDatabaseError, PgSslMode};
use sqlx::{ConnectOptions, Connection, Executor};

use crate::refusal::Error;
use crate::unreachable::{CONNECT_TIMEOUT, Unreachable};

/// The state-changing functions refuse to run under another isolation, which a database may have as its default.
const SESSION: &str = "-- session settings\nset default_transaction_isolation = 'read committed'";

/// Where the database is and who we are there.
///
/// What the URL leaves out comes from `PGHOST`, `PGPORT`, `PGUSER`, `PGPASSWORD`, `PGSSLMODE`, `PGSSLROOTCERT` and the
/// password file, as with libpq. `Debug` and `Display` never show the password.
#[derive(Clone)]
pub struct Address {
    options: PgConnectOptions,
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
        let options = PgConnectOptions::from_str(url).map_err(|error| {
            let why = match &error {
                sqlx::Error::Configuration(why) => why.to_string(),
                other => other.to_string(),
            };
            BadAddress(format!("the database URL cannot be read: {why}"))
        })?;
        Ok(Self::from(options))
    }
}

impl From<PgConnectOptions> for Address {
    fn from(options: PgConnectOptions) -> Self {
        Self { options: options.disable_statement_logging() }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let o = &self.options;
        let database = o.get_database().unwrap_or(o.get_username());
        match o.get_socket() {
            Some(socket) => write!(f, "{database} at {}", socket.display())?,
            None => write!(f, "{database} at {}:{}", o.get_host(), o.get_port())?,
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
    /// The same place with a name that shows in `pg_stat_activity`.
    pub(crate) fn options_for(&self, application: &str) -> PgConnectOptions {
        self.options.clone().application_name(application)
    }

    /// Opens a session; `application` shows in `pg_stat_activity`.
    ///
    /// # Errors
    /// [`Error::Unreachable`] with the reason.
    pub async fn connect(&self, application: &str) -> Result<PgConnection, Error> {
        let options = self.options_for(application);
        let connecting = PgConnection::connect_with(&options);
        match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(Ok(mut connection)) => {
                connection.execute(SESSION).await?;
                Ok(connection)
            }
            Ok(Err(error)) => Err(self.unreachable(error).into()),
            Err(_) => Err(Unreachable::Silent(self.to_string()).into()),
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
        let host = self.options.get_host();
        let local = self.options.get_socket().is_some()
            || host.starts_with('/')
            || matches!(host, "localhost" | "127.0.0.1" | "::1");
        let verified = matches!(self.options.get_ssl_mode(), PgSslMode::VerifyCa | PgSslMode::VerifyFull);
        !local && !verified
    }
}
