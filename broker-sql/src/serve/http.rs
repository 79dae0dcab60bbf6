//! `/metrics`, `/healthz`, `/readyz`.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::serve::metrics::Metrics;

/// A replica that has not heard from the database for this long is not ready.
const READY_WITHIN_S: f64 = 5.0;

/// Answers until `stop`.
pub async fn answer(listener: TcpListener, metrics: Arc<Metrics>, stop: CancellationToken) {
    let router = Router::new()
        .route("/metrics", get(show))
        .route("/healthz", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .with_state(metrics);
    let served = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await;
    if let Err(error) = served {
        error!(%error, "the HTTP server ended");
    }
}

async fn show(State(metrics): State<Arc<Metrics>>) -> impl IntoResponse {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], metrics.text())
}

async fn ready(State(metrics): State<Arc<Metrics>>) -> impl IntoResponse {
    match metrics.since_beat() {
        Some(age) if age <= READY_WITHIN_S => (StatusCode::OK, "ready\n".to_owned()),
        Some(age) => (StatusCode::SERVICE_UNAVAILABLE, format!("the pulse failed {age:.0} s ago\n")),
        None => (StatusCode::SERVICE_UNAVAILABLE, "the database has not been reached yet\n".to_owned()),
    }
}
