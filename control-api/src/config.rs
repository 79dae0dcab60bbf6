//! The settings: one TOML file, and environment variables for what containers set.
//!
//! Every key is listed in `docs/tendril-api.toml`. A key that is not known here is refused by name.

use std::path::Path;
use std::time::Duration;

use axum::http::HeaderValue;
use serde::Deserialize;
use tendril_broker::archive::{ArchiveOptions, Location};
use tendril_broker::portal::token_pool::TokenPoolOptions;
use tendril_broker::{Address, BadAddress};

/// All settings, as written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `postgres://tendril_api@host:5432/database?sslmode=verify-full`; a password better comes from PGPASSWORD or the
    /// password file.
    pub database_url: String,
    /// Host and port to listen on.
    #[serde(default = "default_listen")]
    pub listen: String,
    /// How the database is used.
    #[serde(default)]
    pub database: Database,
    /// What is refused beyond.
    #[serde(default)]
    pub limits: Limits,
    /// Following logs.
    #[serde(default)]
    pub logs: Logs,
    /// Pages of other origins that may call.
    #[serde(default)]
    pub cors: Cors,
    /// Where closed logs lie.
    #[serde(default)]
    pub archive: Archive,
    /// How long a shutdown may take.
    #[serde(default)]
    pub shutdown: Shutdown,
}

/// How the database is used.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Database {
    /// At most so many sessions.
    pub connections: u32,
    /// How long a request waits for a session, and for a statement.
    pub patience_s: u64,
}

/// What is refused beyond.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Bytes of a request's body.
    pub body_bytes: usize,
    /// How long a request may take until its answer begins.
    pub request_timeout_s: u64,
    /// Connections at once; more of them wait to be accepted.
    pub connections: usize,
    /// Requests of one token in a second, in the long run.
    pub requests_per_s: u32,
    /// Requests of one token that may come at once.
    pub burst: u32,
    /// Requests in a second with tokens that this process has not seen to be good.
    pub strangers_per_s: u32,
    /// Streams of logs at once.
    pub watchers: usize,
    /// Those of one token.
    pub watchers_per_token: usize,
}

/// Following logs.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Logs {
    /// Pause between two looks for new chunks, one for all streams.
    pub tail_interval_ms: u64,
    /// A stream on which nothing happens says so this often.
    pub heartbeat_s: u64,
    /// A connection that takes nothing for so long is ended.
    pub slow_reader_s: u64,
    /// A stream that has so many batches of chunks to take is ended.
    pub slow_reader_batches: usize,
}

/// Pages of other origins that may call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cors {
    /// Origins, as in `https://portal.example`; none is the default.
    pub origins: Vec<String>,
}

/// Where closed logs lie. Credentials come as with other AWS programs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Archive {
    /// `s3://BUCKET/PREFIX`.
    pub url: Option<String>,
    /// Any S3-compatible service.
    pub endpoint: Option<String>,
    /// The bucket's region, unless AWS_REGION says it.
    pub region: Option<String>,
}

/// How long a shutdown may take.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Shutdown {
    /// After SIGTERM requests under way may go on for this long.
    pub finish_within_s: u64,
}

fn default_listen() -> String {
    "127.0.0.1:8080".to_owned()
}

impl Default for Database {
    fn default() -> Self {
        Self { connections: 16, patience_s: 10 }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 2 * 1024 * 1024,
            request_timeout_s: 30,
            connections: 12_000,
            requests_per_s: 50,
            burst: 100,
            strangers_per_s: 50,
            watchers: 10_000,
            watchers_per_token: 1_000,
        }
    }
}

impl Default for Logs {
    fn default() -> Self {
        Self { tail_interval_ms: 150, heartbeat_s: 15, slow_reader_s: 15, slow_reader_batches: 64 }
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { finish_within_s: 10 }
    }
}

