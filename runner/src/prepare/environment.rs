//! What commands of a job see of the world: an allow-list, never the runner's own environment.

use crate::config::Tools;
use crate::variables::{is_reserved, matches};
use crate::work::Work;
use std::collections::BTreeMap;

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
}
