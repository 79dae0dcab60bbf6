//! What a supervisor is asked to run.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::start::StartFailure;
use crate::sandbox::Confinement;
use crate::secrets::Hidden;

/// Time between the one SIGINT and the SIGKILL of the whole tree, unless a step says otherwise.
pub const DEFAULT_KILL_GRACE_MS: u64 = 60_000;
/// Files made by a command are readable by its own user only, unless a step says otherwise.
pub const DEFAULT_UMASK: u32 = 0o077;
/// Bound of each of the two files that keep the output of an orphaned command.
pub const DEFAULT_ORPHAN_LIMIT_BYTES: u64 = 64 * 1024 * 1024;
/// Name, in the record folder, of the standard output that nobody read any more.
pub const STDOUT_FILE: &str = "orphan.stdout";
/// Name, in the record folder, of the standard error that nobody read any more.
pub const STDERR_FILE: &str = "orphan.stderr";

/// Whether a command may be ended and started again, or changes the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Only reads (plan, cost, render): it ends when its runner vanishes.
    Reading,
    /// Changes the world (apply, destroy, bootstrap): it finishes even when its runner vanishes.
    Mutating,
}

/// One command of an attempt, complete: nothing is inherited from the runner.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Shown in process lists beside the supervisor, and repeated in the record.
    pub name: String,
    /// The program's absolute path, then its arguments. No shell looks at them.
    pub argv: Vec<String>,
    /// The whole environment of the command.
    pub env: BTreeMap<String, String>,
    /// Variables beside those, with values that nobody may see.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, Hidden>,
    /// Working folder of the command, absolute.
    pub cwd: PathBuf,
    /// What happens when the runner vanishes.
    pub class: Class,
    /// Longest life of the command in milliseconds of boot time, after which it is interrupted.
    pub timeout_ms: u64,
    /// Milliseconds between the one SIGINT and the SIGKILL of the whole tree.
    pub kill_grace_ms: u64,
    /// Absolute folder for this step's `exit.json` and orphaned output. It is made when absent, belongs to one
    /// step alone, and should lie where the command cannot write.
    pub record_dir: PathBuf,
    /// File mode mask of the command.
    pub umask: u32,
    /// Bound in bytes of each orphaned output file; what comes later is counted and dropped.
    pub orphan_limit_bytes: u64,
    /// What it may do.
    pub sandbox: Confinement,
}

impl Step {
    /// The program that runs.
    #[must_use]
    pub fn program(&self) -> &str {
        self.argv.first().map_or("", String::as_str)
    }

    /// Refuses what could only be misunderstood later.
    pub(super) fn check(&self) -> Result<(), StartFailure> {
        let refuse = |detail: String| Err(StartFailure::InvalidStep { detail });
        let program = self.program();
        if !program.starts_with('/') {
            return refuse(format!("argv[0] is {program:?}; give the absolute path of the program"));
        }
        for (what, path) in [("cwd", &self.cwd), ("record_dir", &self.record_dir)] {
            if !path.is_absolute() {
                return refuse(format!("{what} is {path:?}; give an absolute path"));
            }
        }
        if let Some(index) = self.argv.iter().position(|arg| arg.contains('\0')) {
            return refuse(format!("argv[{index}] contains a NUL byte; remove it"));
        }
        let bad_key = |key: &str| key.is_empty() || key.contains(['=', '\0']);
        if let Some(key) = self.env.keys().find(|key| bad_key(key)) {
            return refuse(format!("environment variable name {key:?} is empty or contains `=` or NUL; rename it"));
        }
        let nul = self.env.iter().find(|(_, value)| value.contains('\0')).map(|(key, _)| key);
        let nul =
            nul.or_else(|| self.secrets.iter().find(|(_, value)| value.expose().contains('\0')).map(|(key, _)| key));
        if let Some(key) = nul {
            return refuse(format!("environment variable {key} contains a NUL byte; remove it"));
        }
        if self.umask > 0o777 {
            return refuse(format!("umask {:o} is above 777", self.umask));
        }
        Ok(())
    }
}

/// Names the variables of the environment and never their values, which may be credentials.
impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Step")
            .field("name", &self.name)
            .field("program", &self.program())
            .field("arguments", &self.argv.len().saturating_sub(1))
            .field("env", &self.env.keys().chain(self.secrets.keys()).collect::<Vec<_>>())
            .field("cwd", &self.cwd)
            .field("class", &self.class)
            .field("timeout_ms", &self.timeout_ms)
            .field("kill_grace_ms", &self.kill_grace_ms)
            .field("record_dir", &self.record_dir)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step() -> Step {
        Step {
            name: "plan".to_owned(),
            argv: vec!["/bin/true".to_owned()],
            env: BTreeMap::new(),
            secrets: BTreeMap::new(),
            cwd: "/".into(),
            class: Class::Reading,
            timeout_ms: 1,
            kill_grace_ms: 1,
            record_dir: "/tmp/r".into(),
            umask: DEFAULT_UMASK,
            orphan_limit_bytes: 1,
            sandbox: Confinement::off(),
        }
    }

    fn refusal(change: impl FnOnce(&mut Step)) -> String {
        let mut step = step();
        change(&mut step);
        step.check().expect_err("refused").to_string()
    }

    #[test]
    fn a_step_that_could_be_misread_is_refused_by_name() {
        step().check().expect("the plain one is fine");
        assert!(refusal(|s| s.argv.clear()).contains("argv[0]"));
        assert!(refusal(|s| s.argv[0] = "terraform".to_owned()).contains("absolute"));
        assert!(refusal(|s| s.argv.push("a\0b".to_owned())).contains("argv[1]"));
        assert!(refusal(|s| s.cwd = "work".into()).contains("cwd"));
        assert!(refusal(|s| s.record_dir = "r".into()).contains("record_dir"));
        assert!(refusal(|s| drop(s.env.insert("A=B".into(), String::new()))).contains("A=B"));
        assert!(refusal(|s| drop(s.env.insert(String::new(), String::new()))).contains("empty"));
        assert!(refusal(|s| drop(s.env.insert("A".into(), "\0".into()))).contains("variable A"));
        assert!(refusal(|s| s.umask = 0o7777).contains("umask"));
    }

    #[test]
    fn debug_output_shows_no_values_of_the_environment_and_no_arguments() {
        let mut step = step();
        step.env.insert("TOKEN".to_owned(), "hunter2".to_owned());
        step.argv.push("--password=hunter2".to_owned());
        let shown = format!("{step:?}");
        assert!(shown.contains("TOKEN") && !shown.contains("hunter2"), "{shown}");
    }
}
