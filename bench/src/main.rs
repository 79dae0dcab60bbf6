#![doc = include_str!("../README.md")]

mod cli;
mod clock;
mod comparison;
mod log_ingest;
mod log_program;
mod log_streams;
mod machine;
mod program;
mod report;
mod rounds;
mod stage;
mod start_latency;
mod statistics;
mod terraform_runs;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
