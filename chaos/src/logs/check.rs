//! From the evidence to what it breaks of the promises. Pure.

use serde::Serialize;

use super::evidence::{Attempt, Capped, Evidence, Row, SlowLine};
use super::op::LogOp;
use super::pieces::{missing, text_of};
use super::script::SECRET;

/// What the pipeline may hold back of a stream that goes on: a line without its end, and a sequence that is not complete.
const HELD_BACK: u64 = 24 * 1024;
/// No record of text is longer; one that does not fit is left out whole.
const RECORD_BYTES: u64 = 16 * 1024;
/// What a record of the end is reckoned to take beside its text.
const TAIL_OVERHEAD_BYTES: u64 = 64;
/// Batches that are stored at least in the half minute for which a line is slow from the connection's beginning on.
const SLOW_BATCHES: u64 = 4;

/// The judgement.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// What does not hold.
    pub violations: Vec<String>,
    /// Gaps, which are allowed, in words.
    pub gaps: Vec<String>,
    /// Lines stored.
    pub lines: u64,
    /// Bytes stored.
    pub bytes: u64,
}

/// Judges.
pub fn check(evidence: &Evidence) -> Verdict {
    let mut verdict = Verdict::default();
    if evidence.without_attempt > 0 {
        verdict.violations.push(format!("{} jobs had no attempt", evidence.without_attempt));
    }
    verdict.violations.extend(overflowed(evidence).into_iter().chain(late(evidence)));
    for attempt in &evidence.attempts {
        let text = attempt.rows.iter().filter(|row| row.gap_kind.is_none());
        for row in text {
            verdict.bytes += row.text.len() as u64;
            verdict.lines += row.text.bytes().filter(|byte| *byte == b'\n').count() as u64;
        }
        let gaps = attempt.rows.iter().filter_map(|row| Some((row.gap_kind.as_ref()?, row)));
        verdict.gaps.extend(gaps.map(|(kind, row)| {
            format!("{} {}..{} of {}: {:?} bytes", kind, row.seq, row.seq_to, row.stream, row.gap_bytes)
        }));
        let wrong = [
            numbers(attempt),
            end(evidence, attempt),
            gaps_allowed(evidence, attempt),
            capped(evidence, attempt),
            kept(attempt),
            owed(attempt),
            secret(attempt),
            archived(attempt),
        ];
        let texts = ["stdout", "stderr"].into_iter().filter_map(|stream| text_of(attempt, stream).err());
        let wrong: Vec<String> = wrong.into_iter().flatten().chain(texts).chain(missing(attempt)).collect();
        let who = format!("attempt {} (child {})", attempt.id, attempt.script.number);
        verdict.violations.extend(wrong.into_iter().map(|wrong| format!("{who}: {wrong}")));
    }
    verdict
}

fn numbers(attempt: &Attempt) -> Option<String> {
    let mut next = 0;
    for row in &attempt.rows {
        if row.seq != next || row.seq_to < row.seq {
            let what = if row.seq < next { "stored twice" } else { "missing" };
            return Some(format!("record {next} {what}: a row of {} to {}", row.seq, row.seq_to));
        }
        next = row.seq_to + 1;
    }
    None
}

fn end(evidence: &Evidence, attempt: &Attempt) -> Option<String> {
    let stored = attempt.rows.last().map_or(-1, |row| row.seq_to);
    match attempt.log_end {
        Some(end) if stored > end => Some(format!("rows end at {stored}, beyond the log's end at {end}")),
        // Also what was destroyed of it is told by gaps up to there.
        Some(end) if stored < end => Some(format!("rows end at {stored}, and the log at {end}")),
        Some(_) => None,
        None if attempt.outlives || attempt.is_adopted() => Some(format!(
            "its command has outlived the runner, and its log never came to its end: rows end at {stored}"
        )),
        None if !evidence.allowed.cut_off => Some("it never came to its end".to_owned()),
        None if attempt.rows.last().is_some_and(Row::is_open_gap) || attempt.is_unsaid() => None,
        None if attempt.rows.is_empty() => Some("nothing of it is left, and no gap says so".to_owned()),
        // All is there, and only the attempt's report was lost.
        None if attempt.ended => None,
        None => Some(format!("it was cut off at {stored}, and no gap says so")),
    }
}

