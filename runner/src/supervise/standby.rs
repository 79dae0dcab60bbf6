//! A supervisor that waits for work.
//!
//! A command that finds one starts sooner by a fork, so that one always stands by, and is replaced as soon as it has work. More
//! commands at the same moment launch their own.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::error::SuperviseError;
use super::handle::{Launched, Prepared, Running};
use super::launch::Launcher;
use super::step::Step;

/// How long a command that has just begun is left alone before the next supervisor is launched beside it.
const PAUSE: Duration = Duration::from_millis(50);

/// Where the commands of a process get their supervisors.
#[derive(Debug)]
pub struct Supervisors {
    launcher: Arc<Launcher>,
    standby: Mutex<Option<Launched>>,
}

impl Supervisors {
    /// Launched from `binary`, a `tendril-runner`: [`super::OWN_BINARY`], except in tests.
    #[must_use]
    pub fn of(binary: impl AsRef<Path>) -> Arc<Self> {
        Arc::new(Self { launcher: Launcher::of(binary), standby: Mutex::new(None) })
    }

    /// Has one stand by, if none does. That it does not come is no error here: the next command says why it cannot.
    pub fn call(self: &Arc<Self>) {
        let supervisors = self.clone();
        // Off the runtime's threads, which the wait for the fork would hold up.
        tokio::task::spawn_blocking(move || {
            let mut standby = supervisors.standby();
            if standby.is_none() {
                *standby = Launched::by(&supervisors.launcher).ok();
            }
        });
    }

    fn call_soon(self: &Arc<Self>) {
        let supervisors = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(PAUSE).await;
            supervisors.call();
        });
    }

    /// Process id of the one that stands by, if one does. For people: it is no address for signals.
    #[must_use]
    pub fn standing_by(&self) -> Option<i32> {
        self.standby().as_ref().and_then(Launched::pid)
    }

    /// Starts the step's command under a supervisor of its own.
    ///
    /// # Errors
    /// See [`SuperviseError`]; a command that could not be started is no error but a record that says so.
    pub async fn start(self: &Arc<Self>, step: Step) -> Result<Running, SuperviseError> {
        self.prepare(step).await?.run().await
    }

    /// Has all made ready for the step's command under a supervisor of its own: see [`Prepared`].
    ///
    /// # Errors
    /// There is no supervisor, or the step cannot be sent to it.
    pub async fn prepare(self: &Arc<Self>, step: Step) -> Result<Prepared, SuperviseError> {
        // One that is being launched right now is not waited for.
        let standby = self.standby.try_lock().ok().and_then(|mut standby| standby.take());
        let prepared = match standby.filter(Launched::is_alive) {
            Some(launched) => launched.prepare(step).await,
            None => Launched::off_loop_by(&self.launcher).await?.prepare(step).await,
        };
        self.call_soon();
        prepared
    }

    fn standby(&self) -> MutexGuard<'_, Option<Launched>> {
        self.standby.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
