//! `settings` of the runner's chart are those of the runner itself, with the same defaults, and arrive as it reads them.

use crate::chart::{Helm, read, yaml};
use serde_json::Value;

const SAMPLE: &str = include_str!("../../../docs/tendril-runner.toml");
const API_SAMPLE: &str = include_str!("../../../docs/tendril-api.toml");

/// What the chart decides: where things lie in the image, and what holds for every container.
const DECIDED: [&str; 14] = [
    "database_url",
    "agent_token_file",
    "artifact_key_file",
    "state_dir",
    "place",
    "name",
    "templates_dir",
    "tools.provider_mirror",
    "git.token_file",
    "git.ssh_key_file",
    "git.ssh_known_hosts_file",
    "git.ca_file",
    "shutdown.hand_over",
    "http.listen",
];
/// The program of the image is the one that is found.
const LEFT_OUT: [&str; 1] = ["infracost.path"];

/// Every key of the sample, those that are commented out too, with its value where it has one. A table within a table is one value.
fn documented() -> Vec<(String, Option<Value>)> {
    let sample: toml::Table = SAMPLE.parse().unwrap();
    let (mut table, mut found) = (String::new(), Vec::new());
    for line in SAMPLE.lines() {
        if let Some(name) = line.trim_start_matches("# ").strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            table = format!("{name}.");
            if name.contains('.') {
                found.push((name.to_owned(), None));
            }
        } else if table.matches('.').count() < 2
            && let Some((key, _)) = line.trim_start_matches("# ").split_once(" = ")
            && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
        {
            let path = format!("{table}{key}");
            let value =
                path.split('.').try_fold(&toml::Value::Table(sample.clone()), |value, key| value.get(key)).cloned();
            found.push((path, value.map(|value| serde_json::to_value(value).unwrap())));
        }
    }
    found
}

#[test]
fn the_settings_have_the_runners_keys_and_its_defaults() {
    let values = yaml(&read("tendril-runner/values.yaml"));
    let documented = documented();
    assert!(documented.len() > 40, "{documented:?}");
    for (path, default) in &documented {
        let ours = values["settings"].pointer(&format!("/{}", path.replace('.', "/")));
        if DECIDED.contains(&path.as_str()) || LEFT_OUT.contains(&path.as_str()) {
            assert_eq!(ours, None, "{path} is decided by the chart");
        } else {
            let ours = ours.unwrap_or_else(|| panic!("settings.{path} is missing in values.yaml"));
            // What has no default is null, or a list of none.
            let nothing = if ours.is_array() { Value::Array(Vec::new()) } else { Value::Null };
            assert_eq!(ours, default.as_ref().unwrap_or(&nothing), "settings.{path}");
        }
    }
    let known = |path: &str| documented.iter().any(|(other, _)| other == path);
    for (key, value) in values["settings"].as_object().unwrap() {
        match value.as_object() {
            Some(table) => {
                table.keys().for_each(|name| assert!(known(&format!("{key}.{name}")), "settings.{key}.{name}"))
            }
            None => assert!(known(key), "settings.{key}"),
        }
    }
}

fn runner_toml(objects: &[Value]) -> toml::Table {
    let config = objects.iter().find(|object| object["kind"] == "ConfigMap").expect("a ConfigMap");
    config["data"]["runner.toml"].as_str().unwrap().parse().unwrap()
}

#[test]
fn the_settings_file_is_what_the_values_say_and_whole_numbers_stay_whole() {
    let Some(helm) = Helm::find() else { return };
    let toml = runner_toml(&helm.objects("runner-everything", &[]));
    assert_eq!(toml["slots"].as_integer(), Some(8));
    assert_eq!(toml["sandbox"]["max_file_bytes"].as_integer(), Some(17_179_869_184));
    assert_eq!(toml["tools"]["env"]["A"].as_str(), Some("quote \" and \\ stay"));
    assert_eq!(toml["tools"]["env"]["https_proxy"].as_str(), Some("http://proxy.example.com:3128"));
    assert_eq!(toml["shutdown"]["hand_over"].as_bool(), Some(false));
    let known: Vec<String> = documented().into_iter().map(|(path, _)| path).collect();
    for (key, value) in &toml {
        match value.as_table() {
            Some(table) => {
                table.keys().for_each(|name| assert!(known.contains(&format!("{key}.{name}")), "{key}.{name}"))
            }
            None => assert!(known.contains(key), "{key}"),
        }
    }
    let small = runner_toml(&helm.objects("runner-small", &[]));
    assert!(small.get("kinds").is_none(), "what is null is left to the runner");
}

#[test]
fn a_cloud_identity_opens_its_variables_files_and_ports_and_nothing_else() {
    let Some(helm) = Helm::find() else { return };
    for (identity, variable, read, ports) in [
        ("none", None, None, vec![53, 443]),
        ("irsa", Some("AWS_ROLE_ARN"), Some("/var/run/secrets/eks.amazonaws.com"), vec![53, 443]),
        (
            "eksPodIdentity",
            Some("AWS_CONTAINER_CREDENTIALS_FULL_URI"),
            Some("/var/run/secrets/pods.eks.amazonaws.com"),
            vec![53, 443, 80],
        ),
        ("gke", None, None, vec![53, 443, 80]),
        ("azure", Some("AZURE_FEDERATED_TOKEN_FILE"), Some("/var/run/secrets/azure"), vec![53, 443]),
    ] {
        let toml = runner_toml(&helm.objects("runner-small", &["--set", &format!("cloudIdentity={identity}")]));
        let texts = |value: &toml::Value| {
            value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let (passed, readable) = (texts(&toml["tools"]["pass_env"]), texts(&toml["sandbox"]["read"]));
        assert_eq!(
            passed.iter().any(|name| Some(name.as_str()) == variable),
            variable.is_some(),
            "{identity}: {passed:?}"
        );
        assert_eq!(readable, read.map(str::to_owned).into_iter().collect::<Vec<_>>(), "{identity}");
        let open: Vec<i64> =
            toml["sandbox"]["connect"].as_array().unwrap().iter().filter_map(toml::Value::as_integer).collect();
        assert_eq!(open, ports, "{identity}");
    }
}

#[test]
fn the_settings_of_the_api_have_its_keys_and_no_other() {
    let schema: Value = serde_json::from_str(&read("tendril/values.schema.json")).unwrap();
    let tables = schema["properties"]["api"]["properties"]["settings"]["properties"].as_object().unwrap();
    let mut sample: toml::Table = API_SAMPLE.parse().unwrap();
    // What the chart says elsewhere: the Secret, the port, the archive of both programs.
    sample.retain(|key, value| value.is_table() && key != "archive");
    let names = |keys: Vec<&String>| keys.into_iter().cloned().collect::<std::collections::BTreeSet<_>>();
    assert_eq!(names(tables.keys().collect()), names(sample.keys().collect()));
    for (table, keys) in &sample {
        let allowed = tables[table]["properties"].as_object().unwrap();
        assert_eq!(names(allowed.keys().collect()), names(keys.as_table().unwrap().keys().collect()), "{table}");
        assert_eq!(tables[table]["additionalProperties"], false, "{table}");
    }
}
