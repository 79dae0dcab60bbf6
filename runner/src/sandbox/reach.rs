//! Files of the runner's own that its jobs could read, because their folders are among those that jobs read.

use super::access::{Access, Confinement, Folders};
use super::profile::Profile;
use crate::config::Config;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Settings whose files no job is to read, and which lie where some may.
#[must_use]
pub fn within_reach(config: &Config) -> Vec<(&'static str, PathBuf)> {
    let nowhere = Folders { program: Path::new("/nowhere"), cwd: Path::new("/nowhere"), own: &[] };
    let env = BTreeMap::from([("PATH".to_owned(), config.tools.path.clone())]);
    let confined = Confinement::new(&config.sandbox, &Access::of(Profile::Exec), nowhere, &env);
    let reach = [confined.read, confined.execute, confined.write].concat();
    let files = [
        ("agent_token_file", config.agent_token_file.clone()),
        ("artifact_key_file", Some(config.artifact_key_file.clone())),
        ("state_dir", Some(config.state_dir.clone())),
        ("git.token_file", config.git.token_file.clone()),
        ("git.ssh_key_file", config.git.ssh_key_file.clone()),
        ("infracost.api_key_file", config.infracost.api_key_file.clone()),
    ];
    let vault = config.secrets.vault.as_ref().map(|vault| ("secrets.vault.token_file", vault.token_file.clone()));
    let secrets = config.secrets.folders.iter().map(|folder| ("secrets.folders", folder.clone())).chain(vault);
    let set = files.into_iter().filter_map(|(key, path)| Some((key, path?)));
    set.chain(secrets).filter(|(_, path)| reach.iter().any(|folder| path.starts_with(folder))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_in_a_folder_that_jobs_read_is_named_by_its_key() {
        let load = |token: &'static str, state: &'static str| {
            let find = move |name: &str| match name {
                "TENDRIL_DATABASE_URL" => Some("postgres://127.0.0.1/t".to_owned()),
                "TENDRIL_AGENT_TOKEN_FILE" => Some(token.to_owned()),
                "TENDRIL_STATE_DIR" => Some(state.to_owned()),
                "TENDRIL_ARTIFACT_KEY_FILE" => Some("/etc/tendril/key".to_owned()),
                _ => None,
            };
            Config::load(None, &find).unwrap()
        };
        assert_eq!(within_reach(&load("/etc/tendril/token", "/var/lib/tendril")), []);
        // Tried: beside installed programs; in a folder that the settings open.
        let mut config = load("/opt/tendril/token", "/srv/tendril");
        config.sandbox.read = vec!["/srv".into()];
        let keys: Vec<_> = within_reach(&config).into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["agent_token_file", "state_dir"]);
    }
}
