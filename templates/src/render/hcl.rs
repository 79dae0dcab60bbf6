//! JSON values as literals of HCL, the language of Terraform.

use std::fmt::Write;

use serde_json::Value;

/// A literal that Terraform reads back as the same value, in which no text can begin an expression.
pub(super) fn literal(value: &Value) -> String {
    let mut out = String::new();
    write_literal(value, &mut out);
    out
}

fn write_literal(value: &Value, out: &mut String) {
    match value {
        Value::String(text) => write_text(text, out),
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                write_literal(item, out);
            }
            out.push(']');
        }
        Value::Object(map) if map.is_empty() => out.push_str("{}"),
        Value::Object(map) => {
            out.push_str("{ ");
            for (i, (key, value)) in map.iter().enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                write_text(key, out);
                out.push_str(" = ");
                write_literal(value, out);
            }
            out.push_str(" }");
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}

fn write_text(text: &str, out: &mut String) {
    out.push('"');
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            // Doubled, the sign loses its power to open a template.
            '$' | '%' if chars.peek() == Some(&'{') => {
                out.push(c);
                out.push(c);
            }
            c if c.is_control() => {
                // A String takes whatever is written to it.
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::literal;

    #[test]
    fn text_cannot_leave_its_quotes_or_begin_a_template() {
        let text = json!("a\"b\\c\n${file(\"/etc/passwd\")} %{if} $$ %\u{1}");
        assert_eq!(literal(&text), r#""a\"b\\c\n$${file(\"/etc/passwd\")} %%{if} $$ %\u0001""#);
    }

    #[test]
    fn lists_and_objects_are_literals_too() {
        let value = json!({"a": [1, 2.5, true, null], "b c": {}});
        assert_eq!(literal(&value), r#"{ "a" = [1, 2.5, true, null], "b c" = {} }"#);
    }
}