/// Why the settings cannot be used. Names the key, never a secret's value.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The settings file cannot be read.
    #[error("--config: cannot read {0}: {1}")]
    Unreadable(String, std::io::Error),
    /// The file is not valid, or has a key that is not known.
    #[error("{origin}: {reason}")]
    Form {
        /// The file, or the environment.
        origin: String,
        /// What is wrong; names line or key.
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
    /// The database's address is none.
    #[error("database_url: {0}")]
    Address(#[from] BadAddress),
}

/// Environment variables that set a key, and the key.
const VARIABLES: [(&str, &str); 5] = [
    ("TENDRIL_DATABASE_URL", "database_url"),
    ("TENDRIL_API_LISTEN", "listen"),
    ("TENDRIL_ARCHIVE_URL", "archive.url"),
    ("TENDRIL_ARCHIVE_ENDPOINT", "archive.endpoint"),
    ("TENDRIL_ARCHIVE_REGION", "archive.region"),
];

impl Config {
    /// Reads the file, if there is one, and lets the environment (`variables`) overrule it.
    ///
    /// # Errors
    /// [`ConfigError`] names the key.
    pub fn load(file: Option<&Path>, variables: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let mut table = match file {
            Some(path) => read(path)?,
            None => toml::Table::new(),
        };
        for (variable, key) in VARIABLES {
            let Some(text) = variables(variable).filter(|text| !text.is_empty()) else { continue };
            let (section, name) = key.rsplit_once('.').map_or((None, key), |(section, name)| (Some(section), name));
            let within = match section {
                None => &mut table,
                Some(section) => {
                    let inner = table.entry(section).or_insert_with(|| toml::Table::new().into());
                    let Some(inner) = inner.as_table_mut() else { continue };
                    inner
                }
            };
            within.insert(name.to_owned(), text.into());
        }
        let origin = file.map_or_else(|| "environment".to_owned(), |path| path.display().to_string());
        let config: Self = serde_path_to_error::deserialize(toml::Value::Table(table)).map_err(|error| {
            let (key, message) = (error.path().to_string(), with_variable(error.inner().to_string().trim()));
            // The path of the whole table is a dot, and then the message names the key.
            let reason = if key == "." { message } else { format!("{key}: {message}") };
            ConfigError::Form { origin, reason }
        })?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let refuse = |key, reason: &str| Err(ConfigError::Value { key, reason: reason.to_owned() });
        self.address()?;
        self.archive_options()?;
        if !self.listen.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok()) {
            return refuse("listen", "must be host:port, such as 127.0.0.1:8080");
        }
        if !(2..=1000).contains(&self.database.connections) {
            return refuse("database.connections", "must be between 2 and 1000: one looks for logs, the others answer");
        }
        if !(1..=300).contains(&self.database.patience_s) {
            return refuse("database.patience_s", "must be between 1 and 300");
        }
        let limits = &self.limits;
        if !(1024..=64 * 1024 * 1024).contains(&limits.body_bytes) {
            return refuse("limits.body_bytes", "must be between 1024 and 67108864");
        }
        if limits.request_timeout_s == 0 {
            return refuse("limits.request_timeout_s", "must be at least 1");
        }
        if limits.connections == 0 || limits.watchers == 0 || limits.watchers_per_token == 0 {
            return refuse("limits", "connections, watchers and watchers_per_token must be at least 1");
        }
        if limits.requests_per_s == 0 || limits.burst == 0 || limits.strangers_per_s == 0 {
            return refuse("limits", "requests_per_s, burst and strangers_per_s must be at least 1");
        }
        if !(20..=10_000).contains(&self.logs.tail_interval_ms) {
            return refuse("logs.tail_interval_ms", "must be between 20 and 10000");
        }
        if self.logs.heartbeat_s == 0 || self.logs.slow_reader_s == 0 {
            return refuse("logs", "heartbeat_s and slow_reader_s must be at least 1");
        }
        if !(2..=4096).contains(&self.logs.slow_reader_batches) {
            return refuse("logs.slow_reader_batches", "must be between 2 and 4096");
        }
        self.origins().map(drop)
    }

    /// Where the database is.
    ///
    /// # Errors
    /// [`ConfigError::Address`].
    pub fn address(&self) -> Result<Address, ConfigError> {
        Ok(self.database_url.parse()?)
    }

    /// How it is used.
    pub fn token_pool_options(&self) -> TokenPoolOptions {
        TokenPoolOptions {
            connections: self.database.connections,
            patience: Duration::from_secs(self.database.patience_s),
        }
    }

    /// Where closed logs lie, if that is said.
    ///
    /// # Errors
    /// [`ConfigError::Value`] when it is no place.
    pub fn archive_options(&self) -> Result<Option<ArchiveOptions>, ConfigError> {
        let Some(url) = &self.archive.url else { return Ok(None) };
        let location: Location =
            url.parse().map_err(|error| ConfigError::Value { key: "archive.url", reason: format!("{error}") })?;
        let (endpoint, region) = (self.archive.endpoint.clone(), self.archive.region.clone());
        Ok(Some(ArchiveOptions { location, endpoint, region }))
    }

    /// Origins whose pages may call.
    ///
    /// # Errors
    /// [`ConfigError::Value`] for what is no origin; `*` is none.
    pub fn origins(&self) -> Result<Vec<HeaderValue>, ConfigError> {
        let read = |origin: &String| {
            let is_origin = origin
                .strip_prefix("https://")
                .or_else(|| origin.strip_prefix("http://"))
                .is_some_and(|host| !host.is_empty() && !host.contains(['/', '*', ' ']));
            let value = is_origin.then(|| HeaderValue::from_str(origin).ok()).flatten();
            value.ok_or_else(|| ConfigError::Value {
                key: "cors.origins",
                reason: format!("{origin} is no origin, such as https://portal.example"),
            })
        };
        self.cors.origins.iter().map(read).collect()
    }
}

