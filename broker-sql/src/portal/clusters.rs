//! Finding a cluster by what people call it.

use sqlx::postgres::PgConnection;
use uuid::Uuid;

use crate::refusal::{Error, Refusal};

/// The id of a cluster, by id or by name. A name that several users gave is refused; so is one that only revoked
/// clusters have, which are found by id alone.
///
/// # Errors
/// TD002 when no or more than one cluster that the caller sees has the name.
pub async fn find(connection: &mut PgConnection, name_or_id: &str) -> Result<Uuid, Error> {
    if let Ok(id) = name_or_id.parse() {
        return Ok(id);
    }
    let found = sqlx::query_scalar!(
        "-- find cluster by name
        select id from tendril.clusters where name = $1 and status <> 'REVOKED' order by id",
        name_or_id
    )
    .fetch_all(connection)
    .await?;
    match found.as_slice() {
        [id] => Ok(*id),
        [] => Err(unknown(
            format!("there is no cluster {name_or_id} that this role may see"),
            "portals find theirs in tendril.clusters, operators by `tendril-broker cluster list`; a revoked one is named by its id",
        )),
        several => {
            let ids: Vec<String> = several.iter().map(Uuid::to_string).collect();
            Err(unknown(
                format!("{} clusters are named {name_or_id}", several.len()),
                &format!("name it by its id: {}", ids.join(", ")),
            ))
        }
    }
}

fn unknown(message: String, hint: &str) -> Error {
    Error::Refused(Box::new(Refusal { sqlstate: "TD002".into(), message, hint: Some(hint.to_owned()), detail: None }))
}
