//! What a rule found, and the ratchet: exceptions that may shrink and must be used.

use std::cell::Cell;
use std::fmt;

use serde::Deserialize;

/// One breach of one rule.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    pub rule: &'static str,
    /// Path of the file, relative to the root of the tree.
    pub path: String,
    /// What is wrong and what to do.
    pub message: String,
    /// What was counted, for rules with a budget.
    pub size: Option<usize>,
}

impl Finding {
    pub fn new(rule: &'static str, path: &str, message: impl Into<String>) -> Self {
        Self { rule, path: path.to_owned(), message: message.into(), size: None }
    }

    /// A breach of a budget: `size` of `what` where `budget` is allowed.
    pub fn over(rule: &'static str, path: &str, what: &str, size: usize, budget: usize) -> Self {
        let message = format!("{what} counts {size}, the budget is {budget}");
        Self { rule, path: path.to_owned(), message, size: Some(size) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {} [{}]", self.path, self.message, self.rule)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exceptions {
    #[serde(default)]
    exception: Vec<Exception>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Exception {
    path: String,
    rule: String,
    /// The largest size that is accepted; required for rules with a budget, senseless for others.
    limit: Option<usize>,
    reason: String,
    /// The largest finding that this exception covered.
    #[serde(skip)]
    covered: Cell<Option<usize>>,
}

impl Exceptions {
    pub fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }

    /// Drops the findings that are excepted, and adds one for each exception that is unused, unfounded or too wide.
    pub fn subtract_from(&self, findings: Vec<Finding>) -> Vec<Finding> {
        let excepted = |finding: &Finding| self.exception.iter().any(|exception| exception.covers(finding));
        let mut remaining: Vec<Finding> = findings.into_iter().filter(|finding| !excepted(finding)).collect();
        remaining.extend(self.exception.iter().filter_map(Exception::fault));
        remaining
    }
}

impl Exception {
    fn covers(&self, finding: &Finding) -> bool {
        let size = finding.size.unwrap_or(0);
        let covers = finding.rule == self.rule
            && finding.path == self.path
            && finding.size.is_some() == self.limit.is_some()
            && size <= self.limit.unwrap_or(0);
        if covers {
            self.covered.set(self.covered.get().max(Some(size)));
        }
        covers
    }

    fn fault(&self) -> Option<Finding> {
        let message = match (self.covered.get(), self.limit) {
            _ if self.reason.trim().is_empty() => "the exception gives no reason".to_owned(),
            (None, _) => format!("the exception from '{}' covers nothing; remove it", self.rule),
            (Some(size), Some(limit)) if limit > size + size / 10 => {
                format!("the exception from '{}' allows {limit} where {size} are needed; lower it", self.rule)
            }
            _ => return None,
        };
        Some(Finding::new("exceptions", &self.path, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subtract(exceptions: &str, findings: Vec<Finding>) -> Vec<String> {
        let exceptions = Exceptions::parse(exceptions).expect("the exceptions parse");
        exceptions.subtract_from(findings).iter().map(ToString::to_string).collect()
    }

    const LONG_FILE: &str = "[[exception]]\npath = 'a.rs'\nrule = 'file-lines'\nlimit = 600\nreason = 'one table'\n";

    #[test]
    fn an_exception_covers_its_own_finding_only() {
        let over = |path, size| Finding::over("file-lines", path, "the file", size, 500);
        assert!(subtract(LONG_FILE, vec![over("a.rs", 600)]).is_empty());
        let left = subtract(LONG_FILE, vec![over("a.rs", 590), over("b.rs", 501)]);
        assert_eq!(left, ["b.rs: the file counts 501, the budget is 500 [file-lines]"]);
        assert_eq!(subtract(LONG_FILE, vec![over("a.rs", 601)]).len(), 2, "grown past its limit");
    }

    #[test]
    fn an_exception_that_covers_nothing_fails() {
        assert!(subtract(LONG_FILE, vec![])[0].contains("covers nothing"));
    }

    #[test]
    fn an_exception_must_follow_a_shrinking_file() {
        let shrunk = vec![Finding::over("file-lines", "a.rs", "the file", 510, 500)];
        assert!(subtract(LONG_FILE, shrunk)[0].contains("lower it"));
    }

    #[test]
    fn an_exception_without_reason_fails() {
        let bare = "[[exception]]\npath = 'a.rs'\nrule = 'sql-home'\nreason = ' '\n";
        assert!(subtract(bare, vec![Finding::new("sql-home", "a.rs", "sql")])[0].contains("no reason"));
    }
}
