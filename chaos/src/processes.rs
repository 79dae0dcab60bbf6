//! Processes as /proc tells of them.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A process for all time: its number alone may be another's by tomorrow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Identity {
    /// Its number.
    pub pid: i32,
    /// When it began, in ticks since boot.
    pub birth: u64,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.pid, self.birth)
    }
}

impl FromStr for Identity {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (pid, birth) = text.split_once(':').ok_or(())?;
        Ok(Self { pid: pid.parse().map_err(drop)?, birth: birth.parse().map_err(drop)? })
    }
}

/// A process now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Who.
    pub identity: Identity,
    /// The kernel's name for its program.
    pub name: String,
    /// Whether it has ended and only waits to be reaped.
    pub dead: bool,
    parent: i32,
}

/// The process of that number, if there is one.
pub fn read(pid: i32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    parse(pid, &stat)
}

/// The name stands in brackets and may hold anything, brackets too.
fn parse(pid: i32, stat: &str) -> Option<Process> {
    let (head, tail) = stat.rsplit_once(") ")?;
    let (_, name) = head.split_once(" (")?;
    let fields: Vec<&str> = tail.split(' ').collect();
    Some(Process {
        identity: Identity { pid, birth: fields.get(19)?.parse().ok()? },
        name: name.to_owned(),
        dead: matches!(*fields.first()?, "Z" | "X"),
        parent: fields.get(1)?.parse().ok()?,
    })
}

/// All that descends from this process, the dead included, without database servers and what is theirs.
///
/// Complete once this process is a subreaper: then nothing that a descendant leaves behind can leave the tree.
pub fn descendants() -> Vec<Process> {
    let all: Vec<Process> = numbers().into_iter().filter_map(read).collect();
    let mut known = BTreeSet::from([i32::try_from(std::process::id()).unwrap_or(0)]);
    let mut found = Vec::new();
    loop {
        let ours = |process: &&Process| {
            known.contains(&process.parent) && !known.contains(&process.identity.pid) && process.name != "postgres"
        };
        let next: Vec<Process> = all.iter().filter(ours).cloned().collect();
        if next.is_empty() {
            return found;
        }
        known.extend(next.iter().map(|process| process.identity.pid));
        found.extend(next);
    }
}

/// The processes that this one has started and that live.
pub fn children_of(pid: i32) -> Vec<i32> {
    let all = numbers().into_iter().filter_map(read);
    all.filter(|process| process.parent == pid && !process.dead).map(|process| process.identity.pid).collect()
}

/// Whether any process works in a folder whose path holds this.
pub fn anybody_in(part: &str) -> bool {
    let folder = |pid| fs::read_link(format!("/proc/{pid}/cwd")).ok();
    numbers().into_iter().filter_map(folder).any(|path| path.to_string_lossy().contains(part))
}

fn numbers() -> Vec<i32> {
    let Ok(folders) = fs::read_dir("/proc") else { return Vec::new() };
    folders.flatten().filter_map(|folder| folder.file_name().to_str()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_spaces_does_not_confuse() {
        let fields = (2..=50).map(|n: u32| n.to_string()).collect::<Vec<_>>().join(" ");
        let process = parse(12, &format!("12 (a) b) (c) S {fields}")).unwrap();
        assert_eq!((process.name.as_str(), process.parent, process.identity.birth), ("a) b) (c", 2, 20));
    }

    #[test]
    fn a_child_of_ours_is_seen_with_its_birth() {
        let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let seen = descendants().into_iter().find(|process| process.identity.pid == pid).unwrap();
        assert_eq!(seen.identity, read(pid).unwrap().identity);
        assert!(!seen.dead);
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(!descendants().iter().any(|process| process.identity == seen.identity));
    }
}
