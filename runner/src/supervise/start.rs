//! Why a command was never started.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The command did not run: nothing happened in the world.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum StartFailure {
    /// The step itself cannot be carried out.
    #[error("invalid step: {detail}")]
    InvalidStep {
        /// Which part, and what to do about it.
        detail: String,
    },
    /// Without a place for the record nothing is started.
    #[error("record folder {path:?} cannot be used: {detail}; name a new folder that the runner may write")]
    RecordFolder {
        /// The folder of the step.
        path: PathBuf,
        /// The system's words.
        detail: String,
    },
    /// No file at argv\[0\].
    #[error("program {program} does not exist; install it or correct its path")]
    ProgramMissing {
        /// argv\[0\] of the step.
        program: String,
    },
    /// The file is there, but what its first line or its ELF header names is not.
    #[error("program {program} exists but its interpreter does not; see its first line, or install its loader")]
    InterpreterMissing {
        /// argv\[0\] of the step.
        program: String,
    },
    /// No permission to execute, a folder, or a filesystem mounted noexec.
    #[error(
        "program {program} may not be executed; check its mode (chmod +x), its folders, whether its filesystem is mounted noexec, and what [sandbox] of the runner's settings lets jobs execute"
    )]
    NotExecutable {
        /// argv\[0\] of the step.
        program: String,
    },
    /// Neither a binary for this machine nor a script with an interpreter line.
    #[error("program {program} is no program for this machine; check its architecture, or give a script a `#!` line")]
    WrongFormat {
        /// argv\[0\] of the step.
        program: String,
    },
    /// The kernel's limit for arguments plus environment.
    #[error("arguments and environment of {program} are too long for the kernel; pass large values in files")]
    TooLong {
        /// argv\[0\] of the step.
        program: String,
    },
    /// The working folder is missing, no folder, or closed to the runner.
    #[error("working folder {path:?} cannot be entered: {detail}; create it or correct its owner and mode")]
    WorkFolder {
        /// `cwd` of the step.
        path: PathBuf,
        /// The system's words.
        detail: String,
    },
    /// The command cannot be confined as the settings want it.
    #[error("sandbox: {detail}")]
    Sandbox {
        /// What is missing, and what to do about it.
        detail: String,
    },
    /// The runner had vanished before the command was started.
    #[error("the runner went away before the command was started; start it again")]
    RunnerGone,
    /// Anything else the kernel refused on the way.
    #[error("the system refused to {during}: {detail}; see limits of processes, memory and files on this machine")]
    System {
        /// What was being done.
        during: String,
        /// The system's words.
        detail: String,
    },
}

impl StartFailure {
    /// Whether another try may go better: the machine was short of something, or the runner ended.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::RecordFolder { .. } | Self::RunnerGone | Self::System { .. } => true,
            Self::InvalidStep { .. }
            | Self::ProgramMissing { .. }
            | Self::InterpreterMissing { .. }
            | Self::NotExecutable { .. }
            | Self::WrongFormat { .. }
            | Self::TooLong { .. }
            | Self::Sandbox { .. }
            | Self::WorkFolder { .. } => false,
        }
    }
}
