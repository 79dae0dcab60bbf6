//! The runner's settings: one TOML file, and environment variables for what containers set.
//!
//! Every key is listed in `docs/tendril-runner.toml`. A key that is not known here is refused by name.

mod logs;

pub use logs::Logs;

use crate::egress;
use crate::kinds::names::NAMES;
use crate::sandbox;
use crate::secrets;
use crate::variables;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tendril_broker::connect::{Address, ConnectError};
use tendril_broker::token::{AgentToken, BadToken};

/// All settings, as written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `postgres://host:5432/database?sslmode=verify-full`, without user and password.
    pub database_url: String,
    /// The agent token itself; better in `agent_token_file` or the environment.
    #[serde(default)]
    pub agent_token: Option<SecretString>,
    /// File that holds the agent token.
    #[serde(default)]
    pub agent_token_file: Option<PathBuf>,
    /// File that holds the key of the cluster's runners for artifacts (`tendril-runner artifact-key`).
    pub artifact_key_file: PathBuf,
    /// Name for people; default is the host's name.
    #[serde(default)]
    pub name: Option<String>,
    /// How many jobs run at once.
    #[serde(default = "default_slots")]
    pub slots: u32,
    /// Labels of the operator's own.
    #[serde(default)]
    pub labels: Vec<String>,
    /// Job kinds that are taken; default is all that this machine can do.
    #[serde(default)]
    pub kinds: Option<Vec<String>>,
    /// The runner's own folder: work folders and what outlives the process.
    pub state_dir: PathBuf,
    /// Name of that folder's disk, when it outlives the process: for `local` backends.
    #[serde(default)]
    pub place: Option<String>,
    /// Folder of the shipped templates.
    #[serde(default)]
    pub templates_dir: Option<PathBuf>,
    /// Programs and what they see.
    #[serde(default)]
    pub tools: Tools,
    /// What jobs may do on this machine.
    #[serde(default)]
    pub sandbox: sandbox::Settings,
    /// Where jobs may go.
    #[serde(default)]
    pub egress: egress::Settings,
    /// What secrets jobs may ask for.
    #[serde(default)]
    pub secrets: secrets::Settings,
    /// Git sources.
    #[serde(default)]
    pub git: Git,
    /// Infracost.
    #[serde(default)]
    pub infracost: Infracost,
    /// Log pipeline.
    #[serde(default)]
    pub logs: Logs,
    /// Shutdown.
    #[serde(default)]
    pub shutdown: Shutdown,
    /// Metrics and health.
    #[serde(default)]
    pub http: Http,
}

/// Programs that jobs run.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tools {
    /// Terraform binaries; default is `terraform` on PATH.
    pub terraform: Option<Vec<PathBuf>>,
    /// OpenTofu binaries; default is `tofu` on PATH.
    pub tofu: Option<Vec<PathBuf>>,
    /// Folder of providers (Terraform's `filesystem_mirror`), for networks without a registry.
    pub provider_mirror: Option<PathBuf>,
    /// Names of environment variables of the runner that jobs see; a trailing `*` matches a prefix.
    pub pass_env: Vec<String>,
    /// Variables that jobs see beside those.
    pub env: BTreeMap<String, String>,
    /// PATH of jobs.
    pub path: String,
    /// How long terraform and tofu wait for a state lock that somebody else holds.
    pub lock_timeout_s: u32,
}

/// How git sources are fetched.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Git {
    /// File with a read-only token for https sources.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// Hosts that may see the token, with their port unless it is 443.
    #[serde(default)]
    pub token_hosts: Vec<String>,
    /// File with a private key for ssh sources.
    #[serde(default)]
    pub ssh_key_file: Option<PathBuf>,
    /// File with the known ssh host keys; without it ssh sources are refused.
    #[serde(default)]
    pub ssh_known_hosts_file: Option<PathBuf>,
    /// File with certificate authorities for https sources.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
}

/// Infracost, when it is installed.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Infracost {
    /// The binary; default is `infracost` on PATH.
    #[serde(default)]
    pub path: Option<PathBuf>,
    /// File with the API key.
    #[serde(default)]
    pub api_key_file: Option<PathBuf>,
    /// A pricing server of your own.
    #[serde(default)]
    pub pricing_endpoint: Option<String>,
    /// Currency of the figures, ISO 4217.
    #[serde(default)]
    pub currency: Option<String>,
}

