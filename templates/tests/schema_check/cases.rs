//! `cases/schema.json`: what both checkers must say.

use serde::Deserialize;
use serde_json::Value;
use tendril_templates::{InputError, Schema};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    pub why: String,
    pub schema: Value,
    pub value: Value,
    pub errors: Vec<String>,
}

pub fn all() -> Vec<Case> {
    serde_json::from_str(include_str!("../../cases/schema.json")).expect("the cases are JSON")
}

pub fn check(schema: &Value, value: &Value) -> Vec<InputError> {
    let schema = Schema::parse(schema, "inputs").unwrap_or_else(|faults| panic!("{schema}: {faults:?}"));
    schema.check(value, "inputs")
}

#[test]
fn the_shared_cases_hold_in_rust() {
    for case in all() {
        let found = check(&case.schema, &case.value);
        let paths: Vec<_> = found.iter().map(|error| error.path.clone()).collect();
        assert_eq!(paths, case.errors, "{}: {found:?}", case.why);
    }
}

#[test]
fn no_message_quotes_the_value_it_refuses() {
    for case in all() {
        let Some(secret) = case.value["v"].as_str().filter(|text| text.len() > 5) else {
            continue;
        };
        for error in check(&case.schema, &case.value) {
            assert!(!error.message.contains(secret), "{}: {error:?}", case.why);
        }
    }
}
