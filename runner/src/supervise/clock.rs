//! The supervisor's two clocks.

use nix::time::{ClockId, clock_gettime};
use time::OffsetDateTime;

/// Milliseconds since boot, time asleep included: what timeouts and durations are measured in.
pub(super) fn boot_ms() -> u64 {
    // The clock exists since Linux 2.6.39 and the call has no other way to fail.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |t| {
        let whole = u64::try_from(t.tv_sec()).unwrap_or(0) * 1000;
        whole + u64::try_from(t.tv_nsec() / 1_000_000).unwrap_or(0)
    })
}

/// The wall clock, for people; never compared with anything.
pub(super) fn wall() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}
