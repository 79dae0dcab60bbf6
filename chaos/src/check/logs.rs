//! I5: numbers without holes, and text that is what the child printed.

use super::case::{AttemptCase, Case, JobCase};
use super::{Promise, Verdict};
use crate::print::{self, Stream};
use crate::workload::Work;

pub fn check(case: &Case<'_>, verdict: &mut Verdict) {
    for job in &case.jobs {
        for attempt in &job.attempts {
            let wrong = numbers(attempt).or_else(|| text(job, attempt)).or_else(|| gap(case, attempt));
            if let Some(wrong) = wrong.or_else(|| end(case, attempt)) {
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
        let printed = print::text(&job.label, lines, stream);
        let pieces = pieces(attempt, name);
        if attempt.start.is_none() && pieces.iter().any(|piece| !piece.is_empty()) {
            return Some(format!("{name} holds text, and no child had started"));
        }
        let mut from = match prefix(&pieces[0], &printed) {
            Ok(length) => length,
            Err(at) => {
                return Some(format!("{name} holds at byte {at} what was not printed: {:?}", excerpt(&pieces[0], at)));
            }
        };
        for piece in &pieces[1..] {
            match printed[from..].find(piece.as_str()) {
                Some(at) => from += at + piece.len(),
                None => {
                    return Some(format!("{name} holds behind a gap what was not printed: {:?}", excerpt(piece, 0)));
                }
            }
        }
        (whole && from < printed.len()).then(|| format!("{name} lacks the end, from byte {from} of {}", printed.len()))
    })
}

/// What is stored of a stream up to the first gap, and from each gap to the next.
fn pieces(attempt: &AttemptCase<'_>, stream: &str) -> Vec<String> {
    let mut pieces = vec![String::new()];
    for chunk in &attempt.logs {
        if chunk.gap_kind.is_some() {
            pieces.push(String::new());
        } else if let Some(piece) = pieces.last_mut().filter(|_| chunk.stream == stream) {
            piece.push_str(&chunk.text);
        }
    }
    pieces
}

/// The length of a text that another one begins with, or where they part.
fn prefix(text: &str, of: &str) -> Result<usize, usize> {
    let parts = text.bytes().zip(of.bytes()).position(|(a, b)| a != b).unwrap_or(text.len().min(of.len()));
    if parts < text.len() { Err(parts) } else { Ok(parts) }
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

/// A gap stands for what was lost with its runner, or with the database's memory.
fn gap(case: &Case<'_>, attempt: &AttemptCase<'_>) -> Option<String> {
    let gap = attempt.logs.iter().find(|chunk| chunk.gap_kind.is_some()).filter(|_| is_owed(case, attempt))?;
    let kind = gap.gap_kind.as_deref().unwrap_or_default();
    Some(format!("a gap ({kind}) stands for {} to {}, and its runner was never killed", gap.seq, gap.seq_to))
}

/// A runner that was not killed delivers all.
fn end(case: &Case<'_>, attempt: &AttemptCase<'_>) -> Option<String> {
    let end = attempt.row.log_end?;
    let behind = stored_to(attempt) < end;
    if attempt.row.log_state == "complete" && behind {
        return Some(format!("is called complete, and rows end at {} of {end}", stored_to(attempt)));
    }
    (behind && attempt.row.ended_us.is_some() && is_owed(case, attempt))
        .then(|| format!("rows end at {} of {end}, and its runner was never killed", stored_to(attempt)))
}

/// Whether all that the attempt's runner read has to be there. What was acknowledged and then forgotten is nobody's to send again: it
/// stays behind until its window closes, or a gap stands for it.
fn is_owed(case: &Case<'_>, attempt: &AttemptCase<'_>) -> bool {
    let open = (attempt.row.claimed_us, attempt.row.ended_us.unwrap_or(i64::MAX));
    let read_to_the_end = case.death_of(attempt.runner).is_none() && !case.place_was_lost(attempt.runner, open);
    read_to_the_end && !case.may_lack_rows(attempt.row.claimed_us, attempt.row.ended_us)
}
