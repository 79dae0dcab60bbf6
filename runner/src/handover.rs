//! What the next process of a place needs to know to go on with a command that changes the world. It is written down
//! before the command begins, and lies in the attempt's folder.

use crate::command::Stdout;
use crate::stop::Stop;
use crate::work::{self, Work};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io;
use std::path::{Path, PathBuf};
use tendril_broker::runner::Claimed;

/// Its file, in the attempt's folder.
pub const FILE: &str = "handover.json";
const DRAFT: &str = "handover.json.draft";
/// There once somebody has gone on with it.
const TAKEN: &str = "handover.taken";

/// A handover that nobody goes by yet.
pub struct Draft {
    draft: PathBuf,
    path: PathBuf,
}

impl Draft {
    /// From here on the next process of the place goes on with the command: to be called before it may run.
    ///
    /// # Errors
    /// As [`Handover::draft`].
    pub fn put_in_force(self) -> Result<(), Stop> {
        // Whole or not at all: of half a one nobody could say whether anything was begun.
        std::fs::rename(&self.draft, &self.path).map_err(|error| Stop::disk("write", &self.path, &error))
    }
}

/// One command and its job.
#[derive(Debug, Serialize, Deserialize)]
pub struct Handover {
    /// The job.
    pub job: Claimed,
    /// Which of the attempt's commands it is, counted from 0.
    pub number: usize,
    /// Its name.
    pub command: String,
    /// What its standard output is.
    pub stdout: Stdout,
    /// What the job's kind has to know at the command's end.
    pub notes: Value,
}

impl Handover {
    /// Writes it down, not yet in force.
    ///
    /// # Errors
    /// A failed job: what nobody could go on with is not begun.
    pub fn draft(&self, work: &Work) -> Result<Draft, Stop> {
        let (path, draft) = (work.file(FILE), work.file(DRAFT));
        let bytes = serde_json::to_vec(self).map_err(|error| Stop::disk("write", &path, &error.into()))?;
        work::write_new(&draft, &bytes)?;
        Ok(Draft { draft, path })
    }

    /// Whether nobody has gone on with it yet. What its supervisor keeps is read from its beginning each time.
    pub fn is_taken_first(work: &Work) -> bool {
        work::write_new(&work.file(TAKEN), b"").is_ok()
    }

    /// What was written down in this folder; none when nothing was begun there that changes the world.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(folder: &Path) -> io::Result<Option<Self>> {
        match std::fs::read(folder.join(FILE)) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}
