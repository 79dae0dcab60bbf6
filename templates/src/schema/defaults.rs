//! Filling in defaults, and finding what is sensitive.

use serde_json::Value;

use super::Node;
use super::location::join;

pub(super) fn fill(rules: &Node, value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut filled = map.clone();
            for (key, rules) in &rules.object.properties {
                let present = map.get(key).or(rules.default.as_ref());
                if let Some(value) = present {
                    filled.insert(key.clone(), fill(rules, value));
                }
            }
            Value::Object(filled)
        }
        Value::Array(items) => match &rules.list.items {
            Some(each) => items.iter().map(|item| fill(each, item)).collect(),
            None => value.clone(),
        },
        scalar => scalar.clone(),
    }
}

pub(super) fn sensitive_paths(rules: &Node, at: &str) -> Vec<String> {
    if rules.sensitive {
        return vec![at.to_owned()];
    }
    let mut paths = Vec::new();
    for (key, rules) in &rules.object.properties {
        paths.extend(sensitive_paths(rules, &join(at.to_owned(), key)));
    }
    if let Some(each) = &rules.list.items {
        paths.extend(sensitive_paths(each, &format!("{at}[]")));
    }
    paths
}

pub(super) fn sensitive_values(rules: &Node, value: &Value) -> Vec<String> {
    let mut values = Vec::new();
    collect_sensitive(rules, value, &mut values);
    values
}

fn collect_sensitive(rules: &Node, value: &Value, out: &mut Vec<String>) {
    if rules.sensitive {
        return collect_scalars(value, out);
    }
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                if let Some(rules) = rules.object.properties.get(key) {
                    collect_sensitive(rules, value, out);
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                if let Some(each) = &rules.list.items {
                    collect_sensitive(each, item, out);
                }
            }
        }
        _ => {}
    }
}

fn collect_scalars(value: &Value, out: &mut Vec<String>) {
    match value {
        Value::Object(map) => map.values().for_each(|value| collect_scalars(value, out)),
        Value::Array(items) => items.iter().for_each(|value| collect_scalars(value, out)),
        Value::String(text) => out.push(text.clone()),
        Value::Number(number) => out.push(number.to_string()),
        Value::Bool(_) | Value::Null => {}
    }
}
