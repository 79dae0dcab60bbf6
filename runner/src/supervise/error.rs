//! Why a runner does not know how its command ended.

use std::io;
use std::path::PathBuf;

use super::lost::Left;

/// What keeps a runner from knowing how its command ended. (That a command cannot be started is no such error: its
/// record says `NotStarted`.)
#[derive(Debug, thiserror::Error)]
pub enum SuperviseError {
    /// There is no supervisor, and no command was started.
    #[error("cannot start a supervisor from {binary:?}: {source}; check limits of processes and memory")]
    Launch {
        /// The runner's binary.
        binary: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// The supervisor, or what was to launch it, ended at once; no command was started.
    #[error("the supervisor from {binary:?} ended before it began ({status}); is that a tendril-runner?")]
    Unopened {
        /// The binary that was executed.
        binary: PathBuf,
        /// How it ended.
        status: String,
    },
    /// The step cannot be put into a message; no command was started.
    #[error("step {name} cannot be sent to its supervisor: {detail}")]
    Unsendable {
        /// The step's name.
        name: String,
        /// Why.
        detail: String,
    },
    /// The control socket failed while the supervisor lives.
    #[error("lost touch with the supervisor of {name}: {source}; it goes on as if the runner had vanished")]
    Channel {
        /// The step's name.
        name: String,
        /// The system's words, or the message that was none.
        source: io::Error,
    },
    /// Somebody killed the supervisor. Its tree was looked for and ended as far as it was found; that the
    /// command is dead is not proven.
    #[error("the supervisor of {name} was killed; {left}")]
    Lost {
        /// The step's name.
        name: String,
        /// What the search came to.
        left: Left,
    },
}
