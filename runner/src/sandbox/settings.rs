//! The operator's say: `[sandbox]` of the settings.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What is done when this kernel cannot do all that a profile needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// The command is not started.
    #[default]
    Require,
    /// It is started with what there is, and the log says what is missing.
    BestEffort,
    /// It is started without any of it, and the log says so.
    Off,
}

/// TCP ports that may be connected to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Ports {
    /// These.
    Only(Vec<u16>),
    /// `"any"`.
    Any(AnyPort),
}

/// The word for all ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AnyPort {
    /// All of them.
    Any,
}

impl Ports {
    /// All of them.
    pub const ANY: Self = Self::Any(AnyPort::Any);
}

/// `[sandbox]`, as written.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// What is done when the kernel cannot do all of it.
    pub mode: Mode,
    /// Programs, or whole folders of them, that Terraform and its providers may run: for `local-exec` and `external`.
    pub programs: Vec<PathBuf>,
    /// Programs, or whole folders of them, that jobs of kind `exec` may run; none means the system's own folders.
    pub exec_programs: Option<Vec<PathBuf>>,
    /// What jobs may read beside what their profile says.
    pub read: Vec<PathBuf>,
    /// What jobs may write beside their own folder.
    pub write: Vec<PathBuf>,
    /// TCP ports that jobs may connect to.
    pub connect: Ports,
    /// Whether jobs may send UDP. Without it names are resolved over TCP or not at all.
    pub udp: bool,
    /// Processes of a job's user. The kernel does not count those of root.
    pub max_processes: u64,
    /// Bytes of the largest file that a job may write.
    pub max_file_bytes: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mode: Mode::Require,
            programs: Vec::new(),
            exec_programs: None,
            read: Vec::new(),
            write: Vec::new(),
            connect: Ports::Only(vec![53, 443]),
            udp: true,
            max_processes: 4096,
            max_file_bytes: 16 * 1024 * 1024 * 1024,
        }
    }
}

impl Settings {
    /// What is wrong with a value: its key, and what would be right.
    ///
    /// # Errors
    /// The first that is.
    pub fn check(&self) -> Result<(), (&'static str, &'static str)> {
        let lists = [
            ("sandbox.programs", self.programs.as_slice()),
            ("sandbox.exec_programs", self.exec_programs.as_deref().unwrap_or_default()),
            ("sandbox.read", &self.read),
            ("sandbox.write", &self.write),
        ];
        if let Some((key, _)) = lists.iter().find(|(_, paths)| paths.iter().any(|path| !path.is_absolute())) {
            return Err((key, "must be absolute paths"));
        }
        if matches!(&self.connect, Ports::Only(ports) if ports.contains(&0)) {
            return Err(("sandbox.connect", "ports from 1 to 65535, or \"any\""));
        }
        if self.max_processes < 16 || self.max_file_bytes < 1024 * 1024 {
            return Err(("sandbox", "max_processes must be at least 16, max_file_bytes at least 1048576"));
        }
        Ok(())
    }
}
