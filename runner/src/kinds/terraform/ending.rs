//! What the end of an apply means. An engine that was interrupted leaves with 0 when it was done all the same, and what
//! had been made by then is in the state: so the exit code alone does not tell.

use crate::command::Finished;
use crate::kinds::terraform::failure;
use crate::kinds::terraform::rescue::Rescued;
use crate::logs::{Problem, Progress, State};
use crate::stop::Stop;
use crate::supervise::{Class, Exit, StopReason};

/// What a kill may cost. Remote backends are written to now and then only.
const LEFT_BEHIND: &str = "the state may lack what was made last";

/// What is left of an apply, beside what its engine told.
#[derive(Debug, Default)]
pub struct Remains {
    /// State that could not be saved.
    pub unsaved: Option<Rescued>,
    /// Of one that had to be killed: what is known of the engine's lock of the state.
    pub lock: Option<String>,
}

impl Remains {
    fn of_a_kill(&self) -> String {
        self.lock.as_ref().map_or_else(|| LEFT_BEHIND.to_owned(), |lock| format!("{LEFT_BEHIND}; {lock}"))
    }
}

/// Whether it may have left the engine's lock behind: it did not end by itself.
pub fn was_killed(finished: &Finished) -> bool {
    finished.record.forced || matches!(finished.record.exit, Exit::OutOfMemory { .. } | Exit::Signalled { .. })
}

/// How an apply ended that did all its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By itself.
    Itself,
    /// It was asked to stop when all was done.
    AskedTooLate,
}

/// Judges an apply by its exit, by what its events have told, and by state that it has left unsaved.
///
/// # Errors
/// The job's [`Stop`]: it names the first problem, how far the apply came, and what may be left behind.
pub fn judge(
    finished: &Finished,
    progress: &Progress,
    problems: &[Problem],
    what: &str,
    remains: &Remains,
) -> Result<Ended, Stop> {
    let unsaved = remains.unsaved.as_ref();
    let record = &finished.record;
    let asked = matches!(record.exit, Exit::TimedOut | Exit::Interrupted { .. });
    if asked && finished.left_with_zero() && progress.done.is_some() {
        return Ok(Ended::AskedTooLate);
    }
    let Err(stop) = finished.require_success(what, Class::Mutating) else { return Ok(Ended::Itself) };
    let saved = match (unsaved, record.forced) {
        (Some(rescued), _) => rescued.to_string(),
        (None, true) => format!("it had to be killed: {}", remains.of_a_kill()),
        (None, false) => "the state holds them".to_owned(),
    };
    let remarks = format!("{}; {saved}", how_far(progress));
    Err(match (stop, &record.exit) {
        (Stop::Cancelled(_), _) => Stop::Cancelled(format!("cancelled during the {what}: {remarks}")),
        (Stop::TimedOut(_), _) => Stop::TimedOut(format!("{what} ran for longer than its timeout: {remarks}")),
        (Stop::Failed { .. }, Exit::Interrupted { reason }) => {
            Stop::failed(format!("{what} was interrupted because {}: {remarks}", because(*reason)))
        }
        (stop, Exit::OutOfMemory { .. } | Exit::Signalled { .. }) => {
            also(also(stop, Some(&remains.of_a_kill())), unsaved)
        }
        (stop, _) => also(failure::explained(stop, what, problems), unsaved),
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

/// A failure with a remark.
fn also(stop: Stop, remark: Option<&impl std::fmt::Display>) -> Stop {
    match (stop, remark) {
        (Stop::Failed { reason, permanent, result }, Some(remark)) => {
            Stop::Failed { reason: format!("{reason}; {remark}"), permanent, result }
        }
        (stop, _) => stop,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::Totals;
    use crate::supervise::{Certainty, Ended as Left, ExitRecord, OomKills};
    use time::OffsetDateTime;

    fn finished(exit: Exit, code: i32, forced: bool) -> Finished {
        let record = ExitRecord {
            name: "apply".into(),
            exit,
            ended: Some(Left::Code { code }),
            requested: None,
            interrupted: false,
            forced,
            started_at: OffsetDateTime::UNIX_EPOCH,
            ended_at: OffsetDateTime::UNIX_EPOCH,
            duration_ms: 1,
            peak_memory_bytes: 1,
            sandbox: None,
            egress: None,
            oom_kills: OomKills::OwnGroup(0),
            killed_descendants: 0,
            child_dead: true,
            orphan_output: None,
        };
        Finished { record, stdout: Vec::new(), cut: false, stderr: Vec::new(), overfull: false }
    }

    fn judged(exit: Exit, code: i32, forced: bool, done: bool) -> Result<Ended, Stop> {
        let progress = Progress { done: done.then(Totals::default), ..Progress::default() };
        let problems = Problem::in_text("Error: No\n\nwhy\n");
        judge(&finished(exit, code, forced), &progress, problems.as_slice(), "terraform apply", &Remains::default())
    }

    const CANCELLED: Exit = Exit::Interrupted { reason: StopReason::Cancelled };

    #[test]
    fn only_an_apply_that_told_it_was_done_is_a_success() {
        assert_eq!(judged(Exit::Success, 0, false, true), Ok(Ended::Itself));
        assert_eq!(judged(CANCELLED, 0, false, true), Ok(Ended::AskedTooLate));
        assert_eq!(judged(Exit::TimedOut, 0, false, true), Ok(Ended::AskedTooLate));
        // It left with 0 because of the interrupt, or was done and then failed to save its state.
        assert!(matches!(judged(CANCELLED, 0, false, false), Err(Stop::Cancelled(_))));
        assert!(matches!(judged(CANCELLED, 1, false, true), Err(Stop::Cancelled(_))));
        assert!(matches!(judged(Exit::TimedOut, 1, false, false), Err(Stop::TimedOut(_))));
    }

    #[test]
    fn state_that_was_not_saved_is_never_said_to_be() {
        let remains = Remains { unsaved: Some(Rescued::OnDisk("/rescued/x".into())), lock: None };
        for (exit, code) in [(CANCELLED, 1), (Exit::TimedOut, 1), (Exit::Failure { code: 1 }, 1)] {
            let progress = Progress::default();
            let stop = judge(&finished(exit, code, false), &progress, &[], "terraform apply", &remains).unwrap_err();
            assert!(stop.reason().contains("/rescued/x") && !stop.reason().contains("holds them"), "{stop:?}");
        }
    }

    #[test]
    fn nothing_that_has_begun_is_handed_back() {
        for reason in [StopReason::Shutdown, StopReason::LeaseLost, StopReason::RunnerGone] {
            let stop = judged(Exit::Interrupted { reason }, 1, false, false).unwrap_err();
            assert!(matches!(stop, Stop::Failed { .. }), "{stop:?}");
        }
    }

    #[test]
    fn a_kill_says_what_may_be_left_and_a_failure_gives_the_engines_words() {
        let said = |exit, forced| judged(exit, 1, forced, false).unwrap_err().reason().to_owned();
        assert!(said(CANCELLED, true).contains(LEFT_BEHIND));
        assert!(!said(CANCELLED, false).contains(LEFT_BEHIND));
        assert!(said(Exit::Signalled { signal: 9 }, false).contains(LEFT_BEHIND));
        assert!(said(Exit::OutOfMemory { certainty: Certainty::Counted }, false).contains("ran out of memory"));
        assert_eq!(said(Exit::Failure { code: 1 }, false), "terraform apply: No: why");
    }
}
