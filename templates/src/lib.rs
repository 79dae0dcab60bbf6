//! tendril-templates
