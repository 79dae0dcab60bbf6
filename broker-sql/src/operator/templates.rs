//! Registered template versions, which submits are checked against.

use serde_json::Value;
use sqlx::postgres::PgConnection;

use crate::refusal::Error;

/// Registers a template's version by the record that `tendril_templates::Template::register_record` makes; `false` when
/// it was there.
///
/// # Errors
/// TD001 for a record that is none, TD003 when the version is registered with other content.
pub async fn register(connection: &mut PgConnection, record: &Value) -> Result<bool, Error> {
    let registered = sqlx::query_scalar!(
        r#"-- template register
        select tendril.template_register($1) as "registered!""#,
        record
    );
    Ok(registered.fetch_one(connection).await?)
}
