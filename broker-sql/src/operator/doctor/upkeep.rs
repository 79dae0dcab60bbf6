//! What `serve` has to keep up: pulse, duties, partitions.

use sqlx::postgres::PgConnection;

use super::Finding;
use crate::refusal::Error;

struct Late {
    name: String,
    age_s: Option<f64>,
}

struct Doubted {
    name: String,
    unheard: i64,
    until: String,
}

const START_SERVE: &str = "start `tendril-broker serve`; two replicas are better than one";

pub async fn examine(connection: &mut PgConnection) -> Result<Vec<Finding>, Error> {
    let p = sqlx::query!(
        r#"-- examine pulse
        select case when isfinite(p.at) then extract(epoch from clock_timestamp() - p.at)::float8 end as "age_s?",
               p.runners_online,
               (select count(*) from generate_series(0, s.partitions_ahead) d
                 where to_regclass('tendril_core.log_day_' || to_char((clock_timestamp() at time zone 'UTC')::date + d, 'YYYYMMDD')) is not null)
                 as "partitions!",
               s.partitions_ahead + 1 as "wanted!"
          from tendril_core.pulse p, tendril_core.settings s"#
    )
    .fetch_one(&mut *connection)
    .await?;
    let mut findings = vec![match p.age_s {
        Some(age) if age <= 2.0 => {
            Finding::ok("pulse", format!("serve is alive; runners online: {}", p.runners_online))
        }
        Some(age) => Finding::fail(
            "pulse",
            format!("serve has been silent for {age:.0} s: nothing expires or ends"),
            START_SERVE,
        ),
        None => Finding::fail("pulse", "serve has never run here: nothing expires or ends", START_SERVE),
    }];
    let message = format!("log partitions exist for {} of {} days from today", p.partitions, p.wanted);
    findings.push(match p.partitions {
        0 | 1 => Finding::fail("partitions", message, START_SERVE),
        made if made < i64::from(p.wanted) - 1 => Finding::warn("partitions", message, START_SERVE),
        _ => Finding::ok("partitions", message),
    });
    let late = sqlx::query_as!(
        Late,
        r#"-- examine duties
        select name, case when isfinite(ran_at) then extract(epoch from clock_timestamp() - ran_at)::float8 end as "age_s?"
          from tendril_core.duties where ran_at + 5 * every + interval '5 s' < clock_timestamp() order by name"#
    );
    let late = late.fetch_all(&mut *connection).await?;
    if late.is_empty() {
        findings.push(Finding::ok("duties", "all duties ran when they were due"));
    }
    if !late.is_empty() {
        let tell = |duty: &_| -> String {
            let Late { name, age_s } = duty;
            age_s.map_or_else(|| format!("{name} (never ran)"), |age| format!("{name} ({age:.0} s ago)"))
        };
        let names: Vec<String> = late.iter().map(tell).collect();
        let remedy = "look into the log of `tendril-broker serve`, or start it";
        findings.push(Finding::warn("duties", format!("duties are late: {}", names.join(", ")), remedy));
    }
    findings.extend(histories(connection).await?);
    findings.extend(log_quotas(connection).await?);
    findings.extend(examine_archive(connection).await?);
    Ok(findings)
}

/// Clusters whose runners have yet to say what they know of a database that was restored or has failed over.
async fn histories(connection: &mut PgConnection) -> Result<Vec<Finding>, Error> {
    let doubted = sqlx::query_as!(
        Doubted,
        r#"-- examine histories
        select c.name, (select count(*) from tendril_core.runner_leases l where l.cluster_id = c.id and l.witnessed <> tendril_core.origin()) as "unheard!",
               (coalesce(c.doubted_at, clock_timestamp()) + s.witness_patience)::text as "until!"
          from tendril.clusters c, tendril_core.settings s
         where c.origin <> tendril_core.origin() and c.status <> 'REVOKED' order by c.name limit 20"#
    );
    let doubted = doubted.fetch_all(connection).await?;
    if doubted.is_empty() {
        return Ok(vec![Finding::ok("history", "all clusters' runners agree with this history of the database")]);
    }
    let tell = |c: &Doubted| format!("{} ({} runners unheard, waits until {})", c.name, c.unheard, c.until);
    Ok(vec![Finding::warn(
        "history",
        format!(
            "the database was restored or has failed over; no change is started in {}",
            doubted.iter().map(tell).collect::<Vec<_>>().join(", ")
        ),
        "start their runners, or end the wait with `tendril-broker after-restore --cluster NAME`",
    )])
}

