//! The binary of `./dev chaos`.

use std::process::ExitCode;

fn main() -> ExitCode {
    tendril_chaos::cli::main()
}
