//! On what it was measured.

use anyhow::Context;
use nix::sys::utsname::uname;
use serde::Serialize;
use tendril_broker::baseline::{self, ServerFacts};

/// Facts that figures depend on.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Processors that this process may use.
    pub cores: usize,
    /// Their model.
    pub processor: String,
    /// Memory, in GiB.
    pub memory_gib: u64,
    /// Kernel and its version.
    pub kernel: String,
    /// The database's server.
    pub postgres: ServerFacts,
}

impl Machine {
    /// Asks this machine and the server at `database_url`.
    ///
    /// # Errors
    /// The server cannot be asked.
    pub async fn look(database_url: &str) -> anyhow::Result<Self> {
        let name = uname().context("cannot ask for the kernel's version")?;
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        Ok(Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            processor: field(&read("/proc/cpuinfo"), "model name").unwrap_or("unknown").to_owned(),
            memory_gib: memory_gib(&read("/proc/meminfo")),
            kernel: format!("{} {}", name.sysname().to_string_lossy(), name.release().to_string_lossy()),
            postgres: baseline::server_facts(database_url).await.context("cannot ask the server for its settings")?,
        })
    }

    /// For people.
    pub fn lines(&self) -> Vec<String> {
        let pg = &self.postgres;
        let mut lines = vec![
            format!("{} cores ({}), {} GiB, {}", self.cores, self.processor, self.memory_gib, self.kernel),
            format!(
                "PostgreSQL {}, fsync {}, synchronous_commit {}, wal_sync_method {}",
                pg.version, pg.fsync, pg.synchronous_commit, pg.wal_sync_method
            ),
        ];
        if pg.fsync != "on" {
            lines.push("**fsync is off: a commit costs nothing here, and these figures say little**".to_owned());
        }
        lines
    }
}

/// The value of the first `name : value` line.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_once(':').map(|(_, value)| value.trim())
}

fn memory_gib(meminfo: &str) -> u64 {
    let kib = field(meminfo, "MemTotal").and_then(|text| text.strip_suffix(" kB")).and_then(|text| text.parse().ok());
    kib.map_or(0, |kib: u64| kib.div_ceil(1024 * 1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_read_from_what_the_kernel_prints() {
        assert_eq!(field("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\n", "model name"), Some("Some CPU @ 2 GHz"));
        assert_eq!(field("processor\t: 0\n", "model name"), None);
        assert_eq!(memory_gib("MemTotal:       24602840 kB\nMemFree: 1 kB\n"), 24);
        assert_eq!(memory_gib(""), 0);
    }
}
