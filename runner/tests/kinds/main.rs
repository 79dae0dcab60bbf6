//! Jobs of every kind, run as the runner runs them: real commands under real supervisors, and a broker in memory.
#![cfg(test)]

mod bed;
mod egress;
mod exec;
mod git;
mod http;
mod infracost;
mod interrupts;
mod output;
mod policy;
mod references;
mod sandbox;
mod secrets;
mod state;
mod templates;
mod terraform;
mod tls;
