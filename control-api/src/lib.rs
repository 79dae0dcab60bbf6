#![doc = include_str!("../README.md")]

mod api;
mod app;
pub mod asked;
mod body;
pub mod cli;
mod clock;
pub mod config;
mod limits;
mod metrics;
mod problem;
pub mod process;
pub mod replies;
mod routes;
mod server;
mod watch;

pub use routes::document;
