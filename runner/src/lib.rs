//! tendril-runner
