//! What can go wrong between this program and the database, told apart by what one does about it.

use std::fmt;

use serde::{Deserialize, Serialize};
use sqlx::migrate::MigrateError;
use sqlx::postgres::PgDatabaseError;

use crate::archive::ArchiveError;
use crate::unreachable::Unreachable;

/// Why something did not happen.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database was reached and said no. The statement left nothing behind.
    #[error(transparent)]
    Refused(Box<Refusal>),
    /// The database was not reached.
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    /// The connection broke; what was under way may have happened or not.
    #[error("the connection to the database broke: {0}")]
    Broken(#[source] sqlx::Error),
    /// The schema was made by a newer program than this one.
    #[error("the database's schema is at version {found}, this tendril-broker knows {known}")]
    SchemaNewer {
        /// Newest migration that the database has.
        found: i64,
        /// Newest migration that this program has.
        known: i64,
    },
    /// A migration was changed after it had been applied.
    #[error("migration {0} is not the one that was applied to this database")]
    MigrationChanged(i64),
    /// The schema lacks migrations that this program needs.
    #[error("the database lacks migrations of this tendril-broker: {pending:?}")]
    SchemaOlder {
        /// Versions that were not applied.
        pending: Vec<i64>,
    },
    /// A reply that does not have the form that this program expects.
    #[error("the database's reply is not understood: {0}")]
    Reply(#[source] sqlx::Error),
    /// The archive of logs was not read.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
}

/// A refusal as Postgres words it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// SQLSTATE; TD001 to TD015 are the broker's own and listed in docs/SQL.md.
    pub sqlstate: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// More of it; see [`Refusal::problems`].
    pub detail: Option<String>,
}

/// One thing that is wrong with a config_snapshot or another structured value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Path of the key, as in `config_snapshot.jobs[0].kind`.
    pub path: String,
    /// What is wrong with it.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

impl Refusal {
    /// All problems of a refused value (TD001); empty when the detail is not such a list.
    pub fn problems(&self) -> Vec<Problem> {
        let list = self.detail.as_deref().map(serde_json::from_str);
        list.and_then(Result::ok).unwrap_or_default()
    }

    fn from_database(error: &PgDatabaseError) -> Self {
        let given = |text: Option<&str>| text.filter(|text| !text.is_empty()).map(str::to_owned);
        let hint = given(error.hint()).or_else(|| remedy(error.code()).map(str::to_owned));
        Self {
            sqlstate: error.code().to_owned(),
            message: error.message().to_owned(),
            hint,
            detail: given(error.detail()),
        }
    }
}

/// Remedies for refusals that bring none.
fn remedy(sqlstate: &str) -> Option<&'static str> {
    match sqlstate {
        "3F000" | "42P01" | "42883" => {
            Some("is this the right database? `tendril-broker migrate` puts the schema there")
        }
        "42501" => Some(
            "operators connect as the role that ran the migrations; portals need `tendril-broker portal grant ROLE --scope SCOPE`",
        ),
        // Ours, from places that cannot know what the caller is looking for.
        "TD002" => {
            Some("`list`, `status`, `cluster list`, `portal list` and `key list` of tendril-broker show what is there")
        }
        "55P03" => Some("somebody else holds the lock; try again"),
        "53100" => Some("the server's disk is full"),
        _ => None,
    }
}

/// The server ends or refuses sessions with these: what follows is the same as for a broken line.
pub(crate) fn is_outage(sqlstate: &str) -> bool {
    // 25006: a standby, behind the address of the server that it is about to replace.
    matches!(sqlstate, "57P01" | "57P02" | "57P03" | "53300" | "25006") || sqlstate.starts_with("08")
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::Database(ref database) => {
                let refusal = Refusal::from_database(database.downcast_ref());
                match refusal.sqlstate.as_str() {
                    state if is_outage(state) => Self::Broken(error),
                    _ => Self::Refused(Box::new(refusal)),
                }
            }
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => Self::Broken(error),
            sqlx::Error::Migrate(error) => Self::from(*error),
            other => Self::Reply(other),
        }
    }
}

impl From<MigrateError> for Error {
    fn from(error: MigrateError) -> Self {
        match error {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => Self::from(error),
            MigrateError::VersionMismatch(version) | MigrateError::Dirty(version) => Self::MigrationChanged(version),
            other => Self::Reply(sqlx::Error::Migrate(Box::new(other))),
        }
    }
}

impl Error {
    /// The refusal, when the database gave one.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// Whether the same may succeed once the database is back.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Broken(_) => true,
            Self::Unreachable(unreachable) => unreachable.is_outage(),
            _ => false,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Refused(refusal) => refusal.hint.clone(),
            Self::Unreachable(unreachable) => unreachable.hint(),
            Self::Broken(_) => Some("look at the state of what you asked for before you ask again".into()),
            Self::SchemaNewer { .. } => Some("use a tendril-broker that is as new".into()),
            Self::SchemaOlder { .. } => Some("run `tendril-broker migrate`".into()),
            Self::MigrationChanged(_) => {
                Some("use the tendril-broker that the schema was made with, or a newer one".into())
            }
            Self::Archive(error) => Some(error.hint().into()),
            Self::Reply(_) => Some("are tendril-broker and the schema of one version?".into()),
        }
    }
}
