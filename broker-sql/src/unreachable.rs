//! Why a database cannot be reached, and what to do about it.

use std::io;
use std::time::Duration;

use sqlx::postgres::PgDatabaseError;

/// How long a connection may take.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

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
    /// It answers, and takes no writes.
    #[error("{0} takes no writes now: only a standby answers")]
    Standby(String),
    /// Something else.
    #[error("cannot connect to {0}: {1}")]
    Other(String, String),
}

impl Unreachable {
    pub(crate) fn from_io(at: String, error: &io::Error) -> Self {
        let why = error.to_string();
        match error.kind() {
            io::ErrorKind::NotFound => Self::NoServer(at, format!("no socket there ({why})")),
            io::ErrorKind::TimedOut => Self::Silent(at),
            _ if why.contains("lookup address") => Self::UnknownHost(at, why),
            _ => Self::NoServer(at, why),
        }
    }

    pub(crate) fn from_database(at: String, error: &PgDatabaseError) -> Self {
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
        matches!(
            self,
            Self::UnknownHost(..) | Self::NoServer(..) | Self::Silent(..) | Self::NotNow(..) | Self::Standby(..)
        )
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
            Self::Standby(..) => {
                "name the primary in the database URL too; after a failover, wait until one is promoted"
            }
            Self::Other(..) => return None,
        };
        Some(hint.to_owned())
    }
}
