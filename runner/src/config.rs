//! The runner's settings: one TOML file, and environment variables for what containers set.
//!
//! Every key is listed in `docs/tendril-runner.toml`. A key that is not known here is refused by name.

use crate::egress;
use crate::kinds::names::NAMES;
use crate::sandbox;
use crate::secrets;
use crate::spool::Limits;
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

/// The log pipeline's numbers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Logs {
    /// Longest wait of a line before it is sent.
    pub flush_interval_ms: u64,
    /// Bytes that are sent at once, and that end the wait early.
    pub flush_bytes: usize,
    /// Bytes of one attempt that may wait for the spool; beyond that its pipe is not read.
    pub attempt_buffer_bytes: usize,
    /// Bytes of log text of all attempts that may be in memory: half of it before the spool, half of it a copy of what is
    /// in there.
    pub memory_bytes: usize,
    /// Bytes that the spool may take on disk.
    pub spool_bytes: u64,
    /// Log text that waits for longer is not sent any more.
    pub spool_max_age_h: u64,
    /// Bytes of output of one attempt that are stored as they come.
    pub cap_bytes: u64,
    /// Bytes of the end of its output that are stored beside them when there is more.
    pub cap_tail_bytes: usize,
    /// Names of variables, among those that jobs see, whose values are kept out of logs; `*` stands for any characters,
    /// upper and lower case are alike.
    pub redact_env: Vec<String>,
    /// How long a pipe is not read (`pause`) while the spool has no room; beyond that output is dropped, with a gap in its
    /// place. 0 drops at once.
    pub stall_s: u64,
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

/// Names that secrets usually have.
const REDACT_ENV: [&str; 10] = [
    "*TOKEN",
    "*SECRET*",
    "*PASSWORD*",
    "*PASSWD",
    "*PASSPHRASE*",
    "*API_KEY",
    "*ACCESS_KEY",
    "*PRIVATE_KEY*",
    "*CREDENTIALS*",
    "*CONNECTION_STRING",
];

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

impl Default for Logs {
    fn default() -> Self {
        Self {
            flush_interval_ms: 500,
            flush_bytes: 1024 * 1024,
            attempt_buffer_bytes: 8 * 1024 * 1024,
            memory_bytes: 64 * 1024 * 1024,
            spool_bytes: 1024 * 1024 * 1024,
            spool_max_age_h: 72,
            cap_bytes: 64 * 1024 * 1024,
            cap_tail_bytes: 256 * 1024,
            redact_env: REDACT_ENV.map(str::to_owned).into(),
            stall_s: 10,
        }
    }
}

