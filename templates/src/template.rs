//! A template: a folder with a `template.yaml` and the files of a job.

use std::path::Path;

use semver::Version;
use serde_json::{Value, json};
use thiserror::Error;

use crate::backend::backend_blocks;
use crate::engine::Engines;
use crate::finding::Finding;
use crate::lint::lint_files;
use crate::manifest::{Kind, MANIFEST_FILE, Manifest};
use crate::render::{RenderError, Renderer, Scope, TEMPLATE_SUFFIX};
use crate::schema::{InputError, Schema};
use crate::state::State;
use crate::tree::{File, Tree, TreeDigest, TreeError, TreePath};

/// A template in which `lint` finds nothing wrong.
#[derive(Debug, Clone)]
pub struct Template {
    manifest: Manifest,
    tree: Tree,
    digest: TreeDigest,
}

/// Why a folder is no usable template.
#[derive(Debug, Error)]
pub enum TemplateError {
    /// Its files cannot be read or are not safe.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// What `lint` finds.
    #[error("{}{}", .0.first().map(Finding::to_string).unwrap_or_default(), more(.0.len()))]
    Findings(Vec<Finding>),
}

fn more(findings: usize) -> String {
    if findings > 1 { format!(" (and {} more, see `template lint`)", findings - 1) } else { String::new() }
}

impl Template {
    /// Reads a template from its folder.
    ///
    /// # Errors
    /// [`TemplateError`] when the folder cannot be read or `lint` has findings.
    pub fn load(dir: &Path) -> Result<Template, TemplateError> {
        Template::from_tree(&Tree::read_dir(dir)?)
    }

    /// Makes a template of files that hold a `template.yaml`.
    ///
    /// # Errors
    /// [`TemplateError::Findings`] with all that `lint` finds.
    pub fn from_tree(tree: &Tree) -> Result<Template, TemplateError> {
        let manifest = match tree.get(MANIFEST_FILE) {
            Some(file) => Manifest::parse(&file.bytes),
            None => Err(vec![Finding::new(MANIFEST_FILE, "", "is missing; it makes a folder a template")]),
        };
        let mut findings = lint_files(tree, manifest.as_ref().ok().map(|m| &m.inputs));
        match manifest {
            Ok(manifest) if findings.is_empty() => Ok(Template { manifest, tree: tree.clone(), digest: tree.digest() }),
            Ok(_) => Err(TemplateError::Findings(findings)),
            Err(mut first) => {
                first.append(&mut findings);
                Err(TemplateError::Findings(first))
            }
        }
    }

