//! Reading a schema: every keyword becomes a rule or a fault.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::keywords::{self, Keyword};
use super::location::Location;
use super::number::{canonical, double};
use super::pattern::Pattern;
use super::{Fixed, MAX_DEPTH, MAX_ENUM_VALUES, MAX_ERRORS, MAX_NUMBER, Node, SchemaFault, Type, check};

/// Reads the schema of a template's inputs, which must be an object that refuses unknown keys.
pub(super) fn root(source: &Value, at: &str, faults: &mut Vec<SchemaFault>) -> Option<Node> {
    let here = Location::Root(at);
    let node = node(source, here, 0, faults)?;
    if node.types != [Type::Object] {
        push(faults, here.key("type"), "must be `object`: inputs are named");
    }
    if !node.object.closed {
        push(faults, here.key("additionalProperties"), "must be `false`, so that a misspelt input is refused");
    }
    if node.default.is_some() || node.sensitive {
        push(faults, here, "`default` and `sensitive` belong to single inputs");
    }
    Some(node)
}

fn node(source: &Value, at: Location<'_>, depth: usize, faults: &mut Vec<SchemaFault>) -> Option<Node> {
    let Value::Object(map) = source else {
        push(faults, at, "must be a schema, that is an object of keywords");
        return None;
    };
    if depth > MAX_DEPTH {
        push(faults, at, &format!("must not be nested deeper than {MAX_DEPTH} levels"));
        return None;
    }
    let mut node = Node::default();
    for (key, value) in map {
        let here = at.key(key);
        match Keyword::named(key) {
            Some(Keyword::Items) => node.list.items = self::node(value, here, depth + 1, faults).map(Box::new),
            Some(Keyword::Properties) => node.object.properties = properties(value, here, depth, faults),
            Some(keyword) => {
                if let Err(message) = rule(&mut node, keyword, value) {
                    push(faults, here, &message);
                }
            }
            None => push(faults, here, &format!("is not a keyword that is checked; known are {}", keywords::names())),
        }
    }
    consistent(&node, map, at, faults);
    Some(node)
}

fn properties(source: &Value, at: Location<'_>, depth: usize, faults: &mut Vec<SchemaFault>) -> BTreeMap<String, Node> {
    let Value::Object(map) = source else {
        push(faults, at, "must be an object of names and their schemas");
        return BTreeMap::new();
    };
    map.iter()
        .filter_map(|(name, schema)| Some((name.clone(), node(schema, at.key(name), depth + 1, faults)?)))
        .collect()
}

/// Puts one keyword into the node, or says what the keyword wants.
fn rule(node: &mut Node, keyword: Keyword, value: &Value) -> Result<(), String> {
    match keyword {
        Keyword::Type => node.types = types(value)?,
        Keyword::Const => node.constant = Some(Fixed::new(value)),
        Keyword::Enum => node.allowed = Some(distinct(value)?),
        Keyword::Minimum => node.number.minimum = Some(bound(value)?),
        Keyword::Maximum => node.number.maximum = Some(bound(value)?),
        Keyword::ExclusiveMinimum => node.number.exclusive_minimum = Some(bound(value)?),
        Keyword::ExclusiveMaximum => node.number.exclusive_maximum = Some(bound(value)?),
        Keyword::MinLength => node.text.min_length = Some(count(value)?),
        Keyword::MaxLength => node.text.max_length = Some(count(value)?),
        Keyword::Pattern => {
            let source = value.as_str().ok_or("must be a string")?;
            node.text.pattern = Some(Pattern::parse(source).map_err(|fault| fault.to_string())?);
        }
        Keyword::MinItems => node.list.min_items = Some(count(value)?),
        Keyword::MaxItems => node.list.max_items = Some(count(value)?),
        Keyword::UniqueItems => node.list.unique = flag(value)?,
        Keyword::Required => node.object.required = names(value)?,
        Keyword::AdditionalProperties => {
            node.object.closed = !value.as_bool().ok_or("must be `true` or `false`, not a schema")?;
        }
        Keyword::Default => node.default = Some(value.clone()),
        Keyword::Sensitive => node.sensitive = flag(value)?,
        Keyword::Title | Keyword::Description => {
            value.as_str().ok_or("must be a string")?;
        }
        Keyword::Examples => {
            value.as_array().ok_or("must be a list")?;
        }
        // Nested schemas carry a place and a depth; `node` reads them.
        Keyword::Items | Keyword::Properties => {}
    }
    Ok(())
}

