//! Budgets: how large a file, a function, an error type may grow, how deep folders go, how files may be called.

use syn::visit::{self, Visit};
use syn::{Attribute, Block, FnArg, Ident, Signature};

use crate::finding::Finding;
use crate::rust::{self, RustFile};
use crate::tree::{File, Tree};

const FILE_LINES: usize = 500;
const MAIN_LINES: usize = 60;
const FUNCTION_LINES: usize = 70;
const PARAMETERS: usize = 5;
const ERROR_VARIANTS: usize = 10;
const FOLDERS_BELOW_SRC: usize = 2;

/// Names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 8] = ["common", "helper", "helpers", "manager", "misc", "shared", "util", "utils"];

/// The rules that need no parsing: all files' names and places, the length of SQL and scripts.
pub fn check_files(tree: &Tree) -> Vec<Finding> {
    let mut findings: Vec<Finding> = tree.files.iter().flat_map(|file| [name(file), depth(file)]).flatten().collect();
    findings.extend(
        (tree.files.iter())
            .filter(|file| file.path == "dev" || matches!(file.extension(), Some("sql" | "sh")))
            .filter(|file| !file.is_test())
            .filter_map(|file| over_file_budget(file, file.text.lines().count(), FILE_LINES)),
    );
    findings
}

/// The rules about what stands in a Rust file.
pub fn check_items(rust: &RustFile) -> Vec<Finding> {
    let file = rust.file;
    let mut counter = Counter { file, findings: Vec::new() };
    for part in rust.parts() {
        counter.visit_file(part);
    }
    if !file.is_test() {
        let budget = if file.name() == "main.rs" { MAIN_LINES } else { FILE_LINES };
        counter.findings.extend(over_file_budget(file, rust.production_lines, budget));
    }
    counter.findings
}

fn over_file_budget(file: &File, lines: usize, budget: usize) -> Option<Finding> {
    let over = || Finding::over("file-lines", &file.path, "the file's lines (tests aside)", lines, budget);
    (lines > budget).then(over)
}

fn name(file: &File) -> Option<Finding> {
    let code = matches!(file.extension(), Some("rs" | "sql" | "ts" | "tsx"));
    let part = file.path.split('/').map(|part| part.split('.').next().unwrap_or(part));
    let empty =
        code.then(|| part.into_iter().find(|part| EMPTY_NAMES.contains(part) || part.starts_with("new_")))??;
    let message = format!("'{empty}' says nothing; name it after the noun or the verb that it holds");
    Some(Finding::new("file-name", &file.path, message))
}

fn depth(file: &File) -> Option<Finding> {
    let (_, below_src) = file.path.split_once("/src/")?;
    let folders = below_src.matches('/').count();
    let over = || Finding::over("folder-depth", &file.path, "folders below src", folders, FOLDERS_BELOW_SRC);
    (folders > FOLDERS_BELOW_SRC).then(over)
}

struct Counter<'a> {
    file: &'a File,
    findings: Vec<Finding>,
}

impl Counter<'_> {
    fn limit(&mut self, rule: &'static str, what: String, size: usize, budget: usize) {
        if size > budget {
            self.findings.push(Finding::over(rule, &self.file.path, &what, size, budget));
        }
    }

    fn function(&mut self, signature: &Signature, body: &Block) {
        let name = &signature.ident;
        let first = signature.fn_token.span.start().line;
        let last = body.brace_token.span.close().end().line;
        self.limit("function-lines", format!("{name}'s lines"), last - first + 1, FUNCTION_LINES);
        self.parameters(signature);
    }

    fn parameters(&mut self, signature: &Signature) {
        let count = signature.inputs.iter().filter(|input| matches!(input, FnArg::Typed(_))).count();
        self.limit("parameters", format!("{}'s parameters", signature.ident), count, PARAMETERS);
    }
}

impl<'ast> Visit<'ast> for Counter<'_> {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.function(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.function(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        match &item.default {
            Some(body) => self.function(&item.sig, body),
            None => self.parameters(&item.sig),
        }
        visit::visit_trait_item_fn(self, item);
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        if is_error(&item.ident, &item.attrs) {
            let what = format!("{}'s variants", item.ident);
            self.limit("error-variants", what, item.variants.len(), ERROR_VARIANTS);
        }
    }
}

