//! The start of an attempt that changes the world: the committed, fenced call before its first such command.

use crate::clock::BootTime;
use crate::desk::Desk;
use crate::holdings::Held;
use crate::stop::Stop;
use crate::supervise::StopReason;
use backon::{BackoffBuilder, ExponentialBuilder};
use std::sync::Arc;
use std::time::Duration;
use tendril_broker::runner::{BrokerError, Lease};
use tokio_util::task::AbortOnDropHandle;

/// Longest wait before a broker that is away is asked again: a lease lasts for several.
pub const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Growing waits between tries.
pub type Waits = Box<dyn Iterator<Item = Duration> + Send + Sync>;

/// Growing, and with jitter: after an outage all runners ask at once otherwise.
pub fn waits() -> Waits {
    let waits = ExponentialBuilder::default().with_min_delay(Duration::from_millis(250)).with_max_delay(LONGEST_WAIT);
    Box::new(waits.with_jitter().without_max_times().build())
}

/// A start that is asked for until it is answered.
pub struct Start {
    /// Whom to ask.
    pub desk: Arc<dyn Desk>,
    /// Which attempt.
    pub lease: Lease,
    /// The attempt as its job holds it.
    pub held: Arc<Held>,
    /// When the job's time is over.
    pub deadline: BootTime,
}

impl Start {
    /// Asks for it beside what else the job does first; dropped, it is asked for no more.
    pub fn begin(self) -> AbortOnDropHandle<Result<(), Stop>> {
        AbortOnDropHandle::new(tokio::spawn(async move { self.ask().await }))
    }

    /// Asks for it. Only after `Ok` may a command run that changes the world.
    ///
    /// # Errors
    /// Why it may not start.
    pub async fn ask(&self) -> Result<(), Stop> {
        // From the first time it is asked for, the start may be committed, whatever becomes of the reply. Looked at after
        // that: whoever asks for a stop now knows that it has started.
        self.held.ask_for_start();
        self.check()?;
        if !self.held.lease_is_live() {
            return Err(Stop::Released("the lease ran out before the start".into()));
        }
        let (mut waits, mut unclear) = (waits(), false);
        loop {
            let (had_lease, telling) = (self.held.lease_is_live(), self.held.last_telling());
            match self.desk.start(&self.lease).await {
                Ok(()) if self.held.lease_is_live() && self.held.acknowledge_start(telling) => return Ok(()),
                // The reply was long under way: the job may have been given up since, and its key freed; or another server has
                // been told that it has not started.
                Ok(()) => {
                    unclear = true;
                    self.pause(&mut waits).await?;
                }
                // An earlier call may have been committed: then the job only waits for its runner to be heard again, and is not
                // to be handed back.
                Err(BrokerError::LeaseExpired(_)) if unclear && !(had_lease && self.held.lease_is_live()) => {
                    self.pause(&mut waits).await?
                }
                Err(BrokerError::CancelRequested) => return Err(Stop::Cancelled("cancelled before it started".into())),
                Err(BrokerError::LeaseLost(why)) => return Err(Stop::Superseded(why)),
                // An unclear reply: ask again, start no command. The call is idempotent.
                Err(error) if error.is_passing() => {
                    unclear = true;
                    self.pause(&mut waits).await?;
                }
                Err(error) => {
                    let reason = format!("the broker does not let it start: {error}");
                    // A right that is gone is the credential's end and not the job's.
                    let for_good = matches!(error, BrokerError::Refused { .. }) && !error.is_credential();
                    return Err(if for_good { Stop::Barred(reason) } else { Stop::Released(reason) });
                }
            }
        }
    }

    fn check(&self) -> Result<(), Stop> {
        asked_to_stop(&self.held, self.deadline).map_or(Ok(()), |reason| Err(Stop::requested(reason, false)))
    }

    async fn pause(&self, waits: &mut Waits) -> Result<(), Stop> {
        self.check()?;
        tokio::select! {
            () = tokio::time::sleep(waits.next().unwrap_or(LONGEST_WAIT)) => Ok(()),
            _ = self.held.stopped() => self.check(),
        }
    }
}

/// Why a job is to stop, if it is.
pub fn asked_to_stop(held: &Held, deadline: BootTime) -> Option<StopReason> {
    held.stop_reason().or(deadline.left().is_zero().then_some(StopReason::Timeout))
}
