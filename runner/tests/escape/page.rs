//! The table of docs/SANDBOX.md, as a run makes it. `UPDATE_SANDBOX_PAGE=1` writes it anew.

use crate::attacks::{Attack, Outcome};
use std::fmt::Write;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/SANDBOX.md");
const BEGIN: &str = "<!-- the table: made by runner/tests/escape -->\n";
const END: &str = "<!-- end of the table -->\n";

pub struct Row {
    pub attack: &'static Attack,
    pub terraform: Outcome,
    pub exec: Outcome,
    /// From which ABI of Landlock on it ends like that; none if on any kernel.
    pub since: Option<usize>,
}

/// The first ABI from which on the outcome is the last one's.
pub fn since(by_abi: &[Outcome]) -> Option<usize> {
    let last = by_abi.last().expect("outcomes");
    by_abi.iter().rposition(|outcome| outcome != last).map(|before| before + 1)
}

fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "| attack | held off by | `terraform` | `exec` | from Landlock ABI |\n| --- | --- | --- | --- | --- |\n",
    );
    for row in rows {
        let cell = |outcome: Outcome| match outcome {
            Outcome::Done => "goes through".to_owned(),
            Outcome::Refused(errno) => format!("{errno:?}"),
        };
        let since = row.since.map_or("any".to_owned(), |abi| abi.to_string());
        let (name, layer) = (row.attack.name, row.attack.layer);
        let layer = if layer == "-" { "-".to_owned() } else { format!("`{layer}`") };
        writeln!(text, "| {name} | {layer} | {} | {} | {since} |", cell(row.terraform), cell(row.exec)).expect("text");
    }
    text
}

pub fn compare(rows: &[Row]) {
    let page = std::fs::read_to_string(PAGE).expect("the page");
    let (before, rest) = page.split_once(BEGIN).expect("the page has a place for the table");
    let (there, after) = rest.split_once(END).expect("the table has an end");
    let made = table(rows);
    if std::env::var_os("UPDATE_SANDBOX_PAGE").is_some() {
        std::fs::write(PAGE, format!("{before}{BEGIN}{made}{END}{after}")).expect("the page is written");
        return;
    }
    assert_eq!(there, made, "docs/SANDBOX.md says otherwise, try UPDATE_SANDBOX_PAGE=1");
}
