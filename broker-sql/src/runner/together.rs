//! Starts and ends: those that come while a call is under way go together in the next.

use super::gather::Gather;
use super::lease::{Disposition, Lease, Outcome, Report};
use super::pool::Calls;
use super::{Broker, BrokerError};
use std::sync::OnceLock;
use tokio_postgres::Row;
use tokio_postgres::types::Json;

/// A larger report goes by itself: others would wait for it on a slow line.
const LARGE_BYTES: usize = 16 * 1024;

/// What a call for many came to for one: nothing, if it is to be asked for by itself.
type Answer<T> = Option<Result<T, BrokerError>>;

/// What is asked for together.
pub(super) struct Together {
    calls: Calls,
    starts: OnceLock<Gather<Lease, Answer<()>>>,
    ends: OnceLock<Gather<(Lease, String), Answer<Disposition>>>,
}

impl Together {
    pub(super) fn new(calls: Calls) -> Self {
        Self { calls, starts: OnceLock::new(), ends: OnceLock::new() }
    }

    async fn start(&self, lease: Lease) -> Answer<()> {
        let gather = self.starts.get_or_init(|| {
            let calls = self.calls.clone();
            Gather::new(move |leases| start_all(calls.clone(), leases))
        });
        gather.ask(lease).await.flatten()
    }

    async fn finish(&self, lease: Lease, report: String) -> Answer<Disposition> {
        let gather = self.ends.get_or_init(|| {
            let calls = self.calls.clone();
            Gather::new(move |ends| finish_all(calls.clone(), ends))
        });
        gather.ask((lease, report)).await.flatten()
    }
}

impl Broker {
    /// The committed, fenced call just before the first child that changes the world. An unclear reply means: ask
    /// again, and do not spawn.
    ///
    /// # Errors
    /// `LeaseLost`, `LeaseExpired` and `CancelRequested` mean that nothing may be started.
    pub async fn start(&self, lease: &Lease) -> Result<(), BrokerError> {
        const SQL: &str = "-- runner_start\nselect tendril.runner_start($1, $2)";
        match self.together.start(*lease).await {
            Some(answer) => answer,
            None => self.one(SQL, &[&lease.attempt_id, &lease.fence]).await.map(drop),
        }
    }

    /// Reports an attempt's end. Idempotent.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn finish(&self, lease: &Lease, report: &Report) -> Result<Disposition, BrokerError> {
        const SQL: &str = "-- runner_finish\nselect tendril.runner_finish($1, $2, $3)";
        let text = serde_json::to_string(report).unwrap_or_default();
        let bytes = text.len();
        // What is no success is worked through one by one, and all of the call's deployments would be locked meanwhile.
        let goes_along = report.outcome == Outcome::Success && (1..=LARGE_BYTES).contains(&bytes);
        let answer = if goes_along { self.together.finish(*lease, text).await } else { None };
        match answer {
            Some(answer) => answer,
            None => {
                let row = self.one_carrying(bytes, SQL, &[&lease.attempt_id, &lease.fence, &Json(report)]).await?;
                Ok(disposition(row.try_get(0)?))
            }
        }
    }
}

async fn start_all(calls: Calls, leases: Vec<Lease>) -> Vec<Answer<()>> {
    const SQL: &str =
        "-- runner_start_all\nselect answer, code, message, hint from tendril.runner_start_all($1, $2) order by n";
    let (attempts, fences): (Vec<_>, Vec<_>) = leases.iter().map(|lease| (lease.attempt_id, lease.fence)).unzip();
    each(calls.all(0, SQL, &[&attempts, &fences]).await, leases.len(), |_| ())
}

async fn finish_all(calls: Calls, ends: Vec<(Lease, String)>) -> Vec<Answer<Disposition>> {
    const SQL: &str = "-- runner_finish_all\nselect answer, code, message, hint
        from tendril.runner_finish_all($1, $2, $3::text[]::jsonb[]) order by n";
    let bytes = ends.iter().map(|(_, report)| report.len()).sum();
    let (attempts, fences): (Vec<_>, Vec<_>) = ends.iter().map(|(lease, _)| (lease.attempt_id, lease.fence)).unzip();
    let reports: Vec<_> = ends.iter().map(|(_, report)| report).collect();
    each(calls.all(bytes, SQL, &[&attempts, &fences, &reports]).await, ends.len(), disposition)
}

/// An answer for each of so many.
fn each<T>(reply: Result<Vec<Row>, BrokerError>, count: usize, answer: impl Fn(&str) -> T) -> Vec<Answer<T>> {
    match reply {
        Ok(rows) => {
            rows.iter().map(|row| one_of(row, &answer).unwrap_or_else(|error| Some(Err(error.into())))).collect()
        }
        // It may have been committed: each asks again, as after an unclear reply to itself alone.
        Err(error) if error.is_passing() => {
            let why = match error {
                BrokerError::Unavailable(why) => why,
                other => other.to_string(),
            };
            (0..count).map(|_| Some(Err(BrokerError::Unavailable(why.clone())))).collect()
        }
        Err(_) => (0..count).map(|_| None).collect(),
    }
}

fn one_of<T>(row: &Row, answer: impl Fn(&str) -> T) -> Result<Answer<T>, tokio_postgres::Error> {
    if let Some(code) = row.try_get::<_, Option<&str>>("code")? {
        return Ok(Some(Err(BrokerError::refusal(code, row.try_get("message")?, row.try_get("hint")?, None))));
    }
    Ok(match row.try_get("answer")? {
        "busy" => None,
        word => Some(Ok(answer(word))),
    })
}

fn disposition(word: &str) -> Disposition {
    match word {
        "accepted" => Disposition::Accepted,
        "again" => Disposition::Again,
        _ => Disposition::Noted,
    }
}
