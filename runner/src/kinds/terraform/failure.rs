//! Why an engine's command failed, in its own words.

use crate::command::Finished;
use crate::logs::Problem;
use crate::stop::Stop;
use crate::supervise::Class;

/// Nothing if a command that prints text has succeeded.
///
/// # Errors
/// The job's [`Stop`], with the first error on its standard error.
pub fn of_text(finished: &Finished, what: &str) -> Result<(), Stop> {
    let problem = Problem::in_text(&finished.words());
    finished.require_success(what, Class::Reading).map_err(|stop| explained(stop, what, problem.as_slice()))
}

/// A failure with the engine's first error as its reason.
pub fn explained(stop: Stop, what: &str, problems: &[Problem]) -> Stop {
    match (stop, problems) {
        (Stop::Failed { permanent: false, result, .. }, [first, more @ ..]) => {
            let more = if more.is_empty() { String::new() } else { format!(" (and {} more)", more.len()) };
            Stop::Failed { reason: format!("{what}: {first}{more}"), permanent: false, result }
        }
        (stop, _) => stop,
    }
}
