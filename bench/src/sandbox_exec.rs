//! The row about the sandbox: what it adds to a command, beside the same command without it.

use crate::comparison::{Comparison, Goal, Unit};
use crate::program::{beside, output};
use crate::report::Table;
use crate::rounds::{Rounds, Row, interleave};
use crate::statistics::percentile;
use anyhow::Context;
use clap::Args;

/// An example of the runner's, built with it.
const PROGRAM: &str = "examples/sandbox_exec";
/// Milliseconds that the sandbox may add to a command.
const MOST_MS: f64 = 5.0;

/// Settings of the row.
#[derive(Clone, Debug, Args)]
pub struct SandboxExec {
    /// Commands per round.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    commands: u32,
    /// Rounds of either side.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

impl Default for SandboxExec {
    fn default() -> Self {
        Self { commands: 200, rounds: 5 }
    }
}

struct Site {
    commands: u32,
    profile: &'static str,
}

impl Site {
    async fn run(&self, how: &str) -> anyhow::Result<Vec<f64>> {
        let runner = beside("tendril-runner")?.display().to_string();
        let said = output(&beside(PROGRAM)?, &[&runner, &self.commands.to_string(), how]).await?;
        serde_json::from_str(&said).with_context(|| format!("{PROGRAM} printed no figures"))
    }
}

impl Row for Site {
    type Figures = Vec<f64>;

    async fn ours(&mut self) -> anyhow::Result<Vec<f64>> {
        self.run(self.profile).await
    }

    async fn bare(&mut self) -> anyhow::Result<Vec<f64>> {
        self.run("off").await
    }
}

/// Measures the row in both profiles.
///
/// # Errors
/// A program failed.
pub async fn measure(options: &SandboxExec) -> anyhow::Result<Vec<Table>> {
    let mut tables = Vec::new();
    for profile in ["terraform", "exec"] {
        let mut site = Site { commands: options.commands, profile };
        let rounds = interleave(&mut site, &format!("sandbox-exec, {profile}"), options.rounds as usize).await?;
        tables.push(table(options, profile, &rounds)?);
    }
    Ok(tables)
}

fn table(options: &SandboxExec, profile: &str, rounds: &Rounds<Vec<f64>>) -> anyhow::Result<Table> {
    let mut lines = Vec::new();
    for percent in [50.0, 99.0] {
        let (ours, bare) = rounds.figures(|all| percentile(all, percent).unwrap_or(f64::NAN));
        let added: Vec<f64> = ours.iter().zip(&bare).map(|(ours, bare)| ours - bare).collect();
        let whole = Comparison::of(format!("a command, p{percent}"), Unit::Milliseconds, &ours, &bare);
        lines.push(whole.context("no rounds")?);
        let added = Comparison::of(format!("what the sandbox adds to it, p{percent}"), Unit::Milliseconds, &added, &[]);
        let added = added.context("no rounds")?;
        lines.push(if percent < 99.0 { added.with_goal(Goal::Most(MOST_MS)) } else { added });
    }
    Ok(Table {
        row: "sandbox-exec",
        setting: format!(
            "profile {profile}, {} times `/bin/true` a round, by a supervisor that stands by",
            options.commands
        ),
        baseline: "the same with sandbox.mode = \"off\"".to_owned(),
        rounds: rounds.ours.len(),
        lines,
        curves: Vec::new(),
    })
}
