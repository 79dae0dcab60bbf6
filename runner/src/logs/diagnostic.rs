//! Terraform's errors and warnings as people read them.

use std::fmt;

use serde::Deserialize;

use super::lock::{LOCK_CONFLICT, LockHolder};
use super::progress::bounded;

/// Lines of source and values shown in one diagnostic; more are counted.
const MAX_SNIPPET_LINES: usize = 50;
/// How an error begins in the engines' text for people.
const TEXT_ERROR: &str = "Error: ";

/// Why a run failed, in short: one error of the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What went wrong, at most a few hundred bytes.
    pub summary: String,
    /// The resource concerned.
    pub address: Option<String>,
    /// The file and line to look at, `main.tf line 3`.
    pub place: Option<String>,
    /// The first line of the explanation.
    pub detail: Option<String>,
    /// Who holds the state lock, when that is the problem.
    pub lock: Option<LockHolder>,
}

impl Problem {
    /// The first error in what an engine prints for people, without colours, on its standard error.
    pub fn in_text(text: &str) -> Option<Self> {
        let mut lines = text.lines().skip_while(|line| !line.starts_with(TEXT_ERROR));
        let summary = bounded(lines.next()?.strip_prefix(TEXT_ERROR)?.trim());
        let mut problem = Self { summary, address: None, place: None, detail: None, lock: None };
        for line in lines.by_ref().take_while(|line| !line.starts_with(TEXT_ERROR)) {
            // What is indented tells where: `  with a.b,`, `  on main.tf line 3, in ...:`, then the source.
            if let Some(place) = line.strip_prefix("  on ") {
                problem.place = place.split([',', ':']).next().map(bounded);
            } else if let Some(address) = line.strip_prefix("  with ") {
                problem.address = address.split(',').next().map(bounded);
            } else if !line.trim().is_empty() && !line.starts_with(' ') {
                problem.detail = Some(bounded(line));
                break;
            }
        }
        problem.lock = problem.holder(text);
        Some(problem)
    }

    /// Whether somebody else has the state's lock.
    pub fn is_lock_conflict(&self) -> bool {
        self.summary.contains(LOCK_CONFLICT)
    }

    fn holder(&self, explanation: &str) -> Option<LockHolder> {
        self.is_lock_conflict().then(|| LockHolder::find(explanation)).flatten()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.summary)?;
        match (&self.address, &self.place) {
            (Some(address), Some(place)) => write!(f, " ({address}, {place})")?,
            (Some(place), None) | (None, Some(place)) => write!(f, " ({place})")?,
            (None, None) => {}
        }
        match (&self.lock, &self.detail) {
            (Some(holder), _) => write!(f, ": held by {holder}"),
            (None, Some(detail)) => write!(f, ": {detail}"),
            (None, None) => Ok(()),
        }
    }
}

/// The body of a `diagnostic` event.
#[derive(Debug, Deserialize)]
pub(super) struct Diagnostic {
    severity: String,
    summary: String,
    #[serde(default)]
    detail: String,
    #[serde(default)]
    address: Option<String>,
    #[serde(default)]
    range: Option<Range>,
    #[serde(default)]
    snippet: Option<Snippet>,
}

#[derive(Debug, Deserialize)]
struct Range {
    filename: String,
    start: Position,
}

#[derive(Debug, Deserialize)]
struct Position {
    line: u64,
}

#[derive(Debug, Deserialize)]
struct Snippet {
    #[serde(default)]
    context: Option<String>,
    #[serde(default)]
    code: String,
    #[serde(default)]
    start_line: u64,
    #[serde(default)]
    values: Vec<KnownValue>,
    #[serde(default)]
    function_call: Option<FunctionCall>,
}

#[derive(Debug, Deserialize)]
struct KnownValue {
    traversal: String,
    statement: String,
}

#[derive(Debug, Deserialize)]
struct FunctionCall {
    called_as: String,
    #[serde(default)]
    signature: Option<Signature>,
}

#[derive(Debug, Deserialize)]
struct Signature {
    #[serde(default)]
    params: Vec<Parameter>,
    #[serde(default)]
    variadic_param: Option<Parameter>,
}

#[derive(Debug, Deserialize)]
struct Parameter {
    name: String,
}

impl Diagnostic {
    /// The error in short; `None` for a warning.
    pub(super) fn problem(&self) -> Option<Problem> {
        if self.severity != "error" {
            return None;
        }
        let mut problem = Problem {
            summary: bounded(self.summary.lines().next().unwrap_or("unknown error")),
            address: self.address.as_deref().map(bounded),
            place: self.range.as_ref().map(|range| format!("{} line {}", bounded(&range.filename), range.start.line)),
            detail: self.detail.lines().find(|line| !line.trim().is_empty()).map(bounded),
            lock: None,
        };
        problem.lock = problem.holder(&self.detail);
        Some(problem)
    }

    /// The block that the engine itself would print, without its colours and line wrapping.
    pub(super) fn render(&self) -> String {
        let kind = match self.severity.as_str() {
            "error" => "Error",
            "warning" => "Warning",
            other => other,
        };
        let mut blocks = vec![format!("\n{kind}: {}\n", self.summary.trim_end())];
        let mut source = Vec::new();
        if let Some(address) = &self.address {
            source.push(format!("  with {address},\n"));
        }
        if let Some(range) = &self.range {
            source.push(self.place(range));
        }
        if !source.is_empty() {
            blocks.push(source.concat());
        }
        if !self.detail.trim().is_empty() {
            blocks.push(format!("{}\n", self.detail.trim_end()));
        }
        blocks.join("\n")
    }

    fn place(&self, range: &Range) -> String {
        let Range { filename, start } = range;
        let Some(snippet) = &self.snippet else {
            return format!("  on {filename} line {}:\n  (source code not available)\n", start.line);
        };
        let within = snippet.context.as_ref().map(|context| format!(", in {context}")).unwrap_or_default();
        let code = snippet.code.lines().zip(0_u64..).map(|(line, nth)| {
            let number = snippet.start_line.saturating_add(nth);
            format!("{number:4}: {line}\n")
        });
        let facts = snippet.facts();
        let ruler = (!facts.is_empty()).then(|| "    ├────────────────\n".to_owned());
        let facts = facts.iter().map(|fact| format!("    │ {fact}\n"));
        let shown = shortened(code).chain(ruler).chain(shortened(facts)).collect::<String>();
        format!("  on {filename} line {}{within}:\n{shown}", start.line)
    }
}

impl Snippet {
    fn facts(&self) -> Vec<String> {
        let call = self.function_call.iter().map(FunctionCall::sentence);
        let values = self.values.iter().map(|value| format!("{} {}", value.traversal, value.statement));
        call.chain(values).collect()
    }
}

impl FunctionCall {
    fn sentence(&self) -> String {
        let Some(signature) = &self.signature else {
            return format!("while calling {}", self.called_as);
        };
        let params = signature.params.iter().map(|param| param.name.clone());
        let variadic = signature.variadic_param.iter().map(|param| format!("{}...", param.name));
        let names: Vec<String> = params.chain(variadic).collect();
        format!("while calling {}({})", self.called_as, names.join(", "))
    }
}

fn shortened(mut lines: impl Iterator<Item = String>) -> impl Iterator<Item = String> {
    let shown: Vec<String> = lines.by_ref().take(MAX_SNIPPET_LINES).collect();
    let more = lines.count();
    shown.into_iter().chain((more > 0).then(|| format!("      ... {more} more lines\n")))
}
