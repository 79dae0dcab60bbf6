//! tendril-runner

pub mod logs;
