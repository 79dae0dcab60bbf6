//! Who holds a state lock, as the engine's error tells.

use std::fmt;

use super::progress::bounded;

/// The words with which both engines begin that error.
pub const LOCK_CONFLICT: &str = "Error acquiring the state lock";

/// The holder of a state lock.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LockHolder {
    /// The lock's id, for `force-unlock`.
    pub id: String,
    /// `user@host`.
    pub who: String,
    /// `OperationTypeApply` and so on.
    pub operation: String,
    /// When it was taken, as the holder's clock said.
    pub created: String,
}

impl LockHolder {
    /// Finds the block `Lock Info:` in the explanation of an error. Not every backend can tell.
    pub fn find(text: &str) -> Option<Self> {
        let (_, info) = text.split_once("Lock Info:")?;
        let mut holder = Self::default();
        for line in info.lines().take(12) {
            let Some((key, value)) = line.split_once(':') else { continue };
            let value = bounded(value.trim());
            match key.trim() {
                "ID" => holder.id = value,
                "Who" => holder.who = value,
                "Operation" => holder.operation = value,
                "Created" => holder.created = value,
                _ => {}
            }
        }
        (!holder.id.is_empty() || !holder.who.is_empty()).then_some(holder)
    }
}

impl fmt::Display for LockHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = |text: &str| if text.is_empty() { "?".to_owned() } else { text.to_owned() };
        write!(
            f,
            "{} since {} ({}, lock {})",
            known(&self.who),
            known(&self.created),
            known(&self.operation),
            known(&self.id)
        )
    }
}
