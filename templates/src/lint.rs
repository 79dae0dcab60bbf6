//! Finding what is wrong with a template before anybody uses it.

use std::borrow::Cow;

use crate::backend::{Syntax, blocks_in};
use crate::finding::Finding;
use crate::manifest::MANIFEST_FILE;
use crate::render::{MAX_TEMPLATE_BYTES, TEMPLATE_SUFFIX, lint_source};
use crate::schema::Schema;
use crate::tree::{File, Tree, TreeError, TreePath};

/// Findings in all files but the manifest. Without a schema, inputs are taken as known.
pub(crate) fn lint_files(tree: &Tree, inputs: Option<&Schema>) -> Vec<Finding> {
    // What the tree becomes: two files may only then take the same name.
    let mut rendered = Tree::new();
    let mut findings = Vec::new();
    for (path, file) in tree.iter().filter(|(path, _)| path.as_str() != MANIFEST_FILE) {
        let file = Source::new(path.as_str(), file);
        let empty = File { bytes: Vec::new(), executable: false };
        let named = TreePath::new(file.target).map_err(TreeError::from).and_then(|path| rendered.insert(path, empty));
        if let Err(error) = named {
            findings.push(file.finding(0, format!("would be rendered to a name that is refused: {error}")));
        }
        if file.target.ends_with(".tfstate") || file.target.ends_with(".tfstate.backup") {
            findings.push(file.finding(0, "is a Terraform state, which is no part of a template; remove it"));
        }
        findings.extend(file.rendering(inputs));
        findings.extend(file.backends());
    }
    findings
}

/// A file of a template, and the name that it is rendered to.
struct Source<'a> {
    name: &'a str,
    target: &'a str,
    bytes: &'a [u8],
}

impl<'a> Source<'a> {
    fn new(name: &'a str, file: &'a File) -> Source<'a> {
        let target = name.strip_suffix(TEMPLATE_SUFFIX).unwrap_or(name);
        Source { name, target, bytes: &file.bytes }
    }

    fn is_rendered(&self) -> bool {
        self.target != self.name
    }

    fn rendering(&self, inputs: Option<&Schema>) -> Vec<Finding> {
        if !self.is_rendered() {
            return Vec::new();
        }
        let Ok(text) = std::str::from_utf8(self.bytes) else {
            return vec![self.finding(0, "is not UTF-8, so it cannot be rendered")];
        };
        if text.len() > MAX_TEMPLATE_BYTES {
            return vec![self.finding(0, format!("is larger than {MAX_TEMPLATE_BYTES} bytes, so it is not rendered"))];
        }
        let is_input = |input: &str| inputs.is_none_or(|schema| schema.describes(input));
        let faults = lint_source(self.name, text, is_input);
        faults.into_iter().map(|fault| self.finding(fault.line, fault.message)).collect()
    }

    fn backends(&self) -> Vec<Finding> {
        let Some(syntax) = Syntax::of(self.target) else {
            return Vec::new();
        };
        let mut text = String::from_utf8_lossy(self.bytes);
        if self.is_rendered() {
            text = Cow::Owned(without_tags(&text));
        }
        let message = |block| format!("remove the `{block}` block, Tendril writes the backend");
        blocks_in(syntax, self.name, &text)
            .into_iter()
            .map(|found| self.finding(found.line, message(found.block)))
            .collect()
    }

    /// A finding at a line, or about the whole file when the line is 0.
    fn finding(&self, line: usize, message: impl Into<String>) -> Finding {
        let path = if line == 0 { String::new() } else { format!("line {line}") };
        Finding::new(self.name, path, message)
    }
}

/// A template's text with its tags blanked, for a first look before it is rendered.
fn without_tags(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('{') {
        let close = match rest.as_bytes().get(start + 1) {
            Some(b'{') => "}}",
            Some(b'%') => "%}",
            Some(b'#') => "#}",
            _ => {
                out.push_str(&rest[..=start]);
                rest = &rest[start + 1..];
                continue;
            }
        };
        let end = rest[start..].find(close).map_or(rest.len(), |end| start + end + close.len());
        out.push_str(&rest[..start]);
        out.extend(rest[start..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = &rest[end..];
    }
    out.push_str(rest);
    out
}
