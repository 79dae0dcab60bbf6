//! What the next process of a place needs to know to go on with a command that changes the world. It is written down
//! before the command begins, and lies in the attempt's folder.

use crate::command::Stdout;
use crate::stop::Stop;
use crate::work::{self, Work};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io;
use std::path::Path;
use tendril_broker::runner::Claimed;

/// Its file, in the attempt's folder.
pub const FILE: &str = "handover.json";

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
    /// Writes it down.
    ///
    /// # Errors
    /// A failed job: what nobody could go on with is not begun.
    pub fn write(&self, work: &Work) -> Result<(), Stop> {
        let path = work.file(FILE);
        let bytes = serde_json::to_vec(self).map_err(|error| Stop::disk("write", &path, &error.into()))?;
        work::write_new(&path, &bytes)
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
