//! What code may do where: SQL, `unsafe`, sleeping tests, silenced lints.

use proc_macro2::{Delimiter, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, Expr};

use crate::finding::Finding;
use crate::rust::{self, RustFile};

/// The one crate that knows tables exist.
const SQL_CRATE: &str = "broker-sql";
/// The supervisor and its sandbox: the only place that needs what Rust cannot check.
const UNSAFE_FOLDERS: [&str; 2] = ["runner/src/supervise/", "runner/src/sandbox/"];

pub fn check(rust: &RustFile) -> Vec<Finding> {
    let mut findings = sql_outside_its_crate(rust);
    findings.extend(unsafe_outside_its_folder(rust));
    findings.extend(sleeping_tests(rust));
    findings.extend(silenced_lints(rust));
    findings
}

fn sql_outside_its_crate(rust: &RustFile) -> Vec<Finding> {
    if rust.file.top() == SQL_CRATE {
        return Vec::new();
    }
    let literals = rust::string_literals(&rust.production).into_iter();
    let finding = |line| {
        let message = format!("line {line} holds SQL; it belongs into {SQL_CRATE}, behind a function of its client");
        Finding::new("sql-home", &rust.file.path, message)
    };
    literals.filter(|(text, _)| is_sql(text)).map(|(_, line)| finding(line)).collect()
}

/// Whether a text reads like a statement: its first words, and a word that prose would hardly bring after them.
fn is_sql(text: &str) -> bool {
    let uncommented = text.lines().filter(|line| !line.trim_start().starts_with("--"));
    let words: Vec<String> =
        uncommented.flat_map(str::split_whitespace).map(|word| word.to_lowercase().replace(';', "")).collect();
    let has = |word: &str| words.iter().skip(1).any(|other| other == word);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["insert", "into", _, ..] | ["delete", "from", _, ..] | ["truncate", "table", ..] => true,
        ["select", rest @ ..] => has("from") || rest.first().is_some_and(|word| word.contains('(') || *word == "1"),
        ["update", _, ..] => has("set"),
        ["with", _, ..] => has("as") && has("select"),
        ["copy", _, ..] => has("stdin") || has("stdout"),
        ["create" | "alter" | "drop", what, _, ..] => {
            matches!(*what, "table" | "schema" | "function" | "role" | "index" | "database" | "view" | "trigger")
        }
        ["grant" | "revoke", _, ..] => has("on") && (has("to") || has("from")),
        ["listen" | "notify" | "unlisten", _] | ["begin"] | ["commit"] | ["rollback"] => true,
        ["set", "local" | "role" | "session", _, ..] => true,
        _ => false,
    }
}

fn unsafe_outside_its_folder(rust: &RustFile) -> Vec<Finding> {
    struct Collector(Vec<usize>);
    impl<'ast> Visit<'ast> for Collector {
        fn visit_token_stream(&mut self, tokens: &'ast proc_macro2::TokenStream) {
            rust::for_each_token(tokens.clone(), &mut |token, _| {
                if matches!(token, TokenTree::Ident(ident) if ident == "unsafe") {
                    self.0.push(token.span().start().line);
                }
            });
        }
        fn visit_expr_unsafe(&mut self, block: &'ast syn::ExprUnsafe) {
            self.0.push(block.unsafe_token.span.start().line);
            visit::visit_expr_unsafe(self, block);
        }
        fn visit_signature(&mut self, signature: &'ast syn::Signature) {
            self.0.extend(signature.unsafety.map(|token| token.span.start().line));
            visit::visit_signature(self, signature);
        }
        fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
            self.0.extend(item.unsafety.map(|token| token.span.start().line));
            visit::visit_item_impl(self, item);
        }
        fn visit_item_foreign_mod(&mut self, item: &'ast syn::ItemForeignMod) {
            self.0.extend(item.unsafety.map(|token| token.span.start().line));
            visit::visit_item_foreign_mod(self, item);
        }
    }
    if UNSAFE_FOLDERS.iter().any(|folder| rust.file.path.starts_with(folder)) {
        return Vec::new();
    }
    let mut collector = Collector(Vec::new());
    rust.parts().into_iter().for_each(|part| collector.visit_file(part));
    let finding = |line| {
        let message = format!("line {line} is unsafe; only {} may be", UNSAFE_FOLDERS.join(" and "));
        Finding::new("unsafe-home", &rust.file.path, message)
    };
    collector.0.into_iter().map(finding).collect()
}

