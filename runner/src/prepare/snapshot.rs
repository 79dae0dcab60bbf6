//! A deployment's snapshot as the runner reads it. The broker has checked its form at submit; what is dangerous when
//! wrong is looked at here again.

use crate::engines::Wanted;
use crate::stop::Stop;
use semver::Version;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tendril_templates::TreePath;

/// What a job needs to know of its deployment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Where the files come from; none for an `exec` without files.
    pub source: Option<Source>,
    /// The inputs as they were sent.
    pub inputs: Map<String, Value>,
    /// Engine and version that were asked for.
    pub engine: Wanted,
    /// Where the state lies.
    pub state: State,
    /// The Terraform workspace, unless it is the default one.
    pub workspace: Option<String>,
    backend: Value,
}

/// Where a job's files come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A template that is shipped with the runner.
    Named {
        /// Its folder's name.
        name: String,
        /// The version that it must have; any, if none.
        version: Option<Version>,
    },
    /// A repository.
    Git(GitSource),
    /// The files themselves: paths and their text.
    Inline(Value),
}

/// A place in a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitSource {
    /// As it was sent; see [`super::git::Address`].
    pub url: String,
    /// Branch, tag or commit; the default branch, if none.
    pub reference: Option<String>,
    /// Folder within the repository; its root, if none.
    pub folder: Option<TreePath>,
    /// Whether submodules are wanted.
    pub submodules: bool,
}

/// Where Terraform's state lies.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// In the work folder: it is thrown away with it.
    Thrown,
    /// In a folder of this runner's place.
    Local {
        /// The disk's name.
        place: String,
        /// Folder below the place's states.
        path: TreePath,
    },
    /// In a backend that Tendril writes down.
    Remote {
        /// `s3`, `gcs` and so on.
        kind: String,
        /// The backend's settings, as Terraform names them.
        config: Map<String, Value>,
    },
    /// Where the tree's own backend block says.
    Own,
}

#[derive(Deserialize)]
struct Form {
    template: Option<TemplateForm>,
    #[serde(default)]
    inputs: Map<String, Value>,
    engine: Option<String>,
    engine_version: Option<Version>,
    backend: Option<BackendForm>,
    workspace: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TemplateForm {
    name: Option<String>,
    version: Option<Version>,
    git: Option<String>,
    #[serde(rename = "ref")]
    reference: Option<String>,
    path: Option<String>,
    #[serde(default)]
    submodules: bool,
    inline: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BackendForm {
    #[serde(rename = "type")]
    kind: String,
    place: Option<String>,
    path: Option<String>,
    #[serde(default)]
    config: Map<String, Value>,
}

impl Snapshot {
    /// Reads a snapshot.
    ///
    /// # Errors
    /// A failure that stays, with the path of the key.
    pub fn read(snapshot: &Value) -> Result<Self, Stop> {
        let form = Form::deserialize(snapshot)
            .map_err(|e| Stop::refused(format!("config_snapshot cannot be read: {e}; upgrade this runner?")))?;
        let backend = snapshot.get("backend").cloned().unwrap_or_default();
        let engine = form.engine.map(|name| name.parse()).transpose();
        Ok(Self {
            source: form.template.map(source).transpose()?,
            inputs: form.inputs,
            engine: Wanted {
                engine: engine.map_err(|e| Stop::refused(format!("engine: {e}")))?,
                version: form.engine_version,
            },
            state: form.backend.map_or(Ok(State::Thrown), state)?,
            workspace: form.workspace.map(workspace).transpose()?.filter(|name| name != "default"),
            backend,
        })
    }
}

impl Snapshot {
    /// What two snapshots that mean the same state say alike.
    pub fn state_identity(&self) -> Value {
        json!({"backend": self.backend, "workspace": self.workspace})
    }
}

fn source(form: TemplateForm) -> Result<Source, Stop> {
    match (form.name, form.git, form.inline) {
        (Some(name), None, None) if is_word(&name) => Ok(Source::Named { name, version: form.version }),
        (None, Some(url), None) => Ok(Source::Git(GitSource {
            url,
            reference: form.reference,
            folder: form.path.map(|path| safe_path("template.path", path.trim_end_matches('/'))).transpose()?,
            submodules: form.submodules,
        })),
        (None, None, Some(files)) => Ok(Source::Inline(files)),
        _ => Err(Stop::refused("template: needs exactly one of name, git, inline")),
    }
}

fn state(form: BackendForm) -> Result<State, Stop> {
    match (form.kind.as_str(), form.place, form.path) {
        ("local", Some(place), Some(path)) => Ok(State::Local { place, path: safe_path("backend.path", &path)? }),
        ("local", _, _) => Err(Stop::refused("backend: a local one needs place and path")),
        ("own", _, _) => Ok(State::Own),
        _ if is_word(&form.kind) => Ok(State::Remote { kind: form.kind, config: form.config }),
        _ => Err(Stop::refused("backend.type: is no backend")),
    }
}

/// It becomes the name of a folder, or part of an address.
fn workspace(name: String) -> Result<String, Stop> {
    let safe = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    match safe && !name.is_empty() && !name.starts_with('-') {
        true => Ok(name),
        false => Err(Stop::refused("workspace: letters, digits, underscore and dash only")),
    }
}

fn safe_path(key: &str, path: &str) -> Result<TreePath, Stop> {
    TreePath::new(path).map_err(|e| Stop::refused(format!("{key}: {e}")))
}

fn is_word(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_lead_out_of_its_folder_is_refused_even_if_the_broker_let_it_through() {
        for bad in [
            json!({"template": {"name": "../secret"}}),
            json!({"template": {"name": "."}}),
            json!({"template": {"git": "https://h/r", "path": "../.."}}),
            json!({"template": {"git": "https://h/r", "path": ".git/hooks"}}),
            json!({"template": {"git": "https://h/r", "path": "/etc"}}),
            json!({"template": {"inline": {}, "name": "a"}}),
            json!({"template": {"inline": {}, "wat": 1}}),
            json!({"backend": {"type": "local", "place": "a", "path": "a/../../b"}}),
            json!({"backend": {"type": "local", "place": "a"}}),
            // The same folder under another key.
            json!({"backend": {"type": "local", "place": "a", "path": "a/"}}),
            json!({"backend": {"type": "s3\" {"}}),
            json!({"workspace": "../x"}),
            json!({"workspace": "-or-create"}),
            json!({"engine": "pulumi"}),
        ] {
            let Err(Stop::Failed { permanent: true, .. }) = Snapshot::read(&bad) else { panic!("{bad} was taken") };
        }
    }

    #[test]
    fn the_default_workspace_is_none_at_all() {
        let read = |text| Snapshot::read(&json!({"workspace": text})).unwrap().workspace;
        assert_eq!(read("default"), None);
        assert_eq!(read("blue"), Some("blue".to_owned()));
    }

    #[test]
    fn keys_of_the_broker_do_not_disturb() {
        let snapshot = json!({"stateless": true, "labels": [], "jobs": [{"name": "a"}], "action": "plan"});
        assert_eq!(Snapshot::read(&snapshot).unwrap().state, State::Thrown);
    }
}
