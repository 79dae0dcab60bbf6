#![doc = include_str!("../README.md")]

mod api;
pub mod app;
mod body;
pub mod cli;
mod clock;
pub mod config;
mod limits;
mod metrics;
mod problem;
pub mod replies;
mod routes;
mod server;
mod watch;

pub use api::document;
