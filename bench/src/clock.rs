//! The crate's only clock. Wall time, because its moments are compared with those of other processes and of the
//! database on the same machine; a step of the clock within a round would show as an absurd figure.

use nix::time::{ClockId, clock_gettime};
use std::time::Duration;
use time::OffsetDateTime;

/// A moment of CLOCK_REALTIME: time since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(Duration);

impl Moment {
    /// Now.
    #[expect(clippy::disallowed_methods, reason = "the crate's only clock")]
    pub fn now() -> Self {
        // This clock cannot fail.
        Self(clock_gettime(ClockId::CLOCK_REALTIME).map(Duration::from).unwrap_or_default())
    }

    /// From nanoseconds since 1970, as another process wrote them.
    pub fn from_nanos(nanos: u64) -> Self {
        Self(Duration::from_nanos(nanos))
    }

    /// From a timestamp of the database.
    pub fn from_timestamp(at: OffsetDateTime) -> Self {
        Self::from_nanos(u64::try_from(at.unix_timestamp_nanos()).unwrap_or_default())
    }

    /// Milliseconds from an earlier moment to this one; negative when it is the later one.
    pub fn ms_since(self, earlier: Self) -> f64 {
        1e3 * (self.0.as_secs_f64() - earlier.0.as_secs_f64())
    }

    /// For people: RFC 3339 to the second.
    pub fn date(self) -> String {
        let seconds = i64::try_from(self.0.as_secs()).unwrap_or_default();
        let at = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        at.format(&time::format_description::well_known::Rfc3339).unwrap_or_default()
    }
}

/// A time-ordered id (UUIDv7) for a deployment.
#[expect(clippy::disallowed_methods, reason = "the crate's source of ids")]
pub fn new_id() -> uuid::Uuid {
    uuid::Uuid::now_v7()
}
