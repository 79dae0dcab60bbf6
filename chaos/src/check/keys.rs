//! I10: never two runs that change one state, by the children's own file and by the witness in the database.

use super::case::{Case, JobCase, TERMINAL};
use super::{Promise, Verdict};

/// From one moment to another a job had a key to itself; on which clock is for who compares them.
struct Turn<'a> {
    key: &'a str,
    from: i64,
    to: i64,
    job: &'a JobCase<'a>,
}

pub fn check(case: &Case<'_>, verdict: &mut Verdict) {
    let with_key = || case.jobs.iter().filter_map(|job| Some((job.row.state_key.as_deref()?, job)));
    one_by_one(with_key().flat_map(|(key, job)| runs(key, job)).collect(), "ran beside", verdict);
    one_by_one(
        with_key().flat_map(|(key, job)| holds(key, job)).collect(),
        "was handed out before the end of",
        verdict,
    );
}

/// Children, from their start to their end. One that was killed told no end; the locks speak for those.
fn runs<'a>(key: &'a str, job: &'a JobCase<'a>) -> Vec<Turn<'a>> {
    let ends = job.attempts.iter().filter_map(|attempt| Some((attempt.start?, attempt.end?)));
    ends.map(|(start, end)| Turn { key, from: start.at.boot_us, to: end.at.boot_us, job }).collect()
}

/// From each claim of the job to where it ends or is queued again, by the witness's numbers. Whatever becomes of the runner, and
/// also when nobody knows that, the key stays with the job: its command may still be at work.
fn holds<'a>(key: &'a str, job: &'a JobCase<'a>) -> Vec<Turn<'a>> {
    let mut turns: Vec<Turn<'a>> = Vec::new();
    for seen in &job.transitions {
        if seen.became == "CLAIMED" {
            turns.push(Turn { key, from: seen.n, to: i64::MAX, job });
        } else if ["QUEUED", "AWAITING_APPROVAL"].contains(&seen.became.as_str())
            || TERMINAL.contains(&seen.became.as_str())
        {
            turns.last_mut().into_iter().for_each(|turn| turn.to = turn.to.min(seen.n));
        }
    }
    turns
}

fn one_by_one(mut turns: Vec<Turn<'_>>, what: &str, verdict: &mut Verdict) {
    turns.sort_by_key(|turn| (turn.key, turn.from));
    for pair in turns.windows(2) {
        let (turn, next) = (&pair[0], &pair[1]);
        if turn.key == next.key && next.from < turn.to {
            let mut evidence = turn.job.evidence();
            evidence.extend(next.job.evidence());
            let what = format!("{what} {} on {}", turn.job.label, turn.key);
            verdict.violate(Promise::I10, &next.job.label, what, evidence);
        }
    }
}
