//! As much of Postgres's protocol as it takes to cut a line at a chosen message. Pure.

use serde::{Deserialize, Serialize};

/// What a runner's session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// Claims, starts, ends.
    Calls,
    /// The lease.
    Heartbeat,
    /// The COPY of log rows.
    Logs,
    /// Anything else.
    Other,
}

impl Purpose {
    /// By what the start of a session says of itself.
    fn of(start: &[u8]) -> Self {
        let holds = |what: &[u8]| start.windows(what.len()).any(|window| window == what);
        match () {
            () if holds(b"tendril-runner calls") => Self::Calls,
            () if holds(b"tendril-runner heartbeat") => Self::Heartbeat,
            () if holds(b"tendril-runner logs") => Self::Logs,
            () => Self::Other,
        }
    }
}

/// What a client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// The start of a session.
    Session(Purpose),
    /// The end of a call, which commits it.
    Sync,
    /// A COMMIT of log rows.
    Commit,
    /// So many bytes of a COPY.
    Copy(u64),
    /// Anything else.
    Other,
}

/// Cuts the bytes of a client into messages.
#[derive(Debug, Default)]
pub struct Messages {
    begun: bool,
    held: Vec<u8>,
}

/// The comment that names the COMMIT's statement.
const COMMIT: &[u8] = b"-- log_commit";
/// Startup, cancel and TLS requests say what they are in a number here; a start has this one.
const STARTUP: [u8; 4] = [0, 3, 0, 0];

impl Messages {
    /// Takes bytes from the line.
    pub fn push(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// The next whole message.
    pub fn next(&mut self) -> Option<(Said, Vec<u8>)> {
        // The first ones have no letter.
        let head = usize::from(self.begun);
        let length = self.held.get(head..head + 4)?;
        let size = head + usize::try_from(u32::from_be_bytes(length.try_into().ok()?)).ok()?;
        if self.held.len() < size || size < head + 4 {
            return None;
        }
        let message: Vec<u8> = self.held.drain(..size).collect();
        let holds = |what: &[u8]| message.windows(what.len()).any(|window| window == what);
        let said = match self.begun {
            false if message.get(4..8) == Some(&STARTUP) => {
                self.begun = true;
                Said::Session(Purpose::of(&message))
            }
            true if message[0] == b'S' => Said::Sync,
            true if message[0] == b'd' => Said::Copy(size as u64),
            true if message[0] == b'Q' && holds(COMMIT) => Said::Commit,
            _ => Said::Other,
        };
        Some((said, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(letter: &[u8], body: &[u8]) -> Vec<u8> {
        [letter, &u32::try_from(body.len() + 4).unwrap().to_be_bytes(), body].concat()
    }

    #[test]
    fn messages_are_told_apart_however_the_line_cuts_them() {
        let line = [
            message(b"", &[4, 210, 22, 47]),
            message(b"", &[STARTUP.as_slice(), b"application_name\0tendril-runner logs 1\0\0"].concat()),
            message(b"Q", b"-- log_begin\nbegin\0"),
            message(b"d", &[7; 50]),
            message(b"c", b""),
            message(b"S", b""),
            message(b"Q", b"-- log_commit\ncommit\0"),
        ];
        let log_session = Said::Session(Purpose::Logs);
        let wanted = [Said::Other, log_session, Said::Other, Said::Copy(55), Said::Other, Said::Sync, Said::Commit];
        for step in [1, 3, 7, 1000] {
            let mut messages = Messages::default();
            let mut said = Vec::new();
            for bytes in line.concat().chunks(step) {
                messages.push(bytes);
                while let Some((one, message)) = messages.next() {
                    assert_eq!(message, line[said.len()]);
                    said.push(one);
                }
            }
            assert_eq!(said, wanted, "in steps of {step}");
        }
    }
}
