//! tendril-docs
