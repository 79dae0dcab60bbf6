//! How far a command is confined, and what of it is missing and why.

use super::profile::Profile;
use super::settings::{Mode, Settings};
use serde::{Deserialize, Serialize};
use std::fmt;

/// One thing that holds a command in.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layer {
    /// Limits of open files, core dumps, file size, queues.
    Limits,
    /// A limit of processes.
    Processes,
    /// No capability is left.
    Capabilities,
    /// No setuid program gives rights.
    NoNewPrivileges,
    /// Files: read, write, execute.
    Files,
    /// Files that may not be written may not be cut either.
    Truncate,
    /// TCP: ports to connect to, none to listen on.
    Tcp,
    /// Commands to devices.
    Devices,
    /// No signals and no abstract sockets beyond the command's own processes.
    Scopes,
    /// System calls that no job needs.
    Calls,
}

impl Layer {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Limits,
        Self::Processes,
        Self::Capabilities,
        Self::NoNewPrivileges,
        Self::Files,
        Self::Truncate,
        Self::Tcp,
        Self::Devices,
        Self::Scopes,
        Self::Calls,
    ];

    /// Whether a command is not started without it, where all is required.
    #[must_use]
    pub fn is_needed(self) -> bool {
        !matches!(self, Self::Processes | Self::Devices)
    }

    /// As in metrics and settings.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Limits => "limits",
            Self::Processes => "processes",
            Self::Capabilities => "capabilities",
            Self::NoNewPrivileges => "no_new_privileges",
            Self::Files => "files",
            Self::Truncate => "truncate",
            Self::Tcp => "tcp",
            Self::Devices => "devices",
            Self::Scopes => "scopes",
            Self::Calls => "calls",
        }
    }
}

/// A layer that is not there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// Which.
    pub layer: Layer,
    /// What it would need.
    pub why: String,
}

/// How far a command is confined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Level {
    /// As the settings want it.
    pub mode: Mode,
    /// The command's profile.
    pub profile: Profile,
    /// The kernel's name for itself.
    pub kernel: String,
    /// Landlock's ABI that is used; 0 for none.
    pub landlock_abi: u32,
    /// What holds.
    pub held: Vec<Layer>,
    /// What does not, and why.
    pub missing: Vec<Missing>,
}

impl Level {
    /// The line in a job's log about how far its commands are confined by these settings.
    #[must_use]
    pub fn notice(&self, settings: &Settings) -> String {
        let runs_nothing =
            self.profile == Profile::Terraform && settings.programs.is_empty() && settings.mode != Mode::Off;
        // An engine that may not start a shell says "permission denied", and not by whom.
        let programs =
            if runs_nothing { "; sandbox.programs is empty, so local-exec and external cannot run" } else { "" };
        format!("sandbox: {self}{programs}")
    }

    /// Why a command is not started with it, if so: names layer, kernel and remedy.
    #[must_use]
    pub fn refusal(&self) -> Option<String> {
        let lacking: Vec<_> = self.missing.iter().filter(|missing| missing.layer.is_needed()).collect();
        if self.mode != Mode::Require || lacking.is_empty() {
            return None;
        }
        let list: Vec<_> = lacking.iter().map(|one| format!("{} ({})", one.layer.name(), one.why)).collect();
        Some(format!(
            "this machine cannot confine it: kernel {} lacks {}; use a newer kernel, or set sandbox.mode = \"best-effort\" to go \
             without",
            self.kernel,
            list.join(", ")
        ))
    }
}

/// One short line.
impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.mode == Mode::Off {
            return f.write_str("off, by the settings of this runner");
        }
        write!(f, "profile {}", self.profile)?;
        match self.landlock_abi {
            0 => f.write_str(", no Landlock")?,
            abi => write!(f, ", Landlock ABI {abi}")?,
        }
        for missing in self.missing.iter().filter(|missing| missing.layer.is_needed()) {
            write!(f, "; without {}: {}", missing.layer.name(), missing.why)?;
        }
        Ok(())
    }
}
