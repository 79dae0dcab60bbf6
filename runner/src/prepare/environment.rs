//! What commands of a job see of the world: an allow-list, never the runner's own environment.

use crate::config::Tools;
use crate::work::Work;
use std::collections::BTreeMap;

/// The runner's own settings, its token among them.
const RUNNER_PREFIX: &str = "TENDRIL_";
/// What is set for every job by the runner itself, so that settings cannot.
const SET_BY_RUNNER: [&str; 12] = [
    "PATH",
    "HOME",
    "TMPDIR",
    "TF_IN_AUTOMATION",
    "TF_INPUT",
    "TF_DATA_DIR",
    "TF_CLI_CONFIG_FILE",
    "TERRAFORM_CONFIG",
    "TF_WORKSPACE",
    "TF_PLUGIN_CACHE_DIR",
    "TF_REATTACH_PROVIDERS",
    "CHECKPOINT_DISABLE",
];
/// How commands reach the network, when the settings allow these at all.
const PROXIES: [&str; 8] =
    ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy"];

/// The variables that every job sees: what `tools.pass_env` takes of `own`, then `tools.env`, and PATH.
pub fn allowed(tools: &Tools, own: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let passed = own.iter().filter(|(name, _)| tools.pass_env.iter().any(|pattern| matches(pattern, name)));
    let mut env: BTreeMap<String, String> = passed
        .chain(&tools.env)
        .filter(|(name, _)| !is_reserved(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    env.insert("PATH".to_owned(), tools.path.clone());
    env
}

/// With the places of one attempt.
pub fn of_attempt(allowed: &BTreeMap<String, String>, work: &Work) -> BTreeMap<String, String> {
    let mut env = allowed.clone();
    env.insert("HOME".to_owned(), work.home().display().to_string());
    env.insert("TMPDIR".to_owned(), work.tmp().display().to_string());
    env
}

/// The proxies among them: for the runner's own tools, to which the rest does not belong.
pub fn proxies(allowed: &BTreeMap<String, String>) -> impl Iterator<Item = (String, String)> {
    PROXIES.iter().filter_map(|name| allowed.get_key_value(*name)).map(|(name, value)| (name.clone(), value.clone()))
}

/// What is wrong with an entry of `tools.pass_env`.
pub fn pattern_error(pattern: &str) -> Option<String> {
    let name = pattern.strip_suffix('*').unwrap_or(pattern);
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return Some(format!("{pattern:?} is no name; write AWS_REGION, or a prefix such as AWS_*"));
    }
    name_error(name)
}

/// What is wrong with a name in `tools.env`.
pub fn name_error(name: &str) -> Option<String> {
    is_reserved(name).then(|| format!("{name} is for the runner only; remove it"))
}

fn is_reserved(name: &str) -> bool {
    name.starts_with(RUNNER_PREFIX) || SET_BY_RUNNER.contains(&name)
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn jobs_see_what_is_allowed_and_nothing_of_the_runner() {
        let own = map(&[
            ("AWS_REGION", "eu"),
            ("AWS_WEB_IDENTITY_TOKEN_FILE", "/t"),
            ("AWS_SECRET_ACCESS_KEY", "no"),
            ("TENDRIL_AGENT_TOKEN", "no"),
            ("TF_WORKSPACE", "no"),
            ("PATH", "/sbin"),
            ("SHELL", "/bin/sh"),
        ]);
        let tools = Tools {
            pass_env: ["AWS_REGION", "AWS_WEB_IDENTITY_*", "T*", "PATH"].map(str::to_owned).into(),
            env: map(&[("TF_VAR_a", "b"), ("AWS_REGION", "us"), ("TENDRIL_X", "no"), ("HOME", "/root")]),
            path: "/usr/bin".into(),
            ..Tools::default()
        };
        let seen = map(&[
            ("AWS_REGION", "us"),
            ("AWS_WEB_IDENTITY_TOKEN_FILE", "/t"),
            ("TF_VAR_a", "b"),
            ("PATH", "/usr/bin"),
        ]);
        assert_eq!(allowed(&tools, &own), seen);
    }

    #[test]
    fn names_that_would_show_the_runner_to_jobs_are_refused() {
        for bad in ["TENDRIL_AGENT_TOKEN", "TENDRIL_*", "*", "", "A-B", "HOME", "A*B", "TF_DATA_DIR"] {
            assert!(pattern_error(bad).is_some(), "{bad}");
        }
        assert_eq!(pattern_error("AWS_*"), None);
        assert!(name_error("TENDRIL_X").is_some() && name_error("TF_LOG").is_none());
    }
}
