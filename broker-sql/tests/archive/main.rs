//! Closed logs: archived once, read back as they were, removed when nobody needs them any more. On a real Postgres and a
//! server that speaks S3, with signatures and checksums checked.
#![cfg(feature = "archive")]
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has nothing to go on with")]

mod away;
mod checksums;
mod damage;
#[expect(dead_code, reason = "the contract's tests use the rest")]
#[path = "../contract/fleet.rs"]
mod fleet;
mod measure;
#[expect(dead_code, reason = "the contract's tests use the rest")]
#[path = "../contract/program.rs"]
mod program;
mod reading;
mod removal;
mod service;
mod shelf;
mod shipping;
