//! The proxy of one command, with real sockets and names of the tests' own.
#![cfg(test)]

mod beyond;
mod net;
mod refusals;
mod tunnels;
