//! From a snapshot to the files and the environment of a job's commands.
//!
//! [`snapshot`] reads what was submitted, [`source`] makes the tree of files (a shipped template, an inline tree, or
//! [`git`]), [`backend`] says where Terraform's state lies, [`environment`] what commands see, [`secrets`] what
//! nobody may see.

pub mod backend;
pub mod environment;
pub mod git;
pub mod secrets;
pub mod snapshot;
pub mod source;
