//! The operator's say: `[secrets]` of the settings.

use crate::variables;
use serde::Deserialize;
use std::path::PathBuf;

/// What jobs may ask for. Nothing, unless it is listed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Names of variables of the runner; a trailing `*` matches a prefix.
    pub env: Vec<String>,
    /// Folders whose files may be asked for; the first that has one counts.
    pub folders: Vec<PathBuf>,
    /// A Vault.
    pub vault: Option<VaultSettings>,
}

/// A Vault, or what speaks as one does: its KV store, version 2.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VaultSettings {
    /// `https://vault.example.com:8200`; plain `http` on loopback only.
    pub address: String,
    /// File with the token, which somebody else renews. Read for each secret.
    pub token_file: PathBuf,
    /// Paths that may be asked for, without the mount; a trailing `*` matches a prefix.
    pub paths: Vec<String>,
    /// The mount of the store.
    #[serde(default = "usual_mount")]
    pub mount: String,
    /// The namespace, where there are some.
    #[serde(default)]
    pub namespace: Option<String>,
    /// File with certificate authorities; default are the system's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Seconds within which it must have answered.
    #[serde(default = "usual_timeout")]
    pub timeout_s: u32,
}

fn usual_mount() -> String {
    "secret".to_owned()
}

fn usual_timeout() -> u32 {
    10
}

impl Settings {
    /// What is wrong with a value: its key, and what would be right.
    ///
    /// # Errors
    /// The first that is.
    pub fn check(&self) -> Result<(), (&'static str, &'static str)> {
        if self.env.iter().any(|pattern| variables::pattern_error(pattern).is_some()) {
            return Err((
                "secrets.env",
                "names such as DB_PASSWORD, or a prefix such as APP_*; none of the runner's own",
            ));
        }
        if self.folders.iter().any(|folder| !folder.is_absolute()) {
            return Err(("secrets.folders", "must be absolute paths"));
        }
        let Some(vault) = &self.vault else { return Ok(()) };
        let loopback = ["127.0.0.1", "localhost", "[::1]"].iter().any(|host| {
            let rest = vault.address.strip_prefix("http://").and_then(|rest| rest.strip_prefix(host));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
        });
        let plain =
            |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b)) && !text.is_empty();
        if !vault.address.starts_with("https://") && !loopback {
            return Err(("secrets.vault.address", "must be https://host:port; plain http goes to loopback only"));
        }
        if !plain(&vault.mount) {
            return Err(("secrets.vault.mount", "is one word, such as secret"));
        }
        if !(1..=300).contains(&vault.timeout_s) {
            return Err(("secrets.vault.timeout_s", "must be between 1 and 300"));
        }
        Ok(())
    }
}
