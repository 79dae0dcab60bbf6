//! The command line of `tendril-chaos`.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};

use crate::check::check;
use crate::child;
use crate::history::History;
use crate::logs;
use crate::op::OpName;
use crate::options::{Engine, Options};
use crate::report;
use crate::run::{Plan, carry_out, fresh_folder};
use crate::seeds::Seeds;
use crate::world::dev_script;

/// Breaks a whole installation on purpose, and checks what must hold all the same.
#[derive(Parser)]
#[command(name = "tendril-chaos", version, args_conflicts_with_subcommands = true, max_term_width = 110)]
struct Cli {
    /// The seed of workload and schedule
    #[arg(long, default_value_t = 1, conflicts_with = "seeds")]
    seed: u64,
    /// Several seeds, both ends included: 1..20
    #[arg(long, value_name = "A..B")]
    seeds: Option<Seeds>,
    #[command(flatten)]
    options: Options,
    /// Where each seed leaves its folder [default: .state/chaos]
    #[arg(long, value_name = "FOLDER")]
    into: Option<PathBuf>,
    /// Print a JSON object per seed
    #[arg(long)]
    json: bool,
    /// Print the schedule and do nothing
    #[arg(long)]
    dry_run: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Judge a history again
    Check {
        /// As a run has left it
        file: PathBuf,
    },
    /// Break what a log depends on, many times, and compare what is read with what was printed
    Logs(logs::Options),
    /// Be a job's command
    #[command(hide = true)]
    Child(child::Task),
    /// Be a job's command that prints for all it is worth
    #[command(hide = true)]
    Print(logs::Task),
}

/// Parses the command line and does it. Exit codes: 0 everything holds, 1 something does not, 2 there was no run.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match &cli.command {
        Some(Command::Child(task)) => return child(child::run(task)),
        Some(Command::Print(task)) => return child(logs::print(task).map(|()| 0)),
        Some(Command::Logs(options)) => logs::main(options),
        Some(Command::Check { file }) => judge(file, cli.json),
        None => runs(&cli),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("tendril-chaos: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn child(ended: io::Result<u8>) -> ExitCode {
    match ended {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("tendril-chaos child: {error}");
            ExitCode::from(2)
        }
    }
}

fn judge(file: &Path, json: bool) -> anyhow::Result<bool> {
    let history = History::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(tell(&history, file, json))
}

fn tell(history: &History, file: &Path, json: bool) -> bool {
    let verdict = check(history);
    match json {
        true => println!("{}", report::value(history, &verdict, file)),
        false => print!("{}", report::words(history, &verdict, file)),
    }
    verdict.violations.is_empty()
}

fn runs(cli: &Cli) -> anyhow::Result<bool> {
    let engine = Engine::find();
    if engine.is_none() && !cli.options.no_terraform {
        eprintln!("NOTE: neither terraform nor tofu is here: the workload has no plans and applies");
    }
    if cli.options.ops.contains(&OpName::DiskFull) && !cli.dry_run {
        logs::room::go_where_it_can_be()?;
    }
    let seeds = cli.seeds.clone().map_or(cli.seed..=cli.seed, |seeds| seeds.0);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut all_hold = true;
    for seed in seeds {
        let plan = Plan::of(seed, &cli.options, engine.clone());
        if cli.dry_run {
            tell_plan(&plan);
            continue;
        }
        let usual = || dev_script().with_file_name(".state").join("chaos");
        let folder = fresh_folder(&cli.into.clone().unwrap_or_else(usual), seed)?;
        let history = runtime.block_on(carry_out(plan, &folder))?;
        let file = folder.join("history.json");
        history.write(&file)?;
        all_hold &= tell(&history, &file, cli.json);
    }
    Ok(all_hold)
}

fn tell_plan(plan: &Plan) {
    let jobs: usize = plan.workload.deployments.iter().map(|deployment| deployment.jobs.len()).sum();
    println!(
        "seed {}: {} submits, {jobs} jobs, {} children",
        plan.seed,
        plan.workload.deployments.len(),
        plan.workload.children()
    );
    for step in &plan.schedule {
        println!("  after {} starts and {} ms: {}", step.after_starts, step.then_ms, step.op);
    }
}
