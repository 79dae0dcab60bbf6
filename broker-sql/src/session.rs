//! Sessions of operators and portals: where the database is, and why it cannot be reached.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgDatabaseError, PgSslMode};
use sqlx::{ConnectOptions, Connection, Executor};

use crate::refusal::Error;

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

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

/// Why the database was not reached; the first field says where it was tried.
#[derive(Debug, thiserror::Error)]
pub enum Unreachable {
    /// The name of the host leads nowhere.
    #[error("cannot reach {0}: the host's name is not known ({1})")]
    UnknownHost(String, String),
    /// No server there, or the way is barred.
    #[error("cannot reach {0}: {1}")]
    NoServer(String, String),
    /// Nobody answered in time.
    #[error("cannot reach {0}: no answer within {limit} s", limit = CONNECT_TIMEOUT.as_secs())]
    Silent(String),
    /// Wrong password, or none.
    #[error("cannot log in to {0}: {1}")]
    WrongPassword(String, String),
    /// The role or the way in is not allowed.
    #[error("{0} does not let us in: {1}")]
    NotAdmitted(String, String),
    /// No such database.
    #[error("cannot open {0}: {1}")]
    NoDatabase(String, String),
    /// TLS did not come about.
    #[error("no TLS with {0}: {1}")]
    Tls(String, String),
    /// The server has no room or is starting, stopping or recovering.
    #[error("{0} takes no connections now: {1}")]
    NotNow(String, String),
    /// Something else.
    #[error("cannot connect to {0}: {1}")]
    Other(String, String),
}

impl Unreachable {
    fn from_io(at: String, error: &io::Error) -> Self {
        let why = error.to_string();
        match error.kind() {
            io::ErrorKind::NotFound => Self::NoServer(at, format!("no socket there ({why})")),
            io::ErrorKind::TimedOut => Self::Silent(at),
            _ if why.contains("lookup address") => Self::UnknownHost(at, why),
            _ => Self::NoServer(at, why),
        }
    }

    fn from_database(at: String, error: &PgDatabaseError) -> Self {
        let why = error.message().to_owned();
        match error.code() {
            "28P01" => Self::WrongPassword(at, why),
            "28000" | "42501" => Self::NotAdmitted(at, why),
            "3D000" => Self::NoDatabase(at, why),
            "53300" | "57P01" | "57P02" | "57P03" => Self::NotNow(at, why),
            _ => Self::Other(at, why),
        }
    }

    /// Whether waiting may help.
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::UnknownHost(..) | Self::NoServer(..) | Self::Silent(..) | Self::NotNow(..))
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::UnknownHost(..) => "check the host in the database URL",
            Self::NoServer(..) => "is the server running, and does it listen at this address?",
            Self::Silent(..) => "a firewall that drops packets looks like this",
            Self::WrongPassword(..) => "check user and password in the database URL, PGPASSWORD or the password file",
            Self::NotAdmitted(..) => "pg_hba.conf, or the provider's network rules, must let this user in from here",
            Self::NoDatabase(..) => "create it first (CREATE DATABASE), or name another in the URL",
            Self::Tls(..) => "sslmode and sslrootcert in the URL decide this; verify-full needs the server's own CA",
            Self::NotNow(..) => "try again; if it stays so, raise max_connections",
            Self::Other(..) => return None,
        };
        Some(hint.to_owned())
    }
}
