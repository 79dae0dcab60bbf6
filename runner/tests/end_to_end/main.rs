//! The whole way on real parts: a row in a real Postgres, the real runner binary, real processes, real Terraform.
//!
//! `TENDRIL_TEST_DATABASE_URL` names the server; `./dev test` starts one. Every test has a database and a runner of its own.
#![expect(clippy::expect_used, reason = "a test that cannot be set up has nothing to go on with")]

mod adoption;
mod barriers;
mod beginning;
mod credentials;
mod fleet;
mod hostile;
mod leaving;
mod logs;
mod run;
mod running;
mod set_back;
