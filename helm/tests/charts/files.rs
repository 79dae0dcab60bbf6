//! values.yaml and values.schema.json name the same keys.

use crate::chart::{read, yaml};
use serde_json::Value;
use std::collections::BTreeSet;

/// Paths of all keys; a mapping without keys, and whatever is no mapping, is an end.
fn of_values(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value.as_object().filter(|map| !map.is_empty()) {
        Some(map) => map.iter().for_each(|(key, value)| of_values(value, &format!("{path}/{key}"), found)),
        None => drop(found.insert(path.to_owned())),
    }
}

fn of_schema(schema: &Value, path: &str, found: &mut BTreeSet<String>) {
    let listed = schema["properties"].as_object().filter(|_| schema["additionalProperties"] == Value::Bool(false));
    match listed {
        Some(map) if !path.ends_with("/requests") => {
            map.iter().for_each(|(key, schema)| of_schema(schema, &format!("{path}/{key}"), found));
        }
        _ => drop(found.insert(path.to_owned())),
    }
}

#[test]
fn the_schema_has_every_key_of_the_values_and_no_other() {
    for chart in ["tendril-runner", "tendril"] {
        let schema: Value = serde_json::from_str(&read(&format!("{chart}/values.schema.json"))).unwrap();
        let (mut wanted, mut there) = (BTreeSet::new(), BTreeSet::new());
        of_values(&yaml(&read(&format!("{chart}/values.yaml"))), "", &mut wanted);
        of_schema(&schema, "", &mut there);
        // Helm hands `global` to every chart that is part of another one; resources are Kubernetes' own words.
        let ours =
            |path: &&String| *path != "/global" && !path.contains("resources") && !path.starts_with("/api/settings");
        let only = |a: &BTreeSet<String>, b: &BTreeSet<String>| -> Vec<String> {
            a.iter().filter(ours).filter(|path| !b.contains(*path)).cloned().collect()
        };
        let (missing, stale) = (only(&wanted, &there), only(&there, &wanted));
        assert!(
            missing.is_empty() && stale.is_empty(),
            "{chart}: not in the schema {missing:?}, not in values {stale:?}"
        );
    }
}
