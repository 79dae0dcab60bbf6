//! What must not be shown of a job: the runner's own secrets, those in the environment of jobs, and sensitive inputs.

use crate::attempt_log::AttemptLog;
use crate::config::{Config, read};
use crate::egress::{self, Upstream};
use crate::logs::{Secret, Secrets, TooMany};
use crate::prepare::environment;
use crate::prepare::snapshot::{Snapshot, Source};
use crate::secrets::{Reference, Resolver};
use crate::stop::Stop;
use crate::variables::fits;
use secrecy::ExposeSecret;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use tendril_templates::Template;

/// A variable with such a name says where a secret lies, and is none.
const PLACES: [&str; 4] = ["_FILE", "_PATH", "_DIR", "_URL"];

/// The secrets that every job of this runner is kept from showing.
pub struct Keyring {
    config: Arc<Config>,
    env: BTreeMap<String, String>,
    resolver: Resolver,
    /// Made anew when a file has changed: a token that was rotated.
    last: Mutex<Option<Common>>,
}

#[derive(Clone)]
struct Common {
    values: Vec<Secret>,
    found: Arc<Secrets>,
}

/// What is in force for a job.
#[derive(Debug)]
pub struct InForce {
    /// What to look for.
    pub secrets: Arc<Secrets>,
    /// What the job's log is to say of inputs that are not redacted, or not in every form. Names only.
    pub remarks: Vec<String>,
}

impl Keyring {
    /// The secrets of these settings, and of `own`, the runner's environment, as far as jobs see it.
    pub fn new(config: &Arc<Config>, own: &BTreeMap<String, String>) -> Self {
        let env = environment::allowed(&config.tools, own);
        let resolver = Resolver::new(&config.secrets, own);
        Self { config: config.clone(), env, resolver, last: Mutex::default() }
    }

    /// Puts in force for `log` what a job with this snapshot must not show.
    ///
    /// # Errors
    /// A refusal of inputs that are too large to be kept out of the log.
    pub fn guard(&self, log: &AttemptLog, snapshot: &Value) -> Result<(), Stop> {
        self.guard_with(log, snapshot, &[])
    }

    /// As [`Keyring::guard`], with the values of references too.
    ///
    /// # Errors
    /// As there.
    pub fn guard_with(&self, log: &AttemptLog, snapshot: &Value, values: &[Secret]) -> Result<(), Stop> {
        let in_force = self.in_force_with(snapshot, values).map_err(|e| Stop::refused(e.to_string()))?;
        log.redact(in_force.secrets);
        in_force.remarks.iter().for_each(|remark| log.say(remark));
        Ok(())
    }

    /// The value of a reference, as its source has it now; and as what it is kept out of logs.
    ///
    /// # Errors
    /// See [`Resolver::resolve`].
    pub async fn resolve(&self, reference: &Reference) -> Result<Secret, Stop> {
        let value = self.resolver.resolve(reference).await?;
        Ok(Secret { name: format!("secret {}", reference.variable), value })
    }

    /// What a job with this snapshot must not show. Reads files: for a thread that may wait.
    ///
    /// # Errors
    /// [`TooMany`].
    pub fn in_force(&self, snapshot: &Value) -> Result<InForce, TooMany> {
        self.in_force_with(snapshot, &[])
    }

    fn in_force_with(&self, snapshot: &Value, values: &[Secret]) -> Result<InForce, TooMany> {
        let common = self.common()?;
        let inputs = Inputs::of(snapshot, self.config.templates_dir.as_deref());
        if inputs.sensitive.is_empty() && values.is_empty() {
            return Ok(InForce { secrets: common.found, remarks: Vec::new() });
        }
        let names: Vec<String> = inputs.sensitive.iter().chain(values).map(|secret| secret.name.clone()).collect();
        let (secrets, told) = Secrets::new(&[common.values, inputs.sensitive, values.to_vec()].concat())?;
        let mut remarks: Vec<String> = match inputs.remark {
            // Which of them are secrets is not known: what is short is no news.
            Some(remark) => vec![remark],
            None => told.into_iter().filter(|one| names.contains(&one.name)).map(|one| one.to_string()).collect(),
        };
        remarks.dedup();
        Ok(InForce { secrets: Arc::new(secrets), remarks })
    }

    fn common(&self) -> Result<Common, TooMany> {
        let values = self.values();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = last.as_ref().filter(|last| are_alike(&last.values, &values)) {
            return Ok(last.clone());
        }
        let (found, told) = Secrets::new(&values)?;
        for one in told {
            tracing::warn!(name = one.name, "{}; jobs that print it show it in their logs", one.reason);
        }
        let common = Common { values, found: Arc::new(found) };
        *last = Some(common.clone());
        Ok(common)
    }

