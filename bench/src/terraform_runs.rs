//! Row 2: one-resource Terraform runs (init, plan, apply) through submit, beside a bare shell loop of the same commands
//! at the same parallelism.

use crate::clock::{Moment, new_id};
use crate::comparison::{Comparison, Goal, Unit};
use crate::engine::{ENVIRONMENT, Engine};
use crate::program;
use crate::report::Table;
use crate::rounds::{Row, interleave};
use crate::stage::{RunnerPlan, Stage};
use anyhow::{Context, bail, ensure};
use clap::Args;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tendril_broker::Address;
use tendril_broker::portal::deployments::{self, Filter, Listed};
use tendril_broker::portal::submission::{Submission, submit};
use tokio::process::Command;
use uuid::Uuid;

/// A real resource that needs no provider and no network.
const MAIN_TF: &str = "resource \"terraform_data\" \"one\" {\n  input = \"bench\"\n}\n";

/// What a person would type, once per folder; `$1` is the engine, `$2` the run's folder.
const BARE_RUN: &str = r#"set -e
mkdir "$2"
cp main.tf "$2"
cd "$2"
"$1" init -input=false -no-color
"$1" plan -input=false -no-color -out=plan.bin
"$1" apply -input=false -no-color plan.bin
"#;

const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How long a round may take, beside which something is wrong.
const PATIENCE: Duration = Duration::from_secs(1800);

/// Settings of the row.
#[derive(Clone, Debug, Args)]
pub struct TerraformRuns {
    /// Runs per round.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    runs: u32,
    /// How many at once: slots of the runner, and processes of the shell loop.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
    at_once: u32,
    /// Rounds of either side.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// What runs.
    #[arg(long, value_enum, default_value = "terraform")]
    engine: Engine,
}

impl Default for TerraformRuns {
    fn default() -> Self {
        Self { runs: 100, at_once: 4, rounds: 3, engine: Engine::Terraform }
    }
}

/// Measures the row.
///
/// # Errors
/// A program, the database or a run failed.
pub async fn measure(options: &TerraformRuns) -> anyhow::Result<Vec<Table>> {
    let mut site = Site::prepare(options).await?;
    let version = program::output(&site.program, &["version"]).await?;
    // What is read from the disk for the first time is read before the first round.
    site.run_ours(options.at_once).await?;
    site.run_bare(options.at_once).await?;
    let rounds = interleave(&mut site, "terraform-runs", options.rounds as usize).await?;
    site.stage.strike().await?;
    let (ours, bare) = rounds.figures(|rate| *rate);
    let line = Comparison::of("init, plan, apply of one resource", Unit::RunsPerSecond, &ours, &bare);
    let line = line.context("no rounds")?.with_goal(Goal::LeastTimesBare(0.9));
    Ok(vec![Table {
        row: "terraform-runs",
        setting: format!(
            "{} runs a round with {}, {} at once",
            options.runs,
            version.lines().next().unwrap_or("an unknown engine"),
            options.at_once
        ),
        baseline: "a shell loop of init, plan -out and apply, a folder per run".to_owned(),
        rounds: rounds.ours.len(),
        lines: vec![line],
        curves: Vec::new(),
    }])
}

/// Where both sides run: one disk, one engine.
struct Site {
    stage: Stage,
    cluster: Uuid,
    engine: Engine,
    program: PathBuf,
    runs: u32,
    at_once: u32,
    bare_folders: u32,
}

impl Site {
    async fn prepare(options: &TerraformRuns) -> anyhow::Result<Self> {
        let (engine, program) = (options.engine, options.engine.program()?);
        let mut stage = Stage::set().await?;
        let plan = RunnerPlan {
            name: "bench".into(),
            slots: options.at_once as usize,
            engine: Some((engine.name(), program.clone())),
        };
        let cluster = stage.add_runner(&plan).await?;
        Ok(Self { stage, cluster, engine, program, runs: options.runs, at_once: options.at_once, bare_folders: 0 })
    }

