#![doc = include_str!("../README.md")]

mod cli;
mod clock;
mod comparison;
mod engine;
mod gate;
mod growth;
mod growth_of_streams;
mod growth_of_table;
mod log_cost;
mod log_fill;
mod log_growth;
mod log_ingest;
mod log_probe;
mod log_processes;
mod log_program;
mod log_storage;
mod log_streams;
mod log_terraform;
mod log_text;
mod machine;
mod plot;
mod processor;
mod program;
mod queue;
mod report;
mod rounds;
mod sandbox_exec;
mod scrape;
mod stage;
mod start_latency;
mod statistics;
mod tenancy;
mod terraform_runs;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
