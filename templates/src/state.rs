//! Where a template says that its state lies. A deployment's own word wins; the broker holds the same check in SQL.

use serde_json::{Map, Value, json};

use crate::schema::{InputError, Schema};

/// What a config may not hold, by words in its keys: that belongs to the runner.
const CREDENTIALS: [&str; 8] =
    ["password", "secret", "token", "access_key", "conn_str", "credentials", "sas", "private_key"];

/// Where the state of a template lies, unless a deployment says otherwise.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// It is thrown away with the work folder.
    Stateless,
    /// In this backend, written as in a deployment's snapshot.
    Backend(Value),
}

impl State {
    /// Reads the keys `stateless` and `backend`; paths of errors begin with them.
    pub(crate) fn read(stateless: Option<&Value>, backend: Option<&Value>) -> Result<Option<State>, Vec<InputError>> {
        let mut errors = Vec::new();
        if stateless.is_some_and(|value| *value != Value::Bool(true)) {
            errors.push(error("stateless", "must be true, or left out"));
        }
        if stateless.is_some() && backend.is_some() {
            errors.push(error("stateless", "contradicts backend"));
        }
        errors.extend(backend.map(backend_errors).unwrap_or_default());
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(backend.cloned().map(State::Backend).or(stateless.map(|_| State::Stateless)))
    }
}

fn error(path: impl Into<String>, message: impl Into<String>) -> InputError {
    InputError { path: path.into(), message: message.into() }
}

fn backend_errors(backend: &Value) -> Vec<InputError> {
    let form = match Schema::parse(&form(), "backend") {
        Ok(form) => form.check(backend, "backend"),
        Err(faults) => faults.into_iter().map(|fault| error(fault.path, fault.message)).collect(),
    };
    // The rules below trust the form.
    if !form.is_empty() {
        return form;
    }
    let none = Map::new();
    let config = backend.get("config").and_then(Value::as_object);
    let mut errors = match backend.get("type").and_then(Value::as_str).unwrap_or_default() {
        "own" => return vec![error("backend.type", "must not be own: a template has no backend block")],
        "local" => local_errors(backend),
        kind => remote_errors(kind, backend, config.unwrap_or(&none)),
    };
    let secret = |key: &&String| CREDENTIALS.iter().any(|word| key.contains(word));
    let secrets = config.unwrap_or(&none).keys().filter(secret);
    errors.extend(
        secrets.map(|key| {
            error(format!("backend.config.{key}"), "is a credential: set it on the runner, not in a snapshot")
        }),
    );
    errors
}

fn local_errors(backend: &Value) -> Vec<InputError> {
    let absent = ["place", "path"].into_iter().filter(|key| backend.get(key).is_none());
    let mut errors: Vec<_> =
        absent.map(|key| error(format!("backend.{key}"), "is required for a local backend")).collect();
    if backend.get("path").and_then(Value::as_str).is_some_and(has_odd_parts) {
        errors.push(error("backend.path", "must not contain empty or dotted parts"));
    }
    if backend.get("config").is_some() {
        errors.push(error("backend.config", "has no meaning for a local backend"));
    }
    errors
}

fn remote_errors(kind: &str, backend: &Value, config: &Map<String, Value>) -> Vec<InputError> {
    let required: &[&str] = match kind {
        "s3" => &["bucket", "key"],
        "gcs" => &["bucket"],
        "azurerm" => &["storage_account_name", "container_name", "key"],
        "http" => &["address"],
        _ => &[],
    };
    let text = |key: &str| config.get(key).and_then(Value::as_str);
    let foreign = ["place", "path"].into_iter().filter(|key| backend.get(key).is_some());
    let mut errors: Vec<_> = foreign.map(|key| error(format!("backend.{key}"), "belongs to a local backend")).collect();
    let absent = required.iter().filter(|key| text(key).is_none());
    errors.extend(
        absent.map(|key| error(format!("backend.config.{key}"), format!("is required for a backend of type {kind}"))),
    );
    // Terraform cleans the prefix as it would a path: the same state by another name.
    if kind == "gcs" && text("prefix").is_some_and(has_odd_parts) {
        errors.push(error("backend.config.prefix", "must not contain empty or dotted parts"));
    }
    if kind == "http" && text("address").is_some_and(|address| !is_plain(address)) {
        errors
            .push(error("backend.config.address", "must be an http or https address without user, query or fragment"));
    }
    errors
}

fn has_odd_parts(path: &str) -> bool {
    !path.is_empty() && path.split('/').any(|part| matches!(part, "" | "." | ".."))
}

fn is_plain(address: &str) -> bool {
    let rest = address.strip_prefix("https://").or_else(|| address.strip_prefix("http://"));
    rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(|c: char| "@?#".contains(c) || c.is_whitespace()))
}

/// As in a deployment's snapshot.
fn form() -> Value {
    json!({
        "type": "object", "additionalProperties": false, "required": ["type"],
        "properties": {
            "type": {"type": "string", "enum": ["local", "s3", "gcs", "azurerm", "http", "pg", "own"]},
            "place": {"type": "string", "pattern": "^[a-z0-9][a-z0-9._-]{0,62}$"},
            "path": {"type": "string", "pattern": "^[A-Za-z0-9_][A-Za-z0-9_./-]{0,254}$"},
            "config": {"type": "object"},
        },
    })
}
