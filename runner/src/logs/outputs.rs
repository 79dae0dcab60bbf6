//! Terraform's output values as people read them.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// A longer value is shown on one line, in bytes of its JSON.
const MAX_SPREAD_BYTES: usize = 16 * 1024;
/// Once the block is longer, all further values are shown on one line, in bytes.
const MAX_SPREAD_BLOCK_BYTES: usize = 128 * 1024;
/// Values nested deeper go on in one line.
const MAX_SPREAD_DEPTH: usize = 16;
const NO_VALUE: &str = "null";
/// Stands for the value of a sensitive output.
pub const MASKED: &str = "(sensitive)";
const NUL: &str = "\u{2400}";

/// One output in an `outputs` event.
#[derive(Debug, Deserialize)]
pub(super) struct Output {
    /// An event that does not say so is treated as if it were.
    #[serde(default = "yes")]
    sensitive: bool,
    /// Only after an apply; a value that is `null` counts as absent, which reads the same.
    #[serde(default)]
    value: Option<Box<RawValue>>,
    /// Only in a plan.
    #[serde(default)]
    action: Option<String>,
}

fn yes() -> bool {
    true
}

/// The values after an apply, sensitive ones masked, as JSON; `None` for the announcement of a plan.
pub(super) fn values(outputs: &BTreeMap<String, Output>) -> Option<Map<String, Value>> {
    if outputs.values().any(|output| output.action.is_some()) {
        return None;
    }
    let value = |output: &Output| match (output.sensitive, &output.value) {
        (true, _) => Value::from(MASKED),
        // Nested too deep, or a number out of range: the words of the engine, rather than no value.
        (false, Some(value)) => {
            serde_json::from_str(value.get()).map_or_else(|_| Value::from(value.get()), without_nul)
        }
        (false, None) => Value::Null,
    };
    Some(outputs.iter().map(|(name, output)| (name.replace('\0', NUL), value(output))).collect())
}

/// JSON that Postgres takes: it refuses U+0000, which is shown as in a log instead.
pub fn without_nul(value: Value) -> Value {
    match value {
        Value::String(text) if text.contains('\0') => Value::String(text.replace('\0', NUL)),
        Value::Array(items) => items.into_iter().map(without_nul).collect(),
        Value::Object(members) => {
            members.into_iter().map(|(name, value)| (name.replace('\0', NUL), without_nul(value))).collect()
        }
        other => other,
    }
}

/// The block of text for the outputs of a plan or an apply; empty when there is nothing to tell.
pub(super) fn render(outputs: &BTreeMap<String, Output>) -> String {
    let mut changes = String::new();
    let mut values = String::new();
    for (name, output) in outputs {
        match output.action.as_deref() {
            Some("noop") => {}
            Some(action) => {
                let hidden = if output.sensitive { " (sensitive value)" } else { "" };
                changes.extend(["  ", symbol(action), " ", name, hidden, "\n"]);
            }
            None if output.sensitive => values.extend([name, " = <sensitive>\n"]),
            None => {
                let json = output.value.as_ref().map_or(NO_VALUE, |value| value.get());
                let may_spread = json.len() <= MAX_SPREAD_BYTES && values.len() <= MAX_SPREAD_BLOCK_BYTES;
                values.extend([name, " = ", &spread(json, may_spread), "\n"]);
            }
        }
    }
    let mut text = String::new();
    if !changes.is_empty() {
        text.extend(["\nChanges to Outputs:\n", &changes]);
    }
    if !values.is_empty() {
        text.extend(["\nOutputs:\n\n", &values]);
    }
    text
}

fn symbol(action: &str) -> &'static str {
    match action {
        "create" => "+",
        "update" => "~",
        "delete" => "-",
        _ => "?",
    }
}

/// Writes JSON the way the engine writes values, digit for digit: it never goes through a float.
fn spread(json: &str, may_spread: bool) -> String {
    let mut text = String::with_capacity(json.len());
    let mut open = Vec::new();
    let mut rest = json;
    while let Some(c) = rest.chars().next() {
        let token = if c == '"' { string_len(rest) } else { c.len_utf8() };
        let after = &rest[token..];
        let is_spread = |open: &[char]| may_spread && open.len() <= MAX_SPREAD_DEPTH;
        match c {
            '"' => push_string(&rest[..token], &mut text),
            '[' | '{' => {
                text.push(c);
                open.push(c);
                if is_spread(&open) && !after.trim_start().starts_with([']', '}']) {
                    new_line(open.len(), &mut text);
                }
            }
            ']' | '}' => {
                if is_spread(&open) && !text.ends_with(['[', '{']) {
                    text.push_str(separator(&open));
                    new_line(open.len().saturating_sub(1), &mut text);
                }
                open.pop();
                text.push(c);
            }
            ',' if is_spread(&open) => {
                text.push_str(separator(&open));
                new_line(open.len(), &mut text);
            }
            ',' => text.push_str(", "),
            ':' => text.push_str(" = "),
            _ if c.is_ascii_whitespace() => {}
            _ => text.push(c),
        }
        rest = after;
    }
    text
}

/// What stands at the end of a member's line: nothing in objects.
fn separator(open: &[char]) -> &'static str {
    if open.ends_with(&['[']) { "," } else { "" }
}

fn new_line(depth: usize, text: &mut String) {
    text.push('\n');
    text.extend(std::iter::repeat_n("  ", depth));
}

/// Bytes of the JSON string that `json` begins with, quotes included.
fn string_len(json: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in json.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    json.len()
}

/// Appends a JSON string without the escapes that readers do not need, such as `\u0026` for an ampersand.
fn push_string(json: &str, text: &mut String) {
    let plain = serde_json::from_str::<String>(json).and_then(|string| serde_json::to_string(&string));
    text.push_str(plain.as_deref().unwrap_or(json));
}
