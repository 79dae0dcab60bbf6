//! Alerts fire when they should and not otherwise, as the real promtool sees them.

use crate::chart::{Helm, installed};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::process::Command;

const CLUSTER: &str = "cluster_id=\"1\",cluster=\"a\"";
const JOBS: &str = "cluster_id=\"1\",cluster=\"a\",kind=\"exec\",priority=\"20\"";

/// Series by name, labels and values a minute, in promtool's words.
type Series = &'static [(&'static str, &'static str, &'static str)];

/// An alert, when it is looked at, labels that it has when it fires, and series under which it does and does not.
struct Case(&'static str, &'static str, &'static [&'static str], Series, Series);

const BROKER: [Case; 19] = [
    Case(
        "TendrilNobodyServes",
        "10m",
        &[],
        &[("broker_pulse_timestamp_seconds", "", "0x30")],
        &[("broker_pulse_timestamp_seconds", "", "0+60x30")],
    ),
    Case(
        "TendrilNoRunnerForQueue",
        "10m",
        &["cluster", "cluster_id"],
        &[
            ("queue_oldest_seconds", "JOBS,state=\"QUEUED\",waiting_for=\"\"", "100x30"),
            ("runners_online", "CLUSTER", "0x30"),
        ],
        &[
            ("queue_oldest_seconds", "JOBS,state=\"QUEUED\",waiting_for=\"\"", "100x30"),
            ("runners_online", "CLUSTER", "1x30"),
        ],
    ),
    Case(
        "TendrilQueueOld",
        "10m",
        &["cluster", "cluster_id"],
        &[("queue_oldest_seconds", "JOBS,state=\"QUEUED\",waiting_for=\"\"", "1000x30")],
        &[
            ("queue_oldest_seconds", "JOBS,state=\"QUEUED\",waiting_for=\"\"", "800x30"),
            ("queue_oldest_seconds", "JOBS,state=\"QUEUED\",waiting_for=\"key\"", "9000x30"),
            ("queue_oldest_seconds", "JOBS,state=\"AWAITING_APPROVAL\",waiting_for=\"approval\"", "9000x30"),
        ],
    ),
    Case(
        "TendrilJobStuck",
        "10m",
        &["cluster", "cluster_id"],
        &[("queue_jobs", "JOBS,state=\"UNKNOWN\",waiting_for=\"runner\"", "1x30")],
        &[("queue_jobs", "JOBS,state=\"STARTED\",waiting_for=\"\"", "9x30"), ("jobs_overdue", "CLUSTER", "0x30")],
    ),
    Case(
        "TendrilLeasesLost",
        "8m",
        &["cluster", "cluster_id"],
        &[("leases_lost_total", "CLUSTER", "0x5 1x25")],
        &[("leases_lost_total", "CLUSTER", "3x30")],
    ),
    // The database was set back: what was counted in the lost time is gone, which rate and increase take for a restart from zero.
    Case(
        "TendrilLeasesLost",
        "26m",
        &["cluster", "cluster_id"],
        &[("leases_lost_total", "CLUSTER", "5x5 3x15 4x10")],
        &[("leases_lost_total", "CLUSTER", "5x20 3x10")],
    ),
    Case(
        "TendrilKeyOrphaned",
        "10m",
        &["cluster", "cluster_id"],
        &[("keys_orphaned", "CLUSTER", "1x30")],
        &[("keys_orphaned", "CLUSTER", "0x30"), ("keys_held", "CLUSTER", "5x30")],
    ),
    Case(
        "TendrilDeadLetters",
        "10m",
        &["cluster", "cluster_id", "kind"],
        &[("dead_letters", "CLUSTER,kind=\"exec\"", "2x5 3x25")],
        &[("dead_letters", "CLUSTER,kind=\"exec\"", "2x30")],
    ),
    // The first of a kind is one more than none; and fewer after a restore are none more.
    Case(
        "TendrilDeadLetters",
        "10m",
        &["cluster", "cluster_id", "kind"],
        &[("dead_letters", "CLUSTER,kind=\"exec\"", "0x5 1x25")],
        &[("dead_letters", "CLUSTER,kind=\"exec\"", "5x5 3x25")],
    ),
    Case(
        "TendrilLogLag",
        "30m",
        &["cluster", "cluster_id"],
        &[
            ("log_lag_seconds_bucket", "CLUSTER,le=\"60\"", "0x60"),
            ("log_lag_seconds_bucket", "CLUSTER,le=\"300\"", "0+10x60"),
            ("log_lag_seconds_bucket", "CLUSTER,le=\"+Inf\"", "0+10x60"),
        ],
        &[
            ("log_lag_seconds_bucket", "CLUSTER,le=\"1\"", "0+10x60"),
            ("log_lag_seconds_bucket", "CLUSTER,le=\"60\"", "0+10x60"),
            ("log_lag_seconds_bucket", "CLUSTER,le=\"+Inf\"", "0+10x60"),
        ],
    ),
    // A restore: all that was ever slow seems to come at once, and is no lag of now.
    Case(
        "TendrilLogLag",
        "26m",
        &["cluster", "cluster_id"],
        &[
            ("log_lag_seconds_bucket", "CLUSTER,le=\"60\"", "0x60"),
            ("log_lag_seconds_bucket", "CLUSTER,le=\"300\"", "5000x10 4500+10x50"),
            ("log_lag_seconds_bucket", "CLUSTER,le=\"+Inf\"", "5000x10 4500+10x50"),
        ],
        &[
            ("log_lag_seconds_bucket", "CLUSTER,le=\"60\"", "1000x10 900x50"),
            ("log_lag_seconds_bucket", "CLUSTER,le=\"300\"", "5000x10 4500x50"),
            ("log_lag_seconds_bucket", "CLUSTER,le=\"+Inf\"", "5000x10 4500x50"),
        ],
    ),
    Case(
        "TendrilPartitionsMissing",
        "20m",
        &[],
        &[("log_partitions_ahead", "", "1x30")],
        &[("log_partitions_ahead", "", "7x30")],
    ),
    Case(
        "TendrilConnectionsNearLimit",
        "10m",
        &[],
        &[("database_connections", "", "90x30"), ("database_connections_max", "", "100x30")],
        &[("database_connections", "", "80x30"), ("database_connections_max", "", "100x30")],
    ),
    Case(
        "TendrilTableBloat",
        "90m",
        &["table"],
        &[("table_bloat_bytes", "table=\"t\"", "2e9x120"), ("table_bytes", "table=\"t\"", "3e9x120")],
        &[("table_bloat_bytes", "table=\"t\"", "2e9x120"), ("table_bytes", "table=\"t\"", "9e9x120")],
    ),
    Case(
        "TendrilDutyErrors",
        "10m",
        &["duty"],
        &[("broker_duty_errors_total", "duty=\"fold\"", "0+1x30")],
        &[("broker_duty_errors_total", "duty=\"fold\"", "4x30")],
    ),
    Case(
        "TendrilFiguresOld",
        "10m",
        &[],
        &[("broker_observed_timestamp_seconds", "", "0x30")],
        &[("broker_observed_timestamp_seconds", "", "0+60x30")],
    ),
    Case(
        "TendrilFiguresOld",
        "10m",
        &[],
        &[
            ("broker_observed_timestamp_seconds", "", "0+60x30"),
            ("figures_backlog", "of=\"queue\"", "100000x30"),
            ("figures_backlog", "of=\"happenings\"", "0x30"),
        ],
        &[
            ("broker_observed_timestamp_seconds", "", "0+60x30"),
            ("figures_backlog", "of=\"queue\"", "0x5 100000x1 0x24"),
            ("figures_backlog", "of=\"happenings\"", "20000x30"),
        ],
    ),
    Case(
        "TendrilArchiveBehind",
        "30m",
        &[],
        &[("archive_lag_seconds", "", "30000x40")],
        &[("archive_lag_seconds", "", "3000x40")],
    ),
    Case(
        "TendrilArchiveTroubled",
        "50m",
        &[],
        &[("archive_troubled_logs", "", "1x60")],
        &[("archive_troubled_logs", "", "0x60")],
    ),
];