fn types(value: &Value) -> Result<Vec<Type>, String> {
    let message = || {
        let names: Vec<_> = Type::ALL.iter().map(|t| t.name()).collect();
        format!("must be one of {} or a list of different ones", names.join(", "))
    };
    let names = match value {
        Value::Array(names) if !names.is_empty() => names.as_slice(),
        single => std::slice::from_ref(single),
    };
    let types: Option<Vec<Type>> = names.iter().map(|name| name.as_str().and_then(Type::named)).collect();
    let types = types.ok_or_else(message)?;
    let repeated = types.iter().enumerate().any(|(i, t)| types[..i].contains(t));
    if repeated { Err(message()) } else { Ok(types) }
}

fn distinct(value: &Value) -> Result<Vec<Fixed>, String> {
    let values = value
        .as_array()
        .filter(|values| (1..=MAX_ENUM_VALUES).contains(&values.len()))
        .ok_or_else(|| format!("must be a list of 1 to {MAX_ENUM_VALUES} values"))?;
    let texts: BTreeSet<String> = values.iter().map(canonical).collect();
    if texts.len() < values.len() {
        return Err("must not hold the same value twice".to_owned());
    }
    Ok(values.iter().map(Fixed::new).collect())
}

fn bound(value: &Value) -> Result<f64, String> {
    match value {
        Value::Number(n) if double(n).abs() <= MAX_NUMBER => Ok(double(n)),
        _ => Err(format!("must be a number between -{MAX_NUMBER} and {MAX_NUMBER}")),
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a whole number from 0 to 2^53 - 1")]
fn count(value: &Value) -> Result<u64, String> {
    match bound(value) {
        Ok(n) if n >= 0.0 && n.fract() == 0.0 => Ok(n as u64),
        _ => Err("must be a whole number from 0".to_owned()),
    }
}

fn flag(value: &Value) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| "must be `true` or `false`".to_owned())
}

fn names(value: &Value) -> Result<Vec<String>, String> {
    let message = "must be a list of different property names";
    let list = value.as_array().ok_or(message)?;
    let names: Option<Vec<String>> = list.iter().map(|name| name.as_str().map(str::to_owned)).collect();
    let names = names.ok_or(message)?;
    let distinct: BTreeSet<&String> = names.iter().collect();
    if distinct.len() < names.len() { Err(message.to_owned()) } else { Ok(names) }
}

/// Rules that are each well-formed but cannot have an effect beside each other.
fn consistent(node: &Node, map: &Map<String, Value>, at: Location<'_>, faults: &mut Vec<SchemaFault>) {
    for key in map.keys() {
        let Some(keyword) = Keyword::named(key) else {
            continue;
        };
        if !node.types.is_empty() && !keyword.speaks_of().iter().any(|t| node.types.contains(t)) {
            push(faults, at.key(key), "has no effect on a value of this `type`; remove it");
        }
    }
    for name in &node.object.required {
        let here = at.key("required");
        match node.object.properties.get(name) {
            None => push(faults, here, &format!("names `{name}`, which `properties` does not describe")),
            Some(property) if property.default.is_some() => {
                push(faults, here, &format!("names `{name}`, whose `default` would then never be used"));
            }
            Some(_) => {}
        }
    }
    let samples = ["default", "const"].into_iter().filter_map(|key| Some((at.key(key), map.get(key)?)));
    for (here, sample) in samples {
        fits(node, sample, here, faults);
    }
    for key in ["examples", "enum"] {
        let here = at.key(key);
        for (index, sample) in map.get(key).and_then(Value::as_array).into_iter().flatten().enumerate() {
            fits(node, sample, here.index(index), faults);
        }
    }
}

/// Values that a template's author wrote down must pass the checks themselves, and must not be secrets.
fn fits(node: &Node, sample: &Value, at: Location<'_>, faults: &mut Vec<SchemaFault>) {
    for error in check::document(node, sample, &at.text()) {
        push_text(faults, error.path, &error.message);
    }
    if !super::defaults::sensitive_values(node, sample).is_empty() {
        push(faults, at, "writes down a value for a sensitive input; remove it");
    }
}

fn push(faults: &mut Vec<SchemaFault>, at: Location<'_>, message: &str) {
    push_text(faults, at.text(), message);
}

fn push_text(faults: &mut Vec<SchemaFault>, path: String, message: &str) {
    if faults.len() < MAX_ERRORS {
        faults.push(SchemaFault { path, message: message.to_owned() });
    }
}
