//! How processes that are measured are kept together: what they say through a named pipe, and gates that they wait at.

use anyhow::{Context, bail};
use nix::sys::stat::Mode;
use std::fs::File;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::unix::pipe::{OpenOptions, Receiver};

/// A file that is locked: who wants to share the lock waits until it opens.
pub struct Gate {
    _locked: File,
}

impl Gate {
    /// Makes it, closed.
    ///
    /// # Errors
    /// The file cannot be made or locked.
    pub fn close(path: &Path) -> anyhow::Result<Self> {
        let file = File::create(path)?;
        file.lock()?;
        Ok(Self { _locked: file })
    }

    /// Lets everybody through.
    pub fn open(self) {}
}

/// Words that processes write to a named pipe, a line each.
pub struct Said {
    lines: Lines<BufReader<Receiver>>,
}

impl Said {
    /// Makes the pipe.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn listen(path: &Path) -> anyhow::Result<Self> {
        nix::unistd::mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR)?;
        // Open for writing, too: the pipe is not to end when a process that wrote to it does.
        let pipe = OpenOptions::new().read_write(true).open_receiver(path)?;
        Ok(Self { lines: BufReader::new(pipe).lines() })
    }

    /// Waits until so many have said the word.
    ///
    /// # Errors
    /// Somebody said something else, or they take too long.
    pub async fn hear(&mut self, word: &str, count: u32, patience: Duration) -> anyhow::Result<()> {
        let mut heard = 0;
        let hearing = async {
            while heard < count {
                let line = self.lines.next_line().await?.context("the pipe has ended")?;
                if line != word {
                    bail!("a process said {line:?} where {word:?} was expected");
                }
                heard += 1;
            }
            Ok(())
        };
        let done = tokio::time::timeout(patience, hearing).await;
        done.with_context(|| format!("{heard} of {count} processes said {word:?} within {} s", patience.as_secs()))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_gate_lets_nobody_through_until_it_opens_and_then_everybody() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gate");
        let gate = Gate::close(&path).unwrap();
        let waiting = File::open(&path).unwrap();
        assert!(waiting.try_lock_shared().is_err());
        gate.open();
        waiting.lock_shared().unwrap();
        File::open(&path).unwrap().lock_shared().unwrap();
    }

    #[tokio::test]
    async fn words_are_counted_and_a_wrong_one_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("said");
        let mut said = Said::listen(&path).unwrap();
        for word in ["runs", "runs", "done"] {
            std::fs::write(&path, format!("{word}\n")).unwrap();
        }
        said.hear("runs", 2, Duration::from_secs(10)).await.unwrap();
        assert!(said.hear("runs", 1, Duration::from_secs(10)).await.is_err());
    }
}
