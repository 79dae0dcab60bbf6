//! What the end of an apply means. An engine that was interrupted leaves with 0 when it was done all the same, and what
//! had been made by then is in the state: so the exit code alone does not tell.

use crate::command::Finished;
use crate::kinds::terraform::failure;
use crate::logs::{Problem, Progress, State};
use crate::stop::Stop;
use crate::supervise::{Class, Exit, StopReason};

/// What a kill may cost. Remote backends are written to now and then only.
const LEFT_BEHIND: &str =
    "the state may lack what was made last, and the state lock may be left behind, see force-unlock";

/// How an apply ended that did all its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By itself.
    Itself,
    /// It was asked to stop when all was done.
    AskedTooLate,
}

/// Judges an apply by its exit and by what its events have told.
///
/// # Errors
/// The job's [`Stop`]: it names the first problem, how far the apply came, and what may be left behind.
pub fn judge(finished: &Finished, progress: &Progress, problems: &[Problem], what: &str) -> Result<Ended, Stop> {
    let record = &finished.record;
    let asked = matches!(record.exit, Exit::TimedOut | Exit::Interrupted { .. });
    if asked && finished.left_with_zero() && progress.done.is_some() {
        return Ok(Ended::AskedTooLate);
    }
    let Err(stop) = finished.require_success(what, Class::Mutating) else { return Ok(Ended::Itself) };
    let saved =
        if record.forced { format!("it had to be killed: {LEFT_BEHIND}") } else { "the state holds them".to_owned() };
    let remarks = format!("{}; {saved}", how_far(progress));
    Err(match (stop, &record.exit) {
        (Stop::Cancelled(_), _) => Stop::Cancelled(format!("cancelled during the {what}: {remarks}")),
        (Stop::TimedOut(_), _) => Stop::TimedOut(format!("{what} ran for longer than its timeout: {remarks}")),
        (Stop::Failed { .. }, Exit::Interrupted { reason }) => {
            Stop::failed(format!("{what} was interrupted because {}: {remarks}", because(*reason)))
        }
        (stop, Exit::OutOfMemory { .. } | Exit::Signalled { .. }) => killed(stop),
        (stop, _) => failure::explained(stop, what, problems),
    })
}

fn because(reason: StopReason) -> &'static str {
    match reason {
        StopReason::Cancelled => "it was cancelled",
        StopReason::Timeout => "its time was over",
        StopReason::Shutdown => "the runner was shut down",
        StopReason::LeaseLost => "the runner lost its lease",
        StopReason::RunnerGone => "the runner vanished",
    }
}

/// Nobody asked it to: then it could not tidy up.
fn killed(stop: Stop) -> Stop {
    match stop {
        Stop::Failed { reason, permanent, result } => {
            Stop::Failed { reason: format!("{reason}; {LEFT_BEHIND}"), permanent, result }
        }
        stop => stop,
    }
}

fn how_far(progress: &Progress) -> String {
    let count = |state: State| progress.resources.values().filter(|resource| resource.state == state).count();
    let (begun, complete) = (progress.resources.len(), count(State::Complete));
    match count(State::Errored) {
        0 => format!("{complete} of {begun} resources that were begun are complete"),
        errored => format!("{complete} of {begun} resources that were begun are complete, {errored} failed"),
    }
}
