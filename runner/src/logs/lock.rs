//! Who holds a state lock, as the engine's error tells.

use std::fmt;

use serde::Serialize;

use super::progress::bounded;

/// The words with which both engines begin that error.
pub const LOCK_CONFLICT: &str = "Error acquiring the state lock";

/// How a backend of type `http` says so; the lock's id follows, in this line or, wrapped, in the next.
const HTTP_CONFLICT: &str = "remote state already locked:";
/// What a backend of type `pg` says: it knows that somebody has the lock, and not who.
const PG_CONFLICTS: [&str; 2] = ["Already locked for workspace creation", "Workspace is already locked"];

/// The holder of a state lock; what the backend does not tell is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
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
    /// Finds the holder in the explanation of an error. Not every backend can tell: with `http` and `pg` the block
    /// `Lock Info:` is about the engine itself that has just asked for the lock, and about nobody else.
    pub fn find(text: &str) -> Option<Self> {
        if let Some((_, rest)) = text.split_once(HTTP_CONFLICT) {
            let id = rest.split_whitespace().next()?.strip_prefix("ID=")?;
            return Some(Self { id: bounded(id), ..Self::default() });
        }
        if PG_CONFLICTS.iter().any(|words| text.contains(words)) {
            return None;
        }
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
        if self.who.is_empty() {
            return write!(f, "somebody whom the backend does not name (lock {})", self.id);
        }
        let known = |text: &str| if text.is_empty() { "?".to_owned() } else { text.to_owned() };
        write!(f, "{} since {} ({}, lock {})", self.who, known(&self.created), known(&self.operation), known(&self.id))
    }
}