const RUNNER: [Case; 10] = [
    Case(
        "TendrilRunnerSilent",
        "10m",
        &["POD"],
        &[("runner_heartbeat_age_seconds", "", "25x30")],
        &[("runner_heartbeat_age_seconds", "", "5x30")],
    ),
    Case(
        "TendrilRunnerLeaseLost",
        "8m",
        &["POD"],
        &[("runner_leases_lost_total", "", "0x5 1x25")],
        &[("runner_leases_lost_total", "", "1x30")],
    ),
    Case(
        "TendrilRunnerLogLag",
        "10m",
        &["POD"],
        &[("runner_log_lag_seconds", "", "90x30")],
        &[("runner_log_lag_seconds", "", "1x30")],
    ),
    Case(
        "TendrilRunnerSpoolFilling",
        "10m",
        &["POD"],
        &[("runner_log_spool_bytes", "", "9e17x30")],
        &[("runner_log_spool_bytes", "", "1000x30")],
    ),
    Case(
        "TendrilRunnerSpoolGrowing",
        "40m",
        &["POD"],
        &[("runner_log_spool_bytes", "", "0+100000000x60")],
        &[("runner_log_spool_bytes", "", "0+1000x60")],
    ),
    Case(
        "TendrilRunnerLogTextLost",
        "8m",
        &["POD"],
        &[
            ("runner_log_dropped_bytes_total", "", "0x5 100x25"),
            ("runner_log_expired_bytes_total", "", "0x30"),
            ("runner_log_refused_bytes_total", "", "0x30"),
        ],
        &[
            ("runner_log_dropped_bytes_total", "", "7x30"),
            ("runner_log_expired_bytes_total", "", "0x30"),
            ("runner_log_refused_bytes_total", "", "0x30"),
        ],
    ),
    Case(
        "TendrilRunnerSpoolDamaged",
        "8m",
        &["POD"],
        &[("runner_log_unreadable", "", "1x30")],
        &[("runner_log_unreadable", "", "0x30")],
    ),
    Case(
        "TendrilRunnerOutOfMemory",
        "8m",
        &["POD"],
        &[("runner_oom_kills_total", "", "0x5 1x25")],
        &[("runner_oom_kills_total", "", "2x30")],
    ),
    Case(
        "TendrilRunnerSandboxIncomplete",
        "10m",
        &["POD", "layer"],
        &[("runner_sandbox_layer", "layer=\"a\"", "0x30")],
        &[("runner_sandbox_layer", "layer=\"a\"", "1x30")],
    ),
    Case(
        "TendrilRunnerStateLocked",
        "8m",
        &["POD"],
        &[("runner_state_lock_conflicts_total", "", "0x5 1x25")],
        &[("runner_state_lock_conflicts_total", "", "1x30")],
    ),
];

