//! The broker: Postgres functions and tables (in `migrations/`), and the typed ways to call them.

pub mod connect;
pub mod runner;
pub mod token;
