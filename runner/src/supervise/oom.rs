//! Whether the kernel killed for want of memory.

use std::fs;

use serde::{Deserialize, Serialize};

/// Processes killed by the kernel for want of memory while the command ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "source", content = "kills")]
pub enum OomKills {
    /// In the supervisor's own memory control group, which other attempts of the runner share.
    OwnGroup(u64),
    /// Anywhere on the machine: all that can be read here.
    Machine(u64),
    /// No counter can be read here.
    Unreadable,
}

impl OomKills {
    /// The counters as they stand.
    pub(super) fn now() -> Self {
        let membership = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let own = group_files(&membership).iter().find_map(|file| counter(&fs::read_to_string(file).ok()?));
        let machine = || counter(&fs::read_to_string("/proc/vmstat").ok()?);
        match own {
            Some(kills) => Self::OwnGroup(kills),
            None => machine().map_or(Self::Unreadable, Self::Machine),
        }
    }

    /// What was added since an earlier reading; unreadable when the two are of different kinds.
    pub(super) fn since(self, earlier: Self) -> Self {
        match (self, earlier) {
            (Self::OwnGroup(now), Self::OwnGroup(then)) => Self::OwnGroup(now.saturating_sub(then)),
            (Self::Machine(now), Self::Machine(then)) => Self::Machine(now.saturating_sub(then)),
            _ => Self::Unreadable,
        }
    }
}

/// Where the counter of the own group may be, best first. Inside a container without a cgroup
/// namespace the path of the membership does not exist below the mount, and the mount itself is the group.
fn group_files(membership: &str) -> Vec<String> {
    let mut files = Vec::new();
    for line in membership.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let path = path.trim_end_matches('/');
        if controllers.split(',').any(|name| name == "memory") {
            files.push(format!("/sys/fs/cgroup/memory{path}/memory.oom_control"));
            files.push("/sys/fs/cgroup/memory/memory.oom_control".to_owned());
        } else if controllers.is_empty() {
            files.push(format!("/sys/fs/cgroup{path}/memory.events"));
            files.push("/sys/fs/cgroup/memory.events".to_owned());
        }
    }
    files
}

fn counter(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")).and_then(|count| count.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_is_found_in_both_generations_of_control_groups() {
        let old = "oom_kill_disable 0\nunder_oom 0\noom_kill 7\n";
        let new = "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n";
        assert_eq!(counter(old), Some(7));
        assert_eq!(counter(new), Some(2));
        assert_eq!(counter("oom 3\noom_group_kill 5\n"), None);
        assert_eq!(counter("oom_kill many\n"), None);
    }

    #[test]
    fn the_group_is_read_from_the_membership_of_the_process() {
        let hybrid = "4:memory:/jobs/a:b\n3:cpu,cpuacct:/\n0::/\n";
        assert_eq!(
            group_files(hybrid),
            [
                "/sys/fs/cgroup/memory/jobs/a:b/memory.oom_control",
                "/sys/fs/cgroup/memory/memory.oom_control",
                "/sys/fs/cgroup/memory.events",
                "/sys/fs/cgroup/memory.events",
            ]
        );
        assert!(group_files("no colons here\n").is_empty());
    }

    #[test]
    fn a_difference_needs_two_readings_of_one_kind() {
        let own = OomKills::OwnGroup;
        assert_eq!(own(5).since(own(3)), own(2));
        assert_eq!(own(5).since(OomKills::Machine(3)), OomKills::Unreadable);
        assert_eq!(own(1).since(own(3)), own(0), "a counter that went back");
    }
}
