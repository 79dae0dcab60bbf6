//! How a command ended, and what that means.

use nix::libc::SIGKILL;
use serde::{Deserialize, Serialize};

use super::oom::OomKills;
use super::start::StartFailure;

/// Why somebody wanted the command to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// A user asked for it.
    Cancelled,
    /// The step's own time was over.
    Timeout,
    /// The runner shuts down.
    Shutdown,
    /// The runner's lease ended.
    LeaseLost,
    /// The runner vanished; only a reading command stops for this.
    RunnerGone,
}

/// How the main process ended, in the kernel's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub enum Ended {
    /// It left with this code, 0 to 255.
    Code {
        /// The exit code.
        code: i32,
    },
    /// This signal ended it.
    Signal {
        /// The signal's number.
        signal: i32,
    },
}

/// How sure an out-of-memory verdict is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Certainty {
    /// A SIGKILL that nobody here sent, and the own control group counted an OOM kill meanwhile.
    Counted,
    /// One of the two is missing.
    Suspected,
}

/// What the end of a command means to its job.
///
/// A command that was asked to stop is `TimedOut` or `Interrupted` whatever its exit code: terraform
/// leaves with 0 when the interrupt came in its last phase. Who wants to know whether all work was
/// done looks at `ended` in the record and verifies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Exit {
    /// Code 0, unasked.
    Success,
    /// Another code, unasked.
    Failure {
        /// The exit code, 1 to 255.
        code: i32,
    },
    /// Ended by a signal that the supervisor did not send.
    Signalled {
        /// The signal's number.
        signal: i32,
    },
    /// Asked to stop because its time was over.
    TimedOut,
    /// Asked to stop for another reason.
    Interrupted {
        /// The first reason that was given.
        reason: StopReason,
    },
    /// Ended because memory ran out.
    OutOfMemory {
        /// How sure that is.
        certainty: Certainty,
    },
    /// Never ran.
    NotStarted {
        /// What stood in the way.
        reason: StartFailure,
    },
}

/// The verdict on a command that ran.
pub(super) fn judge(ended: Ended, stop: Option<StopReason>, oom: OomKills) -> Exit {
    match stop {
        Some(StopReason::Timeout) => return Exit::TimedOut,
        Some(reason) => return Exit::Interrupted { reason },
        None => {}
    }
    match (ended, oom) {
        (Ended::Code { code: 0 }, _) => Exit::Success,
        (Ended::Signal { signal: SIGKILL }, OomKills::OwnGroup(1..)) => {
            Exit::OutOfMemory { certainty: Certainty::Counted }
        }
        // A failing command beside an OOM kill in its own group: most likely one of its children
        // (a provider) was the victim. A kill elsewhere on the machine says nothing about it.
        (_, OomKills::OwnGroup(1..))
        | (Ended::Signal { signal: SIGKILL }, OomKills::Machine(1..) | OomKills::Unreadable) => {
            Exit::OutOfMemory { certainty: Certainty::Suspected }
        }
        (Ended::Code { code }, _) => Exit::Failure { code },
        (Ended::Signal { signal }, _) => Exit::Signalled { signal },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZERO: Ended = Ended::Code { code: 0 };
    const ONE: Ended = Ended::Code { code: 1 };
    const KILLED: Ended = Ended::Signal { signal: SIGKILL };
    const QUIET: OomKills = OomKills::OwnGroup(0);

    #[test]
    fn a_command_that_was_asked_to_stop_is_never_a_plain_success() {
        let cancelled = Exit::Interrupted { reason: StopReason::Cancelled };
        for ended in [ZERO, ONE, KILLED] {
            assert_eq!(judge(ended, Some(StopReason::Cancelled), QUIET), cancelled);
            assert_eq!(judge(ended, Some(StopReason::Timeout), QUIET), Exit::TimedOut);
        }
    }

    #[test]
    fn an_unasked_end_is_what_the_kernel_said() {
        assert_eq!(judge(ZERO, None, QUIET), Exit::Success);
        assert_eq!(judge(ONE, None, QUIET), Exit::Failure { code: 1 });
        assert_eq!(judge(KILLED, None, QUIET), Exit::Signalled { signal: 9 });
        let segv = Ended::Signal { signal: 11 };
        assert_eq!(judge(segv, None, OomKills::Machine(3)), Exit::Signalled { signal: 11 });
    }

    #[test]
    fn running_out_of_memory_is_told_with_its_certainty() {
        let counted = Exit::OutOfMemory { certainty: Certainty::Counted };
        let suspected = Exit::OutOfMemory { certainty: Certainty::Suspected };
        assert_eq!(judge(KILLED, None, OomKills::OwnGroup(1)), counted);
        assert_eq!(judge(KILLED, None, OomKills::Machine(1)), suspected);
        assert_eq!(judge(KILLED, None, OomKills::Unreadable), suspected);
        assert_eq!(judge(KILLED, None, OomKills::Machine(0)), Exit::Signalled { signal: 9 });
        assert_eq!(judge(ONE, None, OomKills::OwnGroup(2)), suspected);
        assert_eq!(judge(ONE, None, OomKills::Machine(2)), Exit::Failure { code: 1 });
        assert_eq!(judge(ZERO, None, OomKills::OwnGroup(2)), Exit::Success);
    }
}
