//! Submit: the plain INSERT that any portal may send, from any language.

use serde::Serialize;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use crate::refusal::{Error, Refusal};

/// What is to be queued.
#[derive(Clone, Debug)]
pub struct Submission {
    /// Made by the client, so that a submit whose reply was lost can be sent again.
    pub id: Uuid,
    /// Where it runs.
    pub cluster: Uuid,
    /// What to do.
    pub snapshot: serde_json::Value,
}

/// What a submit left behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Submitted {
    /// The deployment.
    pub id: Uuid,
    /// Where it runs.
    pub cluster_id: Uuid,
    /// Its status by now.
    pub status: String,
    /// Whether this call queued it; `false` when the id had been submitted before.
    pub queued: bool,
}

impl Submission {
    /// The statement that [`submit`] sends, with its values as literals: what a portal's own code would send.
    pub fn to_sql(&self) -> String {
        format!(
            "INSERT INTO tendril.deployments (id, cluster_id, config_snapshot)\nVALUES ('{}', '{}', {})\nON CONFLICT (id) DO NOTHING;",
            self.id,
            self.cluster,
            quote_literal(&self.snapshot.to_string())
        )
    }
}

/// As Postgres's `quote_literal`: right whatever `standard_conforming_strings` is.
fn quote_literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if doubled.contains('\\') { format!("E'{}'", doubled.replace('\\', "\\\\")) } else { format!("'{doubled}'") }
}

/// Queues a deployment once, however often it is sent.
///
/// # Errors
/// TD001 with all problems of the snapshot, TD002 for an unknown cluster or somebody else's id, TD003 for a revoked one.
pub async fn submit(connection: &mut PgConnection, submission: &Submission) -> Result<Submitted, Error> {
    let sent = sqlx::raw_sql(AssertSqlSafe(submission.to_sql())).execute(&mut *connection).await?;
    let stored = sqlx::query!(
        "-- find submitted deployment
        select cluster_id, status from tendril.deployments where id = $1",
        submission.id
    )
    .fetch_optional(connection)
    .await?;
    let Some(stored) = stored else {
        return Err(Error::Refused(Box::new(Refusal {
            sqlstate: "TD002".into(),
            message: format!("deployment {} is somebody else's", submission.id),
            hint: Some("make a new id (UUIDv7) for each submit".into()),
            detail: None,
        })));
    };
    Ok(Submitted {
        id: submission.id,
        cluster_id: stored.cluster_id,
        status: stored.status,
        queued: sent.rows_affected() == 1,
    })
}

/// Whether this is what was submitted under its id; `None` for an id that is nobody's, or somebody else's.
///
/// # Errors
/// What the database refuses.
pub async fn is_submitted(connection: &mut PgConnection, submission: &Submission) -> Result<Option<bool>, Error> {
    let same = sqlx::query_scalar!(
        "-- is this what was submitted
        select tendril.is_submitted($1, $2, $3)",
        submission.id,
        submission.cluster,
        submission.snapshot
    );
    Ok(same.fetch_one(connection).await?)
}

/// Queues a deployment as an application with a prepared statement of its own would; an id that was submitted before is
/// an error here.
///
/// # Errors
/// As [`submit`].
pub async fn insert(connection: &mut PgConnection, submission: &Submission) -> Result<(), Error> {
    sqlx::query!(
        "-- prepared submit
        insert into tendril.deployments (id, cluster_id, config_snapshot) values ($1, $2, $3)",
        submission.id,
        submission.cluster,
        submission.snapshot
    )
    .execute(connection)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_literal_cannot_be_left_from_inside() {
        // Tried: quotes, backslashes before quotes, comments, dollar quotes, line ends.
        for (text, literal) in [
            ("plain", "'plain'"),
            ("it's", "'it''s'"),
            (r"a\'; drop table x; --", r"E'a\\''; drop table x; --'"),
            ("$$ $tag$", "'$$ $tag$'"),
            ("a\nb", "'a\nb'"),
        ] {
            assert_eq!(quote_literal(text), literal);
        }
    }
}
