//! I4, by the witness: a job ends once, and walks only along the arrows of its state machine.

use tendril_broker::testing::history::Transition;

use super::case::{AttemptCase, Case, JobCase, TERMINAL};
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
    let step = |seen: &&Transition| {
        let was = seen.was.as_deref().unwrap_or("-");
        let attempt = seen.attempt_id.map_or_else(|| "none".to_owned(), |id| id.to_string());
        format!("{}: {was} -> {}, attempt {attempt}", seen.at_us, seen.became)
    };
    job.transitions.iter().map(step).collect()
}

/// The steps of what waits for people because the database was set back, and of what ends whose start it has forgotten.
fn follows_from_the_forgotten(case: &Case<'_>, job: &JobCase<'_>, seen: &Transition) -> bool {
    let of_it = |attempt: &&AttemptCase<'_>| Some(attempt.row.id) == seen.attempt_id;
    match (seen.was.as_deref(), seen.became.as_str()) {
        (Some("QUEUED" | "CLAIMED"), "AWAITING_APPROVAL") => job.row.mutating && case.is_in_doubt(seen.at_us),
        (Some("CLAIMED"), "SUCCESS") => job.attempts.iter().find(of_it).is_some_and(|attempt| {
            let (began, claimed) = (attempt.start.map(|start| start.at.wall_us), Some(attempt.row.claimed_us));
            attempt.row.started_us.is_none() && began.is_some_and(|began| case.may_follow_the_forgotten(began, claimed))
        }),
        _ => false,
    }
}

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
        if !follows.contains(&became) && !follows_from_the_forgotten(case, job, seen) {
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
