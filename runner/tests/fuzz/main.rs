//! The checks of `runner/fuzz` on bytes that are put together from a corpus: bounded, and without a nightly compiler.
#![cfg(test)]

#[path = "../../fuzz/src/checks.rs"]
mod checks;
mod inputs;

use inputs::run;

#[test]
fn any_bytes_in_any_reads_become_their_documented_text() {
    run(checks::framing, 20_000);
}

#[test]
fn any_text_in_any_pieces_is_redacted_alike_and_no_value_is_left() {
    run(checks::redaction, 20_000);
}
