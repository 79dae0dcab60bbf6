//! What the runner and its supervisor say to each other: one JSON object per line.
//!
//! Both ends are the same binary, so the words need no version.

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::exit::StopReason;
use super::record::ExitRecord;
use super::step::Step;
use crate::egress::Refusal;

/// Longest line. The kernel takes about 2 MiB of arguments and environment, which JSON may blow up sixfold.
pub(super) const MAX_LINE_BYTES: usize = 16 * 1024 * 1024;

/// From the runner.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Request {
    /// First and once: what to run. All is made ready up to the exec of the command, which waits for the word.
    Prepare(Box<Step>),
    /// The word: the command may run, for so many milliseconds.
    Go(u64),
    /// One SIGINT, then the grace.
    Interrupt(StopReason),
    /// SIGKILL for the tree.
    Kill(StopReason),
    /// The record has arrived and the output is of no more interest: go.
    Dismiss,
}

/// From the supervisor.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reply {
    /// First; the read ends of stdout and stderr come with it.
    Opened,
    /// The command runs as this process.
    Started(i32),
    /// A request of the command's did not get through its proxy: each of its kind once, and at most a few dozen in all.
    Refused(Refusal),
    /// The command and all that came from it are dead, or it never ran.
    Ended(Box<Final>),
}

/// The last word about a step.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Final {
    /// What `exit.json` says.
    pub(super) record: ExitRecord,
    /// Why there is no `exit.json`.
    pub(super) unkept: Option<String>,
}

/// A message that is no message: the two ends are not of one build, or memory is broken.
#[derive(Debug, thiserror::Error)]
pub(super) enum Garbled {
    /// No end of line within the bound.
    #[error("a line of more than {MAX_LINE_BYTES} bytes; pass large values in files")]
    TooLong,
    /// Not JSON, or not a word of this protocol.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

/// The message as a line.
pub(super) fn line(message: &impl Serialize) -> Result<Zeroizing<Vec<u8>>, Garbled> {
    // It may bear secrets: in one piece from the beginning, so that growing leaves no copies behind.
    let mut length = Length(0);
    serde_json::to_writer(&mut length, message)?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(length.0 + 1));
    serde_json::to_writer(&mut *bytes, message)?;
    bytes.push(b'\n');
    if bytes.len() > MAX_LINE_BYTES {
        return Err(Garbled::TooLong);
    }
    Ok(bytes)
}

/// Counts what is written.
struct Length(usize);

impl std::io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Bytes that have arrived and are not yet a message.
#[derive(Debug, Default)]
pub(super) struct Lines {
    bytes: Vec<u8>,
    searched: usize,
}

impl Lines {
    /// Adds what was read.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole message, if there is one.
    pub(super) fn next<T: for<'a> Deserialize<'a>>(&mut self) -> Result<Option<T>, Garbled> {
        let fresh = &self.bytes[self.searched..];
        let Some(offset) = fresh.iter().position(|byte| *byte == b'\n') else {
            self.searched = self.bytes.len();
            if self.searched > MAX_LINE_BYTES {
                return Err(Garbled::TooLong);
            }
            return Ok(None);
        };
        let line: Zeroizing<Vec<u8>> = Zeroizing::new(self.bytes.drain(..=self.searched + offset).collect());
        if self.bytes.is_empty() {
            self.bytes.zeroize();
        }
        self.searched = 0;
        Ok(Some(serde_json::from_slice(&line)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_any_cut_of_the_stream() {
        let mut sent = Vec::new();
        for reason in [StopReason::Cancelled, StopReason::Shutdown] {
            sent.extend_from_slice(&line(&Request::Interrupt(reason)).expect("a line"));
        }
        for cut in 0..=sent.len() {
            let mut lines = Lines::default();
            let mut heard = Vec::new();
            for part in [&sent[..cut], &sent[cut..]] {
                lines.push(part);
                while let Some(request) = lines.next::<Request>().expect("no garbage") {
                    heard.push(request);
                }
            }
            assert!(
                matches!(
                    heard[..],
                    [Request::Interrupt(StopReason::Cancelled), Request::Interrupt(StopReason::Shutdown)]
                ),
                "cut at {cut}: {heard:?}"
            );
        }
    }

    #[test]
    fn a_line_without_end_is_refused_at_its_bound() {
        let mut lines = Lines::default();
        lines.push(&vec![b' '; MAX_LINE_BYTES]);
        assert!(matches!(lines.next::<Request>(), Ok(None)));
        lines.push(b"  ");
        assert!(matches!(lines.next::<Request>(), Err(Garbled::TooLong)));
    }

    #[test]
    fn what_is_no_message_is_an_error_and_not_skipped() {
        let mut lines = Lines::default();
        lines.push(b"{\"interrupt\":\"boredom\"}\n");
        assert!(matches!(lines.next::<Request>(), Err(Garbled::Json(_))));
    }
}
