//! `doctor`: looks at everything that Tendril relies on, and says what to mend.

mod bucket;
mod privileges;
mod schema;
mod server;
mod upkeep;

use serde::Serialize;
use sqlx::postgres::PgConnection;

use crate::archive::ArchiveOptions;
use crate::refusal::Error;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Works, but less well or less safely than it could.
    Warn,
    /// Something does not work.
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Stable name of what was looked at.
    pub check: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What was found.
    pub message: String,
    /// What to do about it; `None` when nothing is to be done.
    pub remedy: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, message: impl Into<String>) -> Self {
        Self { check, level: Level::Ok, message: message.into(), remedy: None }
    }

    fn warn(check: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, level: Level::Warn, message: message.into(), remedy: Some(remedy.into()) }
    }

    fn fail(check: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, level: Level::Fail, message: message.into(), remedy: Some(remedy.into()) }
    }
}

/// Looks at everything, also at the archive if one is named; what cannot be looked at is a finding too.
///
/// # Errors
/// Only when the connection breaks.
pub async fn examine(connection: &mut PgConnection, archive: Option<&ArchiveOptions>) -> Result<Vec<Finding>, Error> {
    let mut findings = Vec::new();
    gather(&mut findings, "server", server::examine(connection).await)?;
    gather(&mut findings, "role", privileges::examine_role(connection).await)?;
    let usable = match schema::examine(connection).await {
        Ok((found, usable)) => {
            findings.extend(found);
            usable
        }
        Err(error) => {
            gather(&mut findings, "schema", Err(error))?;
            false
        }
    };
    if usable {
        gather(&mut findings, "privileges", privileges::examine_groups(connection).await)?;
        gather(&mut findings, "settings", schema::examine_settings(connection).await)?;
        gather(&mut findings, "upkeep", upkeep::examine(connection).await)?;
        gather(&mut findings, "archive_bucket", bucket::examine(connection, archive).await)?;
    }
    Ok(findings)
}

fn gather(findings: &mut Vec<Finding>, check: &'static str, found: Result<Vec<Finding>, Error>) -> Result<(), Error> {
    match found {
        Ok(found) => findings.extend(found),
        Err(error) if error.is_outage() => return Err(error),
        Err(error) => {
            let remedy = error.hint().unwrap_or_else(|| "connect as the role that ran the migrations".into());
            findings.push(Finding::fail(check, format!("cannot look: {error}"), remedy));
        }
    }
    Ok(())
}
