//! Tokens of the HTTP API.

use serde::Serialize;
use sqlx::postgres::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::portal::api_token::TokenHash;
use crate::refusal::Error;

/// What a token is to see and to do.
#[derive(Clone, Debug)]
pub struct Issue {
    /// For people; unique among the tokens that are not revoked.
    pub name: String,
    /// What the database keeps of the token.
    pub hash: TokenHash,
    /// read, logs, submit, cancel, approve.
    pub scopes: Vec<String>,
    /// What it sees.
    pub reach: Reach,
    /// The portal's user that its holder is.
    pub user_id: Option<String>,
    /// A Postgres interval; `None` for a token that does not expire.
    pub expires_in: Option<String>,
}

/// What a token sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Every cluster.
    All,
    /// These.
    Clusters(Vec<Uuid>),
    /// What is its user's own.
    Own,
}

/// A token as operators see it.
#[derive(Clone, Debug, Serialize)]
pub struct Token {
    /// No secret.
    pub id: Uuid,
    /// For people.
    pub name: String,
    /// What it may do.
    pub scopes: Vec<String>,
    /// all, clusters or own.
    pub reach: String,
    /// Names of the clusters that it was granted one by one.
    pub clusters: Vec<String>,
    /// The portal's user that its holder is.
    pub user_id: Option<String>,
    /// active, expired or revoked.
    pub status: String,
    /// The role that made it.
    pub created_by: String,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When it ends by itself.
    #[serde(with = "time::serde::rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
    /// When it was presented last, to the minute.
    #[serde(with = "time::serde::rfc3339::option")]
    pub last_used_at: Option<OffsetDateTime>,
}

/// Makes a token known; returns its id.
///
/// # Errors
/// TD001 for a bad name, scope or interval, TD002 for an unknown cluster, TD003 for a name that is taken.
pub async fn create(connection: &mut PgConnection, issue: &Issue) -> Result<Uuid, Error> {
    let clusters = match &issue.reach {
        Reach::Clusters(clusters) => Some(clusters.as_slice()),
        Reach::All | Reach::Own => None,
    };
    let id = sqlx::query_scalar!(
        r#"-- token create
        select tendril.token_create($1, $2, $3, $4, $5, $6, $7::text::interval) as "id!""#,
        issue.name,
        issue.hash.as_bytes(),
        &issue.scopes,
        clusters,
        issue.user_id,
        issue.reach == Reach::All,
        issue.expires_in
    );
    Ok(id.fetch_one(connection).await?)
}

/// Revokes a token by name or id; returns its id.
///
/// # Errors
/// TD002 when there is none that is not revoked.
pub async fn revoke(connection: &mut PgConnection, name_or_id: &str) -> Result<Uuid, Error> {
    let id = sqlx::query_scalar!(
        r#"-- token revoke
        select tendril.token_revoke($1) as "id!""#,
        name_or_id
    );
    Ok(id.fetch_one(connection).await?)
}

/// All tokens, those that hold first.
///
/// # Errors
/// What the database refuses.
pub async fn list(connection: &mut PgConnection) -> Result<Vec<Token>, Error> {
    let rows = sqlx::query_as!(
        Token,
        r#"-- list tokens
        select t.id, t.name, t.scopes, t.user_id, t.created_by, t.created_at, t.expires_at, t.last_used_at, c.names as "clusters!",
               case when t.sees_all then 'all' when cardinality(c.names) > 0 then 'clusters' else 'own' end as "reach!",
               case when t.revoked_at is not null then 'revoked' when t.expires_at <= clock_timestamp() then 'expired' else 'active' end as "status!"
          from tendril_core.api_tokens t, lateral (
            select array(select k.name from tendril_core.api_token_clusters x join tendril.clusters k on k.id = x.cluster_id
                          where x.token_id = t.id order by 1) as names) c
         order by t.revoked_at is not null, t.name, t.created_at"#
    );
    Ok(rows.fetch_all(connection).await?)
}
