//! Dashboards are whole, and the charts ship them as they are. Whether their queries bring data is tried on a real Prometheus, by
//! docs/tests/prometheus.

use crate::chart::{Helm, folder};
use regex::Regex;
use serde_json::Value;
use std::collections::BTreeSet;

const DASHBOARDS: [(&str, &str, &str); 4] = [
    ("broker-everything", "tendril", "fleet"),
    ("broker-everything", "tendril", "queue"),
    ("broker-everything", "tendril", "logs"),
    ("runner-everything", "tendril-runner", "runner"),
];

fn text(chart: &str, name: &str) -> String {
    std::fs::read_to_string(folder().join(chart).join("dashboards").join(format!("{name}.json"))).unwrap()
}

#[test]
fn every_panel_says_what_it_shows_and_asks_for_figures_that_exist() {
    let figure = Regex::new("tendril_[a-z_]+").unwrap();
    let mut uids = BTreeSet::new();
    for (_, chart, name) in DASHBOARDS {
        let dashboard: Value = serde_json::from_str(&text(chart, name)).unwrap();
        assert!(uids.insert(dashboard["uid"].as_str().unwrap().to_owned()), "{name}: a uid of its own");
        assert!(dashboard["description"].as_str().is_some_and(|text| text.len() > 30), "{name}");
        let mut ids = BTreeSet::new();
        for panel in dashboard["panels"].as_array().unwrap() {
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{name}: two panels have an id");
            if panel["type"] == "row" {
                continue;
            }
            let title = &panel["title"];
            assert!(
                panel["description"].as_str().is_some_and(|text| text.len() > 3),
                "{name}: {title} has no description"
            );
            assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{name}: {title} has no unit");
            let targets = panel["targets"].as_array().unwrap();
            assert!(!targets.is_empty(), "{name}: {title}");
            for target in targets {
                let query = target["expr"].as_str().unwrap();
                for found in figure.find_iter(query) {
                    assert!(crate::alerts::exists(found.as_str()), "{name}: {title} asks for {}", found.as_str());
                }
            }
        }
    }
}

#[test]
fn charts_ship_the_dashboards_as_they_are() {
    let Some(helm) = Helm::find() else { return };
    for (set, chart, name) in DASHBOARDS {
        let objects = helm.objects(set, &[]);
        let key = format!("{name}.json");
        let shipped = objects.iter().find(|object| object["kind"] == "ConfigMap" && object["data"][&key].is_string());
        let shipped = shipped.unwrap_or_else(|| panic!("{set} does not ship {name}"));
        assert_eq!(shipped["data"][&key].as_str().unwrap().trim(), text(chart, name).trim());
        assert_eq!(shipped["metadata"]["labels"]["grafana_dashboard"], "1");
        assert_eq!(shipped["metadata"]["annotations"]["grafana_folder"], "Tendril");
    }
    let plain = helm.objects("broker-small", &[]);
    assert!(!plain.iter().any(|object| object["kind"] == "ConfigMap" && object["data"]["fleet.json"].is_string()));
}
