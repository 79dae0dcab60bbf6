//! The portal: submits and cancels in plain SQL as a role that may do nothing else, and asks again when a reply is lost.

use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use sqlx::Connection;
use sqlx::postgres::PgConnection;
use tendril_broker::portal::deployments;
use tendril_broker::portal::submission::{self, Submission};
use tendril_broker::{Address, Error};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::clock::{self, Moment};
use crate::history::{Cancelled, Submit};
use crate::snapshot::Stage;
use crate::watch::Watch;
use crate::workload::{Cancel, Deployment, Manner, Workload};

/// Sessions that submit side by side.
const LANES: usize = 4;
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// A deployment that has not started by then is cancelled all the same.
const CANCEL_PATIENCE: Duration = Duration::from_secs(10);

/// A portal.
#[derive(Clone)]
pub struct Portal {
    /// Where it connects.
    pub address: Address,
    /// Where it submits to.
    pub cluster: Uuid,
    /// What snapshots need to know.
    pub stage: Stage,
    /// Tells when children start.
    pub watch: Watch,
}

/// What became of everything that the portal asked for.
#[derive(Default)]
pub struct Asked {
    /// Of the submits, with their places in the workload, and when the broker's word was heard.
    pub submits: Vec<(usize, Submit, Option<Moment>)>,
    /// Of the cancels.
    pub cancels: Vec<Cancelled>,
}

impl Portal {
    /// Submits the whole workload over several sessions, and cancels what is to be cancelled meanwhile.
    ///
    /// # Errors
    /// What asking again does not mend.
    pub async fn submit_all(&self, workload: &Arc<Workload>) -> anyhow::Result<Asked> {
        let mut lanes = JoinSet::new();
        for lane in 0..LANES {
            let (portal, workload) = (self.clone(), workload.clone());
            lanes.spawn(async move { portal.submit_lane(&workload, lane).await });
        }
        let mut asked = Asked::default();
        for part in lanes.join_all().await {
            let part = part?;
            asked.submits.extend(part.submits);
            asked.cancels.extend(part.cancels);
        }
        asked.submits.sort_by_key(|(number, ..)| *number);
        Ok(asked)
    }

    async fn submit_lane(&self, workload: &Workload, lane: usize) -> anyhow::Result<Asked> {
        let mut submits = Vec::new();
        let mut cancels = JoinSet::new();
        for (number, deployment) in workload.deployments.iter().enumerate().skip(lane).step_by(LANES) {
            tokio::time::sleep(Duration::from_millis(deployment.pause_ms)).await;
            let submit = self.submit(deployment).await?;
            if let (Submit::Committed, Some(when)) = (&submit, deployment.cancel) {
                let (portal, id) = (self.clone(), deployment.id);
                cancels.spawn(async move { portal.cancel(id, when).await });
            }
            let at = (submit == Submit::Committed).then(clock::now);
            submits.push((number, submit, at));
        }
        let cancels = cancels.join_all().await.into_iter().collect::<anyhow::Result<_>>()?;
        Ok(Asked { submits, cancels })
    }

    async fn submit(&self, deployment: &Deployment) -> anyhow::Result<Submit> {
        let submission =
            Submission { id: deployment.id, cluster: self.cluster, snapshot: self.stage.snapshot(deployment) };
        match deployment.manner {
            Manner::Once => self.commit(&submission).await,
            Manner::Twice => {
                let (first, second) = tokio::join!(self.commit(&submission), self.commit(&submission));
                match (first?, second?) {
                    (Submit::Committed, Submit::Committed) => Ok(Submit::Committed),
                    (other, Submit::Committed) | (_, other) => Ok(other),
                }
            }
            Manner::TakenBack => self.take_back(&submission).await,
        }
    }

    /// Sends it until the reply is clear.
    async fn commit(&self, submission: &Submission) -> anyhow::Result<Submit> {
        loop {
            let sent = async { submission::submit(&mut self.session().await?, submission).await };
            match sent.await {
                Ok(_) => return Ok(Submit::Committed),
                Err(error) if may_pass(&error) => tokio::time::sleep(ASK_AGAIN).await,
                Err(Error::Refused(refusal)) => return Ok(Submit::Refused(refusal.to_string())),
                Err(error) => bail!("submit: {error}"),
            }
        }
    }

    /// Sends it, sees it, and changes its mind.
    async fn take_back(&self, submission: &Submission) -> anyhow::Result<Submit> {
        let sent = async {
            let mut session = self.session().await?;
            let mut transaction = session.begin().await?;
            submission::submit(&mut transaction, submission).await?;
            transaction.rollback().await?;
            Ok::<_, Error>(())
        };
        match sent.await {
            Ok(()) => Ok(Submit::TakenBack),
            Err(error) if may_pass(&error) => Ok(Submit::TakenBack),
            Err(Error::Refused(refusal)) => Ok(Submit::Refused(refusal.to_string())),
            Err(error) => bail!("submit: {error}"),
        }
    }

    async fn cancel(&self, deployment: Uuid, when: Cancel) -> anyhow::Result<Cancelled> {
        if when == Cancel::AfterStart {
            self.watch.start_of(deployment, CANCEL_PATIENCE).await?;
        }
        loop {
            let sent = async { deployments::cancel(&mut self.session().await?, deployment, Some("chaos")).await };
            match sent.await {
                Ok(_) => return Ok(Cancelled { deployment, accepted: true, unknown: false, at: Some(clock::now()) }),
                // It has ended; or the request had been taken before a reply was lost, and it has ended since. Or its submit is forgotten,
                // of which the checker judges.
                Err(Error::Refused(refusal)) if ["TD002", "TD003"].contains(&refusal.sqlstate.as_str()) => {
                    let unknown = refusal.sqlstate == "TD002";
                    return Ok(Cancelled { deployment, accepted: false, unknown, at: Some(clock::now()) });
                }
                Err(error) if may_pass(&error) => tokio::time::sleep(ASK_AGAIN).await,
                Err(error) => bail!("cancel: {error}"),
            }
        }
    }

    async fn session(&self) -> Result<PgConnection, Error> {
        self.address.connect("tendril-chaos portal").await
    }
}

/// Whether asking again may help: the server is away, or has no room. A broken connection rolls back what was not committed.
fn may_pass(error: &Error) -> bool {
    error.is_outage() || matches!(error, Error::Refused(refusal) if refusal.sqlstate.starts_with("53"))
}
