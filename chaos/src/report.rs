//! What a run came to, for people and for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};
use tendril_broker::testing::history::AttemptRow;

use crate::check::Verdict;
use crate::facts::What;
use crate::history::{Act, History, Submit};

/// In words: what was done, what was broken, what does not hold.
pub fn words(history: &History, verdict: &Verdict, file: &Path) -> String {
    let mut text = String::new();
    let figures = figures(history);
    let _ = writeln!(text, "seed {}: {}", history.seed, figures.line());
    for act in &history.acts {
        let _ = writeln!(text, "  broken: {} (hit {}, {} attempts open)", act.what, act.hit, open_at(history, act));
    }
    for note in &verdict.notes {
        let _ = writeln!(text, "  note: {note}");
    }
    for violation in &verdict.violations {
        let _ = writeln!(text, "  VIOLATION {violation}");
    }
    match verdict.violations.len() {
        0 => {
            let _ = writeln!(text, "  everything holds");
        }
        count => {
            let _ = writeln!(text, "  {count} violations. History: {}", file.display());
            let _ = writeln!(text, "  judge it again: ./dev chaos check {}", file.display());
            let _ = writeln!(text, "  run it again:   {}", replay(history));
        }
    }
    text
}

/// Attempts that were open when it began: of the runner that was hit, else of all.
fn open_at(history: &History, act: &Act) -> usize {
    let hit = history.dump.runners.iter().find(|runner| runner.name == act.hit).map(|runner| runner.id);
    let over = |attempt: &AttemptRow| attempt.ended_us.or(attempt.superseded_us).unwrap_or(i64::MAX);
    let open = |attempt: &&AttemptRow| attempt.claimed_us < act.began.wall_us && over(attempt) > act.began.wall_us;
    let hers = |attempt: &&AttemptRow| hit.is_none_or(|hit| attempt.runner_id == hit);
    history.dump.attempts.iter().filter(open).filter(hers).count()
}

/// The command that runs the same seed again.
pub fn replay(history: &History) -> String {
    format!("./dev chaos --seed {}{}", history.seed, history.options.typed())
}

/// For programs.
pub fn value(history: &History, verdict: &Verdict, file: &Path) -> Value {
    let figures = figures(history);
    json!({
        "seed": history.seed, "holds": verdict.violations.is_empty(), "states": figures.states, "attempts": figures.attempts,
        "lost": figures.lost, "unknown": figures.unknown, "children": figures.children, "log_rows": history.dump.logs.len(), "acts": history.acts,
        "violations": verdict.violations, "notes": verdict.notes, "history": file, "replay": replay(history),
    })
}

struct Figures {
    states: BTreeMap<String, usize>,
    attempts: usize,
    lost: usize,
    unknown: usize,
    children: usize,
    taken_back: usize,
    log_rows: usize,
}

fn figures(history: &History) -> Figures {
    let mut states = BTreeMap::new();
    for job in &history.dump.jobs {
        *states.entry(job.state.clone()).or_insert(0) += 1;
    }
    let count = |outcome: &str| {
        history.dump.attempts.iter().filter(|attempt| attempt.outcome.as_deref() == Some(outcome)).count()
    };
    Figures {
        states,
        attempts: history.dump.attempts.len(),
        lost: count("lost"),
        unknown: count("outcome unknown"),
        children: history.facts.iter().filter(|fact| fact.what == What::Start).count(),
        taken_back: history.submits.iter().filter(|submit| **submit == Submit::TakenBack).count(),
        log_rows: history.dump.logs.len(),
    }
}

impl Figures {
    fn line(&self) -> String {
        let states: Vec<String> = self.states.iter().map(|(state, count)| format!("{count} {state}")).collect();
        format!(
            "{} jobs ({}), {} attempts, {} lost, {} with unknown outcome, {} children, {} submits taken back, {} log rows",
            self.states.values().sum::<usize>(),
            states.join(", "),
            self.attempts,
            self.lost,
            self.unknown,
            self.children,
            self.taken_back,
            self.log_rows
        )
    }
}
