//! `template.yaml`.

use std::collections::BTreeMap;

use semver::{Version, VersionReq};
use serde::Serialize;
use serde_json::{Map, Value};
use serde_saphyr::{DuplicateKeyPolicy, MergeKeyPolicy};

use crate::engine::{Engine, Engines};
use crate::finding::Finding;
use crate::schema::Schema;
use crate::state::State;

/// The file that makes a folder a template.
pub const MANIFEST_FILE: &str = "template.yaml";
/// Bytes of [`MANIFEST_FILE`] (64 KiB).
pub const MAX_MANIFEST_BYTES: usize = 64 * 1024;
/// Characters of a template's name.
pub const MAX_NAME_CHARS: usize = 63;
/// Characters of a template's version.
pub const MAX_VERSION_CHARS: usize = 64;
/// Characters of a template's description.
pub const MAX_DESCRIPTION_CHARS: usize = 500;

const KEYS: [&str; 9] =
    ["name", "version", "description", "kind", "engine", "inputs", "stateless", "backend", "egress"];
/// Most hosts that a template may name.
const MAX_HOSTS: usize = 200;

/// What a template is for, which decides how its files are read and run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A Terraform root module.
    Terraform,
}

/// A `template.yaml` that has been understood.
#[derive(Debug, Clone)]
pub(crate) struct Manifest {
    pub(crate) name: String,
    pub(crate) version: Version,
    pub(crate) description: String,
    pub(crate) kind: Kind,
    pub(crate) engines: Engines,
    pub(crate) inputs: Schema,
    pub(crate) state: Option<State>,
    pub(crate) egress: Option<Vec<String>>,
}

impl Manifest {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Manifest, Vec<Finding>> {
        let map = read_yaml(bytes).map_err(|finding| vec![finding])?;
        let mut reader = Reader { map: &map, findings: Vec::new() };
        reader.refuse_unknown_keys();
        let name = reader.text("name", name);
        let version = reader.text("version", version);
        let description = reader.text("description", description);
        let kind = reader.text("kind", kind);
        let engines = reader.engines();
        let inputs = reader.inputs();
        let state = reader.state();
        let egress = reader.egress();
        match (name, version, description, kind, engines, inputs) {
            (Some(name), Some(version), Some(description), Some(kind), Some(engines), Some(inputs))
                if reader.findings.is_empty() =>
            {
                Ok(Manifest { name, version, description, kind, engines, inputs, state, egress })
            }
            _ => Err(reader.findings),
        }
    }
}

fn read_yaml(bytes: &[u8]) -> Result<Map<String, Value>, Finding> {
    let refuse = |path: String, message: String| Finding::new(MANIFEST_FILE, path, message);
    if bytes.len() > MAX_MANIFEST_BYTES {
        return Err(refuse(String::new(), format!("is larger than {MAX_MANIFEST_BYTES} bytes")));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| refuse(String::new(), "is not UTF-8".to_owned()))?;
    // Plain data only: what YAML adds to it (aliases, merge keys, own tags, `yes` for true) is refused or read
    // as text, so that no two readers of the file understand it differently.
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_anchors: 0, max_aliases: 0, max_depth: 100 },
        duplicate_keys: DuplicateKeyPolicy::Error,
        merge_keys: MergeKeyPolicy::Error,
        strict_booleans: true,
        reject_unsupported_tags: true,
        with_snippet: false,
    };
    let value = serde_saphyr::from_str_with_options::<Value>(text, options).map_err(|error| {
        let line = error.location().map(|place| format!("line {}", place.line()));
        refuse(line.unwrap_or_default(), format!("is not plain YAML: {error}"))
    })?;
    match value {
        Value::Object(map) => Ok(map),
        _ => Err(refuse(String::new(), format!("must be a mapping with the keys {}", KEYS.join(", ")))),
    }
}

/// Reads the keys one by one and keeps what is wrong, so that the author sees everything at once.
struct Reader<'a> {
    map: &'a Map<String, Value>,
    findings: Vec<Finding>,
}

