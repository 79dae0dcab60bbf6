//! Which environment variables settings may let jobs see, by name.

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

/// Whether a name is one that an entry of `tools.pass_env` means.
pub fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_show_the_runner_to_jobs_are_refused() {
        for bad in ["TENDRIL_AGENT_TOKEN", "TENDRIL_*", "*", "", "A-B", "HOME", "A*B", "TF_DATA_DIR"] {
            assert!(pattern_error(bad).is_some(), "{bad}");
        }
        assert_eq!(pattern_error("AWS_*"), None);
        assert!(name_error("TENDRIL_X").is_some() && name_error("TF_LOG").is_none());
    }
}
