//! Finding `backend` and `cloud` blocks in Terraform files.
//!
//! Where a state lies is Tendril's to say. This is a scan, not a parser: it knows comments, strings with their
//! templates, heredocs and nesting, which is enough to see the blocks inside `terraform { ... }`. A file that
//! Terraform itself would refuse may be misread.

use std::iter::Peekable;
use std::str::Chars;

use serde_json::Value;

use crate::tree::Tree;

/// A block that says where state lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendBlock {
    /// The file that it is in.
    pub file: String,
    /// Its line, from 1; 0 in a JSON file.
    pub line: usize,
    /// `backend` or `cloud`.
    pub block: &'static str,
}

/// All `backend` and `cloud` blocks in the Terraform and OpenTofu files of a tree, subfolders included.
///
/// Files that end in `.j2` are not looked at: render first.
#[must_use]
pub fn backend_blocks(tree: &Tree) -> Vec<BackendBlock> {
    let mut found = Vec::new();
    for (path, file) in tree.iter() {
        let Some(syntax) = Syntax::of(path.as_str()) else {
            continue;
        };
        let text = String::from_utf8_lossy(&file.bytes);
        found.extend(blocks_in(syntax, path.as_str(), &text));
    }
    found
}

/// How a file that Terraform reads is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Syntax {
    Native,
    Json,
}

impl Syntax {
    pub(crate) fn of(path: &str) -> Option<Syntax> {
        let ends = |endings: [&str; 2]| endings.iter().any(|ending| path.ends_with(ending));
        if ends([".tf", ".tofu"]) {
            Some(Syntax::Native)
        } else if ends([".tf.json", ".tofu.json"]) {
            Some(Syntax::Json)
        } else {
            None
        }
    }
}

pub(crate) fn blocks_in(syntax: Syntax, file: &str, text: &str) -> Vec<BackendBlock> {
    let found = match syntax {
        Syntax::Native => native(text),
        Syntax::Json => json(text),
    };
    found.into_iter().map(|(line, block)| BackendBlock { file: file.to_owned(), line, block }).collect()
}

fn block_named(name: &str) -> Option<&'static str> {
    ["backend", "cloud"].into_iter().find(|block| *block == name)
}

fn json(text: &str) -> Vec<(usize, &'static str)> {
    let Ok(document) = serde_json::from_str::<Value>(text) else {
        return Vec::new();
    };
    let bodies = match document.get("terraform") {
        Some(Value::Array(bodies)) => bodies.as_slice(),
        Some(body) => std::slice::from_ref(body),
        None => &[],
    };
    let keys = bodies.iter().filter_map(Value::as_object).flat_map(|body| body.keys());
    keys.filter_map(|key| Some((0, block_named(key)?))).collect()
}

fn native(text: &str) -> Vec<(usize, &'static str)> {
    let mut found = Vec::new();
    let mut open: Vec<bool> = Vec::new();
    // The identifier that began the current block or attribute, if that is what we are in.
    let mut head: Option<(String, usize)> = None;
    let mut lexer = Lexer { chars: text.chars().peekable(), line: 1 };
    while let Some(token) = lexer.next_token() {
        match token {
            Token::Word(word) if head.is_none() => head = Some((word, lexer.line)),
            Token::Open => {
                let (word, line) = head.take().unwrap_or_default();
                let inside_terraform = open.as_slice() == [true];
                if let Some(block) = block_named(&word).filter(|_| inside_terraform) {
                    found.push((line, block));
                }
                open.push(open.is_empty() && word == "terraform");
            }
            Token::Close => {
                open.pop();
                head = None;
            }
            Token::LineEnd => head = None,
            // `backend = ...` is an attribute: whatever opens after the sign is a value.
            Token::Other => head = Some((String::new(), lexer.line)),
            Token::Word(_) | Token::Text => {}
        }
    }
    found
}

enum Token {
    Word(String),
    /// A quoted string or heredoc; a block's label or a value.
    Text,
    Open,
    Close,
    LineEnd,
    Other,
}

struct Lexer<'a> {
    chars: Peekable<Chars<'a>>,
    line: usize,
}

