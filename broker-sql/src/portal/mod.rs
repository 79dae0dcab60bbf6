//! What portals do: submit, follow, cancel, approve and retry. Every function works for a role that has nothing but a
//! portal's grant, and for operators.

pub mod api_token;
pub mod artifacts;
pub mod clusters;
pub mod deployments;
pub mod logs;
pub mod queue;
pub mod schedules;
pub mod submission;
pub mod tail;
pub mod token_pool;
mod watch;

pub use watch::{Ending, Event, Watch};
