//! The program; all of it is in the library's `cli`.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    tendril_broker::cli::run().await
}