fn gaps_allowed(evidence: &Evidence, attempt: &Attempt) -> Option<String> {
    let chunks = attempt.destroyed.as_ref().map_or([].as_slice(), |log| &log.chunks);
    let after = attempt.rows.iter().skip(1).map(Some).chain([None]);
    attempt.rows.iter().zip(after).find_map(|(row, next)| {
        let kind = row.gap_kind.as_deref()?;
        let hit = |seq: i64| chunks.iter().any(|(first, last)| (*first..=*last).contains(&seq));
        // Where the log's end was reported all was in the spool by then; only what outlived its runner goes on behind a gap.
        let cut_off = || match next {
            None => attempt.log_end.is_none(),
            Some(next) => next.is_adoption(),
        };
        let allowed = match kind {
            "overflow" => evidence.allowed.overflow.is_some() && row.gap_bytes.is_some(),
            "capped" => evidence.allowed.capped.is_some() && row.gap_bytes.is_some(),
            "lost" if (row.seq..=row.seq_to).all(hit) => true,
            "lost" if evidence.allowed.unspooled && row.is_open_gap() && next.is_none() => {
                attempt.log_end.is_none_or(|end| end == row.seq_to)
            }
            "lost" => evidence.allowed.cut_off && row.seq == row.seq_to && row.is_open_gap() && cut_off(),
            _ => false,
        };
        let what = format!("a gap ({kind}) of {} to {}, {:?} bytes", row.seq, row.seq_to, row.gap_bytes);
        (!allowed).then(|| format!("{what}, for which nothing was broken; destroyed were {chunks:?}"))
    })
}

/// The rows that hold a command's text.
fn texts<'a>(rows: impl IntoIterator<Item = &'a Row>) -> impl Iterator<Item = &'a str> {
    let rows = rows.into_iter().filter(|row| row.gap_kind.is_none() && row.stream != "system");
    rows.map(|row| row.text.as_str())
}

/// Bytes of text in these rows.
fn stored<'a>(rows: impl IntoIterator<Item = &'a Row>) -> u64 {
    texts(rows).map(|text| text.len() as u64).sum()
}

/// What was dropped for want of room was too much for what there was: that is stored.
fn overflowed(evidence: &Evidence) -> Option<String> {
    let least = evidence.allowed.overflow?;
    let rows = || evidence.attempts.iter().flat_map(|attempt| &attempt.rows);
    let dropped = rows().any(|row| row.gap_kind.as_deref() == Some("overflow"));
    let stored = stored(rows());
    if evidence.op == LogOp::SpoolFull && least > 0 && !dropped {
        return Some("output was dropped for want of room, and no gap says so".to_owned());
    }
    let wrong = dropped && stored < least;
    wrong.then(|| format!("output was dropped, and {stored} bytes are stored: there was room for {least}"))
}

/// Only a batch that was under way when the line became slow is late, or given up: none that was sent with that known.
fn late(evidence: &Evidence) -> Option<String> {
    let SlowLine { fresh, stored, late, sessions } = evidence.slow?;
    if late + sessions > u64::from(!fresh) {
        let at_most = if fresh { "none" } else { "at most the first" };
        return Some(format!("{} batches took longer than 5 s on the slow line: {at_most} may", late + sessions));
    }
    (fresh && stored < SLOW_BATCHES)
        .then(|| format!("{stored} batches were stored while the line was slow: {SLOW_BATCHES} at least should be"))
}

