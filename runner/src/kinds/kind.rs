//! What a kind of job is.

use crate::command::Finished;
use crate::run::Run;
use crate::stop::Stop;
use futures_util::future::BoxFuture;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tendril_broker::runner::Claimed;

/// What a job of some kind does.
pub trait Kind: Send + Sync {
    /// The kind's name, as in snapshots and in the label `kind=...`.
    fn name(&self) -> &'static str;

    /// What a runner that can do it advertises: `kind=...`, and the engines it would use.
    fn labels(&self) -> Vec<String> {
        vec![format!("kind={}", self.name())]
    }

    /// Whether this machine can do it; why not, otherwise.
    ///
    /// # Errors
    /// One sentence for the runner's own log.
    fn available(&self) -> Result<(), String>;

    /// Whether a job of this kind that changes the world needs nothing made ready first that could take time: then its start is
    /// asked for as soon as it is claimed, and [`Run::start`] waits for the answer.
    fn starts_at_once(&self, _job: &Claimed) -> bool {
        false
    }

    /// Does the job: prepares its files, starts (if it changes the world), runs commands, keeps artifacts. Returns the
    /// result: figures, outputs, names of artifacts.
    fn run<'a>(&'a self, run: &'a mut Run) -> BoxFuture<'a, Result<Value, Stop>>;

    /// Ends a job whose last command was handed over with `notes`: in the process that began it, or in the next one of the
    /// place. A kind that hands nothing over is never asked.
    fn conclude<'a>(
        &'a self,
        run: &'a mut Run,
        _notes: Value,
        _finished: Result<Finished, Stop>,
    ) -> BoxFuture<'a, Result<Value, Stop>> {
        run.keep_folder();
        Box::pin(async { Err(Stop::refused("this kind of job hands nothing over; what became of it is not known")) })
    }
}

/// What a kind has noted for the end of its job.
///
/// # Errors
/// Another version noted something else.
pub fn read_notes<T: DeserializeOwned>(notes: Value) -> Result<T, Stop> {
    serde_json::from_value(notes).map_err(|error| {
        Stop::refused(format!(
            "the process before this one, of another version, has left notes that this one cannot read: {error}"
        ))
    })
}
