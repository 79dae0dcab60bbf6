//! How the runner under test is set.

/// How the runner is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `logs.spool_bytes`.
    pub spool_bytes: u64,
    /// `logs.memory_bytes`.
    pub memory_bytes: u64,
    /// `logs.stall_s`.
    pub stall_s: u64,
    /// `logs.cap_bytes`.
    pub cap_bytes: u64,
    /// `logs.cap_tail_bytes`.
    pub cap_tail_bytes: u64,
    /// Its folder is a disk of its own, of this size.
    pub disk_bytes: Option<u64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            spool_bytes: 1 << 30,
            memory_bytes: 64 << 20,
            stall_s: 10,
            cap_bytes: 64 << 20,
            cap_tail_bytes: 256 << 10,
            disk_bytes: None,
        }
    }
}
