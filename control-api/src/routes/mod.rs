//! The routes, and what surrounds each of them.

mod artifacts;
mod clusters;
mod decisions;
mod deployments;
mod errors;
mod logs;
mod service;

use std::any::Any;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::http::{HeaderName, Method, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use tokio::time::Instant;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::CorsLayer;
use tracing::{Instrument, debug, info_span};
use utoipa::OpenApi;
use utoipa::openapi::OpenApi as Document;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::Api;
use crate::app::Shared;
use crate::metrics::RequestLabels;
use crate::problem::{Kind, Problem};

/// All routes with their documentation.
fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::with_openapi(Api::openapi())
        .routes(routes!(clusters::list))
        .routes(routes!(deployments::list, deployments::submit))
        .routes(routes!(deployments::show))
        .routes(routes!(decisions::cancel))
        .routes(routes!(decisions::approve))
        .routes(routes!(decisions::reject))
        .routes(routes!(decisions::retry))
        .routes(routes!(logs::read))
        .routes(routes!(artifacts::list))
        .routes(routes!(service::healthz))
        .routes(routes!(service::readyz))
        .routes(routes!(service::metrics))
        .routes(routes!(service::document))
}

/// The OpenAPI document, made of what the routes say of themselves.
pub fn document() -> Document {
    routes().into_openapi()
}

/// The routes with what holds for all of them, the outermost last.
pub fn router(app: Shared) -> Router {
    let (router, _) = routes().split_for_parts();
    let router = router
        .fallback(|| async { Problem::new(Kind::NotFound, "there is nothing at this address") })
        .method_not_allowed_fallback(|| async { Problem::new(Kind::MethodNotAllowed, "there is no such method here") })
        .layer(DefaultBodyLimit::max(app.config.limits.body_bytes))
        .layer(middleware::from_fn_with_state(app.clone(), in_time))
        .layer(CatchPanicLayer::custom(|panic: Box<dyn Any + Send>| panicked(&panic)))
        .layer(middleware::from_fn_with_state(app.clone(), watched));
    with_origins(router, &app).with_state(app)
}

/// Without origins in the settings no header of CORS is ever sent.
fn with_origins(router: Router<Shared>, app: &Shared) -> Router<Shared> {
    match app.config.origins() {
        Ok(origins) if !origins.is_empty() => {
            let ours = ["idempotency-key", "last-event-id"].map(HeaderName::from_static);
            let headers = [header::AUTHORIZATION, header::CONTENT_TYPE, header::ACCEPT].into_iter().chain(ours);
            let methods = [Method::GET, Method::POST];
            router.layer(
                CorsLayer::new()
                    .allow_origin(origins)
                    .allow_methods(methods)
                    .allow_headers(headers.collect::<Vec<_>>()),
            )
        }
        _ => router,
    }
}

/// An answer has to begin in time; a stream may then go on for as long as it likes.
async fn in_time(State(app): State<Shared>, request: Request, next: Next) -> Response {
    let limit = Duration::from_secs(app.config.limits.request_timeout_s);
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::new(Kind::Timeout, "no answer within limits.request_timeout_s")
            .hint("what you asked for may have happened: look, or send it again with the same Idempotency-Key")
            .into_response(),
    }
}

async fn watched(State(app): State<Shared>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let method = name(request.method());
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    // The path holds ids and no secrets; query and headers may.
    let span = info_span!("request", method, path = request.uri().path());
    let response = next.run(request).instrument(span.clone()).await;
    let (status, took) = (response.status().as_u16(), began.elapsed());
    debug!(parent: &span, status, duration_ms = took.as_millis(), "answered");
    app.metrics.answered(RequestLabels { route, method, status }, took);
    response
}

fn name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::PATCH => "PATCH",
        _ => "other",
    }
}

fn panicked(panic: &Box<dyn Any + Send>) -> Response {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    tracing::error!(panic = text.unwrap_or("something that is no text"), "a defect; the request was given up");
    Problem::new(Kind::Internal, "the log has more").into_response()
}
