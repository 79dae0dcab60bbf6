//! The checker. `tendril_core.schema_check` in Postgres does the same steps in the same order.

use std::collections::HashSet;

use serde_json::Value;

use super::location::Location;
use super::number::{canonical, double};
use super::{Fixed, InputError, ListRules, MAX_DEPTH, MAX_ERRORS, MAX_MATCHED_CHARS, MAX_NUMBER, MAX_VALUES, Node};
use super::{NumberRules, ObjectRules, TextRules};

/// Scalars that a message about `enum` spells out at most.
const MAX_LISTED: usize = 12;

pub(super) fn document(root: &Node, value: &Value, at: &str) -> Vec<InputError> {
    if let Some(message) = unfit(value) {
        return vec![InputError { path: at.to_owned(), message }];
    }
    let mut errors = Vec::new();
    node(root, value, Location::Root(at), &mut errors);
    errors
}

/// Why a value is not looked at in detail, if so: it is too deep, too large, or Postgres cannot hold it.
fn unfit(value: &Value) -> Option<String> {
    let mut held = 0;
    let mut level = vec![value];
    for depth in 0.. {
        if level.is_empty() {
            break;
        }
        if depth > MAX_DEPTH {
            return Some(format!("must not be nested deeper than {MAX_DEPTH} levels"));
        }
        held += level.len();
        level = level.into_iter().flat_map(children).collect();
    }
    if held > MAX_VALUES {
        return Some(format!("must not hold more than {MAX_VALUES} values"));
    }
    has_nul(value).then(|| "must not hold the character U+0000".to_owned())
}

fn children(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(items) => items.iter().collect(),
        Value::Object(map) => map.values().collect(),
        _ => Vec::new(),
    }
}

fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Object(map) if map.keys().any(|key| key.contains('\0')) => true,
        _ => children(value).into_iter().any(has_nul),
    }
}

fn node(rules: &Node, value: &Value, at: Location<'_>, errors: &mut Vec<InputError>) {
    if let Value::Number(n) = value
        && double(n).abs() > MAX_NUMBER
    {
        return push(errors, at, format!("must lie between -{MAX_NUMBER} and {MAX_NUMBER}; give it as text"));
    }
    if !rules.types.is_empty() && !rules.types.iter().any(|t| t.holds(value)) {
        let wanted: Vec<_> = rules.types.iter().map(|t| t.with_article()).collect();
        return push(errors, at, format!("must be {}", wanted.join(" or ")));
    }
    fixed(rules, value, at, errors);
    match value {
        Value::Number(n) => number(&rules.number, double(n), at, errors),
        Value::String(s) => text(&rules.text, s, at, errors),
        Value::Array(items) => list(&rules.list, items, at, errors),
        Value::Object(map) => object(&rules.object, map, at, errors),
        Value::Null | Value::Bool(_) => {}
    }
}

fn fixed(rules: &Node, value: &Value, at: Location<'_>, errors: &mut Vec<InputError>) {
    if rules.constant.is_none() && rules.allowed.is_none() {
        return;
    }
    let value = canonical(value);
    if let Some(constant) = rules.constant.as_ref().filter(|constant| constant.canonical != value) {
        let wanted = if constant.is_scalar { &constant.canonical } else { "the one fixed value" };
        push(errors, at, format!("must be {wanted}"));
    }
    if let Some(allowed) = &rules.allowed
        && !allowed.iter().any(|allowed| allowed.canonical == value)
    {
        push(errors, at, not_allowed(allowed));
    }
}

fn not_allowed(allowed: &[Fixed]) -> String {
    if allowed.len() > MAX_LISTED || allowed.iter().any(|allowed| !allowed.is_scalar) {
        return format!("must be one of the {} allowed values", allowed.len());
    }
    let listed: Vec<_> = allowed.iter().map(|allowed| allowed.canonical.as_str()).collect();
    format!("must be one of {}", listed.join(", "))
}

fn number(rules: &NumberRules, n: f64, at: Location<'_>, errors: &mut Vec<InputError>) {
    if let Some(bound) = rules.minimum.filter(|bound| n < *bound) {
        push(errors, at, format!("must be at least {bound}"));
    }
    if let Some(bound) = rules.maximum.filter(|bound| n > *bound) {
        push(errors, at, format!("must be at most {bound}"));
    }
    if let Some(bound) = rules.exclusive_minimum.filter(|bound| n <= *bound) {
        push(errors, at, format!("must be more than {bound}"));
    }
    if let Some(bound) = rules.exclusive_maximum.filter(|bound| n >= *bound) {
        push(errors, at, format!("must be less than {bound}"));
    }
}

fn text(rules: &TextRules, text: &str, at: Location<'_>, errors: &mut Vec<InputError>) {
    let length = text.chars().count() as u64;
    if let Some(min) = rules.min_length.filter(|min| length < *min) {
        push(errors, at, format!("must be at least {} long", counted(min, "character")));
    }
    if let Some(max) = rules.max_length.filter(|max| length > *max) {
        push(errors, at, format!("must be at most {} long", counted(max, "character")));
    }
    let Some(pattern) = &rules.pattern else {
        return;
    };
    if length > MAX_MATCHED_CHARS {
        push(errors, at, format!("must be at most {} long to be matched", counted(MAX_MATCHED_CHARS, "character")));
    } else if !pattern.is_match(text) {
        push(errors, at, format!("must match the pattern {}", pattern.as_str()));
    }
}

fn list(rules: &ListRules, items: &[Value], at: Location<'_>, errors: &mut Vec<InputError>) {
    let length = items.len() as u64;
    if let Some(min) = rules.min_items.filter(|min| length < *min) {
        push(errors, at, format!("must hold at least {}", counted(min, "item")));
    }
    if let Some(max) = rules.max_items.filter(|max| length > *max) {
        push(errors, at, format!("must hold at most {}", counted(max, "item")));
    }
    if rules.unique {
        let distinct: HashSet<String> = items.iter().map(canonical).collect();
        if distinct.len() < items.len() {
            push(errors, at, "must not hold the same item twice".to_owned());
        }
    }
    let Some(each) = &rules.items else { return };
    for (index, item) in items.iter().enumerate() {
        if errors.len() >= MAX_ERRORS {
            return;
        }
        node(each, item, at.index(index), errors);
    }
}

fn object(rules: &ObjectRules, map: &serde_json::Map<String, Value>, at: Location<'_>, errors: &mut Vec<InputError>) {
    for key in &rules.required {
        if !map.contains_key(key) {
            push(errors, at.key(key), "is required".to_owned());
        }
    }
    // By bytes, whatever order the map keeps: the order of the errors is part of the contract.
    let mut entries: Vec<_> = map.iter().collect();
    entries.sort_by_key(|(key, _)| *key);
    for (key, value) in entries {
        if errors.len() >= MAX_ERRORS {
            return;
        }
        match rules.properties.get(key) {
            Some(rules) => node(rules, value, at.key(key), errors),
            None if rules.closed => push(errors, at.key(key), "is not a known key".to_owned()),
            None => {}
        }
    }
}

fn counted(n: u64, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}

fn push(errors: &mut Vec<InputError>, at: Location<'_>, message: String) {
    if errors.len() < MAX_ERRORS {
        errors.push(InputError { path: at.text(), message });
    }
}
