//! What can go wrong between this program and the archive, told apart by what one does about it.

/// Why something could not be put into the archive or read from it. The first field names the object or the bucket.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveError {
    /// The service is not reached, is too slow or has an error of its own: later.
    #[error("cannot reach the archive {0}: {1}")]
    Unavailable(String, String),
    /// The service says no: credentials, rights, bucket, region.
    #[error("the archive {0} refuses: {1}")]
    Refused(String, String),
    /// The object is not there.
    #[error("{0} is not in the archive")]
    Missing(String),
    /// The object is there, and is not what was stored.
    #[error("{0} is damaged: {1}")]
    Damaged(String, String),
}

impl ArchiveError {
    /// Whether the same may succeed later without anybody doing something.
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Unavailable(..))
    }

    /// Whether it concerns one object, so that the others can still be read.
    pub fn is_of_one_object(&self) -> bool {
        matches!(self, Self::Missing(_) | Self::Damaged(..))
    }

    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Unavailable(..) => "look at the endpoint and the way to it; what waits is tried again",
            Self::Refused(..) => {
                "check bucket, endpoint, region and credentials (TENDRIL_ARCHIVE_URL, _ENDPOINT, _REGION; AWS_ACCESS_KEY_ID and so on)"
            }
            Self::Missing(_) | Self::Damaged(..) => {
                "bring the object back from the bucket's versions or its replica; tendril.log_archives tells its digest"
            }
        }
    }
}
