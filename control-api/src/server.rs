//! The listening socket: connections are bounded, who sends no request or takes no answer is let go.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::config::Config;

/// How long a client may take for its request's head.
const HEAD_WITHIN: Duration = Duration::from_secs(15);

/// Of each connection, for a request's head as well as for answers that wait for the client.
const BUFFER_BYTES: usize = 64 * 1024;

/// Answers until `stop`, and then what is under way for `shutdown.finish_within_s`.
pub async fn serve(listener: TcpListener, router: Router, config: &Config, stop: CancellationToken) {
    let slots = Arc::new(Semaphore::new(config.limits.connections));
    let ending = GracefulShutdown::new();
    let service = TowerToHyperService::new(router);
    let slow = Duration::from_secs(config.logs.slow_reader_s);
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accept(&listener, &slots) => accepted,
        };
        let (stream, slot) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most likely: those that end make room.
                warn!(%error, "cannot accept connections");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        // A stream of events is small packets that somebody waits for.
        drop(stream.set_nodelay(true));
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(slow));
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN).max_buf_size(BUFFER_BYTES);
        let connection = http.serve_connection(TokioIo::new(Box::pin(stream)), service.clone());
        let connection = ending.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                debug!(%error, "a connection ended");
            }
            drop(slot);
        });
    }
    drop(listener);
    let patience = Duration::from_secs(config.shutdown.finish_within_s);
    if tokio::time::timeout(patience, ending.shutdown()).await.is_err() {
        warn!("leaving with requests unanswered: shutdown.finish_within_s is over");
    }
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let slot = slots.clone().acquire_owned().await.map_err(std::io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, slot))
}