fn read(path: &Path) -> Result<toml::Table, ConfigError> {
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|error| ConfigError::Unreadable(path.display().to_string(), error))?;
    toml::from_str(&text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        // The parser would quote the line, and a password may stand there.
        let reason = format!("line {}: {}", before.matches('\n').count() + 1, error.message());
        ConfigError::Form { origin: path.display().to_string(), reason }
    })
}

/// "missing field" alone would send a user of containers to a file that they do not have.
fn with_variable(message: &str) -> String {
    match message.contains("missing field `database_url`") {
        true => format!("{message} (or set TENDRIL_DATABASE_URL)"),
        false => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = include_str!("../../docs/tendril-api.toml");

    fn load(text: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.toml");
        std::fs::write(&path, text).unwrap();
        let find = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Config::load(Some(&path), &find)
    }

    #[test]
    fn the_documented_sample_is_valid_and_shows_the_defaults() {
        let config = load(SAMPLE, &[]).unwrap();
        assert_eq!(config.listen, default_listen());
        assert_eq!(config.database, Database::default());
        assert_eq!(config.limits, Limits::default());
        assert_eq!(config.logs, Logs::default());
        assert_eq!(config.cors, Cors::default());
        assert_eq!(config.archive, Archive::default());
        assert_eq!(config.shutdown, Shutdown::default());
    }

    #[test]
    fn the_environment_overrules_the_file_and_is_enough_by_itself() {
        let set = [("TENDRIL_API_LISTEN", "0.0.0.0:1"), ("TENDRIL_ARCHIVE_URL", "s3://bucket/logs")];
        let config = load(SAMPLE, &set).unwrap();
        assert_eq!((config.listen.as_str(), config.archive.url.as_deref()), ("0.0.0.0:1", Some("s3://bucket/logs")));
        let find = |name: &str| (name == "TENDRIL_DATABASE_URL").then(|| "postgres://127.0.0.1/t".to_owned());
        assert_eq!(Config::load(None, &find).unwrap().listen, default_listen());
        let said = Config::load(None, &|_| None).unwrap_err().to_string();
        assert!(said.contains("database_url") && said.contains("TENDRIL_DATABASE_URL"), "{said}");
    }

    #[test]
    fn wrong_values_and_unknown_keys_are_refused_by_name() {
        for (line, word) in [
            ("lisen = \"a:1\"", "lisen"),
            ("listen = \"8080\"", "listen"),
            ("[database]\nconnections = 1", "database.connections"),
            ("[database]\nconnections = \"many\"", "connections"),
            ("[limits]\nbody_bytes = 1", "limits.body_bytes"),
            ("[limits]\nburst = 0", "limits"),
            ("[limits]\nbursts = 1", "bursts"),
            ("[logs]\ntail_interval_ms = 1", "logs.tail_interval_ms"),
            ("[cors]\norigins = [\"*\"]", "cors.origins"),
            ("[cors]\norigins = [\"https://a/b\"]", "cors.origins"),
            ("[archive]\nurl = \"bucket\"", "archive.url"),
        ] {
            let said =
                load(&format!("database_url = \"postgres://127.0.0.1/t\"\n{line}\n"), &[]).unwrap_err().to_string();
            assert!(said.contains(word), "{line}: {said}");
        }
    }

    #[test]
    fn an_error_shows_no_password() {
        for text in ["database_url = \"postgres://u:hunter2@h/t", "database_url = \"mysql://u:hunter2@h/t\"\n"] {
            let said = load(text, &[]).unwrap_err().to_string();
            assert!(!said.contains("hunter2"), "{said}");
        }
    }
}
