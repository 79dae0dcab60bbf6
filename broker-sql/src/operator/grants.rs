//! What portals may see and submit.

use serde::Serialize;
use sqlx::postgres::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::refusal::Error;

/// How far a portal's role sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Every cluster.
    All,
    /// What belongs to `tendril.portal_user()`.
    Own,
    /// What an API token may that was presented in the transaction: for the role of `tendril-api`.
    Tokens,
    /// One cluster.
    Cluster(Uuid),
}

impl Scope {
    fn parts(self) -> (&'static str, Option<Uuid>) {
        match self {
            Self::All => ("all", None),
            Self::Own => ("own", None),
            Self::Tokens => ("tokens", None),
            Self::Cluster(id) => ("cluster", Some(id)),
        }
    }
}

/// One grant.
#[derive(Clone, Debug, Serialize)]
pub struct Grant {
    /// The role of this server.
    pub role: String,
    /// all, own, tokens or cluster.
    pub scope: String,
    /// The cluster of scope cluster.
    pub cluster_id: Option<Uuid>,
    /// Its name.
    pub cluster: Option<String>,
    /// When it was granted.
    #[serde(with = "time::serde::rfc3339")]
    pub granted_at: OffsetDateTime,
}

/// Lets a role see and submit. Granting twice is harmless.
///
/// # Errors
/// TD002 for an unknown role or cluster.
pub async fn grant(connection: &mut PgConnection, role: &str, scope: Scope) -> Result<(), Error> {
    let (scope, cluster) = scope.parts();
    sqlx::query!(
        "-- portal grant
        select tendril.portal_grant($1, $2, $3)",
        role,
        scope,
        cluster
    )
    .fetch_one(connection)
    .await?;
    Ok(())
}

/// Takes all grants of a role back.
///
/// # Errors
/// TD002 when it has none.
pub async fn revoke(connection: &mut PgConnection, role: &str) -> Result<(), Error> {
    sqlx::query!(
        "-- portal revoke
        select tendril.portal_revoke($1)",
        role
    )
    .fetch_one(connection)
    .await?;
    Ok(())
}

/// All grants.
///
/// # Errors
/// What the database refuses.
pub async fn list(connection: &mut PgConnection) -> Result<Vec<Grant>, Error> {
    let rows = sqlx::query_as!(
        Grant,
        r#"-- list grants
        select g.role, g.scope, g.cluster_id, c.name as "cluster?", g.granted_at
          from tendril_core.portal_grants g left join tendril.clusters c on c.id = g.cluster_id
         order by g.role, g.scope, c.name"#
    );
    Ok(rows.fetch_all(connection).await?)
}
