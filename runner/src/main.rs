//! The runner's binary.

use std::process::ExitCode;

use tendril_runner::{cli, supervise};

fn main() -> ExitCode {
    // First of all, while this process has one thread and has opened nothing.
    if let Some(code) = supervise::entry() {
        return code;
    }
    cli::main()
}
