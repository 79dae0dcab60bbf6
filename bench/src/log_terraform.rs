//! A real engine whose resource prints 20,000 lines, through a real runner, beside the bare engine.

use crate::clock::{Moment, new_id};
use crate::comparison::{Comparison, Goal, Unit};
use crate::engine::{ENVIRONMENT, Engine};
use crate::processor::{Account, Server};
use crate::program;
use crate::report::Table;
use crate::rounds::{Rounds, Row, interleave};
use crate::stage::{RunnerPlan, Stage};
use anyhow::{Context, ensure};
use clap::Args;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tendril_broker::Address;
use tendril_broker::baseline::log_tables::LogTable;
use tendril_broker::portal::deployments::{self, State};
use tendril_broker::portal::submission::{Submission, submit};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::process::Command;
use uuid::Uuid;

const LOOK_EVERY: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(600);

/// Settings of the row.
#[derive(Clone, Debug, Args)]
pub struct LogTerraform {
    /// Lines of 200 bytes that the resource prints
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    lines: u64,
    /// Rounds of either side
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// What runs
    #[arg(long, value_enum, default_value = "terraform")]
    engine: Engine,
}

impl Default for LogTerraform {
    fn default() -> Self {
        Self { lines: 20_000, rounds: 7, engine: Engine::Terraform }
    }
}

/// Milliseconds of a round.
struct Figures {
    /// The apply command, from its start to its end. Beside it: with `-json`, as the runner has it.
    apply: f64,
    /// The same; beside it without `-json`, as a person has it.
    plain_apply: f64,
    /// The apply job, from its claim to its end; beside it the plain command.
    job: f64,
    /// From the submit to the end of the deployment; beside it init, plan and the plain apply.
    whole: f64,
    /// Processor that the runner took for the run, and Postgres; 0 beside it.
    runner: f64,
    server: f64,
}

/// Measures the row.
///
/// # Errors
/// A program, the database or a run failed.
pub async fn measure(options: &LogTerraform) -> anyhow::Result<Vec<Table>> {
    let mut site = Site::prepare(options).await?;
    let version = program::output(&site.program, &["version"]).await?;
    // What is read from the disk for the first time is read before the first round.
    site.ours().await?;
    site.bare().await?;
    let rounds = interleave(&mut site, "log-terraform", options.rounds as usize).await?;
    drop(site.server);
    site.stage.strike().await?;
    Ok(vec![table(options, version.lines().next().unwrap_or("an unknown engine"), &rounds)?])
}

struct Site {
    stage: Stage,
    stored: LogTable,
    server: Server,
    runner: i32,
    cluster: Uuid,
    options: LogTerraform,
    program: PathBuf,
    bare_folders: u32,
    lines: i64,
}

impl Site {
    async fn prepare(options: &LogTerraform) -> anyhow::Result<Self> {
        let program = options.engine.program()?;
        let mut stage = Stage::set().await?;
        let engine = Some((options.engine.name(), program.clone()));
        let cluster = stage.add_runner(&RunnerPlan { name: "bench".into(), slots: 1, engine }).await?;
        let stored = LogTable::open(&stage.operator_url()).await?;
        let (server, runner) = (Server::find(&stage.operator_url()).await?, stage.runner_pid("bench")?);
        Ok(Self {
            stage,
            stored,
            server,
            runner,
            cluster,
            options: options.clone(),
            program,
            bare_folders: 0,
            lines: 0,
        })
    }

