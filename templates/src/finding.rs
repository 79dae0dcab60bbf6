//! What `lint` has to say.

use std::fmt;

use serde::Serialize;

/// Something that is wrong with a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The file, relative to the template; empty when the whole template is meant.
    pub file: String,
    /// The place in the file: a key such as `inputs.properties.region.type`, or `line 7`; may be empty.
    pub path: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl Finding {
    pub(crate) fn new(file: &str, path: impl Into<String>, message: impl Into<String>) -> Finding {
        Finding { file: file.to_owned(), path: path.into(), message: message.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in [&self.file, &self.path] {
            if !part.is_empty() {
                write!(f, "{part}: ")?;
            }
        }
        f.write_str(&self.message)
    }
}