    fn values(&self) -> Vec<Secret> {
        let config = &self.config;
        let mut values = Vec::new();
        let mut add = |name: &str, value: &str| values.push(Secret::new(name, value.trim()));
        if let Ok(token) = config.token() {
            add("agent_token", token.secret());
        }
        if let Some(token) = &config.agent_token {
            add("agent_token", token.expose_secret());
        }
        let files = [
            ("agent_token_file", config.agent_token_file.as_deref()),
            ("artifact_key_file", Some(config.artifact_key_file.as_path())),
            ("git.token_file", config.git.token_file.as_deref()),
            ("git.ssh_key_file", config.git.ssh_key_file.as_deref()),
            ("infracost.api_key_file", config.infracost.api_key_file.as_deref()),
            ("secrets.vault.token_file", config.secrets.vault.as_ref().map(|vault| vault.token_file.as_path())),
        ];
        if let Some(password) = config.egress.upstream.as_ref().and_then(Upstream::password) {
            add("egress.upstream", password);
            add("egress.upstream", &percent_decoded(password));
        }
        // A file that cannot be read is reported by whoever needs it.
        for (name, path) in files {
            let Some(text) = path.and_then(|path| read(name, path).ok()) else { continue };
            // The text of a git token may have the user's name before it.
            if let ("git.token_file", Some((_, password))) = (name, text.split_once(':')) {
                add(name, password);
            }
            add(name, &text);
        }
        for (name, value) in &self.env {
            if is_meant(&config.logs.redact_env, name) {
                add(name, value);
                continue;
            }
            for password in passwords_in(value) {
                add(name, password);
                add(name, &percent_decoded(password));
            }
        }
        values
    }
}

fn are_alike(some: &[Secret], others: &[Secret]) -> bool {
    let is_alike = |a: &Secret, b: &Secret| a.name == b.name && a.value.expose_secret() == b.value.expose_secret();
    some.len() == others.len() && some.iter().zip(others).all(|(a, b)| is_alike(a, b))
}

fn is_meant(patterns: &[String], name: &str) -> bool {
    let is_place = PLACES.iter().any(|end| name.to_ascii_uppercase().ends_with(end));
    patterns.iter().any(|pattern| fits(pattern, name) && !(is_place && pattern.contains('*')))
}

/// The passwords in addresses such as `postgres://user:password@host/`; some variables list several.
fn passwords_in(value: &str) -> impl Iterator<Item = &str> {
    value.split("://").skip(1).filter_map(|rest| {
        let authority = rest.split(['/', '?', '#']).next()?;
        let (user, _) = authority.rsplit_once('@')?;
        user.split_once(':').map(|(_, password)| password)
    })
}

fn percent_decoded(text: &str) -> String {
    String::from_utf8_lossy(&egress::percent_decoded(text)).into_owned()
}

/// The sensitive ones among a job's inputs.
#[derive(Default)]
struct Inputs {
    sensitive: Vec<Secret>,
    remark: Option<String>,
}

impl Inputs {
    /// By the schema of the template that the snapshot names. Where that cannot be asked, all of them count as sensitive.
    fn of(snapshot: &Value, templates: Option<&Path>) -> Self {
        let Ok(Snapshot { source: Some(Source::Named { name, version }), inputs, .. }) = Snapshot::read(snapshot)
        else {
            return Self::default();
        };
        let template = templates.and_then(|dir| Template::load(&dir.join(&name)).ok());
        let template = template.filter(|template| version.is_none_or(|version| version == *template.version()));
        match template {
            Some(template) => Self { sensitive: by_name(&inputs, |one| template.sensitive_values(one)), remark: None },
            None if inputs.is_empty() => Self::default(),
            None => Self {
                sensitive: by_name(&inputs, scalars),
                remark: Some(format!(
                    "this runner cannot ask template {name} which inputs are sensitive: all are kept out of the log"
                )),
            },
        }
    }
}

/// The values that `of` finds in each input, with the input's name.
fn by_name(inputs: &Map<String, Value>, of: impl Fn(&Value) -> Vec<String>) -> Vec<Secret> {
    let alone = |(name, value): (&String, &Value)| {
        of(&json!({ name: value }))
            .into_iter()
            .map(|value| Secret::new(format!("inputs.{name}"), value))
            .collect::<Vec<_>>()
    };
    inputs.iter().flat_map(alone).collect()
}

