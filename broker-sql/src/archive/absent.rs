//! What stands in for the archive where the S3 client was not built in.

use crate::archive::ledger::StoredLog;
use crate::archive::{ArchiveError, ArchiveOptions, Wants};
use crate::portal::logs::LogChunk;

/// An archive that cannot be opened here.
#[derive(Clone, Debug)]
pub enum Archive {}

impl Archive {
    /// Always refuses.
    ///
    /// # Errors
    /// [`ArchiveError::Refused`]: this program was built without the feature `archive`.
    pub async fn open(options: &ArchiveOptions) -> Result<Self, ArchiveError> {
        let what = options.location.to_string();
        Err(ArchiveError::Refused(what, Wants::Other, "this program was built without the feature `archive`".into()))
    }

    /// Never called.
    ///
    /// # Errors
    /// None.
    pub async fn try_out(&self) -> Result<(), ArchiveError> {
        match *self {}
    }

    pub(crate) async fn rows(&self, _log: &StoredLog, _after: i64) -> Result<Vec<LogChunk>, ArchiveError> {
        match *self {}
    }
}
