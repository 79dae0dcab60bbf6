//! A command that is made ready while it is not yet known whether it may run.

use crate::handover::{Draft, Handover};
use crate::stop::Stop;
use crate::supervise::{Prepared, Step, SuperviseError, Supervisors};
use crate::work::Work;
use std::sync::Arc;

/// All that it takes to make a command ready.
pub struct Making {
    /// Where it gets its supervisor.
    pub supervisors: Arc<Supervisors>,
    /// The command.
    pub step: Step,
    /// What the next process of the place has to know of it, if it changes the world.
    pub handover: Option<Handover>,
    /// The attempt's folder.
    pub work: Work,
}

/// A command that waits for the word. Without it, nothing has run.
pub struct Ready {
    /// Its supervisor has all ready up to the exec.
    pub prepared: Result<Prepared, SuperviseError>,
    /// Put in force before the word is given.
    pub handover: Result<Option<Draft>, Stop>,
}

impl Making {
    /// Makes it ready. What goes wrong is said once it is to run.
    pub async fn make(self) -> Ready {
        let prepared = self.supervisors.prepare(self.step).await;
        // While the supervisor is about it.
        let handover = self.handover.map(|handover| handover.draft(&self.work)).transpose();
        Ready { prepared, handover }
    }
}

impl Ready {
    /// Takes it back, and returns once its supervisor has gone: nothing has run.
    pub async fn call_off(self) {
        if let Ok(prepared) = self.prepared {
            prepared.call_off().await;
        }
    }
}
