//! The pages: the architecture's size and the paths it names, links of all Markdown files, samples that must parse.

use crate::finding::Finding;
use crate::tree::{File, Tree};

const ARCHITECTURE: &str = "docs/ARCHITECTURE.md";
const ARCHITECTURE_LINES: usize = 150;
/// Pages that promise: every check that they name exists.
const PROMISES: [&str; 2] = ["docs/SPECIFICATION.md", "SECURITY.md"];
const MIGRATIONS: &str = "broker-sql/migrations/";

/// Folders whose files are samples for users; each must parse as what its name says.
const SAMPLE_FOLDERS: [&str; 1] = ["docs/"];

/// Reads a sample's text; an error says what is wrong with it.
type Parser = fn(&str) -> Result<(), String>;

/// Languages of samples, by file extension and by the word after a code fence.
const PARSERS: [(&str, Parser); 2] = [
    ("toml", |text| text.parse::<toml::Table>().map(drop).map_err(|error| error.to_string())),
    ("json", |text| serde_json::from_str::<serde_json::Value>(text).map(drop).map_err(|error| error.to_string())),
];

pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings: Vec<Finding> = tree.files.iter().filter_map(sample_file).collect();
    for file in tree.with_extension("md") {
        let page = Page::read(&file.text);
        findings.extend(page.blocks.iter().filter_map(|block| sample_block(file, block)));
        findings.extend(page.links.iter().filter_map(|link| dead_link(tree, file, link)));
        findings.extend(stale_functions(tree, file));
        if file.path == ARCHITECTURE {
            findings.extend(too_long(file));
            findings.extend(page.code.iter().filter_map(|path| stale_path(tree, file, path)));
        }
        if PROMISES.contains(&file.path.as_str()) {
            findings.extend(page.code.iter().filter_map(|name| absent_check(tree, file, name)));
        }
    }
    findings
}

fn parser(language: &str) -> Option<Parser> {
    PARSERS.iter().find(|(name, _)| *name == language).map(|(_, parser)| *parser)
}

fn sample_file(file: &File) -> Option<Finding> {
    SAMPLE_FOLDERS.iter().find(|folder| file.path.starts_with(*folder))?;
    let error = parser(file.extension()?)?(&file.text).err()?;
    Some(Finding::new("samples", &file.path, format!("the sample does not parse: {error}")))
}

fn sample_block(file: &File, block: &Block) -> Option<Finding> {
    let error = parser(&block.language)?(&block.text).err()?;
    let message = format!("the sample at line {} does not parse: {error}", block.line);
    Some(Finding::new("samples", &file.path, message))
}

fn too_long(file: &File) -> Option<Finding> {
    let lines = file.text.lines().count();
    let over = || Finding::over("page-lines", &file.path, "the page's lines", lines, ARCHITECTURE_LINES);
    (lines > ARCHITECTURE_LINES).then(over)
}

/// A check is what stands in backticks and reads like a sentence: four words or more, joined by underscores. It must be a
/// function of some test.
fn absent_check(tree: &Tree, file: &File, name: &str) -> Option<Finding> {
    let sentence = name.split('_').count() >= 4 && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let head = format!("fn {name}(");
    let there = || tree.with_extension("rs").any(|source| source.text.contains(&head));
    let absent = sentence && !there();
    absent.then(|| Finding::new("checks", &file.path, format!("no test is called {name}")))
}

/// A path is what stands in backticks and looks like one: it ends with `/`, ends like a file of this project, or begins
/// with a folder of the root.
fn stale_path(tree: &Tree, file: &File, code: &str) -> Option<Finding> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    let (top, below) = code.split_once('/')?;
    let like_file = [".rs", ".sql", ".md", ".toml"].iter().any(|extension| code.ends_with(extension));
    let like_path = !top.is_empty() && code.chars().all(plain) && (below.is_empty() || like_file || tree.exists(top));
    let gone = like_path && !tree.exists(code.trim_end_matches('/'));
    gone.then(|| Finding::new("paths", &file.path, format!("{code} does not exist")))
}

/// `broker-sql/migrations/0010_logs.sql (log_check)` says where a function stands as it is: the last migration that creates it.
fn stale_functions<'a>(tree: &'a Tree, file: &'a File) -> impl Iterator<Item = Finding> + 'a {
    file.text.split(MIGRATIONS).skip(1).filter_map(move |rest| {
        let (name, function) = rest.split_once(" (")?;
        let (function, _) = function.split_once(')').filter(|_| name.ends_with(".sql") && !name.contains(' '))?;
        let head = format!(".{function}(");
        let creates = |line: &str| line.starts_with("create ") && line.contains(" function ") && line.contains(&head);
        let migrations = tree.with_extension("sql").filter(|source| source.path.starts_with(MIGRATIONS));
        let last = migrations.filter(|source| source.text.lines().any(creates)).map(File::name).max().unwrap_or("none");
        let message = format!("{function} stands in {last} as it is, not in {name}");
        (last != name).then(|| Finding::new("functions", &file.path, message))
    })
}

fn dead_link(tree: &Tree, file: &File, link: &str) -> Option<Finding> {
    if link.contains("://") || link.starts_with("mailto:") {
        return None;
    }
    let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
    let target = if path.is_empty() { file.path.clone() } else { resolve(&file.path, path) };
    let page = tree.files.iter().find(|page| page.path == target);
    let message = match page {
        _ if !target.is_empty() && !tree.exists(&target) => {
            format!("the link to {link} leads nowhere")
        }
        Some(page) if !anchor.is_empty() && target.ends_with(".md") && !has_heading(page, anchor) => {
            format!("the link to {link} names a heading that is not there")
        }
        _ => return None,
    };
    Some(Finding::new("links", &file.path, message))
}

