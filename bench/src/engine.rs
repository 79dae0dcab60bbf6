//! The engines that runs are measured with.

use anyhow::Context;
use clap::ValueEnum;
use std::path::PathBuf;

/// The program that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    /// HashiCorp's.
    Terraform,
    /// The Linux Foundation's.
    Tofu,
}

impl Engine {
    /// Its kind's name in settings and snapshots.
    pub fn name(self) -> &'static str {
        match self {
            Self::Terraform => "terraform",
            Self::Tofu => "tofu",
        }
    }

    /// Where it is: `./dev` says so.
    ///
    /// # Errors
    /// It does not.
    pub fn program(self) -> anyhow::Result<PathBuf> {
        let variable = format!("TENDRIL_TEST_{}", self.name().to_uppercase());
        let path =
            std::env::var_os(&variable).with_context(|| format!("{variable} is not set: ./dev bench sets it"))?;
        Ok(path.into())
    }
}

/// What the runner sets for the engine, too.
pub const ENVIRONMENT: [(&str, &str); 2] = [("CHECKPOINT_DISABLE", "1"), ("TF_IN_AUTOMATION", "1")];