    /// The template's name: lower-case letters, digits and hyphens.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.manifest.name
    }

    /// The template's version.
    #[must_use]
    pub fn version(&self) -> &Version {
        &self.manifest.version
    }

    /// What the template makes, in the author's words.
    #[must_use]
    pub fn description(&self) -> &str {
        &self.manifest.description
    }

    /// What the template is for.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.manifest.kind
    }

    /// The engines and versions that the template works with.
    #[must_use]
    pub fn engines(&self) -> &Engines {
        &self.manifest.engines
    }

    /// The schema of the inputs.
    #[must_use]
    pub fn inputs(&self) -> &Schema {
        &self.manifest.inputs
    }

    /// Where its state lies, unless a deployment says otherwise; none when each deployment has to say.
    #[must_use]
    pub fn state(&self) -> Option<&State> {
        self.manifest.state.as_ref()
    }

    /// The hosts that it reaches, as `host:port`; none when it does not say.
    #[must_use]
    pub fn egress(&self) -> Option<&[String]> {
        self.manifest.egress.as_deref()
    }

    /// Digest of the template's files as they are, `template.yaml` included.
    #[must_use]
    pub fn digest(&self) -> TreeDigest {
        self.digest
    }

    /// What is wrong with `inputs` as they were sent; paths begin with `inputs`. Same as in the broker.
    #[must_use]
    pub fn check_inputs(&self, inputs: &Value) -> Vec<InputError> {
        self.manifest.inputs.check(inputs, "inputs")
    }

    /// `inputs` with the schema's defaults where something is missing.
    #[must_use]
    pub fn inputs_with_defaults(&self, inputs: &Value) -> Value {
        self.manifest.inputs.with_defaults(inputs)
    }

    /// Paths of the sensitive inputs, for example `inputs.password` or `inputs.users[].token`.
    #[must_use]
    pub fn sensitive_inputs(&self) -> Vec<String> {
        self.manifest.inputs.sensitive_paths("inputs")
    }

    /// The texts and numbers among `inputs` that are sensitive, for redaction.
    #[must_use]
    pub fn sensitive_values(&self, inputs: &Value) -> Vec<String> {
        self.manifest.inputs.sensitive_values(inputs)
    }

    /// Checks the inputs, adds defaults, and makes the files of the job: `.j2` files rendered, others as they are,
    /// `template.yaml` left out.
    ///
    /// The time it takes and the size of what it makes are bounded; the memory that a malicious template
    /// takes in between is not, so render what strangers wrote in a process with a memory limit.
    ///
    /// # Errors
    /// [`RenderError`]: inputs that do not fit, a file that does not render, a backend block in the result.
    pub fn render(&self, scope: &Scope<'_>) -> Result<Tree, RenderError> {
        let mut errors = self.check_inputs(scope.inputs);
        let inputs = self.inputs_with_defaults(scope.inputs);
        if errors.is_empty() {
            // Defaults within items can clash with rules of the list around them.
            errors = self.check_inputs(&inputs);
        }
        if !errors.is_empty() {
            return Err(RenderError::Inputs(errors));
        }
        let renderer = Renderer::new(&self.manifest, &inputs, scope);
        let mut rendered = Tree::new();
        for (path, file) in self.tree.iter().filter(|(path, _)| path.as_str() != MANIFEST_FILE) {
            let (path, bytes) = match path.as_str().strip_suffix(TEMPLATE_SUFFIX) {
                Some(stripped) => {
                    let stripped = TreePath::new(stripped).map_err(TreeError::from)?;
                    (stripped, render_file(&renderer, path, &file.bytes)?)
                }
                None => (path.clone(), file.bytes.clone()),
            };
            rendered.insert(path, File { bytes, executable: file.executable })?;
        }
        match backend_blocks(&rendered).into_iter().next() {
            Some(block) => Err(RenderError::Backend(block)),
            None => Ok(rendered),
        }
    }

    /// What the broker keeps of a registered template.
    #[must_use]
    pub fn register_record(&self) -> Value {
        let mut record = json!({
            "name": self.name(),
            "version": self.version().to_string(),
            "description": self.description(),
            "kind": self.kind(),
            "engine": self.engines(),
            "inputs": self.inputs().source(),
            "digest": self.digest(),
        });
        match self.state() {
            Some(State::Stateless) => record["stateless"] = json!(true),
            Some(State::Backend(backend)) => record["backend"] = backend.clone(),
            None => {}
        }
        record
    }
}

/// Everything that is wrong with the template in `dir`; empty when it can be used.
#[must_use]
pub fn lint(dir: &Path) -> Vec<Finding> {
    match Template::load(dir) {
        Ok(_) => Vec::new(),
        Err(TemplateError::Findings(findings)) => findings,
        Err(TemplateError::Tree(error)) => vec![Finding::new("", "", error.to_string())],
    }
}

fn render_file(renderer: &Renderer, path: &TreePath, bytes: &[u8]) -> Result<Vec<u8>, RenderError> {
    let failed = |line, message| RenderError::File { file: path.to_string(), line, message };
    let source = std::str::from_utf8(bytes).map_err(|_| failed(0, "is not UTF-8".to_owned()))?;
    renderer.render(path.as_str(), source).map_err(|fault| failed(fault.line, fault.message))
}
