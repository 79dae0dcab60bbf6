//! What processes took of the processor and of memory, by the kernel's accounts.

use anyhow::Context;
use nix::unistd::{SysconfVar, sysconf};
use tendril_broker::baseline::log_tables::Serving;

/// The whole Postgres server: sessions, background processes, and those that have ended.
pub struct Server {
    _serving: Serving,
    postmaster: i32,
}

impl Server {
    /// Finds it, by a session of its own.
    ///
    /// # Errors
    /// It cannot be reached, or runs elsewhere.
    pub async fn find(url: &str) -> anyhow::Result<Self> {
        let serving = Serving::open(url).await?;
        let postmaster = Account::of(serving.pid).context("the server runs on another machine")?.parent;
        Ok(Self { _serving: serving, postmaster })
    }

    /// Milliseconds of processor that it has taken so far.
    ///
    /// # Errors
    /// It is gone.
    pub fn processor_ms(&self) -> anyhow::Result<f64> {
        let account = || Account::of(self.postmaster).context("the server is gone");
        loop {
            let before = account()?;
            let alive = children(self.postmaster).into_iter().filter_map(Account::of);
            let alive_ms: f64 = alive.map(|child| child.own_ms).sum();
            let own = account()?;
            // Who ended in between is in neither sum, or in both.
            if own.reaped_ms == before.reaped_ms {
                return Ok(own.own_ms + own.reaped_ms + alive_ms);
            }
        }
    }
}

/// A line of the kernel's about a process.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Account {
    /// Its parent.
    pub parent: i32,
    /// Milliseconds of processor that it took.
    pub own_ms: f64,
    /// That its ended and waited-for children took, and theirs.
    pub reaped_ms: f64,
}

impl Account {
    /// Of a process; `None` when it is gone.
    pub fn of(pid: i32) -> Option<Self> {
        let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100) as f64;
        Self::read(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?, ticks)
    }

    fn read(stat: &str, ticks: f64) -> Option<Self> {
        // The name may hold spaces and brackets.
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        let ms = |at: usize| fields.get(at)?.parse::<f64>().ok().map(|count| count * 1e3 / ticks);
        Some(Self { parent: fields.get(1)?.parse().ok()?, own_ms: ms(11)? + ms(12)?, reaped_ms: ms(13)? + ms(14)? })
    }
}

/// Milliseconds of processor that the threads which a process has now have taken. Finer than [`Account`], whose ticks are
/// coarse for who hardly runs; `None` when it is gone.
pub fn fine_ms(pid: i32) -> Option<f64> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten();
    let nanos = |thread: std::fs::DirEntry| -> Option<f64> {
        std::fs::read_to_string(thread.path().join("schedstat")).ok()?.split(' ').next()?.parse().ok()
    };
    Some(threads.filter_map(nanos).sum::<f64>() / 1e6)
}

/// Process ids of the children of a process.
pub fn children(parent: i32) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| Account::of(*pid).is_some_and(|account| account.parent == parent)).collect()
}

/// Memory of a process in MiB: its share of what it has in common with others (`Pss`), what it has (`VmRSS`), or the most that
/// it ever had (`VmHWM`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Proportional set size.
    Share,
    /// Resident size.
    Resident,
    /// Largest resident size.
    Peak,
}

/// Memory of a process; `None` when it is gone.
pub fn memory_mib(pid: i32, which: Memory) -> Option<f64> {
    let (file, field) = match which {
        Memory::Share => ("smaps_rollup", "Pss:"),
        Memory::Resident => ("status", "VmRSS:"),
        Memory::Peak => ("status", "VmHWM:"),
    };
    let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
    kib(&text, field).map(|kib| kib / 1024.0)
}

fn kib(text: &str, field: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(field))?.trim().strip_suffix(" kB")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_whose_name_has_brackets_and_spaces_is_read_all_the_same() {
        let stat = "7 (a) b (c) S 3 7 7 0 -1 4194304 1 2 3 4 150 50 20 10 20 0 1 0 9 8 7";
        let expected = Account { parent: 3, own_ms: 2000.0, reaped_ms: 300.0 };
        assert_eq!(Account::read(stat, 100.0), Some(expected));
        assert_eq!(Account::read("7 (a", 100.0), None);
    }

    #[test]
    fn own_accounts_can_be_read() {
        let me = std::process::id() as i32;
        let parent = Account::of(me).unwrap().parent;
        assert!(children(parent).contains(&me));
        assert!(fine_ms(me).unwrap() > 0.0);
        assert!(memory_mib(me, Memory::Peak).unwrap() >= memory_mib(me, Memory::Share).unwrap());
        assert_eq!(kib("VmHWM:\t  2048 kB\n", "VmHWM:"), Some(2048.0));
    }
}
