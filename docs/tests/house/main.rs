//! The tidy test: rules of the house that no compiler and no linter knows.
//!
//! Each rule is a plain function from what was read to findings, with a test beside it that shows it fails on a bad
//! example. [`the_house_is_tidy`] applies them all to this tree and subtracts `docs/house-exceptions.toml`.

mod arrows;
mod budgets;
mod conduct;
mod finding;
mod pages;
mod rust;
mod tree;

use std::error::Error;
use std::path::Path;

use finding::{Exceptions, Finding};
use rust::RustFile;
use tree::Tree;

#[test]
fn the_house_is_tidy() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let tree = Tree::read(&root)?;
    let mut findings = arrows::check(&arrows::read(&root)?);
    findings.extend(budgets::check_files(&tree));
    findings.extend(pages::check(&tree));
    for file in tree.with_extension("rs") {
        match RustFile::parse(file) {
            Ok(rust) => {
                findings.extend(budgets::check_items(&rust));
                findings.extend(conduct::check(&rust));
            }
            Err(error) => findings.push(Finding::new("parse", &file.path, error.to_string())),
        }
    }
    let exceptions = Exceptions::parse(&std::fs::read_to_string(root.join("docs/house-exceptions.toml"))?)?;
    let remaining = exceptions.subtract_from(findings);
    let lines: Vec<String> = remaining.iter().map(ToString::to_string).collect();
    assert!(lines.is_empty(), "\n{}\n", lines.join("\n"));
    Ok(())
}
