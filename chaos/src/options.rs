//! What a run is made of, beside its seed.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use tendril_broker::testing::history::Times;
use tendril_broker::testing::mutants::Mutant;

use crate::op::OpName;

/// The times that an installation under test runs with.
pub const TIMES: Times = Times { lease_ttl_ms: 3000, heartbeat_ms: 1000, unknown_grace_ms: 1000 };
/// What runners and children call the disk that they share.
pub const PLACE: &str = "chaos";

/// Sizes of a run. With the same seed and the same of these, workload and schedule are the same.
#[derive(Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Options {
    /// Operations to choose from; each comes at least once when there are steps enough
    #[arg(long, value_delimiter = ',', value_name = "OP,...", default_values_t = OpName::usual(), value_enum)]
    pub ops: Vec<OpName>,
    /// How many operations are performed [default: one of each]
    #[arg(long)]
    pub steps: Option<usize>,
    /// Jobs to submit, about
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=5000))]
    pub jobs: u32,
    /// Runners
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=20))]
    pub runners: u32,
    /// Jobs that each runner takes at once
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=50))]
    pub slots: u32,
    /// Replicas of `tendril-broker serve`
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=5))]
    pub serves: u32,
    /// States that plans and applies meet at
    #[arg(long, default_value_t = four(), value_parser = clap::value_parser!(u32).range(1..=100))]
    #[serde(default = "four")]
    pub states: u32,
    /// Submit no plans and applies
    #[arg(long)]
    pub no_terraform: bool,
    /// Put a mistake into the broker's functions first: the checker has to find it
    #[arg(long, value_enum)]
    #[serde(default)]
    pub mutant: Option<Mutant>,
}

fn four() -> u32 {
    4
}

impl Options {
    /// How many operations are performed.
    pub fn step_count(&self) -> usize {
        self.steps.unwrap_or(self.ops.len())
    }

    /// What has to be typed for the same run.
    pub fn typed(&self) -> String {
        let mut typed = String::new();
        if self.ops != OpName::usual() {
            let ops: Vec<String> = self.ops.iter().map(|op| op.typed()).collect();
            typed += &format!(" --ops {}", ops.join(","));
        }
        if let Some(steps) = self.steps {
            typed += &format!(" --steps {steps}");
        }
        for (flag, value, usual) in [
            ("jobs", self.jobs, 30),
            ("runners", self.runners, 2),
            ("slots", self.slots, 5),
            ("serves", self.serves, 1),
            ("states", self.states, four()),
        ] {
            if value != usual {
                typed += &format!(" --{flag} {value}");
            }
        }
        if self.no_terraform {
            typed += " --no-terraform";
        }
        if let Some(name) = self.mutant.and_then(|mutant| mutant.to_possible_value()) {
            typed += &format!(" --mutant {}", name.get_name());
        }
        typed
    }
}

/// The terraform or tofu of this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Engine {
    /// terraform or tofu.
    pub name: String,
    /// Its program.
    pub program: PathBuf,
}

impl Engine {
    /// What `./dev` names, else the first on PATH; none where there is none.
    pub fn find() -> Option<Self> {
        let named = |name: &str| std::env::var_os(format!("TENDRIL_TEST_{}", name.to_uppercase())).map(PathBuf::from);
        let on_path = |name: &str| {
            let path = std::env::var_os("PATH")?;
            std::env::split_paths(&path).map(|folder| folder.join(name)).find(|program| program.is_file())
        };
        let find = |name: &str| {
            let program = named(name).or_else(|| on_path(name))?;
            Some(Self { name: name.to_owned(), program })
        };
        find("terraform").or_else(|| find("tofu"))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn what_is_to_be_typed_gives_the_same_options() {
        for line in [
            "",
            "--ops sigkill-runner,end-session --steps 5 --jobs 200 --runners 3 --slots 8 --serves 2 --states 1 --no-terraform --mutant slow-checks",
        ] {
            let options = Line::parse_from(["x"].into_iter().chain(line.split_whitespace())).options;
            assert_eq!(options.typed().trim(), line);
        }
    }
}
