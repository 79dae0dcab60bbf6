//! A process from its settings to its end: sessions for tokens, the hub of the streams, the tail, the server.

use std::sync::Arc;
use std::time::Duration;

use tendril_broker::archive::Archive;
use tendril_broker::portal::token_pool::TokenPool;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::app::{App, Shared};
use crate::config::Config;
use crate::limits::Limiter;
use crate::metrics::Metrics;
use crate::watch::{self, Hub};
use crate::{routes, server};

/// Serves until `stop`, and then for as long as the settings allow to what is under way.
///
/// # Errors
/// Settings that cannot work. A database that is away is waited for.
pub async fn run(config: Config, listener: TcpListener, stop: CancellationToken) -> anyhow::Result<()> {
    let tokens = TokenPool::new(&config.address()?, "tendril-api", config.token_pool_options());
    let archive = match config.archive_options()? {
        Some(options) => Some(Archive::open(&options).await?),
        None => None,
    };
    let metrics = Arc::new(Metrics::default());
    let hub = Arc::new(Hub::new(&config, metrics.clone()));
    let app = Arc::new(App {
        limiter: Limiter::new(&config.limits),
        readers: Arc::new(Semaphore::new((config.database.connections as usize / 2).max(1))),
        tokens,
        archive,
        hub,
        metrics,
        document: routes::document(),
        stop: stop.clone(),
        config,
    });
    if let Err(error) = app.tokens.look().await {
        warn!(%error, hint = error.hint(), "the database is not ready; requests are refused until it is");
    }
    info!(address = %listener.local_addr()?, "listening");
    let tail = tokio::spawn(watch::tail(app.clone()));
    let checks = tokio::spawn(watch::check_rights(app.clone()));
    let tidy = tokio::spawn(tidy(app.clone()));
    server::serve(listener, routes::router(app.clone()), &app.config, stop).await;
    for task in [tail, checks, tidy] {
        drop(task.await);
    }
    app.tokens.close().await;
    info!("ended");
    Ok(())
}

async fn tidy(app: Shared) {
    while !app.stop.is_cancelled() {
        tokio::select! {
            () = app.stop.cancelled() => {}
            () = tokio::time::sleep(Duration::from_secs(60)) => app.limiter.tidy(),
        }
    }
}
