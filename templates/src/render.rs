//! Rendering `.j2` files.

mod hcl;

use std::io;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value as JinjaValue};
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior, context, escape_formatter};
use serde_json::Value;
use thiserror::Error;

use crate::backend::BackendBlock;
use crate::manifest::Manifest;
use crate::schema::InputError;
use crate::tree::{MAX_FILE_BYTES, TreeError};

/// Ending of the files that are rendered; it is taken off their names.
pub const TEMPLATE_SUFFIX: &str = ".j2";
/// Bytes of one file that is rendered (256 KiB).
pub const MAX_TEMPLATE_BYTES: usize = 256 * 1024;
/// Steps of the template engine that one file may take.
pub const MAX_RENDER_STEPS: u64 = 200_000;
/// Nesting of loops and calls while one file is rendered.
const MAX_RECURSION: usize = 64;
/// Undefined names that are told of one file.
const MAX_UNKNOWN: usize = 20;
/// Names that templates may use beside the engine's own.
const NAMES: [&str; 4] = ["inputs", "deployment", "cluster", "template"];

/// What a template is rendered for.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a> {
    /// The inputs as they were sent; defaults are added here.
    pub inputs: &'a Value,
    /// `deployment.id`.
    pub deployment_id: &'a str,
    /// `cluster.id`.
    pub cluster_id: &'a str,
}

/// Why a template could not be rendered.
#[derive(Debug, Error)]
pub enum RenderError {
    /// The inputs do not fit the template's schema.
    #[error("inputs do not fit the template: {}", listed(.0))]
    Inputs(Vec<InputError>),
    /// A file does not render.
    #[error("{file}:{line}: {message}")]
    File {
        /// The file, relative to the template.
        file: String,
        /// Its line, from 1; 0 when the whole file is meant.
        line: usize,
        /// What is wrong; names the undefined variable if that is it. Holds no sensitive input.
        message: String,
    },
    /// The rendered files do not make a tree.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A rendered file says where state lies.
    #[error("{}:{}: remove the `{}` block, Tendril writes the backend", .0.file, .0.line, .0.block)]
    Backend(BackendBlock),
}

fn listed(errors: &[InputError]) -> String {
    let errors: Vec<_> = errors.iter().map(|error| format!("{} {}", error.path, error.message)).collect();
    errors.join("; ")
}

/// The engine, set up for one template and one scope.
pub(crate) struct Renderer {
    context: JinjaValue,
    secrets: Vec<String>,
}

/// A fault of one template file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct FileFault {
    pub(crate) line: usize,
    pub(crate) message: String,
}

impl Renderer {
    /// `inputs` have their defaults.
    pub(crate) fn new(manifest: &Manifest, inputs: &Value, scope: &Scope<'_>) -> Renderer {
        let context = context! {
            inputs => JinjaValue::from(Serde(inputs)),
            deployment => context! { id => scope.deployment_id },
            cluster => context! { id => scope.cluster_id },
            template => context! { name => manifest.name.as_str(), version => manifest.version.to_string() },
        };
        let secrets = manifest.inputs.sensitive_values(inputs);
        Renderer { context, secrets }
    }

    /// Renders one file. `name` is its path with [`TEMPLATE_SUFFIX`]; it decides how values are written.
    pub(crate) fn render(&self, name: &str, source: &str) -> Result<Vec<u8>, FileFault> {
        let mut out = Bounded { bytes: Vec::new(), full: false };
        let rendered = environment().and_then(|environment| {
            let template = environment.template_from_named_str(name, source)?;
            template.render_captured_to(self.context.clone(), &mut out).map(drop)
        });
        match rendered {
            Ok(()) => Ok(out.bytes),
            Err(_) if out.full => {
                Err(FileFault { line: 0, message: format!("renders to more than {MAX_FILE_BYTES} bytes") })
            }
            Err(error) => {
                let mut fault = fault(&error, source);
                fault.message = self.without_secrets(fault.message);
                Err(fault)
            }
        }
    }

    /// The engine quotes values in some of its errors.
    fn without_secrets(&self, message: String) -> String {
        let shown = self.secrets.iter().filter(|secret| !secret.is_empty() && message.contains(*secret));
        if shown.count() > 0 { "fails on a sensitive input".to_owned() } else { message }
    }
}

