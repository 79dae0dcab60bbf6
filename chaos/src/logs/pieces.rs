//! A stream's rows beside what was printed on it: pieces of text, and the holes that gaps tell of. Pure.

use std::fmt;

use super::evidence::{Attempt, Row};

/// What may be missing at a place of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Hole {
    /// Nothing.
    #[default]
    None,
    /// So many bytes, of this stream.
    Bytes(u64),
    /// Nobody knows how much, or of which stream.
    Open,
}

impl Hole {
    /// With what one more gap tells; none where it speaks of another stream.
    fn with(self, gap: &Row, stream: &str) -> Self {
        match (self, gap.gap_bytes) {
            (Self::None, Some(bytes)) if gap.stream == stream => Self::Bytes(bytes),
            (Self::Bytes(told), Some(bytes)) if gap.stream == stream => Self::Bytes(told + bytes),
            _ if gap.stream == stream || gap.stream == "system" => Self::Open,
            _ => self,
        }
    }
}

impl fmt::Display for Hole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("no gap"),
            Self::Bytes(bytes) => write!(f, "a gap of {bytes} bytes"),
            Self::Open => f.write_str("an open gap"),
        }
    }
}

/// What a stream's rows say: text with what is missing before each of it, and what is missing at the end.
fn pieces(attempt: &Attempt, stream: &str) -> (Vec<(Hole, String)>, Hole) {
    let mut pieces = vec![(Hole::None, String::new())];
    let mut hole = Hole::None;
    for row in &attempt.rows {
        if row.gap_kind.is_some() {
            hole = hole.with(row, stream);
        } else if row.stream == stream {
            match pieces.last_mut() {
                Some((_, text)) if hole == Hole::None => text.push_str(&row.text),
                _ => pieces.push((std::mem::take(&mut hole), row.text.clone())),
            }
        }
    }
    (pieces, if attempt.is_unsaid() { Hole::Open } else { hole })
}

/// Where a piece stands in the rest of what was printed, if it does.
fn place(rest: &str, text: &str, before: Hole, behind: Option<Hole>) -> Option<usize> {
    let at = |from: usize| rest.get(from..).is_some_and(|rest| rest.starts_with(text)).then_some(from);
    let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    match (before, behind) {
        (Hole::None, _) => at(0),
        (Hole::Bytes(bytes), _) => at(size(bytes)),
        // The last piece ends where the stream does, less what is missing there.
        (Hole::Open, Some(Hole::None)) => at(rest.len().checked_sub(text.len())?),
        (Hole::Open, Some(Hole::Bytes(bytes))) => at(rest.len().checked_sub(text.len())?.checked_sub(size(bytes))?),
        (Hole::Open, _) => rest.find(text),
    }
}

/// Compares a stream with what had to be stored. Returns how many bytes are missing in gaps.
pub fn text_of(attempt: &Attempt, stream: &str) -> Result<u64, String> {
    let printed = if stream == "stdout" { &attempt.stdout } else { &attempt.stderr };
    let (pieces, end) = pieces(attempt, stream);
    let (mut at, mut missing) = (0, 0);
    let last = pieces.len() - 1;
    for (index, (hole, text)) in pieces.iter().enumerate() {
        let rest = printed.get(at..).unwrap_or("");
        let Some(skipped) = place(rest, text, *hole, (index == last).then_some(end)) else {
            let (count, differs) = (pieces.len(), differs(rest, text));
            return Err(format!(
                "{stream} holds what was not printed: piece {index} of {count}, behind {hole}, {differs}"
            ));
        };
        missing += skipped as u64;
        at += skipped + text.len();
    }
    let left = (printed.len() - at) as u64;
    match end {
        Hole::None if left > 0 => Err(format!("{stream} lacks the end, from byte {at} of {}", printed.len())),
        Hole::Bytes(bytes) if left != bytes => {
            Err(format!("{stream} lacks {left} bytes at the end, and a gap tells of {bytes}"))
        }
        _ => Ok(missing + left),
    }
}

fn differs(rest: &str, text: &str) -> String {
    let byte = rest.bytes().zip(text.bytes()).position(|(a, b)| a != b).unwrap_or(rest.len().min(text.len()));
    let excerpt = |text: &str| format!("{:?}", text.bytes().skip(byte).take(60).map(char::from).collect::<String>());
    format!("byte {byte}: {} instead of {}", excerpt(text), excerpt(rest))
}

/// The bytes that gaps tell of are those that are missing; where one does not know, at most as many are told.
pub fn missing(attempt: &Attempt) -> Option<String> {
    let (Ok(stdout), Ok(stderr)) = (text_of(attempt, "stdout"), text_of(attempt, "stderr")) else { return None };
    let told: Vec<Option<u64>> =
        attempt.rows.iter().filter(|row| row.gap_kind.is_some()).map(|row| row.gap_bytes).collect();
    let sum: u64 = told.iter().flatten().sum();
    let open = told.contains(&None) || attempt.is_unsaid();
    let wrong = if open { sum > stdout + stderr } else { sum != stdout + stderr };
    wrong.then(|| format!("gaps tell of {sum} bytes, and {} are missing", stdout + stderr))
}