    /// Runs it to its end: the deployment's state.
    async fn run(&self, submission: &Submission) -> anyhow::Result<State> {
        let address: Address = self.stage.portal_url().parse()?;
        let mut portal = address.connect("tendril-bench").await?;
        submit(&mut portal, submission).await?;
        let waiting = async {
            loop {
                let state = deployments::state(&mut portal, submission.id).await?;
                if state.is_final() {
                    return anyhow::Ok(state);
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.context("the run does not end")?
    }

    /// Milliseconds of processor that the runner and Postgres have taken so far.
    fn processor(&self) -> anyhow::Result<(f64, f64)> {
        Ok((Account::of(self.runner).context("the runner is gone")?.own_ms, self.server.processor_ms()?))
    }

    async fn engine(&self, folder: &Path, args: &[&str]) -> anyhow::Result<f64> {
        let mut command = Command::new(&self.program);
        command.args(args).current_dir(folder).envs(ENVIRONMENT).stdin(Stdio::null()).stdout(Stdio::piped());
        // A runner does not pass it on, and a file that is missing makes every command say so.
        command.env_remove("TF_CLI_CONFIG_FILE");
        let begun = Moment::now();
        let mut child = command.stderr(Stdio::inherit()).kill_on_drop(true).spawn()?;
        let mut pipe = child.stdout.take().context("its standard output")?;
        let printed = tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await?;
        let status = child.wait().await?;
        let taken = Moment::now().ms_since(begun);
        ensure!(status.success(), "{args:?} failed ({status}) after {printed} bytes");
        Ok(taken)
    }

    /// init, plan and apply in a folder of their own: the milliseconds of the first two, and of the last.
    async fn by_hand(&mut self, apply: &[&str]) -> anyhow::Result<(f64, f64)> {
        self.bare_folders += 1;
        let folder = self.stage.folder().join(format!("bare-{}", self.bare_folders));
        std::fs::create_dir(&folder)?;
        std::fs::write(folder.join("main.tf"), main_tf(self.options.lines))?;
        let mut before = self.engine(&folder, &["init", "-input=false", "-no-color"]).await?;
        before += self.engine(&folder, &["plan", "-input=false", "-no-color", "-out=plan.bin"]).await?;
        let taken = self.engine(&folder, apply).await?;
        std::fs::remove_dir_all(&folder)?;
        Ok((before, taken))
    }
}

impl Row for Site {
    type Figures = Figures;

    async fn ours(&mut self) -> anyhow::Result<Figures> {
        self.stage.at_rest().await?;
        let snapshot = json!({
            "template": {"inline": {"main.tf": main_tf(self.options.lines)}},
            "engine": self.options.engine.name(),
            "stateless": true,
            "cost": "off",
        });
        let submission = Submission { id: new_id(), cluster: self.cluster, snapshot };
        let before = self.processor()?;
        let state = self.run(&submission).await?;
        ensure!(state.status == "SUCCESS", "the run failed: {:?}", state.error_message);
        self.stage.at_rest().await?;
        let after = self.processor()?;
        let (_, lines) = self.stored.counted(self.cluster).await?;
        let new = lines - std::mem::replace(&mut self.lines, lines);
        ensure!(new >= i64::try_from(self.options.lines)?, "{new} lines are stored");
        Ok(Figures { runner: after.0 - before.0, server: after.1 - before.1, ..figures(&state)? })
    }

    async fn bare(&mut self) -> anyhow::Result<Figures> {
        let (_, apply) = self.by_hand(&["apply", "-json", "-input=false", "plan.bin"]).await?;
        let (before, plain_apply) = self.by_hand(&["apply", "-input=false", "-no-color", "plan.bin"]).await?;
        Ok(Figures { apply, plain_apply, job: plain_apply, whole: before + plain_apply, runner: 0.0, server: 0.0 })
    }
}

/// What the broker tells of a run.
fn figures(state: &State) -> anyhow::Result<Figures> {
    let jobs = state.whole["jobs"].as_array().context("no jobs")?;
    let attempt = &jobs.iter().find(|job| job["kind"] == "terraform.apply").context("no apply")?["attempt"];
    let commands = attempt.pointer("/report/commands").and_then(Value::as_array).context("no commands")?;
    let command = commands.iter().find(|command| command["name"] == "apply").context("no apply command")?;
    let apply = command["duration_ms"].as_f64().context("no duration")?;
    let between = |from: &Value, to: &Value| Ok::<_, anyhow::Error>(moment(to)?.ms_since(moment(from)?));
    Ok(Figures {
        apply,
        plain_apply: apply,
        job: between(&attempt["claimed_at"], &attempt["ended_at"])?,
        whole: between(&state.whole["created_at"], &state.whole["ended_at"])?,
        runner: 0.0,
        server: 0.0,
    })
}

fn moment(value: &Value) -> anyhow::Result<Moment> {
    let text = value.as_str().context("a time is missing")?;
    Ok(Moment::from_timestamp(OffsetDateTime::parse(text, &Rfc3339)?))
}

/// A resource whose provisioner prints lines of 200 bytes as fast as they are taken.
fn main_tf(lines: u64) -> String {
    let text = "changed: [10.0.12.34] => (item=/etc/nginx/conf.d/site.conf) and some more words, so that it is a line \
                as a chatty provisioner prints them: not short, not very long, and with two hundred bytes";
    let command = format!("seq -f '%08.0f {text:<190.190}' 1 {lines}");
    format!(
        "resource \"terraform_data\" \"loud\" {{\n  input = \"bench\"\n  provisioner \"local-exec\" {{\n    command = \"{command}\"\n  }}\n}}\n"
    )
}

fn table(options: &LogTerraform, version: &str, rounds: &Rounds<Figures>) -> anyhow::Result<Table> {
    let line = |what: &str, pick: &dyn Fn(&Figures) -> f64| {
        let (ours, bare) = rounds.figures(pick);
        Comparison::of(what, Unit::Milliseconds, &ours, &bare).context("no rounds")
    };
    let ours = |what: &str, pick: &dyn Fn(&Figures) -> f64| {
        Comparison::of(what, Unit::Milliseconds, &rounds.figures(pick).0, &[]).context("no rounds")
    };
    Ok(Table {
        row: "log-terraform",
        setting: format!("an apply with {version} whose one resource prints {} lines of 200 bytes", options.lines),
        baseline: "the same apply by hand, its output to a pipe that is read and dropped".to_owned(),
        rounds: rounds.ours.len(),
        lines: vec![
            line("the apply command, beside the plain one", &|f| f.plain_apply)?.with_goal(Goal::MostTimesBare(1.03)),
            line("the apply command, beside one with -json, as the runner has it", &|f| f.apply)?,
            line("the apply job from claim to end, beside the plain command", &|f| f.job)?,
            line("submit -> end of the deployment, beside init, plan and plain apply", &|f| f.whole)?,
            ours("processor of the runner for all of it", &|f| f.runner)?,
            ours("processor of Postgres for all of it", &|f| f.server)?,
        ],
        curves: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_two_hundred_bytes() {
        let text = main_tf(7);
        let format = text.split('\'').nth(1).unwrap();
        assert_eq!(format.replace("%08.0f", "00000001").len() + 1, 200);
        assert!(text.contains("' 1 7\""), "{text}");
    }

    #[test]
    fn the_commands_own_time_is_read_from_the_report() {
        let whole = json!({
            "id": Uuid::nil(), "cluster_id": Uuid::nil(), "status": "SUCCESS", "logs": [],
            "created_at": "2026-11-21T10:00:00Z", "ended_at": "2026-11-21T10:00:09Z",
            "jobs": [{"name": "apply", "kind": "terraform.apply", "state": "SUCCESS", "attempts": 1, "attempt": {
                "claimed_at": "2026-11-21T10:00:05Z", "ended_at": "2026-11-21T10:00:08Z",
                "report": {"commands": [{"name": "init", "duration_ms": 1}, {"name": "apply", "duration_ms": 2500}]}}}],
        });
        let state: State = serde_json::from_value(whole.clone()).unwrap();
        let figures = figures(&State { whole, ..state }).unwrap();
        assert_eq!((figures.apply, figures.job, figures.whole), (2500.0, 3000.0, 9000.0));
    }
}