    fn snapshot(&self) -> Value {
        json!({
            "template": {"inline": {"main.tf": MAIN_TF}},
            "engine": self.engine.name(),
            "stateless": true,
            "cost": "off",
        })
    }

    /// Submits so many runs, one after the other; returns the seconds from the first submit to the end of the last run.
    async fn run_ours(&mut self, runs: u32) -> anyhow::Result<f64> {
        self.stage.at_rest().await?;
        let address: Address = self.stage.portal_url().parse()?;
        let mut portal = address.connect("tendril-bench").await?;
        let begun = Moment::now();
        let mut first = None;
        for _ in 0..runs {
            let submission = Submission { id: new_id(), cluster: self.cluster, snapshot: self.snapshot() };
            first.get_or_insert(submission.id);
            submit(&mut portal, &submission).await?;
        }
        let first = first.context("no runs")?;
        let all = Filter { cluster: Some(self.cluster), status: None, limit: i64::from(runs), after: None };
        let waiting = async {
            loop {
                let listed = deployments::list(&mut portal, &all).await?;
                if let Some(end) = last_end(&listed, first)? {
                    return anyhow::Ok(end);
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        let end = tokio::time::timeout(PATIENCE, waiting).await.context("the runs do not end")??;
        Ok(end.ms_since(begun) / 1e3)
    }

    /// The same by a shell loop.
    async fn run_bare(&mut self, runs: u32) -> anyhow::Result<f64> {
        self.bare_folders += 1;
        let folder = self.stage.folder().join(format!("bare-{}", self.bare_folders));
        std::fs::create_dir(&folder)?;
        std::fs::write(folder.join("main.tf"), MAIN_TF)?;
        std::fs::write(folder.join("run.sh"), BARE_RUN)?;
        let log = std::fs::File::create(folder.join("log"))?;
        let numbers = format!("seq {runs} | xargs -P {} -I N sh run.sh {} run-N", self.at_once, quoted(&self.program)?);
        let begun = Moment::now();
        let mut shell = Command::new("sh");
        shell.args(["-c", &numbers]).current_dir(&folder).envs(ENVIRONMENT);
        shell.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
        let status = shell.status().await?;
        let seconds = Moment::now().ms_since(begun) / 1e3;
        let log = std::fs::read_to_string(folder.join("log"))?;
        let applied = log.matches("Apply complete!").count();
        ensure!(status.success() && applied == runs as usize, "{applied} of {runs} bare runs applied:\n{log}");
        std::fs::remove_dir_all(&folder)?;
        Ok(seconds)
    }
}

impl Row for Site {
    type Figures = f64;

    async fn ours(&mut self) -> anyhow::Result<f64> {
        Ok(f64::from(self.runs) / self.run_ours(self.runs).await?)
    }

    async fn bare(&mut self) -> anyhow::Result<f64> {
        Ok(f64::from(self.runs) / self.run_bare(self.runs).await?)
    }
}

/// When the last of the deployments from `first` on ended; `None` while one has not.
fn last_end(listed: &[Listed], first: Uuid) -> anyhow::Result<Option<Moment>> {
    let mut last = None;
    for deployment in listed.iter().filter(|deployment| deployment.id >= first) {
        match (deployment.status.as_str(), deployment.ended_at) {
            ("SUCCESS", Some(at)) => last = last.max(Some(Moment::from_timestamp(at))),
            ("FAILED" | "CANCELLED", _) => bail!("run {} failed: {:?}", deployment.id, deployment.error_message),
            _ => return Ok(None),
        }
    }
    Ok(last)
}

fn quoted(path: &Path) -> anyhow::Result<String> {
    let text = path.to_str().context("the engine's path is not UTF-8")?;
    Ok(format!("'{}'", text.replace('\'', r"'\''")))
}
