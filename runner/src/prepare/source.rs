//! The files of a job, from wherever its snapshot says.

use crate::off_loop::off_loop;
use crate::prepare::git;
use crate::prepare::snapshot::{Snapshot, Source};
use crate::run::Run;
use crate::stop::Stop;
use crate::toolbox::Toolbox;
use semver::Version;
use serde::Serialize;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use tendril_templates::{Engines as Accepted, RenderError, Scope, Template, Tree};

/// The inputs as Terraform variables. Beside the tree and named on the command line, so that no file of the tree, however
/// it is called, overrules what was submitted.
pub const VARIABLES_FILE: &str = "inputs.tfvars.json";

/// The files of a job.
#[derive(Debug)]
pub struct Files {
    /// What is written to the work folder.
    pub tree: Tree,
    /// Where it came from.
    pub origin: Origin,
    /// The engines that a template says it works with.
    pub accepted: Option<Accepted>,
    /// The hosts that a template says it reaches.
    pub egress: Option<Vec<String>>,
}

/// Where a tree came from, as a job's result tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// A template that is shipped with the runner, rendered.
    Template {
        /// Its name.
        name: String,
        /// Its version.
        version: Version,
    },
    /// A repository.
    Git {
        /// Its address.
        url: String,
        /// The commit that branch or tag meant when it was fetched.
        commit: String,
    },
    /// The snapshot itself.
    Inline,
}

impl Origin {
    /// Whether the inputs went into the files already. Where they did not, they become Terraform variables.
    pub fn is_rendered(&self) -> bool {
        matches!(self, Self::Template { .. })
    }
}

/// Makes the tree that the snapshot names. None for a snapshot without a template.
///
/// # Errors
/// A refusal names the key, or file and line.
pub async fn files(run: &mut Run, toolbox: &Toolbox, snapshot: &Snapshot) -> Result<Option<Files>, Stop> {
    let files = match &snapshot.source {
        None => return Ok(None),
        Some(Source::Inline(files)) => {
            let tree = Tree::from_inline(files, "template.inline").map_err(|e| Stop::refused(e.to_string()))?;
            Files { tree, origin: Origin::Inline, accepted: None, egress: None }
        }
        Some(Source::Named { name, version }) => {
            let render = Render {
                dir: template_dir(run.config().templates_dir.as_deref(), name)?,
                name: name.clone(),
                version: version.clone(),
                inputs: snapshot.inputs.clone(),
                deployment: run.job.deployment_id.to_string(),
                cluster: run.cluster().to_string(),
            };
            let files = off_loop(move || render.run()).await?;
            if let Origin::Template { name, version } = &files.origin {
                run.say(format!("template {name} {version}, {} files", files.tree.len()));
            }
            files
        }
        Some(Source::Git(source)) => {
            let (tree, commit) = git::fetch(run, toolbox, source).await?;
            Files { tree, origin: Origin::Git { url: source.url.clone(), commit }, accepted: None, egress: None }
        }
    };
    run.narrow_egress(files.egress.as_deref())?;
    Ok(Some(files))
}

/// Writes a tree to a new folder.
///
/// # Errors
/// A failed job, when the disk refuses.
pub async fn write(tree: Tree, dir: &Path) -> Result<(), Stop> {
    let dir = dir.to_owned();
    if tree.is_empty() {
        // One call to the disk, like those that made the work folder.
        return tree.write_to(&dir).map_err(|e| Stop::failed(format!("{e}; see state_dir")));
    }
    off_loop(move || tree.write_to(&dir).map_err(|e| Stop::failed(format!("{e}; see state_dir")))).await
}

/// Writes the inputs as a file of Terraform variables, unless the template has taken them already.
///
/// # Errors
/// A failed job, when the disk refuses.
pub fn variables(run: &Run, snapshot: &Snapshot, origin: &Origin) -> Result<Option<PathBuf>, Stop> {
    if origin.is_rendered() || snapshot.inputs.is_empty() {
        return Ok(None);
    }
    let text = Value::Object(snapshot.inputs.clone()).to_string();
    run.work.write(VARIABLES_FILE, text.as_bytes()).map(Some)
}

fn template_dir(templates: Option<&Path>, name: &str) -> Result<PathBuf, Stop> {
    let Some(templates) = templates else {
        return Err(Stop::refused("template.name: this runner has no templates; set templates_dir"));
    };
    let dir = templates.join(name);
    match dir.is_dir() {
        true => Ok(dir),
        false => Err(Stop::refused(format!("template.name: there is no template {name} on this runner"))),
    }
}

struct Render {
    dir: PathBuf,
    name: String,
    version: Option<Version>,
    inputs: Map<String, Value>,
    deployment: String,
    cluster: String,
}

impl Render {
    fn run(self) -> Result<Files, Stop> {
        let Self { dir, name, version, inputs, deployment, cluster } = self;
        let template = Template::load(&dir).map_err(|e| Stop::refused(format!("template {name}: {e}")))?;
        if template.name() != name {
            return Err(Stop::refused(format!("template {name}: its template.yaml says it is {}", template.name())));
        }
        if version.is_some_and(|wanted| wanted != *template.version()) {
            return Err(Stop::refused(format!(
                "template.version: this runner has version {} of {name}; ask for that, or upgrade the runner's templates",
                template.version()
            )));
        }
        let inputs = Value::Object(inputs);
        let scope = Scope { inputs: &inputs, deployment_id: &deployment, cluster_id: &cluster };
        let tree = template.render(&scope).map_err(|e| Stop::refused(in_words(&name, &e)))?;
        let origin = Origin::Template { name, version: template.version().clone() };
        let egress = template.egress().map(<[String]>::to_vec);
        Ok(Files { tree, origin, accepted: Some(template.engines().clone()), egress })
    }
}

/// Wrong inputs read as they do when the broker refuses them at submit.
fn in_words(name: &str, error: &RenderError) -> String {
    match error {
        RenderError::Inputs(errors) => {
            errors.iter().map(|e| format!("{}: {}", e.path, e.message)).collect::<Vec<_>>().join("; ")
        }
        RenderError::File { .. } | RenderError::Tree(_) | RenderError::Backend(_) => {
            format!("template {name}: {error}")
        }
    }
}
