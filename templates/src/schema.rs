//! The subset of JSON Schema that template inputs are written in.
//!
//! One dialect, two checkers: this module and `tendril_core.schema_errors` in Postgres give the same
//! verdict, the same paths and the same words. `cases/schema.json` holds both to it.

mod check;
mod defaults;
mod keywords;
mod location;
mod number;
mod parse;
mod pattern;

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

pub use pattern::{MAX_MATCHED_CHARS, MAX_PATTERN_ATOMS, MAX_PATTERN_CHARS, Pattern, PatternFault};

/// Levels of nesting allowed below the root of a schema, and below the root of a checked value.
pub const MAX_DEPTH: usize = 32;
/// Values (scalars, lists and objects, the root included) that one checked document may hold.
pub const MAX_VALUES: usize = 10_000;
/// Errors that one check lists; what is wrong beyond them is not told.
pub const MAX_ERRORS: usize = 100;
/// Values that one `enum` may list.
pub const MAX_ENUM_VALUES: usize = 256;
/// Largest magnitude of a number. Beyond it a double no longer tells neighbouring integers apart.
pub const MAX_NUMBER: f64 = 9_007_199_254_740_991.0;

/// A schema that has been read and understood; every rule in it is enforced by [`Schema::check`].
#[derive(Debug, Clone)]
pub struct Schema {
    source: Value,
    root: Node,
}

/// What is wrong with a value, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InputError {
    /// Place in the value, for example `inputs.region` or `inputs.zones[2]`.
    pub path: String,
    /// What the schema asks for. Never quotes the value, which may be a secret.
    pub message: String,
}

/// What is wrong with a schema, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaFault {
    /// Place in the schema, for example `inputs.properties.region.minLength`.
    pub path: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl Schema {
    /// Reads a schema.
    ///
    /// `at` is the name of the schema's root in the faults' paths.
    ///
    /// # Errors
    /// All faults found, in the order of the schema's keys: unknown keywords, rules of the wrong type or
    /// without effect, patterns outside the dialect, defaults and examples that the schema itself refuses.
    pub fn parse(source: &Value, at: &str) -> Result<Schema, Vec<SchemaFault>> {
        let mut faults = Vec::new();
        let root = parse::root(source, at, &mut faults);
        match root {
            Some(root) if faults.is_empty() => Ok(Schema { source: source.clone(), root }),
            _ => Err(faults),
        }
    }

    /// Checks `value`; an empty list means that it fits. `at` begins every path.
    ///
    /// Defaults are not applied: the check judges what was sent.
    #[must_use]
    pub fn check(&self, value: &Value, at: &str) -> Vec<InputError> {
        check::document(&self.root, value, at)
    }

    /// `value` with the schema's defaults put where a property is missing, at every level.
    #[must_use]
    pub fn with_defaults(&self, value: &Value) -> Value {
        defaults::fill(&self.root, value)
    }

    /// Paths of the sensitive places, for example `inputs.db.password` or `inputs.users[].token`.
    #[must_use]
    pub fn sensitive_paths(&self, at: &str) -> Vec<String> {
        defaults::sensitive_paths(&self.root, at)
    }

    /// The scalars of `value` that lie at or below a sensitive place, as text.
    #[must_use]
    pub fn sensitive_values(&self, value: &Value) -> Vec<String> {
        defaults::sensitive_values(&self.root, value)
    }

    /// Whether `name` is one of the properties at the top.
    #[must_use]
    pub fn describes(&self, name: &str) -> bool {
        self.root.object.properties.contains_key(name)
    }

    /// The schema as it was written.
    #[must_use]
    pub fn source(&self) -> &Value {
        &self.source
    }
}

/// One schema object. A rule that is absent asks for nothing.
#[derive(Debug, Clone, Default)]
struct Node {
    types: Vec<Type>,
    constant: Option<Fixed>,
    allowed: Option<Vec<Fixed>>,
    number: NumberRules,
    text: TextRules,
    list: ListRules,
    object: ObjectRules,
    default: Option<Value>,
    sensitive: bool,
}

/// A value that another must equal.
#[derive(Debug, Clone)]
struct Fixed {
    canonical: String,
    is_scalar: bool,
}

#[derive(Debug, Clone, Default)]
struct NumberRules {
    minimum: Option<f64>,
    maximum: Option<f64>,
    exclusive_minimum: Option<f64>,
    exclusive_maximum: Option<f64>,
}

#[derive(Debug, Clone, Default)]
struct TextRules {
    min_length: Option<u64>,
    max_length: Option<u64>,
    pattern: Option<Pattern>,
}

#[derive(Debug, Clone, Default)]
struct ListRules {
    items: Option<Box<Node>>,
    min_items: Option<u64>,
    max_items: Option<u64>,
    unique: bool,
}

#[derive(Debug, Clone, Default)]
struct ObjectRules {
    properties: BTreeMap<String, Node>,
    required: Vec<String>,
    closed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    Object,
    Array,
    String,
    Number,
    Integer,
    Boolean,
    Null,
}

impl Fixed {
    fn new(value: &Value) -> Fixed {
        Fixed { canonical: number::canonical(value), is_scalar: !value.is_array() && !value.is_object() }
    }
}

impl Type {
    const ALL: [Type; 7] =
        [Type::Object, Type::Array, Type::String, Type::Number, Type::Integer, Type::Boolean, Type::Null];

    fn name(self) -> &'static str {
        match self {
            Type::Object => "object",
            Type::Array => "array",
            Type::String => "string",
            Type::Number => "number",
            Type::Integer => "integer",
            Type::Boolean => "boolean",
            Type::Null => "null",
        }
    }

    fn with_article(self) -> &'static str {
        match self {
            Type::Object => "an object",
            Type::Array => "an array",
            Type::String => "a string",
            Type::Number => "a number",
            Type::Integer => "an integer",
            Type::Boolean => "a boolean",
            Type::Null => "null",
        }
    }

    fn named(name: &str) -> Option<Type> {
        Type::ALL.into_iter().find(|t| t.name() == name)
    }

    fn holds(self, value: &Value) -> bool {
        match (self, value) {
            (Type::Object, Value::Object(_))
            | (Type::Array, Value::Array(_))
            | (Type::String, Value::String(_))
            | (Type::Number, Value::Number(_))
            | (Type::Boolean, Value::Bool(_))
            | (Type::Null, Value::Null) => true,
            (Type::Integer, Value::Number(n)) => number::double(n).fract() == 0.0,
            _ => false,
        }
    }
}
