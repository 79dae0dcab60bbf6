//! The checks of `runner/fuzz` on bytes that are put together from a corpus: bounded, and without a nightly compiler.
#![cfg(test)]

#[path = "../../fuzz/src/checks.rs"]
mod checks;
mod inputs;

use checks::{FORMS, covered, left_of};
use inputs::run;

#[test]
fn any_bytes_in_any_reads_become_their_documented_text() {
    run(checks::framing, 20_000);
}

#[test]
fn any_text_in_any_pieces_is_redacted_alike_and_no_value_is_left() {
    run(checks::redaction, 20_000);
}

#[test]
fn each_form_of_a_value_is_known_to_the_check_and_covered() {
    for form in FORMS {
        let text = format!("before {} after", form.text);
        assert!(left_of(&text).is_some(), "the check does not see {} of {}", form.by, form.of);
        assert_eq!(covered(&text), "before [redacted] after", "{} of {}", form.by, form.of);
    }
}