/// A log that is cut short holds as much of its beginning and of its end as it is to.
fn capped(evidence: &Evidence, attempt: &Attempt) -> Option<String> {
    let Capped { cap_bytes, tail_bytes } = evidence.allowed.capped?;
    let is_gap = |row: &Row| row.gap_kind.as_deref() == Some("capped");
    let first = attempt.rows.iter().position(is_gap)?;
    let last = attempt.rows.iter().rposition(is_gap)?;
    let (begins, ends) = (&attempt.rows[..first], &attempt.rows[last..]);
    let lines = texts(ends).flat_map(str::bytes).filter(|byte| *byte == b'\n').count() as u64;
    let (beginning, end) = (stored(begins), stored(ends));
    let reckoned = end + lines * TAIL_OVERHEAD_BYTES;
    let short = beginning + RECORD_BYTES <= cap_bytes || reckoned + 2 * RECORD_BYTES <= tail_bytes;
    let wrong = short || beginning > cap_bytes || end > tail_bytes;
    wrong.then(|| {
        format!("of a log that is cut short {beginning} bytes of the beginning are stored and {end} of the end")
    })
}

/// No secret is in a row, whole.
fn secret(attempt: &Attempt) -> Option<String> {
    let row = attempt.rows.iter().find(|row| row.text.contains(SECRET))?;
    Some(format!("row {} to {} holds a secret", row.seq, row.seq_to))
}

/// It is in the archive once, and is read from there as from the database.
fn archived(attempt: &Attempt) -> Option<String> {
    let archived = attempt.archived.as_ref()?;
    if archived.left_early {
        return Some("it left the database before it was archived".into());
    }
    let (state, objects) = if attempt.rows.is_empty() { ("empty", 0) } else { ("stored", 1) };
    let is_empty = attempt.rows.is_empty();
    if archived.state.as_deref() != Some(state) && !(is_empty && archived.state.is_none()) {
        return Some(format!("it was not archived: {:?}", archived.state));
    }
    if archived.objects != objects || !(archived.whole || is_empty) {
        return Some(format!("{} objects of it are in the archive, whole: {}", archived.objects, archived.whole));
    }
    if archived.in_database {
        return Some("its day was not removed although all of it is archived".into());
    }
    let differs = archived.rows.iter().zip(&attempt.rows).find(|(now, before)| now != before);
    if let Some((now, before)) = differs {
        let (from, to) = (before.seq, before.seq_to);
        return Some(format!("from the archive row {from} to {to} is another: {:?}", now.gap_kind));
    }
    let (now, before) = (archived.rows.len(), attempt.rows.len());
    (now != before).then(|| format!("from the archive {now} rows are read instead of {before}"))
}

/// What was read once is read again, unchanged.
fn kept(attempt: &Attempt) -> Option<String> {
    let gone = attempt.seen_before.iter().zip(attempt.rows.iter().map(Some).chain(std::iter::repeat(None)));
    let gone = gone.into_iter().find(|(before, now)| *now != Some(*before));
    gone.map(|(row, _)| format!("row {} to {} had been read, and is gone or another", row.seq, row.seq_to))
}

/// What had been printed long enough before its runner was killed is there.
fn owed(attempt: &Attempt) -> Option<String> {
    let (stdout, stderr) = attempt.owed?;
    let stored = |stream: &str| -> u64 {
        let rows = attempt.rows.iter().filter(|row| row.stream == stream && row.gap_kind.is_none());
        rows.map(|row| row.text.len() as u64).sum()
    };
    let gaps: u64 = attempt.rows.iter().filter_map(|row| row.gap_bytes).sum();
    let destroyed = attempt.destroyed.as_ref().map_or(0, |log| log.bytes);
    [("stdout", stdout), ("stderr", stderr)].into_iter().find_map(|(stream, owed)| {
        let stored = stored(stream);
        let lacks = stored + gaps + destroyed + HELD_BACK < owed;
        lacks.then(|| format!("{stream}: {owed} bytes were in the spool for certain, and {stored} are stored"))
    })
}
