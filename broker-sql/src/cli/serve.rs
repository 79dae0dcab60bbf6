//! `serve`: from the command line to [`crate::serve::run`], and from SIGTERM to its end.

use std::io::IsTerminal;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::cli::Context;
use crate::cli::arguments::Serve;
use crate::cli::exit::{Failure, Outcome};
use crate::refusal::Error;
use crate::serve::{self, Options, StartError};

pub async fn serve(context: &Context, options: &Serve) -> Result<Outcome, Failure> {
    let options = {
        start_log(options.log_json);
        let archive = options.archive.options();
        Options { address: context.address()?, listen: options.listen, beat: options.interval_ms, archive }
    };
    let stop = CancellationToken::new();
    stop_on_signal(stop.clone())?;
    match serve::run(options, stop).await {
        Ok(()) => Ok(Outcome::Done),
        Err(StartError::Database(error)) => Err(error.into()),
        Err(StartError::Archive(error)) => Err(Error::from(error).into()),
        Err(error @ StartError::Listen(..)) => Err(Failure::Machine(error.to_string())),
    }
}

/// Logs go to standard error; `RUST_LOG` chooses what.
fn start_log(json: bool) {
    let chosen = EnvFilter::try_from_default_env();
    let filter = chosen.unwrap_or_else(|_| EnvFilter::new("info,sqlx=warn"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    if json {
        log.json().flatten_event(true).init();
    } else {
        log.init();
    }
}

fn stop_on_signal(stop: CancellationToken) -> Result<(), Failure> {
    let machine = |error: std::io::Error| Failure::Machine(format!("cannot take signals: {error}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(machine)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(machine)?;
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        stop.cancel();
    });
    Ok(())
}
