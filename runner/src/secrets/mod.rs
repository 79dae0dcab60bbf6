//! Secrets of jobs, by reference: a snapshot says where a value lies, and this runner fetches it, if its settings allow that, for the
//! one command that needs it.
//!
//! A value goes from its source into the redaction of the job's log, then into the command's environment or a file that only this
//! user reads, and is overwritten in this process's memory. The broker sees references only. See `docs/SECRETS.md`.

mod handed;
mod hidden;
mod reference;
mod resolve;
mod settings;
mod vault;

pub use handed::Handed;
pub use hidden::Hidden;
pub use reference::{As, Reference, Source};
pub use resolve::Resolver;
pub use settings::{Settings, VaultSettings};
pub use vault::{Kv2, Store, VaultError};
