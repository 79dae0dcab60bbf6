//! The broker's contract, on a real Postgres: what portals, runners and operators may rely on.
//!
//! `TENDRIL_TEST_DATABASE_URL` names the server; `./dev test` starts one. Every test has a database of its own.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has nothing to go on with")]

mod claims;
mod commands;
mod credentials;
mod database;
mod fleet;
mod grants;
mod leases;
mod logs;
mod program;
mod schema;
mod serve;
mod snapshots;
mod states;
mod submit;
mod tenancy;
