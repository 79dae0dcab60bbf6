//! I5: numbers without holes, and text that is what the child printed.

use super::case::{AttemptCase, Case, JobCase};
use super::{Promise, Verdict};
use crate::print::{self, Stream};
use crate::workload::Work;

pub fn check(case: &Case<'_>, verdict: &mut Verdict) {
    for job in &case.jobs {
        for attempt in &job.attempts {
            if let Some(wrong) = numbers(attempt).or_else(|| text(job, attempt)).or_else(|| end(case, attempt)) {
                let what = format!("log of attempt {}: {wrong}", attempt.row.ordinal);
                verdict.violate(Promise::I5, &job.label, what, job.evidence());
            }
            for chunk in &attempt.logs {
                if let Some(kind) = &chunk.gap_kind {
                    verdict
                        .notes
                        .push(format!("{}: a gap ({kind}) in the log of attempt {}", job.label, attempt.row.ordinal));
                }
            }
        }
    }
    let known = |id| case.history.dump.attempts.iter().any(|attempt| attempt.id == id);
    if let Some(chunk) = case.history.dump.logs.iter().find(|chunk| !known(chunk.attempt_id)) {
        verdict.violate(
            Promise::I5,
            &chunk.attempt_id.to_string(),
            "log rows of an attempt that does not exist",
            vec![],
        );
    }
}

fn numbers(attempt: &AttemptCase<'_>) -> Option<String> {
    let mut next = 0;
    for chunk in &attempt.logs {
        if chunk.seq != next {
            let what = if chunk.seq < next { "stored twice" } else { "missing" };
            return Some(format!("record {} {what}: a row of {} to {}", next.min(chunk.seq), chunk.seq, chunk.seq_to));
        }
        next = chunk.seq_to + 1;
    }
    let beyond = attempt.row.log_end.is_some_and(|end| next - 1 > end);
    beyond.then(|| format!("rows up to {} are stored, and its end is {:?}", next - 1, attempt.row.log_end))
}

/// The text of a command's own output. What an engine prints around its provisioner is not compared.
fn text(job: &JobCase<'_>, attempt: &AttemptCase<'_>) -> Option<String> {
    let Work::Exec { child, .. } = &job.spec.work else { return None };
    let lines = attempt.printed().unwrap_or(child.lines);
    // A child that told its end is known to have printed this much, and not more.
    let whole = is_whole(attempt) && attempt.end.is_some();
    [(Stream::Stdout, "stdout"), (Stream::Stderr, "stderr")].into_iter().find_map(|(stream, name)| {
        let chunks = attempt.logs.iter().take_while(|chunk| chunk.gap_kind.is_none());
        let stored: String = chunks.filter(|chunk| chunk.stream == name).map(|chunk| chunk.text.as_str()).collect();
        let printed = print::text(&job.label, lines, stream);
        if attempt.start.is_none() && !stored.is_empty() {
            return Some(format!("{name} holds text, and no child had started"));
        }
        let at =
            stored.bytes().zip(printed.bytes()).position(|(a, b)| a != b).unwrap_or(stored.len().min(printed.len()));
        if at < stored.len() {
            return Some(format!("{name} holds at byte {at} what was not printed: {:?}", excerpt(&stored, at)));
        }
        (whole && at < printed.len()).then(|| format!("{name} lacks the end, from byte {at} of {}", printed.len()))
    })
}

fn excerpt(text: &str, at: usize) -> String {
    text.bytes().skip(at).take(60).map(char::from).collect()
}

fn stored_to(attempt: &AttemptCase<'_>) -> i64 {
    attempt.logs.last().map_or(-1, |chunk| chunk.seq_to)
}

/// Whether all of a finished attempt's log is stored, without a gap.
fn is_whole(attempt: &AttemptCase<'_>) -> bool {
    attempt.row.ended_us.is_some()
        && attempt.row.log_end == Some(stored_to(attempt))
        && attempt.logs.iter().all(|chunk| chunk.gap_kind.is_none())
}

/// A runner that was not killed delivers all.
fn end(case: &Case<'_>, attempt: &AttemptCase<'_>) -> Option<String> {
    let end = attempt.row.log_end?;
    let behind = stored_to(attempt) < end;
    if attempt.row.log_state == "complete" && behind {
        return Some(format!("is called complete, and rows end at {} of {end}", stored_to(attempt)));
    }
    // What was acknowledged and then forgotten is nobody's to send again: it stays behind until its window closes.
    let forgotten =
        case.forgot_before(attempt.row.ended_us.unwrap_or(i64::MAX)) || case.is_forgotten(attempt.row.claimed_us);
    let owed = attempt.row.ended_us.is_some() && case.death_of(attempt.runner).is_none() && !forgotten;
    (owed && behind).then(|| format!("rows end at {} of {end}, and its runner was never killed", stored_to(attempt)))
}
