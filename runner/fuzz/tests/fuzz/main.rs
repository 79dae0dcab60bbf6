//! The checks on bytes that are put together from a corpus and from `seeds`: bounded, and without libFuzzer.

mod inputs;
mod targets;
