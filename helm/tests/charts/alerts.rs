//! Alerts and autoscalers ask for figures that exist.

use crate::chart::Helm;
use regex::Regex;
use serde_json::Value;

/// Compared with the running program by a test of the runner's.
const RUNNER: &str = include_str!("../../../docs/RUNNER.md");
const SERVE: [&str; 2] = [
    include_str!("../../../broker-sql/src/serve/metrics.rs"),
    include_str!("../../../broker-sql/src/serve/archive_metrics.rs"),
];
const SQL: &str = include_str!("../../../docs/SQL.md");

fn exists(name: &str) -> bool {
    if name.starts_with("tendril_runner_") {
        return RUNNER.contains(&format!("| `{name}` |"));
    }
    let registered = name.trim_start_matches("tendril_").trim_end_matches("_total");
    SERVE.iter().any(|source| source.contains(&format!("\"{registered}\"")))
}

fn rules(helm: &Helm, set: &str) -> Vec<Value> {
    let objects = helm.objects(set, &[]);
    let rule = objects.iter().find(|object| object["kind"] == "PrometheusRule").expect("a PrometheusRule");
    rule["spec"]["groups"][0]["rules"].as_array().unwrap().clone()
}

#[test]
fn alerts_ask_only_for_figures_that_exist_and_say_what_to_do() {
    let Some(helm) = Helm::find() else { return };
    let figure = Regex::new("tendril_[a-z_]+").unwrap();
    for set in ["runner-everything", "broker-everything"] {
        let rules = rules(&helm, set);
        assert!(rules.len() >= 7, "{set}");
        for rule in rules {
            let expression = rule["expr"].as_str().unwrap();
            let mut named = figure.find_iter(expression).map(|found| found.as_str()).peekable();
            assert!(named.peek().is_some(), "{expression}");
            named.for_each(|name| assert!(exists(name), "{name} of {} does not exist", rule["alert"]));
            let braces =
                |open: char, close: char| expression.matches(open).count() == expression.matches(close).count();
            assert!(
                braces('(', ')') && braces('{', '}') && expression.contains("namespace=\"tendril\""),
                "{expression}"
            );
            for key in ["summary", "description", "runbook_url"] {
                assert!(
                    rule["annotations"][key].as_str().is_some_and(|text| text.len() > 20),
                    "{}: {key}",
                    rule["alert"]
                );
            }
        }
    }
    assert!(!exists("tendril_runner_made_up") && !exists("tendril_made_up"));
}

#[test]
fn autoscalers_ask_only_for_figures_that_exist() {
    let Some(helm) = Helm::find() else { return };
    let of = |set: &str, kind: &str| helm.objects(set, &[]).into_iter().find(|object| object["kind"] == kind).unwrap();
    let hpa = of("runner-gke", "HorizontalPodAutoscaler");
    let metric = &hpa["spec"]["metrics"][0]["pods"];
    assert!(exists(metric["metric"]["name"].as_str().unwrap()));
    assert_eq!(metric["target"]["averageValue"], "3000m");
    let keda = of("runner-everything", "ScaledObject");
    let trigger = &keda["spec"]["triggers"][0]["metadata"];
    assert!(trigger["query"].as_str().unwrap().contains("FROM tendril.queue") && SQL.contains("### tendril.queue"));
    assert_eq!(trigger["targetQueryValue"], "8");
    // Who scales is alone in deciding how many there are.
    let workload = of("runner-everything", "StatefulSet");
    assert!(workload["spec"].get("replicas").is_none());
}
