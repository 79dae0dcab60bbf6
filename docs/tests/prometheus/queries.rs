//! What dashboards and alerts ask for.

use serde_json::Value;
use std::path::{Path, PathBuf};

fn helm() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../helm")
}

/// A question, and where it is asked.
pub struct Query {
    pub of: String,
    pub text: String,
}

/// As Grafana would send them, with all variables at "All".
pub fn queries_of_dashboards() -> Vec<Query> {
    let mut queries = Vec::new();
    for path in [
        "tendril/dashboards/fleet",
        "tendril/dashboards/queue",
        "tendril/dashboards/logs",
        "tendril-runner/dashboards/runner",
    ] {
        let text = std::fs::read_to_string(helm().join(format!("{path}.json"))).unwrap();
        let dashboard: Value = serde_json::from_str(&text).unwrap();
        for panel in dashboard["panels"].as_array().unwrap() {
            for target in panel["targets"].as_array().into_iter().flatten() {
                let text = target["expr"].as_str().unwrap().replace("$__rate_interval", "1m");
                let text = ["$cluster", "$kind", "$pod"].iter().fold(text, |text, name| text.replace(name, ".*"));
                assert!(!text.contains('$'), "{path}: {text}");
                queries.push(Query { of: format!("{path}: {}", panel["title"].as_str().unwrap()), text });
            }
        }
    }
    assert!(queries.len() > 70, "{} queries", queries.len());
    queries
}

/// The expressions of all alerts, as the charts' golden files have them.
pub fn alerts() -> Vec<Query> {
    let mut alerts = Vec::new();
    for set in ["broker-everything", "runner-everything"] {
        let text = std::fs::read_to_string(helm().join(format!("tests/golden/{set}.yaml"))).unwrap();
        let rule = text.split("\n---\n").find(|part| part.contains("kind: PrometheusRule")).unwrap();
        let rule: Value = serde_saphyr::from_str(rule).unwrap();
        for rule in rule["spec"]["groups"][0]["rules"].as_array().unwrap() {
            let (of, text) = (rule["alert"].as_str().unwrap().to_owned(), rule["expr"].as_str().unwrap().to_owned());
            alerts.push(Query { of, text });
        }
    }
    assert!(alerts.len() >= 25, "{} alerts", alerts.len());
    alerts
}

/// What an expression asks for, without what it does with it: an alert that does not fire brings nothing.
pub fn selectors(expression: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some(at) = rest.find("tendril_") {
        let end = rest[at..].find('}').map_or(rest.len(), |end| at + end + 1);
        found.push(rest[at..end].to_owned());
        rest = &rest[end..];
    }
    found
}
