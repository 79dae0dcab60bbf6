//! Errors of the broker, as a runner has to tell them apart.

use crate::connect::ConnectError;
use serde_json::Value;

/// What a call to the broker came to when it did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// TD005: the job went on without this attempt; everything it still does is in vain.
    #[error("the attempt was superseded: {0}")]
    LeaseLost(String),
    /// TD006: nothing may be claimed or started until a heartbeat has succeeded.
    #[error("the lease has run out: {0}")]
    LeaseExpired(String),
    /// TD013: somebody asked to cancel the job before it started.
    #[error("the job is to be cancelled")]
    CancelRequested,
    /// TD008: the credential is being drained, or is none.
    #[error("the credential is not active: {0}")]
    NotActive(String),
    /// TD010: broker and runner have no protocol version in common.
    #[error("{0}")]
    Version(String),
    /// Any other refusal; the code is a stable SQLSTATE.
    #[error("the broker refused ({code}): {message}")]
    Refused {
        /// SQLSTATE, such as TD001.
        code: String,
        /// The server's message and hint.
        message: String,
        /// The server's DETAIL, when it is JSON.
        detail: Option<Value>,
    },
    /// The server ended our session, or cannot serve now: try again.
    #[error("the broker is not available: {0}")]
    Unavailable(String),
    /// No connection could be opened.
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

impl BrokerError {
    /// Whether the same call may succeed later without anybody doing anything.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::Connect(ConnectError::Unreachable { .. } | ConnectError::Server { .. }) => {
                true
            }
            Self::Refused { code, .. } => is_passing_state(code),
            Self::LeaseLost(_)
            | Self::LeaseExpired(_)
            | Self::CancelRequested
            | Self::NotActive(_)
            | Self::Version(_)
            | Self::Connect(_) => false,
        }
    }

    /// Whether the server does not accept the credential (any more), or gives it no right to what every runner may.
    pub fn is_credential(&self) -> bool {
        match self {
            Self::Connect(ConnectError::Credential { .. }) => true,
            // A revocation takes the rights first: a session that is still there meets that before it is ended.
            Self::Refused { code, .. } => code == NO_RIGHT,
            _ => false,
        }
    }
}

/// Our own functions never refuse with it.
const NO_RIGHT: &str = "42501";

/// Serialisation failures, deadlocks, lock and statement time-outs, crashes, shut-downs, a full disk.
fn is_passing_state(code: &str) -> bool {
    // 25006: a standby that is about to be promoted, behind the address of the server that it replaces.
    // TD015: runners have yet to say what they know of a database that was set back in time.
    matches!(code, "40001" | "40P01" | "55P03" | "57014" | "25006" | "TD015")
        || ["08", "53", "57P", "58"].iter().any(|class| code.starts_with(class))
}

/// Remedies for refusals of Postgres's own, which know nothing of us.
fn remedy(code: &str) -> Option<&'static str> {
    match code {
        "3F000" | "42P01" | "42883" => {
            Some("check the database's name in the address; an operator's `tendril-broker migrate` makes the schema")
        }
        NO_RIGHT => Some(
            "the credential was revoked, or the token belongs to another database than this one; check the address and the token",
        ),
        _ => None,
    }
}

impl From<tokio_postgres::Error> for BrokerError {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(db) => Self::refusal(db.code().code(), db.message(), db.hint(), db.detail()),
            None => Self::Unavailable(error.to_string()),
        }
    }
}

impl BrokerError {
    /// What the server said, be it of a whole call or of one attempt among others.
    pub(super) fn refusal(code: &str, message: &str, hint: Option<&str>, detail: Option<&str>) -> Self {
        let message = match hint.filter(|hint| !hint.is_empty()).or_else(|| remedy(code)) {
            Some(hint) => format!("{message}; {hint}"),
            None => message.to_owned(),
        };
        match code {
            "TD005" => Self::LeaseLost(message),
            "TD006" => Self::LeaseExpired(message),
            "TD008" => Self::NotActive(message),
            "TD010" => Self::Version(message),
            "TD013" => Self::CancelRequested,
            _ if is_passing_state(code) => Self::Unavailable(message),
            _ => Self::Refused {
                code: code.to_owned(),
                message,
                detail: detail.and_then(|text| serde_json::from_str(text).ok()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_by_itself_is_tried_again_and_what_does_not_is_not() {
        assert!(
            is_passing_state("57P01")
                && is_passing_state("53100")
                && is_passing_state("TD015")
                && is_passing_state("25006")
                && is_passing_state("40P01")
        );
        assert!(!is_passing_state("TD001") && !is_passing_state("42501") && !is_passing_state("23505"));
        assert!(!BrokerError::LeaseLost(String::new()).is_passing());
    }

    #[test]
    fn a_right_that_is_gone_says_that_the_credential_is_and_a_wrong_argument_does_not() {
        let refused = |code: &str| BrokerError::Refused { code: code.into(), message: String::new(), detail: None };
        assert!(refused("42501").is_credential() && !refused("42501").is_passing());
        assert!(!refused("TD001").is_credential() && !BrokerError::NotActive(String::new()).is_credential());
    }
}
