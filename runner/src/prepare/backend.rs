//! The backend file: Tendril says where state lies, and the tree must not disagree.

use crate::config::Config;
use crate::prepare::snapshot::{Snapshot, State};
use crate::stop::Stop;
use crate::work::{Work, write_new};
use serde_json::{Map, Value, json};
use std::fs::DirBuilder;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use tendril_templates::{BackendBlock, Tree, backend_blocks};

/// An override file replaces a backend block that the search for one has overlooked.
pub const BACKEND_FILE: &str = "tendril_backend_override.tf.json";
/// Everything that engines may take for that file.
const BACKEND_NAME: &str = "tendril_backend_override";
/// The engines' own name for a state that they could not save, in the folder they run in.
pub const ERRORED_STATE_FILE: &str = "errored.tfstate";
/// The folder of the state, as the tree sees it. A plan carries this path to its apply, which runs in another folder:
/// so it is relative, and leads to the same place from everywhere.
pub const STATE_LINK: &str = "state";
/// The file of one workspace's state in its folder.
const STATE_FILE: &str = "terraform.tfstate";

/// A tree that agrees with its snapshot about the state.
///
/// # Errors
/// Names the file and line to mend.
pub fn check_tree(tree: &Tree, state: &State) -> Result<(), Stop> {
    let own = |path: &str| path.rsplit('/').next().is_some_and(|name| name.starts_with(BACKEND_NAME));
    if let Some((path, _)) = tree.iter().find(|(path, _)| own(path.as_str())) {
        return Err(Stop::refused(format!("{path}: files of this name are written by Tendril; rename it")));
    }
    if tree.get(ERRORED_STATE_FILE).is_some() {
        return Err(Stop::refused(format!(
            "{ERRORED_STATE_FILE}: would be taken for state that was not saved; remove it"
        )));
    }
    let is_state = |path: &str| path == STATE_FILE || path.starts_with("terraform.tfstate.d/");
    if let Some((path, _)) = tree.iter().find(|(path, _)| *state != State::Own && is_state(path.as_str())) {
        return Err(Stop::refused(format!(
            "{path}: the state lies in the backend, and the engine would want to move this one there; remove it"
        )));
    }
    // A backend block of a module has no effect; only those beside the root's files have.
    let blocks: Vec<BackendBlock> =
        backend_blocks(tree).into_iter().filter(|found| !found.file.contains('/')).collect();
    let refuse = |found: &BackendBlock, why: &str| {
        let line = if found.line > 0 { format!(":{}", found.line) } else { String::new() };
        Err(Stop::refused(format!("{}{line}: {why}", found.file)))
    };
    if let Some(cloud) = blocks.iter().find(|found| found.block == "cloud") {
        return refuse(cloud, "remove the cloud block; Tendril runs the plan here, and keeps the state in a backend");
    }
    match (state, blocks.first()) {
        (State::Own, Some(_)) | (State::Thrown | State::Local { .. } | State::Remote { .. }, None) => Ok(()),
        (State::Own, None) => {
            Err(Stop::refused("backend.type own: the files have no backend block; add one, or name the backend"))
        }
        (_, Some(found)) => refuse(
            found,
            "remove the backend block, since Tendril writes it; or keep it with backend {\"type\": \"own\"} and a state_key",
        ),
    }
}

/// Writes the backend file beside the tree's files, and makes the folder of a local state. Returns what it has written;
/// none where the tree has a backend block of its own.
///
/// # Errors
/// Another place than this runner's, or what the system refuses.
pub fn write(snapshot: &Snapshot, config: &Config, work: &Work) -> Result<Option<Value>, Stop> {
    let Some(body) = body(snapshot, config, work)? else { return Ok(None) };
    let file = json!({"terraform": {"backend": body}});
    let path = work.tree().join(BACKEND_FILE);
    write_new(&path, file.to_string().as_bytes())?;
    Ok(Some(body))
}

/// Looks at the backend that the engine has taken in the end, as it has noted it in its data folder. The search for blocks
/// is no parser, and an override file of the tree's own may have come after Tendril's: then the state would lie where the
/// state's key does not say.
///
/// # Errors
/// A refusal that names the difference.
pub fn check_initialised(data: &Path, expected: Option<&Value>) -> Result<(), Stop> {
    let Some(expected) = expected.and_then(Value::as_object) else { return Ok(()) };
    let noted =
        std::fs::read(data.join(STATE_FILE)).ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    let backend = noted.and_then(|mut noted| noted.get_mut("backend").map(Value::take)).unwrap_or_default();
    let difference = expected.iter().find_map(|(kind, settings)| {
        let kind_noted = backend["type"].as_str().unwrap_or("none");
        if kind_noted != kind {
            return Some(format!("backend {kind_noted} instead of {kind}"));
        }
        let settings = settings.as_object().into_iter().flatten();
        settings.filter_map(|(name, value)| Some((name, plain(value)?))).find_map(|(name, wanted)| {
            (plain(&backend["config"][name]).as_ref() != Some(&wanted))
                .then(|| format!("another {name} of backend {kind}"))
        })
    });
    difference.map_or(Ok(()), |difference| {
        Err(Stop::refused(format!("the files put the state elsewhere: {difference}; remove their backend block")))
    })
}