impl Reader<'_> {
    fn refuse_unknown_keys(&mut self) {
        for key in self.map.keys().filter(|key| !KEYS.contains(&key.as_str())) {
            self.findings.push(Finding::new(
                MANIFEST_FILE,
                key.clone(),
                format!("is not a known key; known are {}", KEYS.join(", ")),
            ));
        }
    }

    fn text<T>(&mut self, key: &str, read: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let read = match self.map.get(key) {
            None => Err("is required".to_owned()),
            Some(Value::String(text)) => read(text),
            Some(_) => Err("must be text; put it in quotes".to_owned()),
        };
        self.keep(key, read)
    }

    fn engines(&mut self) -> Option<Engines> {
        let wanted =
            "must name at least one of `terraform` and `tofu`, each with a version requirement such as \">=1.6\"";
        let Some(map) = self.map.get("engine").and_then(Value::as_object).filter(|map| !map.is_empty()) else {
            return self.keep("engine", Err(wanted.to_owned()));
        };
        let mut engines = BTreeMap::new();
        for (name, needed) in map {
            let key = format!("engine.{name}");
            let engine = self.keep(&key, name.parse::<Engine>().map_err(|error| error.to_string()));
            let needed = needed.as_str().map(VersionReq::parse);
            let needed = match needed {
                Some(Ok(needed)) => Ok(needed),
                Some(Err(error)) => Err(format!("is not a version requirement: {error}")),
                None => Err("must be a version requirement in quotes, such as \">=1.6\" or \"*\"".to_owned()),
            };
            if let (Some(engine), Some(needed)) = (engine, self.keep(&key, needed)) {
                engines.insert(engine, needed);
            }
        }
        Some(Engines(engines))
    }

    fn inputs(&mut self) -> Option<Schema> {
        let Some(source) = self.map.get("inputs") else {
            return self.keep("inputs", Err("is required, also when the template takes none".to_owned()));
        };
        match Schema::parse(source, "inputs") {
            Ok(schema) => Some(schema),
            Err(faults) => {
                let findings = faults.into_iter().map(|f| Finding::new(MANIFEST_FILE, f.path, f.message));
                self.findings.extend(findings);
                None
            }
        }
    }

    fn state(&mut self) -> Option<State> {
        let state = State::read(self.map.get("stateless"), self.map.get("backend"));
        state.unwrap_or_else(|errors| {
            let findings = errors.into_iter().map(|e| Finding::new(MANIFEST_FILE, e.path, e.message));
            self.findings.extend(findings);
            None
        })
    }

    fn egress(&mut self) -> Option<Vec<String>> {
        let listed = self.map.get("egress")?;
        let wanted =
            "must be a list of at most 200 hosts such as \"registry.terraform.io:443\" or \"*.amazonaws.com:443\"";
        let is_host = |text: &&str| {
            (1..=300).contains(&text.len())
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-:*/[]".contains(&b))
                && !text.contains("//")
        };
        let texts = listed.as_array().filter(|all| all.len() <= MAX_HOSTS).and_then(|all| {
            all.iter().map(|one| one.as_str().filter(is_host).map(str::to_owned)).collect::<Option<Vec<_>>>()
        });
        self.keep("egress", texts.ok_or_else(|| wanted.to_owned()))
    }

    fn keep<T>(&mut self, key: &str, read: Result<T, String>) -> Option<T> {
        read.map_err(|message| self.findings.push(Finding::new(MANIFEST_FILE, key, message))).ok()
    }
}

fn name(text: &str) -> Result<String, String> {
    let fits = text.len() <= MAX_NAME_CHARS
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && !text.ends_with('-')
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if fits {
        return Ok(text.to_owned());
    }
    Err(format!(
        "must be at most {MAX_NAME_CHARS} lower-case letters, digits and hyphens, from a letter to a letter or digit"
    ))
}

fn version(text: &str) -> Result<Version, String> {
    if text.len() > MAX_VERSION_CHARS {
        return Err(format!("must be at most {MAX_VERSION_CHARS} characters long"));
    }
    let version = Version::parse(text).map_err(|error| format!("must be a semantic version such as 1.0.0: {error}"))?;
    if !version.build.is_empty() {
        return Err("must not carry build metadata (`+...`), which does not tell versions apart".to_owned());
    }
    Ok(version)
}

fn description(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() || text.chars().count() > MAX_DESCRIPTION_CHARS || text.contains('\0') {
        return Err(format!("must say in 1 to {MAX_DESCRIPTION_CHARS} characters what the template makes"));
    }
    Ok(text.to_owned())
}

fn kind(text: &str) -> Result<Kind, String> {
    match text {
        "terraform" => Ok(Kind::Terraform),
        _ => Err("must be `terraform`".to_owned()),
    }
}
