//! The crate `jsonschema` as a second opinion on the verdict.

use serde_json::Value;

use super::cases::{self, check};
use super::generated::pairs;

/// Where the dialect differs from JSON Schema on purpose: numbers are doubles of limited size, a dot takes
/// a line break, nesting and counts are bounded.
fn differs_on_purpose(schema: &str, value: &str) -> bool {
    let both = format!("{schema}{value}");
    let numbers = ["9007199254740", "e-3", "e-4", "e300", "e22", "0.1000000000000000000001", "123456789.1"];
    numbers.iter().any(|text| both.contains(text))
        || (value.contains("\\n") && schema.contains("pattern") && schema.contains('.'))
}

#[test]
fn verdicts_agree_with_another_implementation() {
    let mut fitting = 0;
    let mut compared = 0;
    for pair in pairs(6_000) {
        if differs_on_purpose(&pair.schema, &pair.value) {
            continue;
        }
        let schema: Value = serde_json::from_str(&pair.schema).expect("generated JSON");
        let value: Value = serde_json::from_str(&pair.value).expect("generated JSON");
        let theirs = jsonschema::is_valid(&schema, &value);
        let ours = check(&schema, &value);
        assert_eq!(ours.is_empty(), theirs, "{pair:?}: {ours:?}");
        compared += 1;
        fitting += usize::from(theirs);
    }
    // The comparison means something only if both verdicts occur often.
    assert!(fitting > compared / 20 && fitting < compared * 19 / 20, "{fitting} of {compared} fit");
}

#[test]
fn the_shared_cases_agree_with_another_implementation() {
    for case in cases::all() {
        let ours_alone = ["largest", "beyond", "huge", "too small", "dot takes", "too long to", "33 levels"];
        if ours_alone.iter().any(|text| case.why.contains(text)) {
            continue;
        }
        assert_eq!(case.errors.is_empty(), jsonschema::is_valid(&case.schema, &case.value), "{}", case.why);
    }
}
