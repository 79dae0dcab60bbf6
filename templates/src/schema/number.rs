//! Numbers and equality, as both checkers see them.
//!
//! A JSON number means the nearest double, since that is what a JSON parser in most languages keeps;
//! Postgres holds exact decimals, so its checker rounds to doubles as well.

use serde_json::{Number, Value};

/// Magnitudes below this count as zero, so that no parser's underflow shows.
const TINY: f64 = 1e-300;

/// The double that a JSON number stands for.
pub(super) fn double(number: &Number) -> f64 {
    let double = number.as_f64().unwrap_or(f64::INFINITY);
    if double.abs() < TINY { 0.0 } else { double }
}

/// A text that two values share exactly when JSON Schema calls them equal.
///
/// Keys are sorted, `1` and `1.0` are the same number.
pub(super) fn canonical(value: &Value) -> String {
    let mut text = String::new();
    write_canonical(value, &mut text);
    text
}

fn write_canonical(value: &Value, out: &mut String) {
    match value {
        // Display of a double never uses an exponent and is the shortest that reads back the same.
        Value::Number(n) => out.push_str(&double(n).to_string()),
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_canonical(item, out);
            }
            out.push(']');
        }
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort();
            out.push('{');
            for (i, key) in keys.into_iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push(':');
                write_canonical(&map[key], out);
            }
            out.push('}');
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::canonical;

    #[test]
    fn equal_values_share_a_text_however_they_are_written() {
        let a = serde_json::from_str("{\"b\": 1.0, \"a\": [1e2, -0.0]}").unwrap();
        assert_eq!(canonical(&a), canonical(&json!({"a": [100, 0], "b": 1})));
        assert_ne!(canonical(&json!("1")), canonical(&json!(1)));
    }
}
