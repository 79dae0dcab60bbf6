//! Starts and ends of many attempts in one statement, and so in one transaction: what that would be worth.

use tokio_postgres::types::Json;
use tokio_postgres::{Client, Statement};
use uuid::Uuid;

use super::{BaselineError, connect};
use crate::runner::{Lease, Report};

/// The sketch of functions that work on sets.
const SKETCH: &str = include_str!("together.sql");

/// How the statement does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// The runner's own functions, called for one attempt after the other.
    OneByOne,
    /// A sketch of functions that work on sets: the checks of the single ones, for jobs that are the only ones of their
    /// deployments and succeed.
    InSets,
}

/// Makes the sketch's functions, as the operator.
///
/// # Errors
/// The server refused.
pub async fn sketch(url: &str) -> Result<(), BaselineError> {
    Ok(connect(url).await?.batch_execute(SKETCH).await?)
}

/// A runner's session that starts and ends many at once.
pub struct Together {
    client: Client,
    start: Statement,
    finish: Statement,
}

impl Together {
    /// Opens it. `InSets` needs the [`sketch`].
    ///
    /// # Errors
    /// The server cannot be reached.
    pub async fn open(url: &str, how: How) -> Result<Self, BaselineError> {
        const EACH_START: &str = "-- starts together\nselect count(tendril.runner_start(u.attempt, u.fence))
            from unnest($1::uuid[], $2::bigint[]) u(attempt, fence)";
        const EACH_FINISH: &str = "-- ends together\nselect count(*) filter (where f.what = 'accepted')
            from unnest($1::uuid[], $2::bigint[]) u(attempt, fence), lateral tendril.runner_finish(u.attempt, u.fence, $3) f(what)";
        const SET_START: &str = "-- starts in sets\nselect bare.start_all($1, $2)";
        const SET_FINISH: &str = "-- ends in sets\nselect bare.finish_all($1, $2, $3)";
        let (start, finish) = match how {
            How::OneByOne => (EACH_START, EACH_FINISH),
            How::InSets => (SET_START, SET_FINISH),
        };
        let client = connect(url).await?;
        let (start, finish) = (client.prepare(start).await?, client.prepare(finish).await?);
        Ok(Self { client, start, finish })
    }

    /// Starts them; returns how many it were.
    ///
    /// # Errors
    /// The broker refused one: none is started.
    pub async fn start(&self, leases: &[Lease]) -> Result<i64, BaselineError> {
        let (attempts, fences) = halves(leases);
        Ok(self.client.query_one(&self.start, &[&attempts, &fences]).await?.try_get(0)?)
    }

    /// Reports the same end of all; returns how many were accepted.
    ///
    /// # Errors
    /// The broker refused one: none is stored.
    pub async fn finish(&self, leases: &[Lease], report: &Report) -> Result<i64, BaselineError> {
        let (attempts, fences) = halves(leases);
        Ok(self.client.query_one(&self.finish, &[&attempts, &fences, &Json(report)]).await?.try_get(0)?)
    }
}

fn halves(leases: &[Lease]) -> (Vec<Uuid>, Vec<i64>) {
    leases.iter().map(|lease| (lease.attempt_id, lease.fence)).unzip()
}
