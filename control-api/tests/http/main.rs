//! The API over real HTTP, on a real Postgres. `TENDRIL_TEST_DATABASE_URL` names the server; `./dev test` starts one. Every
//! test has a database and a process's worth of API of its own.
#![expect(clippy::unwrap_used, reason = "what a test of the API cannot get, it fails by")]

mod deployments;
mod document;
mod events;
mod limits;
mod logs;
mod program;
mod schemathesis;
mod service;
mod tokens;
