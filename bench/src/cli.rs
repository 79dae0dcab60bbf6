//! The command line: a subcommand per row, all rows without one.

use crate::clock::Moment;
use crate::log_growth::LogGrowth;
use crate::machine::Machine;
use crate::report::{Report, Table};
use crate::{
    growth, log_ingest, log_processes, log_storage, log_streams, log_terraform, plot, queue, sandbox_exec, scrape,
    start_latency, tenancy, terraform_runs,
};
use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use log_ingest::LogIngest;
use log_processes::LogProcesses;
use log_storage::LogStorage;
use log_streams::LogStreams;
use log_terraform::LogTerraform;
use queue::Queue;
use sandbox_exec::SandboxExec;
use scrape::ScrapeCost;
use start_latency::StartLatency;
use std::path::PathBuf;
use std::process::ExitCode;
use tenancy::Tenancy;
use terraform_runs::TerraformRuns;
use tokio::signal::unix::{SignalKind, signal};

/// The role that makes databases on the server that is measured.
const SERVER: &str = "TENDRIL_TEST_DATABASE_URL";

/// Measures Tendril beside the bare thing, on one machine and one Postgres.
#[derive(Parser)]
#[command(name = "tendril-bench", version, max_term_width = 110)]
struct Cli {
    /// Print JSON instead of tables
    #[arg(long, global = true)]
    json: bool,
    /// Measure a debug build all the same: to try the program, not to learn figures
    #[arg(long, global = true)]
    allow_debug: bool,
    /// Exit with 1 when a goal is missed
    #[arg(long, global = true)]
    require_goals: bool,
    /// Draw the figures that have curves into this file, as SVG
    #[arg(long, global = true)]
    plot: Option<PathBuf>,
    #[command(subcommand)]
    row: Option<RowCommand>,
}

#[derive(Subcommand)]
enum RowCommand {
    /// Submit to claimed and to process started on an idle fleet, beside a bare LISTEN/NOTIFY round trip
    StartLatency(StartLatency),
    /// One-resource Terraform runs (init, plan, apply) through submit, beside a bare shell loop of the same commands
    TerraformRuns(TerraformRuns),
    /// Loud streams through one runner, from the pipe to committed rows, beside COPY and INSERT of the same text
    LogIngest(LogIngest),
    /// Many quiet streams through one runner: how soon a line is committed, memory, processor, lines lost
    LogStreams(LogStreams),
    /// A thousand real processes that print, as jobs of one runner, beside the same processes and a bare reader
    LogProcesses(LogProcesses),
    /// Cost of a line and of a look into the logs, over the number of streams and over the size of the table
    LogGrowth(LogGrowth),
    /// A real engine whose resource prints 20,000 lines, beside the bare engine
    LogTerraform(LogTerraform),
    /// What a line takes on disk, by the size of rows and the way their text is kept
    LogStorage(LogStorage),
    /// What the sandbox adds to a command, beside the same command without it
    SandboxExec(SandboxExec),
    /// How soon a tenant's jobs are claimed and started while another one does its worst, beside the same with a quiet one
    Tenancy(Tenancy),
    /// What it costs the database to be read for Prometheus, over the number of queued jobs, beside a real count
    Scrape(ScrapeCost),
    /// The queue beside other queues, over its size, and disturbed: a row each
    Queue(Queue),
}

impl RowCommand {
    /// As they run when none is named.
    fn all() -> Vec<Self> {
        vec![
            Self::StartLatency(StartLatency::default()),
            Self::TerraformRuns(TerraformRuns::default()),
            Self::LogIngest(LogIngest::default()),
            Self::LogStreams(LogStreams::default()),
            Self::LogProcesses(LogProcesses::default()),
            Self::LogGrowth(LogGrowth::default()),
            Self::LogTerraform(LogTerraform::default()),
            Self::LogStorage(LogStorage::default()),
            Self::SandboxExec(SandboxExec::default()),
            Self::Tenancy(Tenancy::default()),
            Self::Scrape(ScrapeCost::default()),
            Self::Queue(Queue::default()),
        ]
    }

    async fn measure(&self) -> anyhow::Result<Vec<Table>> {
        match self {
            Self::StartLatency(options) => start_latency::measure(options).await,
            Self::TerraformRuns(options) => terraform_runs::measure(options).await,
            Self::LogIngest(options) => log_ingest::measure(options).await,
            Self::LogStreams(options) => log_streams::measure(options).await,
            Self::LogProcesses(options) => log_processes::measure(options).await,
            Self::LogGrowth(options) => growth::measure(options).await,
            Self::LogTerraform(options) => log_terraform::measure(options).await,
            Self::LogStorage(options) => log_storage::measure(options).await,
            Self::SandboxExec(options) => sandbox_exec::measure(options).await,
            Self::Tenancy(options) => tenancy::measure(options).await,
            Self::Scrape(options) => scrape::measure(options).await,
            Self::Queue(options) => queue::measure(options).await,
        }
    }
}

/// Parses the command line and does it.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    measure(&cli, cli.row.as_ref()).unwrap_or_else(|error| {
        eprintln!("tendril-bench: {error:#}");
        ExitCode::FAILURE
    })
}

fn measure(cli: &Cli, row: Option<&RowCommand>) -> anyhow::Result<ExitCode> {
    if cfg!(debug_assertions) && !cli.allow_debug {
        bail!("this is a debug build, whose figures mean nothing: ./dev bench makes a release build; or --allow-debug");
    }
    let server = std::env::var(SERVER).with_context(|| format!("{SERVER} is not set: ./dev bench starts a server"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(async {
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        tokio::select! {
            report = tables(row, &server) => report,
            _ = term.recv() => bail!("ended by SIGTERM"),
            _ = int.recv() => bail!("interrupted"),
        }
    })?;
    if let (Some(path), Some(drawn)) = (&cli.plot, plot::svg(&report)?) {
        std::fs::write(path, drawn).with_context(|| format!("cannot write {}", path.display()))?;
    }
    match cli.json {
        true => println!("{}", serde_json::to_string_pretty(&report)?),
        false => print!("{}", report.markdown()),
    }
    Ok(if cli.require_goals && !report.meets_goals() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn tables(row: Option<&RowCommand>, server: &str) -> anyhow::Result<Report> {
    let machine = Machine::look(server).await?;
    let all;
    let rows = match row {
        Some(row) => std::slice::from_ref(row),
        None => {
            all = RowCommand::all();
            &all
        }
    };
    let mut tables = Vec::new();
    for row in rows {
        tables.extend(row.measure().await?);
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let command = format!("./dev bench {}", arguments.join(" ")).trim_end().to_owned();
    Ok(Report { command, measured_at: Moment::now().date(), machine, tables })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_free_of_contradictions() {
        Cli::command().debug_assert();
    }

    #[test]
    fn nonsense_is_refused() {
        for line in [
            "start-latency --submits 0",
            "start-latency --fleets 0",
            "terraform-runs --at-once 0",
            "latency",
            "log-streams --streams 0",
            "log-ingest --lines 1",
            "log-processes --processes 1001",
            "log-growth --work 1",
            "log-growth --grows nothing",
            "log-terraform --engine pulumi",
            "log-storage --lines 1",
            "tenancy --sessions 0",
            "tenancy --harms kindness",
            "scrape --clusters 0",
            "scrape --rounds 0",
            "queue throughput --peers nobody",
            "queue throughput --runners 0",
        ] {
            let arguments = ["tendril-bench"].into_iter().chain(line.split(' '));
            assert!(Cli::try_parse_from(arguments).is_err(), "{line}");
        }
    }
}
