//! The runner: claims jobs of its cluster, runs them safely, reports.
//!
//! A job's way, file by file: `claim` -> `job` (the table of contents) -> `kinds` (prepare, start, execute) with
//! `run` and `supervise` -> `complete`; its output by `attempt_log`, `collect`, `spool` and `ship`; the lease by `heartbeat` and `holdings`.

pub mod adopt;
pub mod app;
pub mod attempt_log;
pub mod attend;
pub mod chance;
pub mod claim;
pub mod cli;
pub mod clock;
pub mod collect;
pub mod command;
pub mod complete;
pub mod config;
pub mod descriptors;
pub mod desk;
pub mod doorbell;
pub mod egress;
pub mod engines;
pub mod handover;
pub mod heartbeat;
pub mod holdings;
pub mod http;
pub mod intake;
pub mod job;
pub mod kinds;
pub mod line;
pub mod logs;
pub mod memory;
pub mod metrics;
pub mod off_loop;
pub mod output;
pub mod pipeline;
pub mod prepare;
pub mod programs;
pub mod ready;
pub mod remove;
pub mod run;
pub mod runner;
pub mod sandbox;
pub mod seal;
pub mod secrets;
pub mod ship;
pub mod spool;
pub mod start;
pub mod stop;
pub mod supervise;
#[cfg(test)]
mod testing;
pub mod toolbox;
pub mod variables;
pub mod whose;
pub mod witness;
pub mod work;
