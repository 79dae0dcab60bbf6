//! From a reference to its value, as far as the settings allow it.

use super::reference::{Reference, Source};
use super::settings::Settings;
use super::vault::{Kv2, Store};
use crate::stop::Stop;
use crate::variables::{is_reserved, matches};
use secrecy::{ExposeSecret, SecretString};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use tendril_templates::TreePath;

/// Longest value, in bytes.
const MAX_VALUE_BYTES: u64 = 64 * 1024;

/// Fetches values.
pub struct Resolver {
    settings: Settings,
    env: BTreeMap<String, SecretString>,
    vault: Option<Arc<dyn Store>>,
}

impl Resolver {
    /// With what these settings allow of `own`, the runner's environment.
    #[must_use]
    pub fn new(settings: &Settings, own: &BTreeMap<String, String>) -> Self {
        let listed = own.iter().filter(|(name, _)| is_listed(settings, name));
        let env = listed.map(|(name, value)| (name.clone(), value.as_str().into())).collect();
        let vault = settings.vault.clone().map(|vault| Arc::new(Kv2::new(vault)) as Arc<dyn Store>);
        Self { settings: settings.clone(), env, vault }
    }

    /// The value.
    ///
    /// # Errors
    /// A refusal that names the variable, where the value should be, and the setting; a failure where another try may go
    /// better. Never the value.
    pub async fn resolve(&self, reference: &Reference) -> Result<SecretString, Stop> {
        let refuse = |why: String| Stop::refused(format!("secret {}: {why}", reference.variable));
        let value = match &reference.source {
            Source::Env(name) => self.of_env(name).map_err(refuse)?,
            Source::File(path) => self.of_file(path).map_err(refuse)?,
            Source::Vault { path, key } => {
                let Some(vault) = self.vault.as_ref().zip(self.settings.vault.as_ref()) else {
                    return Err(refuse("this runner has no Vault; set [secrets.vault]".to_owned()));
                };
                let (store, settings) = vault;
                if !settings.paths.iter().any(|pattern| matches(pattern, path)) {
                    return Err(refuse(format!("{path} is not among secrets.vault.paths of this runner's settings")));
                }
                store.get(path, key).await.map_err(|error| match error.may_pass() {
                    true => Stop::failed(format!("secret {}: {error}", reference.variable)),
                    false => refuse(error.to_string()),
                })?
            }
        };
        let text = value.expose_secret();
        match (text.is_empty(), text.contains('\0'), text.len() as u64 > MAX_VALUE_BYTES) {
            (true, ..) => Err(refuse(format!("{} is empty", reference.source))),
            (_, true, _) => Err(refuse(format!("{} has a NUL byte in it", reference.source))),
            (.., true) => Err(refuse(format!("{} has more than {MAX_VALUE_BYTES} bytes", reference.source))),
            _ => Ok(value),
        }
    }

    fn of_env(&self, name: &str) -> Result<SecretString, String> {
        match (self.env.get(name), is_listed(&self.settings, name)) {
            (Some(value), _) => Ok(value.clone()),
            (None, true) => Err(format!("the runner has no variable {name}; set it where the runner is started")),
            (None, false) => Err(format!("variable {name} is not among secrets.env of this runner's settings")),
        }
    }

    /// Without the line's end that editors put behind it.
    fn of_file(&self, path: &TreePath) -> Result<SecretString, String> {
        if self.settings.folders.is_empty() {
            return Err("this runner has no folders for secrets; set secrets.folders".to_owned());
        }
        let found = self.settings.folders.iter().find_map(|folder| read_within(folder, path).transpose());
        let text = found.unwrap_or_else(|| Err(format!("there is no file {path} in secrets.folders")))?;
        let secret = SecretString::from(text.expose_secret().strip_suffix('\n').unwrap_or(text.expose_secret()));
        Ok(secret)
    }
}

/// No prefix means the runner's own, its token among them.
fn is_listed(settings: &Settings, name: &str) -> bool {
    !is_reserved(name) && settings.env.iter().any(|pattern| matches(pattern, name))
}

/// The text of a file; none where there is none. Links may lead about within the folder, as those of mounted secrets do.
fn read_within(folder: &Path, path: &TreePath) -> Result<Option<SecretString>, String> {
    let unreadable = |e: std::io::Error| format!("file {path} in {}: {e}", folder.display());
    let whole = match folder.join(path.as_str()).canonicalize() {
        Ok(whole) => whole,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    };
    if !folder.canonicalize().is_ok_and(|folder| whole.starts_with(folder)) {
        return Err(format!("file {path} leads out of {}", folder.display()));
    }
    let metadata = std::fs::metadata(&whole).map_err(unreadable)?;
    if !metadata.is_file() || metadata.len() > MAX_VALUE_BYTES {
        return Err(format!("file {path} is no file of at most {MAX_VALUE_BYTES} bytes"));
    }
    std::fs::read_to_string(&whole).map(|text| Some(text.into())).map_err(unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_prefix_lets_jobs_ask_for_the_runners_own_variables() {
        let own = ["TENDRIL_AGENT_TOKEN", "TF_DATA_DIR", "TEAM_KEY"].map(|name| (name.to_owned(), "value".to_owned()));
        // Tried: prefixes that mean the token of the runner too.
        let settings = Settings { env: vec!["T*".into(), "TEN*".into()], ..Settings::default() };
        let resolver = Resolver::new(&settings, &own.into());
        assert_eq!(resolver.of_env("TEAM_KEY").unwrap().expose_secret(), "value");
        for name in ["TENDRIL_AGENT_TOKEN", "TF_DATA_DIR"] {
            assert!(resolver.of_env(name).unwrap_err().contains("is not among secrets.env"), "{name}");
        }
    }
}
