//! The server itself.

use sqlx::postgres::PgConnection;

use super::Finding;
use crate::clock;
use crate::refusal::Error;

/// Only the database's clock judges; a difference is worth knowing when logs of both are read side by side.
const CLOCK_DIFFERENCE_S: f64 = 2.0;

pub async fn examine(connection: &mut PgConnection) -> Result<Vec<Finding>, Error> {
    let asked_at = clock::unix_seconds();
    let s = sqlx::query!(
        r#"-- examine server
        select current_setting('server_version') as "version!", current_setting('server_version_num')::integer as "number!",
               extract(epoch from clock_timestamp())::float8 as "clock!",
               (select reset_val from pg_settings where name = 'default_transaction_isolation') as "isolation!",
               current_setting('fsync') = 'on' and current_setting('full_page_writes') = 'on' as "durable!",
               current_setting('track_activities') = 'on' as "activities!",
               current_setting('max_prepared_transactions')::integer as "preparable!",
               (select count(*) from pg_prepared_xacts x where x.database = current_database() and x.owner ~ '^r_[0-9a-f]{32}_[0-9]+$')
                 as "prepared!",
               pg_is_in_recovery() as "standby!", pg_notification_queue_usage() as "notifications!",
               coalesce((select ssl from pg_stat_ssl where pid = pg_backend_pid()), false) or inet_client_addr() is null
                 or inet_client_addr() << '127.0.0.0/8' or inet_client_addr() = '::1' as "private!""#
    )
    .fetch_one(&mut *connection)
    .await?;
    let answered_at = clock::unix_seconds();
    let mut findings = vec![version(&s.version, s.number)];
    let difference = s.clock - (asked_at + answered_at) / 2.0;
    findings.push(if difference.abs() <= CLOCK_DIFFERENCE_S {
        Finding::ok("clock", format!("the server's clock differs from this machine's by {difference:.1} s"))
    } else {
        Finding::warn(
            "clock",
            format!("the server's clock differs from this machine's by {difference:.1} s"),
            "set both by NTP; jobs are judged by the server's clock alone, so nothing is wrong but the reading of logs",
        )
    });
    if s.standby {
        findings.push(Finding::fail("standby", "this server is a read-only standby", "connect to the primary"));
    }
    findings.push(match s.isolation.as_str() {
        "read committed" => Finding::ok("isolation", "default_transaction_isolation is read committed"),
        other => Finding::warn(
            "isolation",
            format!("default_transaction_isolation is {other}: portals that call functions are refused (TD007)"),
            "ALTER DATABASE ... SET default_transaction_isolation = 'read committed', or have portals begin so",
        ),
    });
    findings.push(prepared(s.preparable, s.prepared));
    if !s.durable {
        let remedy = "set fsync and full_page_writes to on, unless this is a test";
        findings.push(Finding::warn("durability", "a crash of the server may lose what was acknowledged", remedy));
    }
    if !s.activities {
        let remedy = "set track_activities to on";
        findings.push(Finding::fail("activities", "the watch over runners' sessions is blind", remedy));
    }
    if s.notifications > 0.1 {
        let message = format!("the notify queue is {:.0} % full", 100.0 * s.notifications);
        findings.push(Finding::warn("notifications", message, "end the session with the oldest open transaction"));
    }
    if !s.private {
        let remedy = "put sslmode=verify-full into the URL";
        findings.push(Finding::warn("tls", "this session crosses the network without TLS", remedy));
    }
    findings.extend(replication(connection).await?);
    Ok(findings)
}

fn version(version: &str, number: i32) -> Finding {
    let message = format!("PostgreSQL {version}");
    match number / 10_000 {
        15..=18 => Finding::ok("version", message),
        newer if newer > 18 => Finding::warn("version", message, "it is newer than what was tested (15 to 18)"),
        _ => Finding::fail("version", message, "Tendril needs 15 to 18"),
    }
}

/// `left`: how many transactions the runners' roles have prepared and not ended.
fn prepared(max: i32, left: i64) -> Finding {
    const CHECK: &str = "prepared_transactions";
    if max == 0 {
        return Finding::ok(CHECK, "max_prepared_transactions is 0: locks end with their session");
    }
    Finding::warn(
        CHECK,
        format!(
            "max_prepared_transactions is {max}: by PREPARE TRANSACTION a runner's role could keep locks beyond its session; it is \
             keeping {left} such transactions now"
        ),
        "set it to 0 and restart the server; where others need it, look into pg_prepared_xacts and end what roles r_... have left: \
         SET ROLE owner; ROLLBACK PREPARED 'gid'",
    )
}

async fn replication(connection: &mut PgConnection) -> Result<Vec<Finding>, Error> {
    let wal_level = sqlx::query_scalar!(
        r#"-- wal level
        select current_setting('wal_level') as "level!""#
    );
    let level = wal_level.fetch_one(&mut *connection).await?;
    let mut findings = vec![Finding::ok(
        "wal_level",
        match level.as_str() {
            "logical" => "wal_level is logical: deployments can be followed by logical replication".to_owned(),
            other => format!(
                "wal_level is {other}: enough, unless portals follow deployments by logical replication (logical)"
            ),
        },
    )];
    let slots = sqlx::query!(
        r#"-- idle replication slots
        select slot_name::text as "name!", pg_size_pretty(pg_wal_lsn_diff(case when pg_is_in_recovery() then pg_last_wal_receive_lsn()
                 else pg_current_wal_lsn() end, restart_lsn)) as "kept?"
          from pg_replication_slots where not active order by 1"#
    );
    for slot in slots.fetch_all(&mut *connection).await? {
        findings.push(Finding::warn(
            "replication_slot",
            format!("nobody reads replication slot {}; it keeps {} of WAL", slot.name, slot.kept.unwrap_or_default()),
            "bring its reader back, or drop it: SELECT pg_drop_replication_slot(name)",
        ));
    }
    let publications = sqlx::query_scalar!(
        r#"-- publications of logs
        select distinct pubname::text as "name!" from pg_publication_tables
         where schemaname in ('tendril', 'tendril_core') and (tablename = 'deployment_logs' or tablename = 'log_inbox' or tablename like 'log_day_%')
         order by 1"#
    );
    for name in publications.fetch_all(connection).await? {
        findings.push(Finding::warn(
            "publication",
            format!("publication {name} carries log rows of all tenants, whatever the policies say"),
            "give it to trusted readers only",
        ));
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::doctor::Level;

    #[test]
    fn a_server_that_prepares_transactions_is_warned_of_with_what_to_do() {
        assert_eq!(prepared(0, 0).level, Level::Ok);
        let found = prepared(10, 2);
        assert_eq!(found.level, Level::Warn);
        assert!(found.message.contains("is 10") && found.message.contains("keeping 2"), "{found:?}");
        assert!(found.remedy.is_some_and(|remedy| remedy.contains("ROLLBACK PREPARED")));
    }
}
