//! The only place that reads clocks. Leases and deadlines count boot time, which goes on while the machine sleeps and
//! does not step; wall time is for people.

use nix::time::{ClockId, clock_gettime};
use std::time::Duration;
use time::OffsetDateTime;

/// A moment of CLOCK_BOOTTIME.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootTime(Duration);

impl BootTime {
    /// Now.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the boot clock")]
    pub fn now() -> Self {
        // The kernel has had this clock since 2.6.39: it cannot fail.
        let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default();
        Self(now)
    }

    /// This moment and some more.
    pub fn after(self, more: Duration) -> Self {
        Self(self.0 + more)
    }

    /// Time from now until this moment; zero when it has passed.
    pub fn left(self) -> Duration {
        self.0.saturating_sub(Self::now().0)
    }

    /// Time from this moment until now.
    pub fn elapsed(self) -> Duration {
        Self::now().0.saturating_sub(self.0)
    }
}

/// Wall time, for rows and messages.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
pub fn wall() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}
