//! The crate's only reading of wall clock and chance: for metrics and ids, never for a decision. The database judges.

use std::time::{SystemTime, UNIX_EPOCH};

use uuid::Uuid;

/// Seconds since 1970, for metrics.
#[expect(clippy::disallowed_methods, reason = "the crate's only wall clock")]
pub fn unix_seconds() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs_f64()
}

/// 256 random bits of the operating system.
///
/// # Errors
/// When it gives none.
#[expect(clippy::disallowed_methods, reason = "the crate's only source of secrets")]
pub fn random_bits() -> Result<[u8; 32], getrandom::Error> {
    let mut bits = [0; 32];
    getrandom::fill(&mut bits).map(|()| bits)
}

/// A time-ordered id (UUIDv7).
#[expect(clippy::disallowed_methods, reason = "the crate's source of ids")]
pub fn new_id() -> Uuid {
    Uuid::now_v7()
}