fn is_error(name: &Ident, attributes: &[Attribute]) -> bool {
    let derives_error = |attribute: &Attribute| {
        let mut found = false;
        if attribute.path().is_ident("derive")
            && let Ok(list) = attribute.meta.require_list()
        {
            rust::for_each_token(list.tokens.clone(), &mut |token, _| found |= token.to_string() == "Error");
        }
        found
    };
    name.to_string().ends_with("Error") || attributes.iter().any(derives_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(path: &str, text: &str) -> Vec<&'static str> {
        let tree = Tree::of(&[(path, text)]);
        let mut findings = check_files(&tree);
        for file in tree.with_extension("rs") {
            findings.extend(check_items(&RustFile::parse(file).expect("the example parses")));
        }
        findings.iter().map(|finding| finding.rule).collect()
    }

    fn function(lines: usize) -> String {
        format!("fn long() {{\n{}}}\n", "    step();\n".repeat(lines - 2))
    }

    #[test]
    fn a_file_of_501_lines_is_too_long_and_its_tests_do_not_count() {
        let text = "const A: u8 = 0;\n".repeat(501);
        assert_eq!(rules("a/src/b.rs", &text), ["file-lines"]);
        assert_eq!(rules("a/migrations/0001.sql", &text), ["file-lines"]);
        assert_eq!(rules("dev", &text), ["file-lines"]);
        assert!(rules("a/tests/b.rs", &text).is_empty());
        let with_tests = format!("{}#[cfg(test)]\nmod tests {{\n{text}}}\n", "const A: u8 = 0;\n".repeat(500));
        assert!(rules("a/src/b.rs", &with_tests).is_empty());
    }

    #[test]
    fn a_main_of_61_lines_is_too_long() {
        assert_eq!(rules("a/src/main.rs", &"const A: u8 = 0;\n".repeat(61)), ["file-lines"]);
    }

    #[test]
    fn a_function_of_71_lines_is_too_long_wherever_it_stands() {
        assert!(rules("a/src/b.rs", &function(70)).is_empty());
        assert_eq!(rules("a/src/b.rs", &function(71)), ["function-lines"]);
        assert_eq!(rules("a/src/b.rs", &format!("impl A {{ {} }}", function(71))), ["function-lines"]);
        assert_eq!(rules("a/tests/b.rs", &function(71)), ["function-lines"]);
    }

    #[test]
    fn a_sixth_parameter_is_one_too_many_and_self_is_none() {
        assert!(rules("a/src/b.rs", "impl A { fn f(&self, a: u8, b: u8, c: u8, d: u8, e: u8) {} }").is_empty());
        assert_eq!(rules("a/src/b.rs", "trait A { fn f(a: u8, b: u8, c: u8, d: u8, e: u8, f: u8); }"), ["parameters"]);
    }

    #[test]
    fn an_eleventh_error_variant_is_one_too_many() {
        let variants = "A, B, C, D, E, F, G, H, I, J, K";
        assert_eq!(rules("a/src/b.rs", &format!("enum ReadError {{ {variants} }}")), ["error-variants"]);
        let derived = format!("#[derive(Debug, thiserror::Error)] enum Refusal {{ {variants} }}");
        assert_eq!(rules("a/src/b.rs", &derived), ["error-variants"]);
        assert!(rules("a/src/b.rs", &format!("enum Letter {{ {variants} }}")).is_empty());
    }

    #[test]
    fn a_third_folder_below_src_is_too_deep() {
        assert!(rules("a/src/b/c/d.rs", "").is_empty());
        assert_eq!(rules("a/src/b/c/d/e.rs", ""), ["folder-depth"]);
    }

    #[test]
    fn empty_names_are_refused_for_files_and_folders() {
        assert_eq!(rules("a/src/utils.rs", ""), ["file-name"]);
        assert_eq!(rules("a/tests/common/mod.rs", ""), ["file-name"]);
        assert_eq!(rules("a/src/new_claim.rs", ""), ["file-name"]);
        assert!(rules("a/src/claim.rs", "").is_empty());
    }
}
