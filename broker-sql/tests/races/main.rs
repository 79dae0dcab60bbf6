//! What two sessions may do to each other: the broker under interleavings and hostile transactions that were once wrong.
//!
//! Sessions that must not wait run with a `lock_timeout`: a wait shows as 55P03, and no test sleeps.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has nothing to go on with")]

mod credentials;
#[expect(dead_code, reason = "the contract's tests use the rest")]
#[path = "../contract/fleet.rs"]
mod fleet;
mod keys;
mod open;
mod operators;
mod queue;
mod together;
mod upgrades;
mod witnesses;
