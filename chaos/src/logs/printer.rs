//! The child that prints: what its script says, and into the witness what it has printed.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::script::Script;
use super::witness;
use crate::child::attempt_of_folder;
use crate::clock;
use crate::print::Stream;

/// What it is to do.
#[derive(Args, Debug)]
pub struct Task {
    /// Folder of witnesses
    #[arg(long)]
    witness: PathBuf,
    /// Seed of the run
    #[arg(long)]
    seed: u64,
    /// Which of its children
    #[arg(long)]
    number: u64,
    /// Bytes to print, about
    #[arg(long)]
    bytes: u64,
    /// Milliseconds to take for it, about
    #[arg(long)]
    ms: u64,
    /// Print lines that hardly compress
    #[arg(long)]
    noise: bool,
    /// Print nothing until so many children have started
    #[arg(long, default_value_t = 1)]
    company: usize,
}

/// The longest wait for company, in looks of 20 ms.
const LOOKS: u32 = 1000;

/// Prints.
///
/// A piece goes to the witness once all of it is in the pipe: the witness never says more than was printed, and lacks at
/// most the piece during which this process was killed.
///
/// # Errors
/// The witness cannot be written, or nobody reads any more.
pub fn run(task: &Task) -> io::Result<()> {
    let attempt = attempt_of_folder().ok_or_else(|| io::Error::other("this is no attempt's work folder"))?;
    std::fs::write(witness::number(&task.witness, attempt), task.number.to_string())?;
    let open = |stream| append(witness::file(&task.witness, attempt, stream));
    let (mut stdout, mut stderr) = (open(Stream::Stdout)?, open(Stream::Stderr)?);
    for _ in 0..LOOKS {
        if witness::lengths(&task.witness)?.len() >= task.company {
            break;
        }
        rest(20_000);
    }
    let &Task { seed, number, bytes, ms, noise, .. } = task;
    let script = Script { seed, number, bytes, ms, noise };
    let begun = clock::now().boot_us;
    for piece in script.pieces() {
        let due = begun + i64::try_from(piece.due_ms * 1000).unwrap_or(0);
        rest(due - clock::now().boot_us);
        match piece.stream {
            Stream::Stdout => {
                io::stdout().write_all(&piece.bytes)?;
                io::stdout().flush()?;
                stdout.write_all(&piece.bytes)?;
            }
            Stream::Stderr => {
                io::stderr().write_all(&piece.bytes)?;
                stderr.write_all(&piece.bytes)?;
            }
        }
    }
    append(witness::end(&task.witness, attempt)).map(drop)
}

fn append(path: PathBuf) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

#[expect(clippy::disallowed_methods, reason = "a process of its own, with nothing else to do")]
fn rest(us: i64) {
    if let Ok(us) = u64::try_from(us) {
        std::thread::sleep(Duration::from_micros(us));
    }
}