/// Tests wait for events. Programs that a test starts may sleep: those are strings, not calls.
fn sleeping_tests(rust: &RustFile) -> Vec<Finding> {
    struct Collector(Vec<usize>);
    impl<'ast> Visit<'ast> for Collector {
        fn visit_expr_call(&mut self, call: &'ast syn::ExprCall) {
            if let Expr::Path(function) = &*call.func
                && let Some(name) = function.path.segments.last()
                && name.ident == "sleep"
            {
                self.0.push(name.ident.span().start().line);
            }
            visit::visit_expr_call(self, call);
        }
        fn visit_token_stream(&mut self, tokens: &'ast proc_macro2::TokenStream) {
            rust::for_each_token(tokens.clone(), &mut |token, next| {
                let called = |next: &TokenTree| matches!(next, TokenTree::Group(group) if group.delimiter() == Delimiter::Parenthesis);
                if matches!(token, TokenTree::Ident(ident) if ident == "sleep") && next.is_some_and(called) {
                    self.0.push(token.span().start().line);
                }
            });
        }
    }
    let mut collector = Collector(Vec::new());
    collector.visit_file(&rust.tests);
    let finding = |line| {
        let message = format!("line {line} sleeps; wait for a barrier, a signal or the event itself");
        Finding::new("no-sleep", &rust.file.path, message)
    };
    collector.0.into_iter().map(finding).collect()
}

fn silenced_lints(rust: &RustFile) -> Vec<Finding> {
    struct Collector(Vec<usize>);
    impl<'ast> Visit<'ast> for Collector {
        fn visit_attribute(&mut self, attribute: &'ast Attribute) {
            if attribute.path().is_ident("allow") {
                self.0.push(attribute.pound_token.span.start().line);
            }
        }
    }
    let mut collector = Collector(Vec::new());
    rust.parts().into_iter().for_each(|part| collector.visit_file(part));
    let finding = |line| {
        let message = format!(
            "line {line} says #[allow]; say #[expect(lint, reason = \"...\")], which fails once it is not needed"
        );
        Finding::new("expect-not-allow", &rust.file.path, message)
    };
    collector.0.into_iter().map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::File;

    fn rules(path: &str, text: &str) -> Vec<&'static str> {
        let file = File::new(path, text);
        let findings = check(&RustFile::parse(&file).expect("the example parses"));
        findings.iter().map(|finding| finding.rule).collect()
    }

    #[test]
    fn sql_stands_in_broker_sql_only() {
        let statement = r#"fn a() { client.query("-- claim\nSelect id\n FROM tendril.jobs", &[]); }"#;
        assert_eq!(rules("runner/src/a.rs", statement), ["sql-home"]);
        assert!(rules("broker-sql/src/a.rs", statement).is_empty());
        assert!(rules("runner/tests/a.rs", statement).is_empty());
    }

    #[test]
    fn statements_are_told_from_prose() {
        let statements = [
            "insert into t values (1)",
            "update t set a = 1",
            "with a as (select 1) select * from a",
            "BEGIN;",
            "copy t (a) from stdin",
            "select tendril.claim_v1($1)",
            "listen tendril",
            "grant select on t to r",
        ];
        for statement in statements {
            assert!(is_sql(statement), "{statement}");
        }
        let prose = [
            "select one of: plan, apply",
            "update the lock file",
            "begin with a letter",
            "with a runner",
            "copy failed",
            "create the folder first",
            "set a token",
            "delete the folder",
            "commit hash",
            "grant access to the folder",
        ];
        for text in prose {
            assert!(!is_sql(text), "{text}");
        }
    }

    #[test]
    fn unsafe_stands_in_the_supervisor_and_the_sandbox_only() {
        assert_eq!(rules("runner/src/job.rs", "fn a() { unsafe { b() } }"), ["unsafe-home"]);
        assert_eq!(rules("runner/tests/job.rs", "unsafe fn a() {}"), ["unsafe-home"]);
        assert_eq!(rules("runner/src/job.rs", "fn a() { select!(unsafe { b() }) }"), ["unsafe-home"]);
        assert!(rules("runner/src/supervise/tree.rs", "fn a() { unsafe { b() } }").is_empty());
        assert!(rules("runner/src/sandbox/kernel.rs", "fn a() { unsafe { b() } }").is_empty());
        assert!(rules("runner/src/job.rs", "fn a() { say(\"unsafe { }\") }").is_empty());
    }

    #[test]
    fn tests_do_not_sleep() {
        let sleep = "fn a() { tokio::time::sleep(SECOND).await; }";
        assert_eq!(rules("runner/tests/a.rs", &format!("async {sleep}")), ["no-sleep"]);
        assert_eq!(rules("runner/src/a.rs", &format!("#[cfg(test)] mod tests {{ async {sleep} }}")), ["no-sleep"]);
        assert_eq!(rules("runner/tests/a.rs", "fn a() { select! { _ = sleep(ONE) => {} } }"), ["no-sleep"]);
        assert!(rules("runner/src/a.rs", &format!("async {sleep}")).is_empty(), "production may back off");
    }

    #[test]
    fn lints_are_expected_and_not_allowed() {
        assert_eq!(rules("runner/src/a.rs", "#[allow(dead_code)] fn a() {}"), ["expect-not-allow"]);
        assert!(rules("runner/src/a.rs", "#[expect(dead_code, reason = \"b\")] fn a() {}").is_empty());
    }
}
