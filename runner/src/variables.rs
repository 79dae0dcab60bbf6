//! Which environment variables settings may let jobs see, by name.

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

/// Whether a variable is the runner's own, or set by it for each job.
pub fn is_reserved(name: &str) -> bool {
    name.starts_with(RUNNER_PREFIX) || SET_BY_RUNNER.contains(&name)
}

/// Whether a name is one that an entry of `tools.pass_env`, `secrets.env` or `secrets.vault.paths` means.
pub fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == pattern,
    }
}

/// What is wrong with an entry of `logs.redact_env`.
pub fn wildcard_error(pattern: &str) -> Option<String> {
    let is_name = pattern.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'*');
    let names_something = pattern.bytes().filter(|b| *b != b'*').count() >= 3;
    let reason = || format!("{pattern:?} is no name; write MY_KEY, or *_KEY with * for any characters");
    (!is_name || !names_something).then(reason)
}

/// Whether a name is one that an entry of `logs.redact_env` means.
pub fn fits(pattern: &str, name: &str) -> bool {
    let alike = |a: &[u8], b: &[u8]| a.eq_ignore_ascii_case(b);
    match pattern.split_once('*') {
        None => alike(pattern.as_bytes(), name.as_bytes()),
        Some((head, rest)) => {
            let follows = name.get(..head.len()).filter(|begin| alike(begin.as_bytes(), head.as_bytes()));
            let after = follows.and_then(|_| name.get(head.len()..)).unwrap_or_default();
            follows.is_some()
                && after.char_indices().map(|(at, _)| at).chain([after.len()]).any(|at| fits(rest, &after[at..]))
        }
    }
}

/// The runner's own variables, as far as they are text.
pub fn own() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters_and_case_does_not_count() {
        for (pattern, name) in
            [("*TOKEN", "GITLAB_TOKEN"), ("*SECRET*", "TF_VAR_my_secret_x"), ("A*B*C", "aXbYc"), ("KEY", "key")]
        {
            assert!(fits(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("*TOKEN", "TOKEN_FILE"), ("KEY", "KEYS"), ("A*B", "AC"), ("*A*B", "BA")] {
            assert!(!fits(pattern, name), "{pattern} {name}");
        }
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
