//! The only place that reads clocks.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// A moment by two clocks of this machine: the one that nobody sets, and the one that the database reads too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Moment {
    /// Microseconds since boot.
    pub boot_us: i64,
    /// Microseconds since 1970.
    pub wall_us: i64,
}

/// Now.
#[expect(clippy::disallowed_methods, reason = "the crate's only clock")]
pub fn now() -> Moment {
    // Both clocks exist on every kernel that runs this.
    let boot = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default();
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let us = |time: Duration| i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
    Moment { boot_us: us(boot), wall_us: us(wall) }
}
