//! What can go wrong between this program and the archive, told apart by what one does about it.

/// What the service refuses us for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// A bucket that is there.
    Bucket,
    /// Other credentials.
    Credentials,
    /// More rights.
    Rights,
    /// The bucket's own region.
    Region,
    /// Something else, which its words tell.
    Other,
}

impl Wants {
    /// From the service's code, or from the HTTP status where a reply has no body.
    #[cfg(feature = "archive")]
    pub(crate) fn of(code: &str, status: u16) -> Self {
        match (code, status) {
            ("NoSuchBucket" | "InvalidBucketName", _) => Self::Bucket,
            ("InvalidAccessKeyId" | "SignatureDoesNotMatch" | "ExpiredToken" | "InvalidToken", _)
            | ("RequestTimeTooSkewed" | "TokenRefreshRequired", _) => Self::Credentials,
            ("PermanentRedirect" | "TemporaryRedirect" | "AuthorizationHeaderMalformed", _)
            | ("IllegalLocationConstraintException", _)
            | ("", 301 | 307 | 400) => Self::Region,
            ("AccessDenied" | "AllAccessDisabled", _) | (_, 401 | 403) => Self::Rights,
            _ => Self::Other,
        }
    }
}

/// Why something could not be put into the archive or read from it. The first field names the object or the bucket.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveError {
    /// The service is not reached, is too slow or has an error of its own: later.
    #[error("cannot reach the archive {0}: {1}")]
    Unavailable(String, String),
    /// The service says no: credentials, rights, bucket, region.
    #[error("the archive {0} refuses: {2}")]
    Refused(String, Wants, String),
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
            Self::Refused(_, wants, _) => match wants {
                Wants::Bucket => {
                    "create the bucket, or name the right one (TENDRIL_ARCHIVE_URL) at the right service (TENDRIL_ARCHIVE_ENDPOINT)"
                }
                Wants::Credentials => {
                    "check the credentials (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, profile or role) and the clock"
                }
                Wants::Rights => {
                    "allow s3:PutObject, s3:GetObject and s3:AbortMultipartUpload on the prefix; without s3:ListBucket a missing object is refused, too"
                }
                Wants::Region => "set TENDRIL_ARCHIVE_REGION to the bucket's own region",
                Wants::Other => {
                    "check bucket, endpoint, region and credentials (TENDRIL_ARCHIVE_URL, _ENDPOINT, _REGION; AWS_ACCESS_KEY_ID and so on)"
                }
            },
            Self::Missing(_) | Self::Damaged(..) => {
                "bring the object back from the bucket's versions or its replica; tendril.log_archives tells its digest"
            }
        }
    }
}
