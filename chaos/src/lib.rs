#![doc = include_str!("../README.md")]

mod chance;
pub mod check;
mod child;
pub mod cli;
mod clock;
mod facts;
pub mod history;
mod line;
pub mod logs;
mod op;
mod options;
mod perform;
mod portal;
mod print;
mod processes;
mod report;
mod run;
mod schedule;
mod seeds;
mod snapshot;
mod watch;
mod workload;
mod world;
