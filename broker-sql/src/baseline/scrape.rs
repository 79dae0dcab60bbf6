//! What it costs the database to be read by `serve` for Prometheus, and what a real count would cost.

use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, PgPool};
use uuid::Uuid;

use crate::refusal::Error;
use crate::serve::figures::Part;
use crate::serve::observe;
use crate::session::Address;

/// Jobs of each deployment that fills the queue: eight that can run, one that waits for an approval, one that needs another.
pub const JOBS: u64 = 10;

/// A session of the operator's, as `serve` has it.
pub struct Scrape {
    pool: PgPool,
}

impl Scrape {
    /// Opens it.
    ///
    /// # Errors
    /// The address is none, or the server cannot be reached.
    pub async fn open(address: &Address) -> Result<Self, Error> {
        let pool =
            PgPoolOptions::new().max_connections(1).connect_with(address.options_for("tendril-broker serve")).await?;
        Ok(Self { pool })
    }

    /// Submits so many deployments of [`JOBS`] jobs each to a cluster, at priorities from 10 to 30.
    ///
    /// # Errors
    /// The database refused.
    pub async fn submit(&self, cluster: Uuid, deployments: u64) -> Result<(), Error> {
        const SQL: &str = r#"-- fill the queue
            insert into tendril.deployments (cluster_id, config_snapshot)
            select $1, jsonb_build_object('jobs', (select jsonb_agg(
                     jsonb_build_object('name', 'j' || n, 'kind', 'exec', 'argv', '["true"]'::jsonb, 'reading', true, 'priority', 10 * (1 + n % 3))
                     || case n when 9 then '{"approval": "required"}' when 10 then '{"needs": ["j1"]}' else '{}' end::jsonb)
                     from generate_series(1, 10) n)) from generate_series(1, $2)"#;
        sqlx::query(SQL).bind(cluster).bind(i64::try_from(deployments).unwrap_or(i64::MAX)).execute(&self.pool).await?;
        Ok(())
    }

    /// Folds all that is counted, and tidies up behind it, as time would.
    ///
    /// # Errors
    /// The database refused.
    pub async fn settle(&self) -> Result<(), Error> {
        const FOLD: &str = "-- fold\nselect tendril_core.duty_fold() + tendril_core.duty_fold_happenings()";
        while sqlx::query_scalar::<_, i64>(FOLD).fetch_one(&self.pool).await? > 0 {}
        for table in
            ["jobs", "queue", "parked", "queue_deltas", "queue_depth", "queue_ages", "happening_deltas", "happenings"]
        {
            let sql = format!("-- tidy up\nvacuum (analyze) tendril_core.{table}");
            sqlx::query(AssertSqlSafe(sql)).execute(&self.pool).await?;
        }
        Ok(())
    }

    /// Reads once what `serve` reads every five seconds.
    ///
    /// # Errors
    /// The database refused.
    pub async fn read_work(&self) -> Result<(), Error> {
        observe::read(&self.pool, Part::Work).await.map(drop)
    }

    /// Reads once what `serve` reads every minute.
    ///
    /// # Errors
    /// The database refused.
    pub async fn read_room(&self) -> Result<(), Error> {
        observe::read(&self.pool, Part::Room).await.map(drop)
    }

    /// Counts unfinished jobs as somebody would who has no counters; returns how many there are.
    ///
    /// # Errors
    /// The database refused.
    pub async fn count(&self) -> Result<i64, Error> {
        const SQL: &str = r#"-- count the queue
            select coalesce(sum(n), 0)::bigint from (
              select j.cluster_id, j.kind, j.state, p.why, j.priority, count(*) as n, min(j.queued_at)
                from tendril_core.jobs j left join tendril_core.parked p on p.job_id = j.id
               where j.state not in ('SUCCESS', 'FAILED', 'CANCELLED', 'SKIPPED') group by 1, 2, 3, 4, 5) c"#;
        Ok(sqlx::query_scalar(SQL).fetch_one(&self.pool).await?)
    }
}
