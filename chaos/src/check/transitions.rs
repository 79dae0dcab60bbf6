//! I4, by the witness: a job ends once, and walks only along the arrows of its state machine.

use super::case::{Case, JobCase, TERMINAL};
use super::{Promise, Verdict};

/// State, and the states that may follow; those that end it are checked apart.
const ARROWS: [(&str, &[&str]); 6] = [
    ("BLOCKED", &["QUEUED", "AWAITING_APPROVAL", "SKIPPED", "CANCELLED"]),
    ("AWAITING_APPROVAL", &["QUEUED", "CANCELLED"]),
    ("QUEUED", &["CLAIMED", "STARTED", "CANCELLED"]),
    ("CLAIMED", &["STARTED", "QUEUED", "FAILED", "CANCELLED"]),
    ("STARTED", &["QUEUED", "UNKNOWN", "SUCCESS", "FAILED", "CANCELLED"]),
    ("UNKNOWN", &["STARTED", "SUCCESS", "FAILED", "CANCELLED"]),
];

pub fn check(case: &Case<'_>, verdict: &mut Verdict) {
    for job in &case.jobs {
        let ends =
            job.transitions.iter().filter(|seen| is_end(&seen.became) && seen.was.as_deref() != Some(&seen.became));
        if ends.count() > 1 {
            verdict.violate(Promise::I4, &job.label, "ended more than once", walk(job));
        }
        if let Some(wrong) = wrong_step(case, job) {
            verdict.violate(Promise::I4, &job.label, wrong, walk(job));
        }
    }
}

fn is_end(state: &str) -> bool {
    TERMINAL.contains(&state)
}

fn walk(job: &JobCase<'_>) -> Vec<String> {
    let step = |seen: &&tendril_broker::testing::history::Transition| {
        let was = seen.was.as_deref().unwrap_or("-");
        let attempt = seen.attempt_id.map_or_else(|| "none".to_owned(), |id| id.to_string());
        format!("{}: {was} -> {}, attempt {attempt}", seen.at_us, seen.became)
    };
    job.transitions.iter().map(step).collect()
}

/// The steps of what waits for people because the database was set back, and of what ends whose start it has forgotten.
const DOUBTS: [(&str, &str); 3] =
    [("QUEUED", "AWAITING_APPROVAL"), ("CLAIMED", "AWAITING_APPROVAL"), ("CLAIMED", "SUCCESS")];

fn wrong_step(case: &Case<'_>, job: &JobCase<'_>) -> Option<String> {
    let mut state: Option<&str> = None;
    for seen in &job.transitions {
        let (was, became) = (seen.was.as_deref(), seen.became.as_str());
        if was != state {
            return Some(format!("was seen as {was:?} when it had been left as {state:?}"));
        }
        state = Some(became);
        let Some(was) = was else { continue };
        let follows = ARROWS.iter().find(|(from, _)| *from == was).map_or(&[][..], |(_, follows)| follows);
        let doubted = DOUBTS.contains(&(was, became)) && case.forgot_before(seen.at_us);
        if !follows.contains(&became) && !doubted {
            return Some(format!("went from {was} to {became}"));
        }
        // What only reads starts with its claim and is queued again; what changes the world is not.
        let wrong_sort = match (was, became) {
            ("QUEUED", "STARTED") => job.row.mutating,
            ("STARTED", "QUEUED") => job.row.mutating,
            ("QUEUED", "CLAIMED") | ("STARTED", "UNKNOWN") => !job.row.mutating,
            _ => false,
        };
        if wrong_sort {
            let sort = if job.row.mutating { "changes the world" } else { "only reads" };
            return Some(format!("went from {was} to {became}, and {sort}"));
        }
    }
    (state != Some(job.row.state.as_str())).then(|| format!("is {} and was last seen as {state:?}", job.row.state))
}