impl Lexer<'_> {
    fn next_token(&mut self) -> Option<Token> {
        loop {
            let c = self.bump()?;
            return Some(match c {
                ' ' | '\t' | '\r' | '\u{feff}' => continue,
                '\n' => Token::LineEnd,
                '#' => self.rest_of_line(),
                '/' if self.chars.peek() == Some(&'/') => self.rest_of_line(),
                '/' if self.chars.peek() == Some(&'*') => {
                    self.block_comment();
                    continue;
                }
                '"' => {
                    self.string();
                    Token::Text
                }
                '<' if self.chars.peek() == Some(&'<') => {
                    self.heredoc();
                    Token::Text
                }
                '{' | '(' | '[' => Token::Open,
                '}' | ')' | ']' => Token::Close,
                c if c.is_alphabetic() || c == '_' => self.word(c),
                _ => Token::Other,
            });
        }
    }

    fn bump(&mut self) -> Option<char> {
        let c = self.chars.next();
        self.line += usize::from(c == Some('\n'));
        c
    }

    fn word(&mut self, first: char) -> Token {
        let mut word = String::from(first);
        while let Some(c) = self.chars.next_if(|c| c.is_alphanumeric() || *c == '_' || *c == '-') {
            word.push(c);
        }
        Token::Word(word)
    }

    fn rest_of_line(&mut self) -> Token {
        while self.bump().is_some_and(|c| c != '\n') {}
        Token::LineEnd
    }

    fn block_comment(&mut self) {
        self.bump();
        let mut last = ' ';
        while let Some(c) = self.bump() {
            if last == '*' && c == '/' {
                return;
            }
            last = c;
        }
    }

    /// Skips to the end of a quoted string. A template within (`${ ... }`) may hold strings of its own, so the
    /// openings are kept: true for a string, false for a brace.
    fn string(&mut self) {
        let mut open = vec![true];
        while let Some(&in_string) = open.last() {
            let Some(c) = self.bump() else { return };
            match (in_string, c) {
                (true, '\\') => {
                    self.bump();
                }
                (_, '"') if in_string => {
                    open.pop();
                }
                (false, '"') => open.push(true),
                (true, '$' | '%') => self.template(c, &mut open),
                (false, '{') => open.push(false),
                (false, '}') => {
                    open.pop();
                }
                _ => {}
            }
        }
    }

    /// After `$` or `%` in a string: `${` opens a template; behind two or more signs it is text.
    fn template(&mut self, sign: char, open: &mut Vec<bool>) {
        let mut is_text = false;
        while self.chars.next_if_eq(&sign).is_some() {
            is_text = true;
        }
        if self.chars.next_if_eq(&'{').is_some() && !is_text {
            open.push(false);
        }
    }

    fn heredoc(&mut self) {
        self.bump();
        self.chars.next_if_eq(&'-');
        let mut marker = String::new();
        while let Some(c) = self.chars.next_if(|c| *c != '\n') {
            marker.push(c);
        }
        self.bump();
        let marker = marker.trim();
        if marker.is_empty() {
            return;
        }
        let mut line = String::new();
        // The line break after the end marker ends the attribute, so it is left to be read.
        while line.trim() != marker {
            line.clear();
            while let Some(c) = self.chars.next_if(|c| *c != '\n') {
                line.push(c);
            }
            if line.trim() != marker && self.bump().is_none() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Syntax, blocks_in};

    fn blocks(text: &str) -> Vec<(usize, &'static str)> {
        blocks_in(Syntax::Native, "main.tf", text).into_iter().map(|b| (b.line, b.block)).collect()
    }

    #[test]
    fn backend_and_cloud_blocks_are_found_with_their_line() {
        assert_eq!(blocks("terraform {\n  backend \"s3\" {\n  }\n}\n"), [(2, "backend")]);
        assert_eq!(blocks("terraform{cloud{\n}}"), [(1, "cloud")]);
        assert_eq!(blocks("terraform {\n  required_version = \">= 1\"\n  cloud {}\n}"), [(3, "cloud")]);
        assert_eq!(
            blocks("terraform {\n required_providers { a = { source = \"x/a\" } }\n backend local {}\n}"),
            [(3, "backend")]
        );
        assert_eq!(blocks("x = <<EOT\n}}\nEOT\n\nterraform {\n  /* } */ backend \"x\" {}\n}"), [(6, "backend")]);
        assert_eq!(blocks("a = \"${\"}\"}\"\nterraform {\n # }\n backend \"x\" {}\n}"), [(4, "backend")]);
        assert_eq!(blocks("a = \"$${\"\nterraform {\n backend \"x\" {}\n}"), [(3, "backend")]);
        assert_eq!(blocks("a = \"%{ if true }{%{ endif }\"\nterraform {\n backend \"x\" {}\n}"), [(3, "backend")]);
    }

    #[test]
    fn no_number_of_signs_before_a_brace_hides_what_follows() {
        for (signs, braces) in [
            ("$$", ""),
            ("$$$", ""),
            ("$$$$", ""),
            ("%%%", ""),
            ("$%%", ""),
            ("$", "1}"),
            ("$%", " if true }%{ endif }"),
        ] {
            let text = format!("a = \"{signs}{{{braces}\"\nterraform {{\n backend \"x\" {{}}\n}}");
            assert_eq!(blocks(&text), [(3, "backend")], "{text}");
        }
    }

    #[test]
    fn the_words_elsewhere_are_no_blocks() {
        for text in [
            "# terraform { backend \"s3\" {} }",
            "// terraform {\n",
            "/* terraform { backend \"s3\" {} } */",
            "a = \"terraform { backend { } }\"",
            "a = <<-EOT\n  terraform {\n  backend \"s3\" {\n  EOT\n",
            "resource \"x\" \"terraform\" {\n  backend {\n  }\n}",
            "terraform {\n  required_providers {\n    backend = { source = \"x/y\" }\n    cloud = { source = \"x/z\" }\n  }\n}",
            "locals {\n  terraform = { backend = { a = 1 } }\n}",
            "terraform {\n  x {\n    backend {}\n  }\n}",
            "variable \"cloud\" {\n}\nmodule \"backend\" {\n}",
        ] {
            assert_eq!(blocks(text), [], "{text}");
        }
    }

    #[test]
    fn json_files_are_looked_at_too() {
        let json = |text| blocks_in(Syntax::Json, "main.tf.json", text).len();
        assert_eq!(json(r#"{"terraform": {"backend": {"s3": {}}}}"#), 1);
        assert_eq!(json(r#"{"terraform": [{"required_version": "1"}, {"cloud": {}}]}"#), 1);
        assert_eq!(json(r#"{"resource": {"backend": {}}}"#), 0);
    }

    #[test]
    fn text_that_ends_in_the_middle_of_something_does_not_hang() {
        for text in ["\"", "\"${", "<<EOT", "<<EOT\nx", "/*", "terraform {", "a = \"\\", "<<", "}}}}"] {
            assert_eq!(blocks(text), [], "{text}");
        }
    }
}
