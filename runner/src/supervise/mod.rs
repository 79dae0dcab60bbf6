//! One small supervisor process per command of an attempt.
//!
//! A runner that starts `terraform` itself takes it along when it dies: the pipe closes, the next line
//! of output is a SIGPIPE, and the state lock stays behind. So between the runner and each command
//! stands a process of the runner's own binary with no async runtime and a single thread (but see `egress`). It
//!
//! - starts the command with exactly the environment, folder and descriptors that the [`Step`] names,
//! - holds the read ends of the command's pipes beside the runner, and reads them only when the runner
//!   has gone,
//! - enforces the timeout, passes on **one** SIGINT, and after the grace kills the whole tree,
//! - is the subreaper of everything the command leaves behind, and ends only when nothing is left,
//! - writes `exit.json` and sends the same [`ExitRecord`] to the runner.
//!
//! | when the runner vanishes | the supervisor |
//! | --- | --- |
//! | [`Class::Reading`] | interrupts the command, kills the tree after the grace |
//! | [`Class::Mutating`] | lets it finish under its timeout, keeps its output in `orphan.stdout` and `orphan.stderr` |
//!
//! # What is promised, and what is not
//!
//! When [`Control::wait`] returns a record, no process that descends from the command exists. When the
//! supervisor itself is killed by SIGKILL, `wait` returns [`SuperviseError::Lost`] after it has ended what it could
//! find; see [`adopt_orphans`] for what can escape.
//!
//! The supervisor blocks every signal it can: SIGTERM or SIGINT sent to it do nothing, so that a service
//! manager that signals a whole control group cannot turn one interrupt into two. Whoever wants to stop
//! an orphaned command says so to an [`Orphan`], or sends one SIGINT to the command itself.
//!
//! # Where things are
//!
//! [`Step`] and [`ExitRecord`] are what goes in and comes out; `flow` decides what to do on which event
//! and does no I/O; `launcher` is the process that supervisors fork from; `entry` and `watch` are the supervisor process; `child` is the way from fork to exec and the place
//! of the sandbox; `tree` ends and reaps; `launch` and `handle` are the runner's side, and `standby` keeps a
//! supervisor ready; `inherit` is the side of a runner that comes after.

mod channel;
mod child;
mod clock;
mod egress;
mod entry;
mod error;
mod exit;
mod flow;
mod handle;
mod inherit;
mod launch;
mod launcher;
mod lost;
mod memory;
mod message;
mod oom;
mod orphan;
mod pidfd;
mod procs;
mod record;
mod standby;
mod start;
mod step;
mod tree;
mod watch;

pub use entry::{SUBCOMMAND, entry, keep_from_jobs};
pub use error::SuperviseError;
pub use exit::{Certainty, Ended, Exit, StopReason};
pub use handle::{Control, Launched, OWN_BINARY, Prepared, Running};
pub use inherit::{Inherited, Orphan};
pub use launch::Launcher;
pub use lost::{Left, adopt_orphans};
pub use oom::OomKills;
pub use procs::{Process, parse as process_of_stat};
pub use record::{EXIT_FILE, ExitRecord, Kept, OrphanOutput, read_record};
pub use standby::Supervisors;
pub use start::StartFailure;
pub use step::{
    Class, DEFAULT_KILL_GRACE_MS, DEFAULT_ORPHAN_LIMIT_BYTES, DEFAULT_UMASK, STDERR_FILE, STDOUT_FILE, Step,
};
