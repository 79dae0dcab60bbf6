//! The kinds of commands that are confined.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What kind of command it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// An engine and its providers: nothing else is executed but what the settings list.
    #[default]
    Terraform,
    /// A job's own program, with the programs of the system.
    Exec,
    /// A program that the runner needs itself: git, infracost.
    Tool,
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Terraform => "terraform",
            Self::Exec => "exec",
            Self::Tool => "tool",
        })
    }
}
