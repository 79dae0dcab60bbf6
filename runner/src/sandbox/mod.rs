//! What a command of a job may do: decided by one pure function, done to itself by the new process.
//!
//! [`Settings`] and the command's [`Access`] make a [`Confinement`]: paths, ports and limits, which travel to the supervisor
//! with the step. There [`plan()`] turns it and what the [`Kernel`] can do into an ordered list of [`Measure`]s and
//! the [`Level`] that they come to; [`Armed`] makes ready what allocates, before the fork; and the new process carries the list
//! out, last before its program.
//!
//! The order: nobody traces it, limits, no capabilities, no new privileges, files and ports and scopes (Landlock), system
//! calls (seccomp). Each stands where what comes before cannot be taken back and what comes after is still allowed.
//!
//! What each layer holds off, and what none does, stands in `docs/SANDBOX.md`; its table comes from runs of
//! `runner/tests/escape`.

mod access;
mod armed;
mod calls;
mod cases;
mod filter;
mod kernel;
mod level;
mod loader;
mod plan;
mod profile;
mod reach;
mod settings;
mod system;

pub use access::{Access, Confinement, Folders, Limits, port_of};
pub use armed::{Armed, SandboxError};
pub use calls::Processor;
pub use cases::{Case, cases, programs_for};
pub use kernel::Kernel;
pub use level::{Layer, Level, Missing};
pub use plan::{FileRule, Limit, Measure, Plan, Rules, plan};
pub use profile::Profile;
pub use reach::within_reach;
pub use settings::{Mode, Ports, Settings};