/// How long a shutdown may take.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Shutdown {
    /// After SIGTERM running jobs may go on for this long; then they are interrupted.
    pub finish_within_s: u64,
    /// After the interrupt, for results and logs to arrive.
    pub report_within_s: u64,
    /// What changes the world is left to the next process with this `state_dir` rather than interrupted.
    pub hand_over: bool,
}

/// The door for Prometheus and probes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// Address of /metrics, /healthz and /readyz; empty for none.
    pub listen: String,
}

fn default_slots() -> u32 {
    4
}

impl Default for Tools {
    fn default() -> Self {
        Self {
            terraform: None,
            tofu: None,
            provider_mirror: None,
            pass_env: Vec::new(),
            env: BTreeMap::new(),
            path: "/usr/local/bin:/usr/bin:/bin".to_owned(),
            lock_timeout_s: 60,
        }
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { finish_within_s: 3600, report_within_s: 30, hand_over: false }
    }
}

impl Default for Http {
    fn default() -> Self {
        Self { listen: "127.0.0.1:9464".to_owned() }
    }
}

/// Why the settings cannot be used. Names the key, never a secret's value.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file that a setting names cannot be read.
    #[error("{key}: cannot read {path}: {reason}")]
    Unreadable {
        /// The setting.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The file is not valid, or has a key that is not known.
    #[error("{path}: {reason}")]
    Form {
        /// The file.
        path: String,
        /// The parser's words; they name line and key.
        reason: String,
    },
    /// A setting's value cannot be.
    #[error("{key}: {reason}")]
    Value {
        /// The setting.
        key: &'static str,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// The agent token is none.
    #[error("agent_token: {0}")]
    Token(BadToken),
    /// The database's address is none.
    #[error("database_url: {0}")]
    Address(ConnectError),
}

/// Environment variables that set a key, and the key.
pub const VARIABLES: [(&str, &str); 9] = [
    ("TENDRIL_DATABASE_URL", "database_url"),
    ("TENDRIL_AGENT_TOKEN", "agent_token"),
    ("TENDRIL_AGENT_TOKEN_FILE", "agent_token_file"),
    ("TENDRIL_ARTIFACT_KEY_FILE", "artifact_key_file"),
    ("TENDRIL_RUNNER_NAME", "name"),
    ("TENDRIL_STATE_DIR", "state_dir"),
    ("TENDRIL_PLACE", "place"),
    ("TENDRIL_TEMPLATES_DIR", "templates_dir"),
    ("TENDRIL_SLOTS", "slots"),
];

impl Config {
    /// Reads the file, if there is one, and lets the environment (`variables`) overrule it.
    ///
    /// # Errors
    /// [`ConfigError`] names the key.
    pub fn load(file: Option<&Path>, variables: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let mut table = match file {
            Some(path) => {
                let text = read("--config", path)?;
                toml::from_str::<toml::Table>(&text).map_err(|e| ConfigError::Form {
                    path: path.display().to_string(),
                    reason: without_source(&e, &text),
                })?
            }
            None => toml::Table::new(),
        };
        for (variable, key) in VARIABLES {
            let Some(text) = variables(variable).filter(|text| !text.is_empty()) else { continue };
            let value = match key {
                "slots" => toml::Value::Integer(text.parse().map_err(|_| ConfigError::Value {
                    key: "slots",
                    reason: format!("{variable} must be a whole number"),
                })?),
                _ => toml::Value::String(text),
            };
            if key == "agent_token" {
                table.remove("agent_token_file");
            }
            table.insert(key.to_owned(), value);
        }
        let origin = file.map_or_else(|| "environment".to_owned(), |path| path.display().to_string());
        let config: Self = serde_path_to_error::deserialize(toml::Value::Table(table)).map_err(|e| {
            let (key, message) = (e.path().to_string(), with_variable(&e.inner().to_string()));
            // The path of the whole table is a dot, and then the message names the key.
            let reason = if key == "." { message } else { format!("{key}: {message}") };
            ConfigError::Form { path: origin, reason }
        })?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let refuse = |key, reason: &str| Err(ConfigError::Value { key, reason: reason.to_owned() });
        if !(1..=1000).contains(&self.slots) {
            return refuse("slots", "must be between 1 and 1000");
        }
        if !self.state_dir.is_absolute() {
            return refuse("state_dir", "must be an absolute path");
        }
        if self.place.as_deref().is_some_and(|place| !is_word(place)) {
            return refuse("place", "lower-case letters, digits, dot, dash, underscore; at most 63");
        }
        if self.labels.iter().any(|label| !is_label(label)) {
            return refuse("labels", "letters, digits and . _ / = @ : - only, at most 128");
        }
        if self.labels.iter().any(|label| ["kind=", "engine=", "place="].iter().any(|own| label.starts_with(own))) {
            return refuse("labels", "kind=, engine= and place= are set by the runner itself");
        }
        if let Some(unknown) = self.kinds.iter().flatten().find(|kind| !NAMES.contains(&kind.as_str())) {
            return refuse("kinds", &format!("there is no kind {unknown}; known are {}", NAMES.join(", ")));
        }
        if let Some(reason) = self.tools.pass_env.iter().find_map(|pattern| variables::pattern_error(pattern)) {
            return refuse("tools.pass_env", &reason);
        }
        if let Some(reason) = self.tools.env.keys().find_map(|name| variables::name_error(name)) {
            return refuse("tools.env", &reason);
        }
        if let Err((key, reason)) =
            self.sandbox.check().and_then(|()| self.egress.check()).and_then(|()| self.secrets.check())
        {
            return refuse(key, reason);
        }
        if self.git.token_file.is_some() && self.git.token_hosts.is_empty() {
            return refuse("git.token_hosts", "must name the hosts that may see the token, such as [\"github.com\"]");
        }
        if let Err((key, reason)) = self.logs.check() {
            return refuse(key, &reason);
        }
        if !self.http.listen.is_empty() && !is_host_and_port(&self.http.listen) {
            return refuse("http.listen", "must be host:port, such as 127.0.0.1:9464, or empty for none");
        }
        if self.agent_token.is_some() && self.agent_token_file.is_some() {
            return refuse("agent_token", "set either agent_token or agent_token_file");
        }
        Ok(())
    }

    /// Whether what the settings name is there.
    ///
    /// # Errors
    /// [`ConfigError`] names the key.
    pub fn check_files(&self) -> Result<(), ConfigError> {
        let Some(path) = &self.templates_dir else { return Ok(()) };
        let unreadable = |e: std::io::Error| ConfigError::Unreadable {
            key: "templates_dir",
            path: path.clone(),
            reason: e.to_string(),
        };
        std::fs::read_dir(path).map(drop).map_err(unreadable)
    }

    /// The database's address.
    ///
    /// # Errors
    /// [`ConfigError::Address`].
    pub fn address(&self) -> Result<Address, ConfigError> {
        Address::parse(&self.database_url).map_err(ConfigError::Address)
    }

    /// The agent token, from wherever it is kept.
    ///
    /// # Errors
    /// [`ConfigError`] names the key.
    pub fn token(&self) -> Result<AgentToken, ConfigError> {
        let text = match (&self.agent_token, &self.agent_token_file) {
            (Some(token), _) => token.expose_secret().to_owned(),
            (None, Some(path)) => read("agent_token_file", path)?,
            (None, None) => {
                let reason = "is missing: set TENDRIL_AGENT_TOKEN, or agent_token_file".to_owned();
                return Err(ConfigError::Value { key: "agent_token", reason });
            }
        };
        text.parse().map_err(ConfigError::Token)
    }

    /// How long a line may wait.
    pub fn flush_interval(&self) -> Duration {
        Duration::from_millis(self.logs.flush_interval_ms)
    }
}

/// Reads a small file that a setting names.
///
/// # Errors
/// [`ConfigError::Unreadable`].
pub fn read(key: &'static str, path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|e| ConfigError::Unreadable {
        key,
        path: path.to_owned(),
        reason: e.to_string(),
    })
}

/// What is wrong and where. The parser's own words show the line itself, which may be the one with the token.
fn without_source(error: &toml::de::Error, text: &str) -> String {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    format!("line {}: {}", before.matches('\n').count() + 1, error.message())
}

fn is_word(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
        && text.as_bytes()[0].is_ascii_alphanumeric()
}

fn is_host_and_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

fn is_label(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._/=@:-".contains(&b))
        && text.as_bytes()[0].is_ascii_alphanumeric()
}

/// "missing field `state_dir`" alone would send a user of containers to a file that they do not have.
fn with_variable(message: &str) -> String {
    let named = VARIABLES.iter().find(|(_, key)| message.contains(&format!("missing field `{key}`")));
    match named {
        Some((variable, _)) => format!("{} (or set {variable})", message.trim()),
        None => message.trim().to_owned(),
    }
}

#[cfg(test)]
mod tests;