impl Logs {
    /// What the spool may hold.
    pub fn limits(&self) -> Limits {
        Limits {
            disk_bytes: self.spool_bytes,
            memory_bytes: self.memory_bytes / 2,
            max_age: Duration::from_secs(self.spool_max_age_h.saturating_mul(3600)),
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
        if !(10..=60_000).contains(&self.logs.flush_interval_ms) {
            return refuse("logs.flush_interval_ms", "must be between 10 and 60000");
        }
        if self.logs.flush_bytes < 65_536 || self.logs.attempt_buffer_bytes < 262_144 {
            return refuse("logs", "flush_bytes must be at least 65536, attempt_buffer_bytes at least 262144");
        }
        if self.logs.memory_bytes < 4 * 1024 * 1024 || self.logs.spool_bytes < 64 * 1024 * 1024 {
            return refuse("logs", "memory_bytes must be at least 4194304, spool_bytes at least 67108864");
        }
        if self.logs.spool_max_age_h == 0 {
            return refuse("logs.spool_max_age_h", "must be at least 1");
        }
        if self.logs.cap_bytes < 65_536 || self.logs.cap_tail_bytes > 16 * 1024 * 1024 {
            return refuse("logs", "cap_bytes must be at least 65536, cap_tail_bytes at most 16777216");
        }
        if let Some(reason) = self.logs.redact_env.iter().find_map(|pattern| variables::wildcard_error(pattern)) {
            return refuse("logs.redact_env", &reason);
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
mod tests {
    use super::*;

    const SAMPLE: &str = include_str!("../../docs/tendril-runner.toml");

    fn load(text: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("runner.toml");
        std::fs::write(&path, text).unwrap();
        let find = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Config::load(Some(&path), &find)
    }

    #[test]
    fn the_documented_sample_is_valid_and_shows_the_defaults() {
        let config = load(SAMPLE, &[("TENDRIL_AGENT_TOKEN", "")]).unwrap();
        assert_eq!(config.slots, default_slots());
        assert_eq!(config.logs, Logs::default());
        assert_eq!(config.sandbox, sandbox::Settings::default());
        assert_eq!(config.egress, egress::Settings::default());
        assert_eq!(config.shutdown.finish_within_s, Shutdown::default().finish_within_s);
        assert_eq!(config.http.listen, Http::default().listen);
        let (tools, default) = (config.tools, Tools::default());
        assert_eq!((tools.path, tools.lock_timeout_s), (default.path, default.lock_timeout_s));
    }

    #[test]
    fn the_environment_overrules_the_file() {
        let config = load(SAMPLE, &[("TENDRIL_SLOTS", "9"), ("TENDRIL_PLACE", "here")]).unwrap();
        assert_eq!((config.slots, config.place.as_deref()), (9, Some("here")));
    }

    #[test]
    fn the_environment_alone_is_enough() {
        let set = [
            ("TENDRIL_DATABASE_URL", "postgres://127.0.0.1/t"),
            ("TENDRIL_ARTIFACT_KEY_FILE", "/k"),
            ("TENDRIL_STATE_DIR", "/s"),
        ];
        let find = |name: &str| set.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        assert_eq!(Config::load(None, &find).unwrap().state_dir, Path::new("/s"));
        let said = Config::load(None, &|_| None).unwrap_err().to_string();
        assert!(said.contains("database_url") && said.contains("TENDRIL_DATABASE_URL"), "{said}");
    }

    #[test]
    fn wrong_values_and_unknown_keys_are_refused_by_name() {
        for (line, word) in [
            ("slotz = 4", "slotz"),
            ("slots = 0", "slots"),
            ("slots = \"many\"", "slots"),
            ("place = \"Here There\"", "place"),
            ("labels = [\"kind=exec\"]", "labels"),
            ("labels = [\"a b\"]", "labels"),
            ("[tools]\npass_env = [\"TENDRIL_AGENT_TOKEN\"]", "tools.pass_env"),
            ("[tools]\npass_env = [\"*\"]", "tools.pass_env"),
            ("kinds = [\"terraform.pln\"]", "terraform.pln"),
            ("[sandbox]\nmode = \"none\"", "sandbox"),
            ("[sandbox]\nprograms = [\"sh\"]", "sandbox.programs"),
            ("[sandbox]\nconnect = [0]", "sandbox.connect"),
            ("[sandbox]\nconnect = \"all\"", "sandbox.connect"),
            ("[sandbox]\nmax_processes = 1", "max_processes"),
            ("[egress]\nmode = \"on\"", "egress"),
            ("[egress]\nallow = [\"http://a\"]", "egress"),
            ("[egress]\nupstream = \"socks5://a:1\"", "egress.upstream"),
            ("[egress]\nmax_connections = 0", "egress.max_connections"),
            ("[egress]\ndirect_ports = [0]", "egress.direct_ports"),
            ("[secrets]\nenv = [\"TENDRIL_AGENT_TOKEN\"]", "secrets.env"),
            ("[secrets]\nfolders = [\"x\"]", "secrets.folders"),
            (
                "[secrets.vault]\naddress = \"http://vault.example.com\"\ntoken_file = \"/t\"\npaths = []",
                "secrets.vault.address",
            ),
            ("[git]\ntoken_file = \"/t\"", "git.token_hosts"),
            ("[tools]\nenv = {HOME = \"/root\"}", "tools.env"),
            ("[logs]\nflush_interval_ms = 1", "flush_interval_ms"),
            ("[logs]\nflushed = 1", "flushed"),
            ("[logs]\ncap_bytes = 1", "cap_bytes"),
            ("[logs]\nredact_env = [\"*\"]", "logs.redact_env"),
            ("[logs]\nredact_env = [\"MY-KEY\"]", "logs.redact_env"),
            ("[tools]\nterrafrom = []", "terrafrom"),
            ("[http]\nlisten = \"9464\"", "http.listen"),
            ("[http]\nlisten = \"localhost:http\"", "http.listen"),
            ("agent_token = \"x\"\nagent_token_file = \"/x\"", "agent_token"),
        ] {
            let text = format!(
                "database_url = \"postgres://127.0.0.1/t\"\nartifact_key_file = \"/k\"\nstate_dir = \"/s\"\n{line}\n"
            );
            let said = load(&text, &[]).unwrap_err().to_string();
            assert!(said.contains(word), "{line}: {said}");
        }
        assert!(load("state_dir = ", &[]).unwrap_err().to_string().contains("runner.toml"));
        assert!(load(SAMPLE, &[("TENDRIL_SLOTS", "many")]).unwrap_err().to_string().contains("TENDRIL_SLOTS"));
    }

    #[test]
    fn a_broken_file_is_named_by_its_line_and_shows_no_token() {
        for (text, line) in [
            ("slots = 1\nagent_token = \"hunter2\nslots = 4\n", "line 2"),
            ("agent_token = \"hunter2\"\nagent_token = \"hunter2\"\n", "line 2"),
            ("agent_token = hunter2\n", "line 1"),
            ("agent_token = [\"hunter2\"]\n", "agent_token"),
        ] {
            let said = load(text, &[]).unwrap_err().to_string();
            assert!(said.contains(line) && said.contains("runner.toml") && !said.contains("hunter2"), "{text}: {said}");
        }
    }

    #[test]
    fn a_bad_token_or_address_names_its_key() {
        let config =
            load(SAMPLE, &[("TENDRIL_AGENT_TOKEN", "hunter2"), ("TENDRIL_DATABASE_URL", "mysql://x")]).unwrap();
        // As the program prints it: the error with its causes, and nothing said twice.
        let said = |error: ConfigError| format!("{:#}", anyhow::Error::from(error));
        let token = said(config.token().unwrap_err());
        assert!(token.starts_with("agent_token: not an agent token") && !token.contains("hunter2"), "{token}");
        assert_eq!(token.matches("not an agent token").count(), 1, "{token}");
        let address = said(config.address().unwrap_err());
        assert!(address.starts_with("database_url: "), "{address}");
        assert_eq!(address.matches("it looks like").count(), 1, "{address}");
    }

    #[test]
    fn a_folder_of_templates_that_is_not_there_is_named() {
        let mut config = load(SAMPLE, &[]).unwrap();
        config.check_files().unwrap();
        config.templates_dir = Some("/nowhere/templates".into());
        let said = config.check_files().unwrap_err().to_string();
        assert!(said.starts_with("templates_dir: cannot read /nowhere/templates: "), "{said}");
    }
}
