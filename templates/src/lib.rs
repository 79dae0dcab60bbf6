#![doc = include_str!("../README.md")]

mod backend;
mod engine;
mod finding;
mod lint;
mod manifest;
mod render;
mod schema;
mod state;
mod template;
mod tree;

pub use backend::{BackendBlock, backend_blocks};
pub use engine::{Engine, EngineError, Engines};
pub use finding::Finding;
pub use manifest::{Kind, MANIFEST_FILE, MAX_DESCRIPTION_CHARS, MAX_MANIFEST_BYTES, MAX_NAME_CHARS, MAX_VERSION_CHARS};
pub use render::{MAX_RENDER_STEPS, MAX_TEMPLATE_BYTES, RenderError, Scope, TEMPLATE_SUFFIX};
pub use schema::{
    InputError, MAX_DEPTH, MAX_ENUM_VALUES, MAX_ERRORS, MAX_MATCHED_CHARS, MAX_NUMBER, MAX_PATTERN_ATOMS,
    MAX_PATTERN_CHARS, MAX_VALUES, Pattern, PatternFault, Schema, SchemaFault,
};
pub use state::State;
pub use template::{Template, TemplateError, lint};
pub use tree::{
    File, MAX_FILE_BYTES, MAX_FILES, MAX_PATH_BYTES, MAX_PATH_SEGMENTS, MAX_SEGMENT_BYTES, MAX_TREE_BYTES, PathError,
    PathFault, Tree, TreeDigest, TreeError, TreePath,
};
