//! The only place that asks for randomness.

use uuid::Uuid;

/// Random bytes from the system.
///
/// # Errors
/// The system has none, in its words.
#[expect(clippy::disallowed_methods, reason = "the crate's source of randomness")]
pub fn bytes<const N: usize>() -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| e.to_string())?;
    Ok(bytes)
}

/// A new time-ordered id.
#[expect(clippy::disallowed_methods, reason = "the crate's source of ids")]
pub fn id() -> Uuid {
    Uuid::now_v7()
}
