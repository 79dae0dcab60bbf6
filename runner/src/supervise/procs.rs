//! Reading the process table.

use std::fs;
use std::sync::OnceLock;

/// What `/proc/<pid>/stat` says about a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// Its parent's number.
    pub parent: i32,
    /// Its session.
    pub session: i32,
    /// Dead already, and only waiting to be reaped.
    pub zombie: bool,
    /// Resident memory, shared pages included.
    pub resident_pages: u64,
}

/// The process with this pid, or none.
pub(super) fn read(pid: i32) -> Option<Process> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Every process that `/proc` shows.
pub(super) fn all() -> Vec<Process> {
    numbers("/proc").into_iter().filter_map(read).collect()
}

/// Direct children. A child that comes or goes meanwhile may be missed: look again.
pub(super) fn children(pid: i32) -> Vec<i32> {
    static LISTED: OnceLock<bool> = OnceLock::new();
    if *LISTED.get_or_init(|| fs::exists("/proc/thread-self/children").unwrap_or(false)) {
        return numbers(&format!("/proc/{pid}/task"))
            .into_iter()
            .filter_map(|task| fs::read_to_string(format!("/proc/{pid}/task/{task}/children")).ok())
            .flat_map(|list| parse_list(&list))
            .collect();
    }
    // Kernels without CONFIG_PROC_CHILDREN.
    all().iter().filter(|process| process.parent == pid).map(|process| process.pid).collect()
}

fn numbers(folder: &str) -> Vec<i32> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

fn parse_list(text: &str) -> Vec<i32> {
    text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// Reads `/proc/<pid>/stat`. The name in parentheses is the process's own choice and may hold spaces and parentheses, so the
/// fields are counted from the last one.
#[must_use]
pub fn parse(stat: &str) -> Option<Process> {
    let (pid, rest) = stat.split_once(" (")?;
    let (_, rest) = rest.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    Some(Process {
        pid: pid.parse().ok()?,
        zombie: matches!(*fields.first()?, "Z" | "X"),
        parent: fields.get(1)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        resident_pages: fields.get(21)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_names_itself_like_the_table_does_not_confuse_it() {
        let tail = "S 41 42 40 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 5 4096 77 184";
        let expected = Process { pid: 42, parent: 41, session: 40, zombie: false, resident_pages: 77 };
        for name in ["sh", "a b", ") Z 1 1 1", "((", "x) S 1 2 (3"] {
            assert_eq!(parse(&format!("42 ({name}) {tail}\n")), Some(expected), "{name}");
        }
        let dead = tail.replacen('S', "Z", 1);
        assert!(parse(&format!("42 (sh) {dead}")).is_some_and(|p| p.zombie));
        for broken in ["", "42", "42 (sh", "42 (sh) S 41", "x (sh) S 41 42 40 0"] {
            assert_eq!(parse(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn this_process_finds_itself_and_its_child() {
        let own = i32::try_from(std::process::id()).expect("a pid");
        let mut child =
            std::process::Command::new("/bin/cat").stdin(std::process::Stdio::piped()).spawn().expect("cat starts");
        let pid = i32::try_from(child.id()).expect("a pid");
        assert!(children(own).contains(&pid));
        assert_eq!(read(pid).expect("it lives").parent, own);
        assert!(all().iter().any(|process| process.pid == pid));
        drop(child.stdin.take());
        child.wait().expect("cat ends at end of input");
        assert_eq!(read(pid), None);
    }
}
