//! Following logs: one look at the database for all streams of this process.
//!
//! - `hub`: who watches what, and how far all has been told.
//! - `tailer`: the looks, and who has lost the right to watch.
//! - `follower`: one stream: subscribe, read what is there, cut the overlap, go on with what the hub tells.

mod follower;
mod hub;
mod tailer;

use std::collections::BTreeMap;

use uuid::Uuid;

pub use follower::Follower;
pub use hub::Hub;
pub use tailer::{check_rights, tail};

/// By attempt the last record read: a single number would lose rows, since numbers are given before commits.
pub type Position = BTreeMap<Uuid, i64>;
