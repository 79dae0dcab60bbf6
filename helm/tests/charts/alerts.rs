//! Alerts and autoscalers ask for figures that exist.

use crate::chart::Helm;
use regex::Regex;
use serde_json::Value;

/// Compared with the running program by a test of the runner's.
const RUNNER: &str = include_str!("../../../docs/RUNNER.md");
/// Likewise, by a test of the broker's.
const SERVE: &str = include_str!("../../../docs/METRICS.md");
const RUNBOOKS: &str = include_str!("../../../docs/OPERATIONS.md");
const SQL: &str = include_str!("../../../docs/SQL.md");

pub fn exists(name: &str) -> bool {
    let whole = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
    let page = if name.starts_with("tendril_runner_") { RUNNER } else { SERVE };
    page.contains(&format!("| `{whole}` |"))
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
            let section = format!("\n### {}\n", rule["alert"].as_str().unwrap());
            let (_, section) =
                RUNBOOKS.split_once(&section).unwrap_or_else(|| panic!("no runbook of {}", rule["alert"]));
            let section = section.split("\n### ").next().unwrap().to_lowercase();
            for word in ["- cause: ", "check", "remedy: "] {
                assert!(section.contains(word), "the runbook of {} has no {word}", rule["alert"]);
            }
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
    assert!(trigger["query"].as_str().unwrap().contains("THEN runnable") && SQL.contains("| `runnable` | bigint |"));
    assert_eq!(trigger["targetQueryValue"], "8");
    // Who scales is alone in deciding how many there are.
    let workload = of("runner-everything", "StatefulSet");
    assert!(workload["spec"].get("replicas").is_none());
}
