//! Where in a document a check or a fault stands.

use serde_json::Value;

/// Characters of one key that a path shows; the rest becomes an ellipsis.
const MAX_KEY_CHARS: usize = 64;

/// A place, kept as a chain of borrowed steps so that a check which finds nothing builds no strings.
#[derive(Debug, Clone, Copy)]
pub(super) enum Location<'a> {
    Root(&'a str),
    Key(&'a Location<'a>, &'a str),
    Index(&'a Location<'a>, usize),
}

impl<'a> Location<'a> {
    pub(super) fn key(&'a self, key: &'a str) -> Location<'a> {
        Location::Key(self, key)
    }

    pub(super) fn index(&'a self, index: usize) -> Location<'a> {
        Location::Index(self, index)
    }

    pub(super) fn text(&self) -> String {
        match self {
            Location::Root(name) => (*name).to_owned(),
            Location::Key(parent, key) => join(parent.text(), key),
            Location::Index(parent, index) => format!("{}[{index}]", parent.text()),
        }
    }
}

/// Appends a key: `.name` for a plain one, `["any text"]` for others.
pub(super) fn join(parent: String, key: &str) -> String {
    if is_plain(key) {
        let dot = if parent.is_empty() { "" } else { "." };
        return format!("{parent}{dot}{key}");
    }
    let shown = match key.char_indices().nth(MAX_KEY_CHARS) {
        Some((end, _)) => format!("{}\u{2026}", &key[..end]),
        None => key.to_owned(),
    };
    format!("{parent}[{}]", Value::from(shown))
}

fn is_plain(key: &str) -> bool {
    let mut bytes = key.bytes();
    key.len() <= MAX_KEY_CHARS
        && bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::Location;

    #[test]
    fn plain_keys_take_a_dot_and_others_are_quoted() {
        let root = Location::Root("inputs");
        let zones = root.key("zones");
        assert_eq!(zones.index(2).text(), "inputs.zones[2]");
        assert_eq!(root.key("a.b \"c\"").text(), r#"inputs["a.b \"c\""]"#);
        assert_eq!(root.key("").text(), r#"inputs[""]"#);
        assert_eq!(Location::Root("").key("a").text(), "a");
    }

    #[test]
    fn a_key_of_a_megabyte_is_cut_in_the_path() {
        let key = "é".repeat(1_000_000);
        assert_eq!(Location::Root("x").key(&key).text(), format!("x[\"{}…\"]", "é".repeat(64)));
    }
}
