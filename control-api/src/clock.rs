//! The crate's only source of ids.

use uuid::Uuid;

/// A time-ordered id, for a submit that brings none of its own.
#[expect(clippy::disallowed_methods, reason = "the crate's only source of ids")]
pub fn new_id() -> Uuid {
    Uuid::now_v7()
}
