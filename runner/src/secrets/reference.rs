//! What a snapshot says of a secret: where it lies, and for what it is. The broker has checked the form at submit.

use crate::stop::Stop;
use crate::variables::is_reserved;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt;
use tendril_templates::TreePath;

/// The commands that get a secret unless its reference names others: those that providers and programs run in.
const USUAL: [&str; 4] = ["plan", "apply", "exec", "policy"];
/// Variables that change what a program loads rather than what it knows.
const LOADERS: [&str; 4] = ["LD_", "DYLD_", "TF_CLI_ARGS", "GIT_"];

/// One reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The variable of the command.
    pub variable: String,
    /// Where the value lies.
    pub source: Source,
    /// How the command gets it.
    pub handed: As,
    jobs: Option<Vec<String>>,
    commands: Option<Vec<String>>,
}

/// Where a value lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// In a variable of the runner.
    Env(String),
    /// In a file below one of the runner's folders for them.
    File(TreePath),
    /// In a Vault.
    Vault {
        /// The secret's path, without its mount.
        path: String,
        /// One of its keys.
        key: String,
    },
}

/// How a command gets a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum As {
    /// In its variable.
    #[default]
    Env,
    /// In a file that the variable names.
    File,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    variable: String,
    from: String,
    name: Option<String>,
    path: Option<String>,
    key: Option<String>,
    #[serde(default, rename = "as")]
    handed: As,
    jobs: Option<Vec<String>>,
    commands: Option<Vec<String>>,
}

impl Reference {
    /// All of a snapshot.
    ///
    /// # Errors
    /// A refusal with the path of the key.
    pub fn all(snapshot: &Value) -> Result<Vec<Self>, Stop> {
        let Some(list) = snapshot.get("secrets") else { return Ok(Vec::new()) };
        let forms = Vec::<Form>::deserialize(list)
            .map_err(|e| Stop::refused(format!("secrets: cannot be read: {e}; upgrade this runner?")))?;
        let read = |(index, form)| Self::read(form).map_err(|why| Stop::refused(format!("secrets[{index}]{why}")));
        forms.into_iter().enumerate().map(read).collect()
    }

    fn read(form: Form) -> Result<Self, String> {
        let name = form.variable.as_str();
        let is_name = !name.is_empty()
            && !name.as_bytes()[0].is_ascii_digit()
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        let loads =
            LOADERS.iter().any(|start| name.starts_with(start)) || name.to_ascii_uppercase().ends_with("_PROXY");
        if !is_name || is_reserved(name) || loads {
            return Err(format!(".variable: {name:?} is no variable that a secret may set"));
        }
        let source = match (form.from.as_str(), form.name, form.path, form.key) {
            ("env", Some(name), None, None) => Source::Env(name),
            ("file", None, Some(path), None) => Source::File(TreePath::new(&path).map_err(|e| format!(".path: {e}"))?),
            ("vault", None, Some(path), Some(key)) if is_plain(&path) => Source::Vault { path, key },
            ("vault", None, Some(_), Some(_)) => return Err(".path: is no path of a secret".to_owned()),
            _ => {
                return Err(
                    ": from env needs name, from file path, from vault path and key, and nothing else".to_owned()
                );
            }
        };
        let Form { variable, handed, jobs, commands, .. } = form;
        Ok(Self { variable, source, handed, jobs, commands })
    }

    /// Whether a job gets it, by some command.
    #[must_use]
    pub fn is_of(&self, job: &str) -> bool {
        self.jobs.as_ref().is_none_or(|jobs| jobs.iter().any(|one| one == job))
    }

    /// Whether a command of a job gets it.
    #[must_use]
    pub fn is_for(&self, job: &str, command: &str) -> bool {
        self.is_of(job)
            && self
                .commands
                .as_ref()
                .map_or_else(|| USUAL.contains(&command), |all| all.iter().any(|one| one == command))
    }

    /// Two for the same variable of one command.
    ///
    /// # Errors
    /// A refusal that names it.
    pub fn check_once<'a>(all: impl IntoIterator<Item = &'a Self>) -> Result<(), Stop> {
        let mut seen = BTreeSet::new();
        match all.into_iter().find(|one| !seen.insert(one.variable.as_str())) {
            Some(twice) => Err(Stop::refused(format!("secrets: {} is set twice for one command", twice.variable))),
            None => Ok(()),
        }
    }
}

/// It becomes a part of an address.
fn is_plain(path: &str) -> bool {
    !path.split('/').any(|part| part.is_empty() || part.starts_with('.'))
        && path.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-./".contains(&b))
}

/// Where it lies, for people.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "variable {name} of the runner"),
            Self::File(path) => write!(f, "file {path}"),
            Self::Vault { path, key } => write!(f, "key {key} of {path} in Vault"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(one: Value) -> Result<Reference, String> {
        Reference::all(&json!({"secrets": [one]})).map(|mut all| all.remove(0)).map_err(|stop| stop.reason().to_owned())
    }

    #[test]
    fn a_secret_goes_to_the_commands_that_it_is_for_and_to_no_other() {
        let usual = read(json!({"variable": "TF_VAR_p", "from": "env", "name": "P"})).unwrap();
        for (command, gets) in
            [("plan", true), ("apply", true), ("exec", true), ("init", false), ("show", false), ("fetch", false)]
        {
            assert_eq!(usual.is_for("any", command), gets, "{command}");
        }
        let narrow =
            json!({"variable": "P", "from": "file", "path": "db/p", "as": "file", "jobs": ["a"], "commands": ["init"]});
        let narrow = read(narrow).unwrap();
        assert!(narrow.is_for("a", "init") && !narrow.is_for("b", "init") && !narrow.is_for("a", "plan"));
        assert!(Reference::check_once([&usual, &usual]).is_err());
        assert_eq!(Reference::all(&json!({})).unwrap(), []);
    }

    #[test]
    fn a_reference_that_could_lead_elsewhere_is_refused_even_if_the_broker_let_it_through() {
        for bad in [
            json!({"variable": "P", "from": "env"}),
            json!({"variable": "P", "from": "env", "name": "A", "path": "b"}),
            json!({"variable": "P", "from": "file", "path": "../p"}),
            json!({"variable": "P", "from": "file", "path": "/etc/shadow"}),
            json!({"variable": "P", "from": "vault", "path": "a/../b", "key": "k"}),
            json!({"variable": "P", "from": "vault", "path": "a?b", "key": "k"}),
            json!({"variable": "P", "from": "vault", "path": "a%2fb", "key": "k"}),
            json!({"variable": "P", "from": "vault", "path": "a"}),
            json!({"variable": "P", "from": "elsewhere", "name": "A"}),
            json!({"variable": "LD_PRELOAD", "from": "env", "name": "A"}),
            json!({"variable": "HTTPS_PROXY", "from": "env", "name": "A"}),
            json!({"variable": "PATH", "from": "env", "name": "A"}),
            json!({"variable": "TENDRIL_X", "from": "env", "name": "A"}),
            json!({"variable": "A=B", "from": "env", "name": "A"}),
            json!({"variable": "P", "from": "env", "name": "A", "value": "in clear"}),
        ] {
            let said = read(bad.clone()).unwrap_err();
            assert!(said.starts_with("secrets"), "{bad}: {said}");
        }
    }
}
