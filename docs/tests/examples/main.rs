//! The examples for portal builders, run as they stand against a migrated Postgres, with a runner made of the broker's
//! own client: it claims, writes logs and finishes, and needs nothing to run.
//!
//! `./dev test` installs what the examples import, and says where by `TENDRIL_TEST_NODE_MODULES`,
//! `TENDRIL_TEST_PYTHON_PACKAGES` and `TENDRIL_TEST_GO_EXAMPLE` (a built program).
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails here, and says where")]

mod live_log;
mod portal;
mod program;
mod runner;
mod scenarios;

use std::path::{Path, PathBuf};

/// The folder of the examples.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")
}
