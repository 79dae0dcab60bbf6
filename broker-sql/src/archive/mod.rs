//! The archive of closed logs: `rows -> lines -> zstd frames -> one object per attempt in an S3 bucket`, and back.
//!
//! - `location`: which bucket, and the object's name.
//! - `format`: the object; without I/O.
//! - `store`: the S3 client; `upload`: one log to one verified object; `ledger`: what the database remembers of it.
//! - `reading`: the rows behind a position, by ranged requests.
//! - `days`: removal of the days that are archived, or old.
//!
//! Without the feature `archive` there is no S3 client: logs are then neither archived nor read from an archive.

#[cfg(not(feature = "archive"))]
mod absent;
pub mod days;
mod error;
#[cfg(feature = "archive-format")]
#[cfg_attr(not(feature = "archive"), expect(dead_code, reason = "without an S3 client nothing is shipped"))]
mod format;
#[cfg_attr(not(feature = "archive"), expect(dead_code, reason = "without an S3 client nothing is shipped"))]
pub(crate) mod ledger;
#[cfg_attr(not(feature = "archive"), expect(dead_code, reason = "without an S3 client nothing is shipped"))]
mod location;
#[cfg(feature = "archive")]
mod reading;
#[cfg(feature = "archive")]
mod store;
#[cfg(all(feature = "archive-format", feature = "testing"))]
pub mod testing;
#[cfg(feature = "archive")]
mod upload;

#[cfg(not(feature = "archive"))]
pub use absent::Archive;
pub use error::{ArchiveError, Wants};
pub use ledger::{ClosedLog, Frame, Record, claim};
pub use location::{ArchiveOptions, BadLocation, Location};
#[cfg(feature = "archive")]
pub use reading::Archive;
#[cfg(feature = "archive")]
pub(crate) use upload::LEASE;
#[cfg(feature = "archive")]
pub use upload::{Archived, Sizes, UploadError, archive};
