//! The broker of Tendril: Postgres functions and tables (in `migrations/`), and the typed ways to call them.
//!
//! - [`operator`]: migrations, clusters and their credentials, portals' grants, decisions about lost work, `doctor`.
//! - [`portal`]: submit, follow, cancel, approve and retry deployments.
//! - [`runner`]: claim, start, heartbeat, finish, artifacts, logs.
//! - [`serve`]: the duties that nobody's session may be trusted with.
//! - [`cli`]: the command line `tendril-broker`.

#[cfg(feature = "testing")]
pub mod baseline;
pub mod cli;
mod clock;
pub mod connect;
pub mod operator;
pub mod portal;
mod refusal;
pub mod runner;
pub mod serve;
mod session;
#[cfg(feature = "testing")]
pub mod testing;
pub mod token;

pub use refusal::{Error, Problem, Refusal};
pub use session::{Address, BadAddress, Unreachable};
