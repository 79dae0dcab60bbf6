//! The schema's version and the settings in it.

use sqlx::postgres::PgConnection;

use super::Finding;
use crate::operator::migration;
use crate::refusal::Error;

/// Also says whether the schema is one whose tables this program knows.
pub async fn examine(connection: &mut PgConnection) -> Result<(Vec<Finding>, bool), Error> {
    let state = migration::state(connection).await?;
    let finding = match (state.version, state.pending.as_slice()) {
        (None, _) => Finding::fail("schema", "there is no schema in this database", "tendril-broker migrate"),
        (Some(version), []) if version > state.known => Finding::warn(
            "schema",
            format!("the schema is at {version}, this program knows {}", state.known),
            "use a tendril-broker that is as new",
        ),
        (Some(version), []) => Finding::ok("schema", format!("the schema is at {version}, as new as this program")),
        (Some(_), pending) => {
            Finding::fail("schema", format!("migrations are missing: {pending:?}"), "tendril-broker migrate")
        }
    };
    let usable = state.version.is_some() && state.pending.is_empty();
    Ok((vec![finding], usable))
}

pub async fn examine_settings(connection: &mut PgConnection) -> Result<Vec<Finding>, Error> {
    let s = sqlx::query!(
        r#"-- examine settings
        select s.copy_max_age >= s.session_max_age as "copy!", s.drain_for >= s.lease_ttl as "drain!",
               s.log_window >= s.drain_for as "window!", s.heartbeat_interval >= '100 ms' as "heartbeat!",
               s.runner_connections * (select count(*) from tendril_core.cluster_credentials c where c.status <> 'ended') as "wanted!",
               current_setting('max_connections')::bigint - current_setting('superuser_reserved_connections')::bigint as "room!"
          from tendril_core.settings s"#
    )
    .fetch_one(connection)
    .await?;
    let relations = [
        (
            s.copy,
            "copy_max_age is below session_max_age: a COPY that makes progress is ended sooner than an idle transaction",
        ),
        (s.drain, "drain_for is below lease_ttl: a rotated credential ends before its runner is judged"),
        (s.window, "log_window is below drain_for: logs close before a drained runner has sent them"),
        (s.heartbeat, "heartbeat_interval is below 100 ms: heartbeats alone are load"),
    ];
    let mut findings: Vec<Finding> = relations
        .into_iter()
        .filter(|(holds, _)| !holds)
        .map(|(_, message)| Finding::warn("settings", message, "UPDATE tendril_core.settings"))
        .collect();
    if findings.is_empty() {
        findings.push(Finding::ok("settings", "the settings agree with each other"));
    }
    let message = format!("runners may open {} connections in all, the server has room for {}", s.wanted, s.room);
    findings.push(if s.wanted <= s.room {
        Finding::ok("connections", message)
    } else {
        let remedy =
            "runners use few of them at once; if they run out, raise max_connections or lower runner_connections";
        Finding::warn("connections", message, remedy)
    });
    Ok(findings)
}
