//! The command line of `tendril-api`.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::config::Config;
use crate::{document, process};

/// Serves Tendril's broker over HTTP: submit, follow, approve, read logs as they come.
#[derive(Parser)]
#[command(name = "tendril-api", version, about)]
struct Cli {
    /// Settings file (TOML); the environment overrules it, and is enough by itself
    #[arg(long, env = "TENDRIL_API_CONFIG", value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Log as JSON lines
    #[arg(long, env = "TENDRIL_LOG_JSON", global = true)]
    log_json: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Serve until SIGTERM (what no command means)
    Serve,
    /// Check the settings without connecting, and say what is wrong with them
    Check,
    /// Print the OpenAPI document
    Openapi,
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Parses the command line and does it.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match act(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line: what failed, then the causes.
            eprintln!("tendril-api: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn act(cli: &Cli) -> anyhow::Result<()> {
    let load = || Config::load(cli.config.as_deref(), &|name| std::env::var(name).ok());
    match &cli.command {
        Some(Command::Openapi) => println!("{}", document().to_pretty_json()?),
        Some(Command::Completions { shell }) => {
            clap_complete::generate(*shell, &mut Cli::command(), "tendril-api", &mut io::stdout());
        }
        Some(Command::Check) => {
            load()?;
            println!("the settings are in order");
        }
        Some(Command::Serve) | None => {
            let config = load()?;
            telemetry(cli.log_json);
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            runtime.block_on(serve(config))?;
        }
    }
    Ok(())
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let listener = TcpListener::bind(&config.listen).await;
    let listener = listener.map_err(|error| anyhow::anyhow!("listen: cannot listen on {}: {error}", config.listen))?;
    let stop = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stopped = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stopped.cancel();
    });
    process::run(config, listener, stop).await
}

/// Logs go to standard error; `TENDRIL_LOG` chooses what.
fn telemetry(json: bool) {
    let filter = EnvFilter::try_from_env("TENDRIL_LOG").unwrap_or_else(|_| EnvFilter::new("info,sqlx=warn"));
    let log =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    if json { log.json().init() } else { log.with_target(false).init() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_free_of_contradictions() {
        Cli::command().debug_assert();
    }
}
