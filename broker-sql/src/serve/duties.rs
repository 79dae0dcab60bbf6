//! Duties: each runs by itself, when it is due and nobody else is at it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::types::PgInterval;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use crate::refusal::Error;
use crate::serve::metrics::Metrics;
use crate::serve::trouble::Trouble;
use crate::serve::watch;

/// How often to look for duties that a migration has added meanwhile.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

struct Duty {
    name: String,
    every: Duration,
}

/// Starts a task for each duty of the schema, also of one that becomes newer meanwhile.
pub async fn tend(pool: PgPool, metrics: Arc<Metrics>, tasks: TaskTracker, stop: CancellationToken) {
    let mut known = HashSet::new();
    let mut trouble = Trouble::beside_the_pulse("list of duties");
    loop {
        let listed = tokio::select! {
            listed = list(&pool) => listed,
            () = stop.cancelled() => return,
        };
        let wait = match listed {
            Ok(duties) => {
                trouble.is_over();
                for duty in duties.into_iter().filter(|duty| duty.name != watch::DUTY) {
                    if known.insert(duty.name.clone()) {
                        let task = perform(pool.clone(), duty, metrics.clone(), stop.clone());
                        tasks.spawn(task);
                    }
                }
                LOOK_AGAIN
            }
            Err(error) => trouble.grows(&error),
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn list(pool: &PgPool) -> Result<Vec<Duty>, Error> {
    let rows = sqlx::query!(
        "-- list duties
        select name, every from tendril_core.duties order by name"
    );
    let rows = rows.fetch_all(pool).await?;
    let duty = |name, every: PgInterval| Duty {
        name,
        every: Duration::from_micros(u64::try_from(every.microseconds).unwrap_or(0)).max(Duration::from_millis(100)),
    };
    Ok(rows.into_iter().map(|row| duty(row.name, row.every)).collect())
}

async fn perform(pool: PgPool, duty: Duty, metrics: Arc<Metrics>, stop: CancellationToken) {
    let mut trouble = Trouble::beside_the_pulse(duty.name.as_str());
    loop {
        let started = Instant::now();
        let done = tokio::select! {
            done = run(&pool, &duty.name) => done,
            () = stop.cancelled() => return,
        };
        let wait = match done {
            Ok(Some(count)) => {
                metrics.duty_done(&duty.name, started.elapsed(), count);
                trouble.is_over();
                if count > 0 {
                    debug!(duty = duty.name, count, duration_ms = started.elapsed().as_millis(), "done");
                }
                duty.every
            }
            // Another replica does it: that one may go away, so look again before it would be late.
            Ok(None) => {
                trouble.is_over();
                duty.every / 2
            }
            Err(error) => {
                metrics.duty_failed(&duty.name);
                trouble.grows(&error)
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn run(pool: &PgPool, name: &str) -> Result<Option<i64>, Error> {
    let done = sqlx::query_scalar!(
        "-- run duty
        select tendril_core.run_duty($1)",
        name
    );
    Ok(done.fetch_one(pool).await?)
}
