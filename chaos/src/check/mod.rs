//! The checker: from a history to what it breaks of the promises. Pure; a history can be judged again years later.
//!
//! Where database and children disagree the children are believed: their file was written outside.

mod attempts;
mod case;
mod children;
mod ends;
mod keys;
mod logs;
mod states;
mod submits;
#[cfg(test)]
mod tests;
mod transitions;

use std::fmt;

use serde::Serialize;

use crate::history::{History, RunnerEnd};
use crate::perform::NOT_ENDED;
use case::Case;

/// What we promise; the numbers are those of the project's promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Promise {
    /// At most one current attempt of a job; a job that changes the world starts at most once.
    I1,
    /// Every committed submit ends, none that was rolled back is seen, each is queued once.
    I2,
    /// A superseded attempt changes nothing.
    I3,
    /// A job ends once.
    I4,
    /// Acknowledged log rows are stored once, in order, without holes, and nothing else is stored.
    I5,
    /// What a tenant holds up, it holds up for itself and not for long.
    I6,
    /// What is lost is known to be lost in time.
    I8,
    /// No child outlives its attempt's supervisor.
    I9,
    /// Never two runs that change one state.
    I10,
    /// No state that reached the disk is lost.
    I12,
    /// Each job ends in the state that its work and the faults imply.
    End,
    /// Programs stay up unless they are killed, and leave when asked.
    Process,
    /// What was counted for Prometheus is what there is.
    Figures,
}

/// A promise that was not kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// Which.
    pub promise: Promise,
    /// Whose: a job as `<deployment>/<name>`, a deployment, a runner.
    pub of: String,
    /// What happened.
    pub what: String,
    /// Rows and facts that say so.
    pub evidence: Vec<String>,
}

/// The judgement on a history.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Promises that were not kept.
    pub violations: Vec<Violation>,
    /// What is allowed and all the same worth a look.
    pub notes: Vec<String>,
}

impl Verdict {
    fn violate(&mut self, promise: Promise, of: &str, what: impl Into<String>, evidence: Vec<String>) {
        self.violations.push(Violation { promise, of: of.to_owned(), what: what.into(), evidence });
    }
}

/// Judges a history.
pub fn check(history: &History) -> Verdict {
    let case = Case::of(history);
    let mut verdict = Verdict::default();
    submits::check(&case, &mut verdict);
    attempts::check(&case, &mut verdict);
    transitions::check(&case, &mut verdict);
    children::check(&case, &mut verdict);
    keys::check(&case, &mut verdict);
    logs::check(&case, &mut verdict);
    ends::check(&case, &mut verdict);
    states::check(&case, &mut verdict);
    for life in &history.runners {
        let known = history.dump.runners.iter().any(|runner| runner.name == life.name);
        let wrong = match &life.end {
            RunnerEnd::Other(how) => Some(how.as_str()),
            RunnerEnd::Unready if known => Some("by SIGTERM, for which it had not prepared although it was registered"),
            RunnerEnd::Killed | RunnerEnd::Drained | RunnerEnd::Unready => None,
        };
        if let Some(how) = wrong {
            verdict.violate(Promise::Process, &life.name, format!("the runner ended: {how}"), Vec::new());
        }
    }
    for wrong in &history.dump.wrong_figures {
        verdict.violate(Promise::Figures, "serve", wrong.clone(), Vec::new());
    }
    for act in history.acts.iter().filter(|act| act.what.contains(NOT_ENDED)) {
        verdict.violate(Promise::I6, &act.hit, act.what.clone(), Vec::new());
    }
    if !history.came_to_rest {
        verdict.violate(Promise::I8, "the run", "nothing moved any more, and not everything had ended", Vec::new());
    }
    verdict.violations.sort_by(|a, b| (a.promise, &a.of).cmp(&(b.promise, &b.of)));
    verdict
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}: {}", self.promise, self.of, self.what)?;
        self.evidence.iter().try_for_each(|line| write!(f, "\n      {line}"))
    }
}
