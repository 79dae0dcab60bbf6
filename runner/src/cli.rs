//! The command line of `tendril-runner`.

use crate::app;
use crate::config::Config;
use crate::kinds;
use crate::logs::{Secret, Secrets, redacted, stored_event_text, stored_text};
use crate::seal::ArtifactKey;
use anyhow::Context;
use clap::{Parser, Subcommand};
use std::io::{self, IsTerminal, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use tracing_subscriber::EnvFilter;

/// Claims jobs of its cluster, runs them, reports.
#[derive(Parser)]
#[command(name = "tendril-runner", version, about)]
struct Cli {
    /// Settings file (TOML); the environment overrules it, and is enough by itself
    #[arg(long, env = "TENDRIL_CONFIG", value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Log as JSON lines
    #[arg(long, env = "TENDRIL_LOG_JSON", global = true)]
    log_json: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Run until SIGTERM (what no command means)
    Run,
    /// Check the settings without connecting: say what is wrong with them, and which kinds of jobs are taken
    Check,
    /// Print a new artifact key, for all runners of one cluster
    ArtifactKey,
    /// Read what a command printed from standard input, and print it as its log would hold it (docs/LOGS.md)
    LogText {
        /// It is what terraform or tofu prints with -json
        #[arg(long)]
        events: bool,
        /// A variable of the environment whose value is a secret
        #[arg(long, value_name = "NAME")]
        secret: Vec<String>,
    },
}

/// Parses the command line and does it.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    telemetry(cli.log_json);
    match act(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line: what failed, then the causes.
            eprintln!("tendril-runner: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn act(cli: &Cli) -> anyhow::Result<()> {
    let load = || Config::load(cli.config.as_deref(), &|name| std::env::var(name).ok());
    match &cli.command {
        Some(Command::LogText { events, secret }) => log_text(*events, secret)?,
        Some(Command::ArtifactKey) => println!("{}", ArtifactKey::generate()?),
        Some(Command::Check) => {
            let config = load()?;
            config.address()?.connector(&config.token()?)?;
            ArtifactKey::read(&config.artifact_key_file)?;
            config.check_files()?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let kinds = runtime.block_on(kinds::available(&config))?;
            let names: Vec<_> = kinds.iter().map(|kind| kind.name()).collect();
            println!("the settings are in order; jobs of these kinds are taken: {}", names.join(", "));
        }
        Some(Command::Run) | None => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            runtime.block_on(app::run(load()?))?;
            // A job that a third signal left behind must not hold the process.
            runtime.shutdown_background();
        }
    }
    Ok(())
}

/// All of it at once, in memory: it is for looking at single outputs, and for tests.
fn log_text(events: bool, names: &[String]) -> anyhow::Result<()> {
    let secret = |name: &String| {
        let value =
            std::env::var(name).with_context(|| format!("--secret {name}: the environment has no such text"))?;
        Ok(Secret::new(name, value))
    };
    let secrets = names.iter().map(secret).collect::<anyhow::Result<Vec<_>>>()?;
    let (secrets, unredacted) = Secrets::new(&secrets)?;
    for one in unredacted {
        eprintln!("tendril-runner: not looked for: {one}");
    }
    let mut printed = Vec::new();
    io::stdin().lock().read_to_end(&mut printed)?;
    let text = if events { stored_event_text(&printed) } else { stored_text(&printed) };
    let mut out = io::stdout().lock();
    out.write_all(redacted(&text, &Arc::new(secrets)).as_bytes())?;
    out.flush()?;
    Ok(())
}

fn telemetry(json: bool) {
    let filter = EnvFilter::try_from_env("TENDRIL_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    if json { log.json().init() } else { log.with_target(false).init() }
}
