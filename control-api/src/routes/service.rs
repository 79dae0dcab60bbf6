//! `/healthz`, `/readyz`, `/metrics`, `/api/openapi.json`.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use utoipa::openapi::OpenApi;

use crate::app::Shared;

/// A probe waits no longer.
const READY_WITHIN: Duration = Duration::from_secs(3);

/// Whether the process lives.
#[utoipa::path(get, path = "/healthz", operation_id = "healthz", tag = "service", responses((status = 200, description = "It lives", body = String, content_type = "text/plain")))]
pub async fn healthz() -> &'static str {
    "alive\n"
}

/// Whether requests can be answered: the database is there, and has what this program needs.
#[utoipa::path(get, path = "/readyz", operation_id = "readyz", tag = "service", responses(
    (status = 200, description = "Send requests here", body = String, content_type = "text/plain"),
    (status = 503, description = "Do not, for now", body = String, content_type = "text/plain")))]
pub async fn readyz(State(app): State<Shared>) -> (StatusCode, &'static str) {
    if app.stop.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "shutting down\n");
    }
    match tokio::time::timeout(READY_WITHIN, app.tokens.look()).await {
        Ok(Ok(())) => (StatusCode::OK, "ready\n"),
        Ok(Err(error)) if !error.is_outage() => {
            tracing::warn!(%error, hint = error.hint(), "not ready");
            (StatusCode::SERVICE_UNAVAILABLE, "the database is not what this program needs; its log has more\n")
        }
        _ => (StatusCode::SERVICE_UNAVAILABLE, "the database does not answer\n"),
    }
}

/// Figures of this process for Prometheus.
#[utoipa::path(get, path = "/metrics", operation_id = "metrics", tag = "service", responses(
    (status = 200, description = "OpenMetrics", body = String, content_type = "application/openmetrics-text")))]
pub async fn metrics(State(app): State<Shared>) -> impl IntoResponse {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], app.metrics.text(app.tokens.sessions()))
}

/// This document.
#[utoipa::path(get, path = "/api/openapi.json", operation_id = "openapi", tag = "service", responses(
    (status = 200, description = "OpenAPI 3.1", body = Object, content_type = "application/json")))]
pub async fn document(State(app): State<Shared>) -> Json<OpenApi> {
    Json(app.document.clone())
}
