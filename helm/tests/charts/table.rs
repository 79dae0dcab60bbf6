//! The table of values in each chart's README is made of values.yaml; `UPDATE_HELM_README=1` writes it anew.

use crate::chart::{folder, read};
use std::fmt::Write;

const BEGIN: &str = "<!-- the table: made of values.yaml by helm/tests/charts -->\n";
const END: &str = "<!-- end of the table -->\n";

/// One key of values.yaml, with the comment that stands directly above it.
struct Row {
    path: String,
    default: String,
    what: String,
}

fn rows(text: &str) -> Vec<Row> {
    let (mut rows, mut comment) = (Vec::new(), Vec::new());
    let mut above: Vec<(usize, String)> = Vec::new();
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.is_empty() {
            comment.clear();
        } else if let Some(words) = trimmed.strip_prefix('#') {
            comment.push(words.trim().to_owned());
        } else {
            let (key, default) = trimmed.split_once(':').unwrap_or_else(|| panic!("no key: {line}"));
            let indent = line.len() - line.trim_start().len();
            above.retain(|(other, _)| *other < indent);
            above.push((indent, key.to_owned()));
            let path = above.iter().map(|(_, key)| key.as_str()).collect::<Vec<_>>().join(".");
            let (default, what) = (default.trim().to_owned(), comment.join(" "));
            comment.clear();
            if !default.is_empty() || !what.is_empty() {
                rows.push(Row { path, default, what });
            }
        }
    }
    rows
}

fn table(text: &str) -> String {
    let mut table = String::from("| value | default | what |\n| --- | --- | --- |\n");
    for Row { path, default, what } in rows(text) {
        let default = if default.is_empty() { String::new() } else { format!("`{}`", default.replace('|', "\\|")) };
        writeln!(table, "| `{path}` | {default} | {} |", what.replace('|', "\\|")).unwrap();
    }
    table
}

#[test]
fn the_table_of_values_is_that_of_the_values_file() {
    for chart in ["tendril-runner", "tendril"] {
        let made = table(&read(&format!("{chart}/values.yaml")));
        let page = read(&format!("{chart}/README.md"));
        let (before, rest) = page.split_once(BEGIN).expect("the page has a place for the table");
        let (there, after) = rest.split_once(END).expect("the table has an end");
        if std::env::var_os("UPDATE_HELM_README").is_some() {
            let path = folder().join(chart).join("README.md");
            std::fs::write(path, format!("{before}{BEGIN}{made}{END}{after}")).unwrap();
            continue;
        }
        assert_eq!(there, made, "helm/{chart}/README.md says otherwise, try UPDATE_HELM_README=1");
    }
}

#[test]
fn a_comment_belongs_to_the_key_below_it_and_a_blank_line_parts_them() {
    let made = table("# Of the file.\n\n# Of a.\n# More.\na: 1\nb:\n  c: [x]\n  # Of d | e.\n  d: \"\"\n");
    let rows: Vec<&str> = made.lines().skip(2).collect();
    assert_eq!(rows, ["| `a` | `1` | Of a. More. |", "| `b.c` | `[x]` |  |", "| `b.d` | `\"\"` | Of d \\| e. |"]);
}