fn series(pod: &str, list: Series) -> Vec<Value> {
    let one = |(name, labels, values): &(&str, &str, &str)| {
        let labels = labels.replace("JOBS", JOBS).replace("CLUSTER", CLUSTER);
        let comma = if labels.is_empty() { "" } else { "," };
        json!({"series": format!("tendril_{name}{{namespace=\"tendril\",pod=\"{pod}\"{comma}{labels}}}"), "values": values})
    };
    list.iter().map(one).collect()
}

fn labels(case: &Case, pod: &str, severity: &Value) -> Value {
    let mut labels = json!({"severity": severity});
    for name in case.2 {
        let value = match *name {
            "POD" => {
                labels["namespace"] = json!("tendril");
                labels["pod"] = json!(pod);
                continue;
            }
            "cluster_id" => "1",
            "kind" => "exec",
            "table" => "t",
            "duty" => "fold",
            _ => "a",
        };
        labels[name] = json!(value);
    }
    labels
}

fn tests(case: &Case, pod: &str, severity: &Value) -> [Value; 2] {
    let test = |list: Series, fires: bool| {
        let expected = if fires { json!([{"exp_labels": labels(case, pod, severity)}]) } else { json!([]) };
        json!({"name": format!("{}, fires: {fires}", case.0), "interval": "1m", "input_series": series(pod, list),
            "alert_rule_test": [{"eval_time": case.1, "alertname": case.0, "exp_alerts": expected}]})
    };
    [test(case.3, true), test(case.4, false)]
}

fn promtool(program: &std::path::Path, arguments: &[&str], folder: &std::path::Path) {
    let output = Command::new(program).args(arguments).current_dir(folder).output().unwrap();
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success(), "{arguments:?}:\n{said}");
}

#[test]
fn every_alert_fires_when_it_should_and_not_otherwise() {
    let (Some(helm), Some(program)) = (Helm::find(), installed("TENDRIL_TEST_PROMTOOL")) else { return };
    for (set, cases, pod) in [
        ("broker-everything", &BROKER[..], "acme-tendril-serve-0"),
        ("runner-everything", &RUNNER[..], "acme-runner-0"),
    ] {
        let objects = helm.objects(set, &[]);
        let rule = objects.iter().find(|object| object["kind"] == "PrometheusRule").unwrap();
        let mut groups = rule["spec"]["groups"].clone();
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, value: &Value| std::fs::write(folder.path().join(name), value.to_string()).unwrap();
        write("whole.yaml", &json!({"groups": groups}));
        promtool(&program, &["check", "rules", "--lint-fatal", "whole.yaml"], folder.path());
        let rules = groups[0]["rules"].as_array_mut().unwrap();
        let there: BTreeSet<String> = rules.iter().map(|rule| rule["alert"].as_str().unwrap().to_owned()).collect();
        let tried: BTreeSet<String> = cases.iter().map(|case| case.0.to_owned()).collect();
        assert_eq!(there, tried, "{set}");
        let severity =
            |alert: &str| rules.iter().find(|rule| rule["alert"] == alert).unwrap()["labels"]["severity"].clone();
        let all: Vec<Value> = cases.iter().flat_map(|case| tests(case, pod, &severity(case.0))).collect();
        // What annotations say is looked at elsewhere.
        rules.iter_mut().for_each(|rule| drop(rule.as_object_mut().unwrap().remove("annotations")));
        write("rules.yaml", &json!({"groups": groups}));
        write("tests.yaml", &json!({"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": all}));
        promtool(&program, &["test", "rules", "tests.yaml"], folder.path());
    }
}
