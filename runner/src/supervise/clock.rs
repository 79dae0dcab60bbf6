//! The supervisor's time: plain milliseconds, since all it does with them is to compare.

use std::sync::OnceLock;

use crate::clock::BootTime;

/// Milliseconds of boot time, time asleep included, since this process first asked: what timeouts and durations are
/// measured in.
pub(super) fn boot_ms() -> u64 {
    static FIRST: OnceLock<BootTime> = OnceLock::new();
    let since = FIRST.get_or_init(BootTime::now).elapsed();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
