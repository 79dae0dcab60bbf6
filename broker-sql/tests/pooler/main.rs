//! Through a PgBouncer: runners by session mode, portals by transaction mode, and what a pooler makes impossible said clearly.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has nothing to go on with")]

mod modes;
