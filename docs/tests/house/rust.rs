//! A parsed Rust file, cut into what runs in production and what only tests.

use proc_macro2::{Span, TokenStream};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Attribute, Item, Meta};

use crate::tree::File;

/// One Rust file. `production` and `tests` together hold all its items.
pub struct RustFile<'a> {
    pub file: &'a File,
    pub production: syn::File,
    /// Items under `#[cfg(test)]` or `#[test]`; in a test file all of them.
    pub tests: syn::File,
    /// Lines that the production part covers.
    pub production_lines: usize,
}

impl<'a> RustFile<'a> {
    pub fn parse(file: &'a File) -> syn::Result<Self> {
        let all = syn::parse_file(&file.text)?;
        let (tests, production) = all.items.into_iter().partition(|item| file.is_test() || is_test_item(item));
        let part = |items: Vec<Item>| syn::File { shebang: None, attrs: Vec::new(), items };
        let tests = part(tests);
        let test_lines: usize =
            if file.is_test() { 0 } else { tests.items.iter().map(|item| lines(item.span())).sum() };
        let production_lines = file.text.lines().count() - test_lines;
        Ok(Self { file, production: part(production), tests, production_lines })
    }

    /// Both parts, for rules that hold everywhere.
    pub fn parts(&self) -> [&syn::File; 2] {
        [&self.production, &self.tests]
    }
}

/// Lines from the first to the last of a span, both counted.
pub fn lines(span: Span) -> usize {
    span.end().line - span.start().line + 1
}

/// All string literals of the code: those that a macro gets included, those of attributes and doc comments not.
pub fn string_literals(code: &syn::File) -> Vec<(String, usize)> {
    struct Collector(Vec<(String, usize)>);
    impl<'ast> Visit<'ast> for Collector {
        fn visit_lit_str(&mut self, literal: &'ast syn::LitStr) {
            self.0.push((literal.value(), literal.span().start().line));
        }
        fn visit_attribute(&mut self, _: &'ast Attribute) {}
        fn visit_macro(&mut self, call: &'ast syn::Macro) {
            for_each_token(call.tokens.clone(), &mut |token, _| {
                if let proc_macro2::TokenTree::Literal(literal) = token
                    && let Ok(literal) = syn::parse_str::<syn::LitStr>(&literal.to_string())
                {
                    self.0.push((literal.value(), token.span().start().line));
                }
            });
            visit::visit_macro(self, call);
        }
    }
    let mut collector = Collector(Vec::new());
    collector.visit_file(code);
    collector.0
}

/// Calls `look` with each token of the stream, groups entered, and the one after it.
pub fn for_each_token(
    tokens: TokenStream,
    look: &mut impl FnMut(&proc_macro2::TokenTree, Option<&proc_macro2::TokenTree>),
) {
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        look(&token, tokens.peek());
        if let proc_macro2::TokenTree::Group(group) = token {
            for_each_token(group.stream(), look);
        }
    }
}

fn is_test_item(item: &Item) -> bool {
    let attributes = match item {
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => return false,
    };
    attributes.iter().any(is_test_attribute)
}

pub fn is_test_attribute(attribute: &Attribute) -> bool {
    match &attribute.meta {
        Meta::List(list) => list.path.is_ident("cfg") && list.tokens.to_string() == "test",
        meta => meta.path().segments.last().is_some_and(|segment| segment.ident == "test"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_do_not_count_as_production_lines() -> syn::Result<()> {
        let file = File::new("a/src/b.rs", "fn one() {}\n\n#[cfg(test)]\nmod tests {\n    fn two() {}\n}\n");
        let rust = RustFile::parse(&file)?;
        assert_eq!((rust.production_lines, rust.production.items.len(), rust.tests.items.len()), (2, 1, 1));
        Ok(())
    }

    #[test]
    fn literals_are_found_in_macros_and_not_in_docs() -> syn::Result<()> {
        let code = syn::parse_file("/// doc\nfn one() { run(\"first\"); print!(\"{}\", f(r#\"second\"#)); }")?;
        assert_eq!(string_literals(&code), [("first".into(), 2), ("{}".into(), 2), ("second".into(), 2)]);
        Ok(())
    }
}
