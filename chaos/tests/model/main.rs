//! The protocol between runners and broker as a model that is searched exhaustively: every order of what may happen, with
//! crashes, pauses, lost and late messages, calls that are committed although nobody waits for them any more, and leases
//! that run out at the worst moment.
//!
//! It is small on purpose: what docs/PROTOCOL.md says of claim, start, heartbeat, expiry, finish and adoption, for jobs that
//! all change one state and share a concurrency key, and nothing of logs, needs and approvals. Its properties are the
//! promises that the checker of real histories judges by, too.
#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test that finds nothing has nothing to go on with, and says how much it searched"
)]

mod broker;
mod process;
mod promises;
mod properties;
mod protocol;
mod search;
mod state;