fn scalars(value: &Value) -> Vec<String> {
    match value {
        Value::Object(map) => map.values().flat_map(scalars).collect(),
        Value::Array(items) => items.iter().flat_map(scalars).collect(),
        Value::String(text) => vec![text.clone()],
        Value::Number(number) => vec![number.to_string()],
        Value::Bool(_) | Value::Null => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::redacted;

    const TEMPLATE: &str = r#"
name: vault
version: 1.0.0
description: Holds secrets.
kind: terraform
engine:
  terraform: ">=1.4.0"
inputs:
  type: object
  additionalProperties: false
  properties:
    region: {title: Region, description: Where., type: string}
    password: {title: Password, description: Hidden., type: string, sensitive: true}
    pin: {title: Pin, description: Hidden., type: string, sensitive: true}
    db:
      title: Database
      description: Half hidden.
      type: object
      additionalProperties: false
      properties:
        user: {title: User, description: Shown., type: string}
        keys: {title: Keys, description: Hidden., type: array, sensitive: true, items: {type: string}}
"#;

    fn keyring(dir: &Path, own: &[(&str, &str)]) -> Keyring {
        let path = |name: &str| dir.join(name).display().to_string();
        let settings = [
            ("TENDRIL_DATABASE_URL", "postgres://127.0.0.1/none".to_owned()),
            ("TENDRIL_AGENT_TOKEN_FILE", path("token")),
            ("TENDRIL_ARTIFACT_KEY_FILE", path("key")),
            ("TENDRIL_STATE_DIR", path("state")),
            ("TENDRIL_TEMPLATES_DIR", path("templates")),
        ];
        let find = |name: &str| settings.iter().find(|(key, _)| *key == name).map(|(_, value)| value.clone());
        let mut config = Config::load(None, &find).unwrap();
        config.tools.pass_env = vec!["*".to_owned()];
        config.tools.env = [("TF_VAR_db_password".to_owned(), "set-in-settings".to_owned())].into();
        let own = own.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Keyring::new(&Arc::new(config), &own)
    }

    fn shown(keyring: &Keyring, snapshot: &Value, text: &str) -> String {
        redacted(text, &keyring.in_force(snapshot).unwrap().secrets)
    }

    #[test]
    fn the_runners_own_secrets_and_those_of_its_variables_are_in_force_for_every_job() {
        let dir = tempfile::tempdir().unwrap();
        let secret = "3c250084798c5d9773ba73b455a90fc601d9ee83709ab84c";
        let token = format!("trt1.01a1fcd33b147d38b916592f23f46464.7.{secret}");
        std::fs::write(dir.path().join("token"), format!("{token}\n")).unwrap();
        std::fs::write(dir.path().join("key"), "an artifact key\n").unwrap();
        let own = [
            ("GITLAB_TOKEN", "glitter-and-gold"),
            ("AWS_WEB_IDENTITY_TOKEN_FILE", "/var/run/token"),
            ("REGION", "eu-central-1"),
            ("HTTPS_PROXY", "http://me:pr%40xy-word@proxy:3128"),
            ("MIRRORS", "https://a.example/x https://me:first-mirror@b,https://me:second-mirror@c/simple"),
        ];
        let keyring = keyring(dir.path(), &own);
        let none = json!({});
        for text in [
            &token,
            secret,
            "an artifact key",
            "glitter-and-gold",
            "set-in-settings",
            "pr%40xy-word",
            "pr@xy-word",
            "first-mirror",
            "second-mirror",
        ] {
            assert_eq!(shown(&keyring, &none, &format!("<{text}>")), "<[redacted]>", "{text}");
        }
        for text in ["/var/run/token", "eu-central-1", "me:"] {
            assert_eq!(shown(&keyring, &none, text), text);
        }
        // One automaton for all jobs, until a file changes.
        let found = keyring.in_force(&none).unwrap().secrets;
        assert!(Arc::ptr_eq(&found, &keyring.in_force(&none).unwrap().secrets));
        std::fs::write(dir.path().join("key"), "the rotated key\n").unwrap();
        assert_eq!(shown(&keyring, &none, "<the rotated key>"), "<[redacted]>");
    }

    #[test]
    fn sensitive_inputs_are_in_force_for_their_job_and_one_that_is_too_short_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let template = dir.path().join("templates/vault");
        std::fs::create_dir_all(&template).unwrap();
        std::fs::write(template.join("template.yaml"), TEMPLATE).unwrap();
        std::fs::write(template.join("main.tf"), "").unwrap();
        Template::load(&template).unwrap();
        let keyring = keyring(dir.path(), &[]);
        let snapshot = json!({
            "template": {"name": "vault"},
            "inputs": {
                "region": "eu-central-1", "password": "correct horse", "pin": "1234",
                "db": {"user": "administrator", "keys": ["battery-staple", "another-one"]},
            },
        });
        let text = "eu-central-1 correct horse 1234 administrator battery-staple another-one";
        let expected = "eu-central-1 [redacted] 1234 administrator [redacted] [redacted]";
        assert_eq!(shown(&keyring, &snapshot, text), expected);
        assert_eq!(keyring.in_force(&snapshot).unwrap().remarks, ["inputs.pin is too short to be redacted"]);
        assert_eq!(shown(&keyring, &json!({}), text), text, "another job");
    }

    #[test]
    fn without_the_template_all_inputs_count_as_sensitive() {
        let dir = tempfile::tempdir().unwrap();
        let keyring = keyring(dir.path(), &[]);
        let snapshot = json!({"template": {"name": "vault"}, "inputs": {"a": {"b": ["correct horse", 12345678]}}});
        assert_eq!(shown(&keyring, &snapshot, "correct horse 12345678"), "[redacted] [redacted]");
        let remarks = keyring.in_force(&snapshot).unwrap().remarks;
        assert!(remarks[0].contains("vault") && !remarks[0].contains("horse"), "{remarks:?}");
    }
}
