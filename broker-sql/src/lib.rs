//! tendril-broker
