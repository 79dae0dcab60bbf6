//! What a kind of job is.

use crate::run::Run;
use crate::stop::Stop;
use futures_util::future::BoxFuture;
use serde_json::Value;

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

    /// Does the job: prepares its files, starts (if it changes the world), runs commands, keeps artifacts. Returns the
    /// result: figures, outputs, names of artifacts.
    fn run<'a>(&'a self, run: &'a mut Run) -> BoxFuture<'a, Result<Value, Stop>>;
}
