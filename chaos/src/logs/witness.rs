//! What children say that they have printed: a file for each stream of an attempt, and one when all is printed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::script::Script;
use crate::print::Stream;

/// What an attempt has printed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Printed {
    /// On standard output.
    pub stdout: Vec<u8>,
    /// On standard error.
    pub stderr: Vec<u8>,
    /// It has printed all of its script.
    pub ended: bool,
    /// Which child it was.
    pub number: Option<u64>,
}

/// The file of one stream.
pub fn file(folder: &Path, attempt: Uuid, stream: Stream) -> PathBuf {
    let name = match stream {
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
    };
    folder.join(format!("{}.{name}", attempt.simple()))
}

/// The file that says that all is printed.
pub fn end(folder: &Path, attempt: Uuid) -> PathBuf {
    folder.join(format!("{}.end", attempt.simple()))
}

/// The file that says which child it is.
pub fn number(folder: &Path, attempt: Uuid) -> PathBuf {
    folder.join(format!("{}.number", attempt.simple()))
}

/// Which child it is, as far as that is known.
pub fn number_of(folder: &Path, attempt: Uuid) -> Option<u64> {
    fs::read_to_string(number(folder, attempt)).ok().and_then(|number| number.parse().ok())
}

/// Removes what is said of an attempt.
pub fn forget(folder: &Path, attempt: Uuid) {
    for file in [
        file(folder, attempt, Stream::Stdout),
        file(folder, attempt, Stream::Stderr),
        end(folder, attempt),
        number(folder, attempt),
    ] {
        // One that was never written is not there.
        let _ = fs::remove_file(file);
    }
}

/// What the witness says of an attempt; nothing when its child never came to print.
///
/// # Errors
/// The system's error.
pub fn read(folder: &Path, attempt: Uuid) -> io::Result<Printed> {
    let read = |stream| match fs::read(file(folder, attempt, stream)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read,
    };
    let ended = end(folder, attempt).exists();
    let number = number_of(folder, attempt);
    Ok(Printed { stdout: read(Stream::Stdout)?, stderr: read(Stream::Stderr)?, ended, number })
}

/// How much each attempt had printed, by now: standard output and standard error, in bytes.
///
/// # Errors
/// The system's error.
pub fn lengths(folder: &Path) -> io::Result<Vec<(Uuid, u64, u64)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)?.flatten() {
        let path = entry.path();
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".stdout"));
        let Some(attempt) = name.and_then(|name| Uuid::try_parse(name).ok()) else { continue };
        let length = |stream| fs::metadata(file(folder, attempt, stream)).map_or(0, |file| file.len());
        found.push((attempt, length(Stream::Stdout), length(Stream::Stderr)));
    }
    Ok(found)
}

impl Printed {
    /// Adds the piece that was perhaps being printed when the child was killed.
    pub fn with_doubt(mut self, script: Script) -> Self {
        if self.ended {
            return self;
        }
        let (mut stdout, mut stderr) = (0, 0);
        for piece in script.pieces() {
            let (said, told) = match piece.stream {
                Stream::Stdout => (&mut stdout, &mut self.stdout),
                Stream::Stderr => (&mut stderr, &mut self.stderr),
            };
            if *said == told.len() {
                // The first one that the witness does not have; a process that was killed in its own write has a part.
                told.extend_from_slice(&piece.bytes);
                return self;
            }
            *said += piece.bytes.len();
            if *said > told.len() {
                told.truncate(*said - piece.bytes.len());
                told.extend_from_slice(&piece.bytes);
                return self;
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_piece_in_doubt_is_the_one_after_the_last_that_was_witnessed() {
        let script = Script { seed: 3, number: 1, bytes: 50_000, ms: 0, noise: false };
        let pieces: Vec<_> = script.pieces().collect();
        for known in [0, 1, 5, pieces.len() - 1] {
            let mut printed = Printed::default();
            let mut wanted = Printed::default();
            for (index, piece) in pieces.iter().enumerate().take(known + 1) {
                let put = |printed: &mut Printed| match piece.stream {
                    Stream::Stdout => printed.stdout.extend_from_slice(&piece.bytes),
                    Stream::Stderr => printed.stderr.extend_from_slice(&piece.bytes),
                };
                put(&mut wanted);
                if index < known {
                    put(&mut printed);
                }
            }
            assert_eq!(printed.with_doubt(script), wanted, "after {known} pieces");
        }
    }
}
