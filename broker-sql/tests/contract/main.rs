//! The broker's contract, on a real Postgres: what portals, runners and operators may rely on.
//!
//! `TENDRIL_TEST_DATABASE_URL` names the server; `./dev test` starts one. Every test has a database of its own.
#![expect(clippy::unwrap_used, reason = "what a test of the contract cannot get, it fails by")]

mod adoption;
mod api_tokens;
mod archives;
mod brakes;
mod claims;
mod commands;
mod credentials;
mod database;
mod documentation;
mod engines;
mod figures;
mod fleet;
mod grants;
mod graphs;
mod leases;
mod live;
mod log_bounds;
mod log_writer;
mod logs;
mod names;
mod plans;
mod policies;
mod program;
mod queue;
mod reaching;
mod refusals;
mod runners;
mod schedules;
mod schema;
mod serve;
mod set_back;
mod snapshots;
mod state_lock;
mod states;
mod submit;
mod tail;
mod template_state;
mod together;