/// Clusters that have used most of their day, and logs that a quota ended in the last day.
async fn log_quotas(connection: &mut PgConnection) -> Result<Vec<Finding>, Error> {
    let near = sqlx::query!(
        r#"-- examine log quotas
        select c.name as "name!", (100 * sum(v.bytes) / s.log_day_bytes)::float8 as "percent!"
          from tendril_core.settings s, tendril_core.log_volume v join tendril.clusters c on c.id = v.cluster_id
         where v.day = (clock_timestamp() at time zone 'UTC')::date and s.log_day_bytes > 0
         group by c.id, c.name, s.log_day_bytes having sum(v.bytes) > 0.8 * s.log_day_bytes order by 2 desc, 1 limit 20"#
    );
    let near = near.fetch_all(&mut *connection).await?;
    let ended = sqlx::query_scalar!(
        r#"-- examine logs over quota
        select count(*) as "ended!" from tendril_core.log_usage where quota_at > clock_timestamp() - interval '1 day'"#
    );
    let ended = ended.fetch_one(connection).await?;
    if near.is_empty() && ended == 0 {
        return Ok(vec![Finding::ok(
            "log_quota",
            "no log was ended by a quota in the last day, and no cluster is near its own",
        )]);
    }
    let remedy = "look which jobs print so much, or raise log_attempt_bytes or log_day_bytes in tendril_core.settings";
    let mut findings = Vec::new();
    if ended > 0 {
        findings.push(Finding::warn("log_quota", format!("a quota ended {ended} logs in the last day"), remedy));
    }
    findings.extend(near.iter().map(|cluster| {
        let message = format!("cluster {} has used {:.0} % of its log text of today", cluster.name, cluster.percent);
        Finding::warn("log_quota", message, remedy)
    }));
    Ok(findings)
}

/// A log that is closed is archived within minutes; one that waits for longer is worth a look.
const LATE_S: f64 = 3600.0;

async fn examine_archive(connection: &mut PgConnection) -> Result<Vec<Finding>, Error> {
    let a = sqlx::query!(
        r#"-- examine archive
        select s.archive_url, s.archive_required, round(extract(epoch from s.logs_kept) / 86400)::bigint as "days!",
               l.waiting as "waiting!", l.lag_seconds as "lag!", l.troubled as "troubled!", l.trouble,
               (select count(*) from tendril_core.log_removals r where r.removed_at is null and r.decided_at < clock_timestamp() - interval '1 h')
                 as "stuck!"
          from tendril_core.settings s, tendril_core.archive_lag() l"#
    )
    .fetch_one(connection)
    .await?;
    let behind = format!("{} closed logs wait, the oldest for {:.0} s", a.waiting, a.lag);
    let mut findings = vec![match (&a.archive_url, a.archive_required) {
        (None, _) => Finding::ok(
            "archive",
            format!(
                "there is no archive: logs are removed after {} days; `serve --archive s3://BUCKET/PREFIX` keeps them",
                a.days
            ),
        ),
        (Some(url), _) if a.troubled > 0 => Finding::warn(
            "archive",
            format!("{} logs could not be archived in {url}: {}", a.troubled, a.trouble.unwrap_or_default()),
            "mend what the message names; they are tried again at least every 15 minutes",
        ),
        (Some(url), _) if a.lag > LATE_S => Finding::warn(
            "archive",
            format!("the archive {url} is behind: {behind}"),
            "is `tendril-broker serve` running with --archive? more replicas share the work",
        ),
        (Some(url), true) => {
            Finding::ok("archive", format!("logs go to {url}, and leave the database after {} days; {behind}", a.days))
        }
        (Some(url), false) => Finding::warn(
            "archive",
            format!("logs go to {url}, but leave the database after {} days, archived or not; {behind}", a.days),
            "UPDATE tendril_core.settings SET archive_required = true",
        ),
    }];
    if a.stuck > 0 {
        let message = format!("{} days of logs could not be removed for an hour", a.stuck);
        let remedy = "a session holds a transaction or a snapshot open: look into pg_stat_activity by xact_start";
        findings.push(Finding::warn("log_removal", message, remedy));
    }
    Ok(findings)
}