/// A setting as its backend may have converted it; none for what consists of parts.
fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn body(snapshot: &Snapshot, config: &Config, work: &Work) -> Result<Option<Value>, Stop> {
    let (kind, settings) = match &snapshot.state {
        State::Own => return Ok(None),
        State::Remote { kind, config } => (kind.as_str(), config.clone()),
        State::Thrown => {
            let folder = work.file(STATE_LINK);
            make_folder(&folder)?;
            ("local", local(&folder)?)
        }
        State::Local { place, path } => {
            if config.place.as_ref() != Some(place) {
                let here = config.place.as_deref().unwrap_or("none");
                return Err(Stop::refused(format!(
                    "backend.place: the state lies in place {place}, and this runner's place is {here}"
                )));
            }
            let folder = local_states(&config.state_dir).join(path.as_str());
            make_folder(&folder)?;
            let link = work.file(STATE_LINK);
            symlink(&folder, &link).map_err(|e| Stop::disk("make", &link, &e))?;
            ("local", local(&folder)?)
        }
    };
    let mut body = Map::new();
    body.insert(kind.to_owned(), Value::Object(settings));
    Ok(Some(Value::Object(body)))
}

/// The folder of all states of this place.
pub fn local_states(state_dir: &Path) -> PathBuf {
    state_dir.join("states")
}

/// Settings that put the state of workspace `w` into `<folder>/w/terraform.tfstate`, the default one's too.
fn local(folder: &Path) -> Result<Map<String, Value>, Stop> {
    make_folder(&folder.join("default"))?;
    let mut settings = Map::new();
    settings.insert("path".to_owned(), json!(format!("../{STATE_LINK}/default/{STATE_FILE}")));
    settings.insert("workspace_dir".to_owned(), json!(format!("../{STATE_LINK}")));
    Ok(settings)
}

fn make_folder(path: &Path) -> Result<(), Stop> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| Stop::disk("make", path, &e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tendril_templates::TreePath;

    fn tree(files: &[(&str, &str)]) -> Tree {
        let files: Map<String, Value> = files.iter().map(|(path, text)| ((*path).to_owned(), json!(text))).collect();
        Tree::from_inline(&Value::Object(files), "inline").unwrap()
    }

    fn refusal(files: &[(&str, &str)], state: &State) -> String {
        check_tree(&tree(files), state).unwrap_err().reason().to_owned()
    }

    const BACKEND: &str = "terraform {\n  backend \"s3\" {}\n}\n";
    const PLAIN: &str = "terraform {\n}\n";

    #[test]
    fn a_tree_that_disagrees_about_its_state_is_refused_with_file_and_line() {
        let local = State::Local { place: "a".into(), path: TreePath::new("x").unwrap() };
        assert!(refusal(&[("main.tf", PLAIN), ("state.tf", BACKEND)], &local).starts_with("state.tf:2: remove"));
        assert!(refusal(&[("main.tf", BACKEND)], &State::Thrown).starts_with("main.tf:2"));
        assert!(refusal(&[("main.tf", PLAIN)], &State::Own).contains("no backend block"));
        assert!(
            refusal(&[("main.tf", "terraform {\n cloud {}\n}")], &State::Own)
                .starts_with("main.tf:2: remove the cloud")
        );
        check_tree(&tree(&[("main.tf", BACKEND)]), &State::Own).unwrap();
        // In a module it has no effect, and examples have one often.
        check_tree(&tree(&[("main.tf", PLAIN), ("examples/all/main.tf", BACKEND)]), &local).unwrap();
    }

    #[test]
    fn every_remote_backend_is_written_down_as_the_snapshot_has_it() {
        let state = tempfile::tempdir().unwrap();
        let set = [
            ("TENDRIL_DATABASE_URL", "postgres://127.0.0.1/none"),
            ("TENDRIL_ARTIFACT_KEY_FILE", "/nowhere"),
            ("TENDRIL_STATE_DIR", state.path().to_str().unwrap()),
        ];
        let find = |name: &str| set.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        let config = Config::load(None, &find).unwrap();
        for (number, backend) in [
            json!({"type": "s3", "config": {"bucket": "b", "key": "k", "region": "eu-central-1", "use_lockfile": true}}),
            json!({"type": "gcs", "config": {"bucket": "b", "prefix": "p"}}),
            json!({"type": "azurerm", "config": {"storage_account_name": "a", "container_name": "c", "key": "k"}}),
            json!({"type": "http", "config": {"address": "https://h/s"}}),
            json!({"type": "pg", "config": {"schema_name": "s"}}),
        ]
        .into_iter()
        .enumerate()
        {
            let work = Work::create(state.path(), uuid::Uuid::from_u128(number as u128)).unwrap();
            std::fs::create_dir_all(work.tree()).unwrap();
            write(&Snapshot::read(&json!({"backend": backend})).unwrap(), &config, &work).unwrap();
            let written: Value =
                serde_json::from_slice(&std::fs::read(work.tree().join(BACKEND_FILE)).unwrap()).unwrap();
            let mut expected = Map::new();
            expected.insert(backend["type"].as_str().unwrap().to_owned(), backend["config"].clone());
            assert_eq!(written, json!({"terraform": {"backend": expected}}));
        }
    }

    #[test]
    fn nobody_else_writes_the_backend_file() {
        // With the second, OpenTofu would not read ours at all.
        for name in [BACKEND_FILE, "tendril_backend_override.tofu.json", "tendril_backend_override.tf"] {
            assert!(refusal(&[(name, "{}")], &State::Thrown).contains("written by Tendril"), "{name}");
        }
        assert!(refusal(&[("errored.tfstate", "{}")], &State::Thrown).starts_with("errored.tfstate: "));
        for name in ["terraform.tfstate", "terraform.tfstate.d/blue/terraform.tfstate"] {
            assert!(refusal(&[("main.tf", PLAIN), (name, "{}")], &State::Thrown).contains("remove it"), "{name}");
        }
        check_tree(&tree(&[("main.tf", BACKEND), ("terraform.tfstate", "{}")]), &State::Own).unwrap();
    }
}
