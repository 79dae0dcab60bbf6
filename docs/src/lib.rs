//! The documentation of Tendril, and the tests that keep it and the house true.
//!
//! This crate has no code of its own. `tests/house` reads the whole tree and checks what no compiler checks: which crate
//! may know which, how large a file or a function may grow, where SQL and `unsafe` may stand, that links and samples
//! in the pages work. What is excepted stands in `house-exceptions.toml`, each with its reason.