/// Faults that show without inputs: syntax, and names that nobody defines.
pub(crate) fn lint_source(name: &str, source: &str, is_input: impl Fn(&str) -> bool) -> Vec<FileFault> {
    let environment = match environment() {
        Ok(environment) => environment,
        Err(error) => return vec![fault(&error, source)],
    };
    let template = match environment.template_from_named_str(name, source) {
        Ok(template) => template,
        Err(error) => return vec![fault(&error, source)],
    };
    let globals: Vec<String> = environment.globals().map(|(name, _)| name.to_owned()).collect();
    let mut unknown: Vec<String> = template
        .undeclared_variables(true)
        .into_iter()
        .filter(|path| {
            let (root, rest) = path.split_once('.').unwrap_or((path, ""));
            let known = NAMES.contains(&root) || globals.iter().any(|global| global == root);
            let input = rest.split('.').next().unwrap_or_default();
            !known || (root == "inputs" && !input.is_empty() && !is_input(input))
        })
        .collect();
    unknown.sort();
    unknown.truncate(MAX_UNKNOWN);
    let message = |path: String| format!("`{path}` is defined nowhere; known are inputs of the schema, {}", CONTEXT);
    unknown.into_iter().map(|path| FileFault { line: line_of(source, &path), message: message(path) }).collect()
}

const CONTEXT: &str = "deployment.id, cluster.id, template.name and template.version";

/// The first line that holds the text; good enough to find a name.
fn line_of(source: &str, text: &str) -> usize {
    source.lines().position(|line| line.contains(text)).map_or(0, |at| at + 1)
}

fn environment() -> Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(MAX_RENDER_STEPS));
    environment.set_recursion_limit(MAX_RECURSION);
    // A tag on a line of its own leaves no line behind.
    environment
        .set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).keep_trailing_newline(true).build()?);
    // Needed for the place of an error; errors are never printed with the values that debug mode collects.
    environment.set_debug(true);
    environment.set_auto_escape_callback(escaping);
    environment.set_formatter(|out, state, value| match state.auto_escape() {
        AutoEscape::Custom(_) if !value.is_safe() => {
            let literal = serde_json::to_value(value)
                .map_err(|e| minijinja::Error::new(ErrorKind::BadSerialization, e.to_string()))?;
            out.write_str(&hcl::literal(&literal)).map_err(minijinja::Error::from)
        }
        AutoEscape::Custom(_) => out.write_str(&value.to_string()).map_err(minijinja::Error::from),
        _ => escape_formatter(out, state, value),
    });
    Ok(environment)
}

/// How `{{ value }}` is written, by the ending of the rendered file: as a literal of the file's language where
/// that is known, so that no input can break out of its place.
fn escaping(name: &str) -> AutoEscape {
    let name = name.strip_suffix(TEMPLATE_SUFFIX).unwrap_or(name);
    match name.rsplit('.').next() {
        Some("tf" | "tofu" | "tfvars" | "hcl") => AutoEscape::Custom("hcl".into()),
        Some("json" | "yaml" | "yml") => AutoEscape::Json,
        _ => AutoEscape::None,
    }
}

fn fault(error: &minijinja::Error, source: &str) -> FileFault {
    let expression = error.range().and_then(|range| source.get(range)).map(str::trim);
    let message = match error.kind() {
        ErrorKind::UndefinedError => {
            let what = match (error.detail(), expression) {
                (Some(detail), _) => detail.to_owned(),
                (None, Some(expression)) => format!("something in `{expression}` is undefined"),
                (None, None) => "something is undefined".to_owned(),
            };
            format!("{what}; give the input a default, or test it with `is defined`")
        }
        ErrorKind::OutOfFuel => format!("takes more than {MAX_RENDER_STEPS} steps to render"),
        kind => match error.detail() {
            Some(detail) => format!("{kind}: {detail}"),
            None => kind.to_string(),
        },
    };
    FileFault { line: error.line().unwrap_or(0), message }
}

/// Takes rendered bytes up to the size of a file in a tree.
struct Bounded {
    bytes: Vec<u8>,
    full: bool,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > MAX_FILE_BYTES {
            self.full = true;
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
