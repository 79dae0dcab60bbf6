//! From a snapshot to the files and the environment of a job's commands.
//!
//! [`snapshot`] reads what was submitted, [`source`] makes the tree of files (a shipped template, an inline tree, or
//! [`git`]), [`backend`] says where Terraform's state lies, [`environment`] what commands see.

pub mod backend;
pub mod environment;
pub mod git;
pub mod snapshot;
pub mod source;
