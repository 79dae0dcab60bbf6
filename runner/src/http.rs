//! /metrics, /healthz and /readyz.

use crate::off_loop::beside;
use crate::runner::Runner;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::io;
use std::sync::{Arc, OnceLock};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Opens the door, before anything is claimed, so that a taken port is told at the start.
///
/// # Errors
/// The address cannot be listened on.
pub async fn bind(address: &str) -> io::Result<Option<TcpListener>> {
    if address.is_empty() { Ok(None) } else { TcpListener::bind(address).await.map(Some) }
}

/// The runner, once it has registered.
pub type Known = Arc<OnceLock<Arc<Runner>>>;

const UNREGISTERED: (StatusCode, &str) =
    (StatusCode::SERVICE_UNAVAILABLE, "not registered yet: the broker has not answered; this process's log says why\n");

/// Answers until `end`; also before the broker has been reached, so that whoever watches knows a waiting process from a dead one.
pub async fn serve(listener: TcpListener, known: Known, end: CancellationToken) {
    let app = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .with_state(known);
    let served = axum::serve(listener, app).with_graceful_shutdown(end.cancelled_owned()).await;
    if let Err(error) = served {
        tracing::error!(%error, "the metrics door is closed");
    }
}

async fn metrics(State(known): State<Known>) -> Response {
    let Some(runner) = known.get() else { return UNREGISTERED.into_response() };
    let collector = runner.collector.clone();
    let level = beside(move || collector.level()).await;
    runner.metrics.now(runner.holdings.lease_left(), level);
    match runner.metrics.text() {
        Ok(text) => ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
            .into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Ready: the lease is live and the credential is not on its way out.
async fn ready(State(known): State<Known>) -> (StatusCode, &'static str) {
    let Some(runner) = known.get() else { return UNREGISTERED };
    if runner.signals.revoked() {
        (StatusCode::SERVICE_UNAVAILABLE, "the credential was revoked\n")
    } else if runner.signals.draining() {
        (StatusCode::SERVICE_UNAVAILABLE, "the credential is being drained\n")
    } else if runner.holdings.lease_left().is_zero() {
        (StatusCode::SERVICE_UNAVAILABLE, "no lease: the broker has not answered\n")
    } else {
        (StatusCode::OK, "ready\n")
    }
}