/// The path, from the root of the tree, of a link on the page at `from`.
fn resolve(from: &str, link: &str) -> String {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn has_heading(page: &File, anchor: &str) -> bool {
    Page::read(&page.text).headings.iter().any(|heading| slug(heading) == anchor)
}

/// How GitHub makes an anchor of a heading.
fn slug(heading: &str) -> String {
    let kept = heading.to_lowercase().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).collect::<String>();
    kept.trim().replace(' ', "-")
}

/// As much of a Markdown file as the rules need.
#[derive(Default)]
struct Page {
    links: Vec<String>,
    headings: Vec<String>,
    /// What stands in single backticks.
    code: Vec<String>,
    blocks: Vec<Block>,
}

struct Block {
    language: String,
    text: String,
    line: usize,
}

impl Page {
    fn read(text: &str) -> Self {
        let mut page = Self::default();
        let mut open: Option<Block> = None;
        for (index, line) in text.lines().enumerate() {
            match (line.trim_start().strip_prefix("```"), open.take()) {
                (Some(_), Some(block)) => page.blocks.push(block),
                (None, Some(mut block)) => {
                    block.text += line;
                    block.text += "\n";
                    open = Some(block);
                }
                (Some(language), None) => {
                    open = Some(Block { language: language.trim().to_owned(), text: String::new(), line: index + 1 });
                }
                (None, None) => page.read_prose(line),
            }
        }
        page
    }

    fn read_prose(&mut self, line: &str) {
        if let Some(heading) = line.strip_prefix('#') {
            self.headings.push(heading.trim_start_matches('#').replace('`', "").trim().to_owned());
        }
        // Every second piece stands between backticks.
        let mut prose = String::new();
        for (index, piece) in line.split('`').enumerate() {
            if index % 2 == 0 {
                prose += piece;
            } else {
                self.code.push(piece.to_owned());
            }
        }
        let targets = prose.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
        self.links.extend(targets.map(|(target, _)| target.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(files: &[(&str, &str)]) -> Vec<String> {
        check(&Tree::of(files)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_architecture_of_151_lines_is_too_long() {
        assert!(findings(&[(ARCHITECTURE, &"line\n".repeat(150))]).is_empty());
        assert!(findings(&[(ARCHITECTURE, &"line\n".repeat(151))])[0].ends_with("[page-lines]"));
    }

    #[test]
    fn a_path_that_the_architecture_names_must_exist() {
        let page = "`runner/src/job.rs`, `gone/`, `runner/gone.rs`, `text/html`, `a.b`, `/metrics`, `x -> y/z`";
        let found = findings(&[(ARCHITECTURE, page), ("runner/src/job.rs", ""), ("runner", "")]);
        assert_eq!(
            found,
            [
                "docs/ARCHITECTURE.md: gone/ does not exist [paths]",
                "docs/ARCHITECTURE.md: runner/gone.rs does not exist [paths]"
            ]
        );
    }

    #[test]
    fn a_check_that_the_specification_names_must_be_a_test() {
        let page = "`a_promise_that_is_kept`, `a_promise_of_thin_air`, `lease_ttl`";
        let found = findings(&[
            (PROMISES[0], page),
            (PROMISES[1], page),
            ("a/tests/a.rs", "async fn a_promise_that_is_kept() {}"),
        ]);
        let absent = PROMISES.map(|page| format!("{page}: no test is called a_promise_of_thin_air [checks]"));
        assert_eq!(found, absent);
    }

    #[test]
    fn a_function_stands_where_it_was_created_last() {
        let page = "broker-sql/migrations/0001_a.sql (f)\nbroker-sql/migrations/0002_b.sql (g)\nbroker-sql/migrations/0001_a.sql, (x)";
        let first = "create function tendril.f(a int) returns int\ncreate function tendril.g() returns int\n";
        let second = "create or replace function tendril.f(a int) returns int\n";
        let files = [
            ("docs/PAGE.md", page),
            ("broker-sql/migrations/0001_a.sql", first),
            ("broker-sql/migrations/0002_b.sql", second),
        ];
        assert_eq!(
            findings(&files),
            [
                "docs/PAGE.md: f stands in 0002_b.sql as it is, not in 0001_a.sql [functions]",
                "docs/PAGE.md: g stands in 0001_a.sql as it is, not in 0002_b.sql [functions]",
            ]
        );
    }

    #[test]
    fn a_relative_link_must_lead_somewhere() {
        let page =
            "[a](../README.md) [b](https://x.y) [c](SQL.md#the-gate) [d](gone.md) `[e](code.md)` [f](#top) [g](..)";
        let found =
            findings(&[("docs/PAGE.md", page), ("README.md", ""), ("docs/SQL.md", "## The gate!\n"), ("docs", "")]);
        assert_eq!(
            found,
            [
                "docs/PAGE.md: the link to gone.md leads nowhere [links]",
                "docs/PAGE.md: the link to #top names a heading that is not there [links]",
            ]
        );
    }

    #[test]
    fn a_sample_must_parse() {
        let page = "```toml\nkey = \n```\n```json\n{}\n```\n```sql\nnonsense\n```\n";
        let found =
            findings(&[("docs/PAGE.md", page), ("docs/samples/a.json", "{,}"), ("docs/samples/b.toml", "a = 1")]);
        assert_eq!(found.len(), 2);
        assert!(found[0].starts_with("docs/samples/a.json: the sample does not parse"));
        assert!(found[1].starts_with("docs/PAGE.md: the sample at line 1 does not parse"));
    }
}
