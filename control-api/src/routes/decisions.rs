//! `/api/deployments/{id}/cancel`, `/approve`, `/reject`, `/retry`.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use tendril_broker::portal::deployments;
use tendril_broker::portal::token_pool::TokenScope;

use crate::app::Shared;
use crate::body::{Bearer, Body, Id, Key};
use crate::clock::new_id;
use crate::problem::{Kind, Problem};
use crate::replies::{Decided, Decision, Reason, Retried, Standing};
use crate::routes::deployments::reused;
use crate::routes::errors::{AnyErrors, ChangeErrors};

/// Longest reason.
const REASON_CHARS: usize = 4096;

fn checked(reason: Option<&str>) -> Result<(), Problem> {
    match reason.is_some_and(|reason| reason.chars().count() > REASON_CHARS) {
        true => Err(Problem::new(Kind::Invalid, "reason: is too long").at("reason", "has at most 4096 characters")),
        false => Ok(()),
    }
}

/// Cancels at once what has not been claimed; what runs is asked to stop.
#[utoipa::path(post, path = "/api/deployments/{id}/cancel", operation_id = "cancelDeployment", tag = "deployments", security(("token" = ["cancel"])),
    params(("id" = Uuid, Path, description = "The deployment")), request_body(content = Option<Reason>),
    responses((status = 200, description = "How far it is after this", body = Standing), AnyErrors, ChangeErrors))]
pub async fn cancel(
    State(app): State<Shared>,
    Bearer(token): Bearer,
    Id(id): Id,
    body: Option<Body<Reason>>,
) -> Result<Json<Standing>, Problem> {
    let reason = body.map(|Body(body)| body).unwrap_or_default().reason;
    checked(reason.as_deref())?;
    let mut session = app.enter(&token, TokenScope::Cancel).await?;
    let status = deployments::cancel(&mut session, id, reason.as_deref()).await?;
    session.commit().await?;
    Ok(Json(Standing { id, status }))
}

/// Lets the jobs go on that wait for approval, or one of them.
#[utoipa::path(post, path = "/api/deployments/{id}/approve", operation_id = "approveDeployment", tag = "deployments", security(("token" = ["approve"])),
    params(("id" = Uuid, Path, description = "The deployment")), request_body(content = Option<Decision>),
    responses((status = 200, description = "How many jobs go on", body = Decided), AnyErrors, ChangeErrors))]
pub async fn approve(
    State(app): State<Shared>,
    Bearer(token): Bearer,
    Id(id): Id,
    body: Option<Body<Decision>>,
) -> Result<Json<Decided>, Problem> {
    let Decision { job, reason } = body.map(|Body(body)| body).unwrap_or_default();
    checked(reason.as_deref())?;
    let mut session = app.enter(&token, TokenScope::Approve).await?;
    let jobs = deployments::approve(&mut session, id, job.as_deref(), reason.as_deref()).await?;
    session.commit().await?;
    Ok(Json(Decided { id, jobs }))
}

/// Ends the jobs that wait for approval, or one of them, and skips what waits behind them.
#[utoipa::path(post, path = "/api/deployments/{id}/reject", operation_id = "rejectDeployment", tag = "deployments", security(("token" = ["approve"])),
    params(("id" = Uuid, Path, description = "The deployment")), request_body(content = Option<Decision>),
    responses((status = 200, description = "How many jobs were ended", body = Decided), AnyErrors, ChangeErrors))]
pub async fn reject(
    State(app): State<Shared>,
    Bearer(token): Bearer,
    Id(id): Id,
    body: Option<Body<Decision>>,
) -> Result<Json<Decided>, Problem> {
    let Decision { job, reason } = body.map(|Body(body)| body).unwrap_or_default();
    checked(reason.as_deref())?;
    let mut session = app.enter(&token, TokenScope::Approve).await?;
    let jobs = deployments::reject(&mut session, id, job.as_deref(), reason.as_deref()).await?;
    session.commit().await?;
    Ok(Json(Decided { id, jobs }))
}

/// Submits what has failed or was cancelled again, as a new deployment. With `Idempotency-Key`, which becomes its id, this
/// may be sent again.
#[utoipa::path(post, path = "/api/deployments/{id}/retry", operation_id = "retryDeployment", tag = "deployments", security(("token" = ["submit"])),
    params(
        ("id" = Uuid, Path, description = "The deployment"),
        ("Idempotency-Key" = Option<Uuid>, Header, description = "Becomes the new deployment's id")),
    responses((status = 201, description = "The new deployment", body = Retried, headers(("location" = String, description = "Where it is"))),
        AnyErrors, ChangeErrors))]
pub async fn retry(
    State(app): State<Shared>,
    Bearer(token): Bearer,
    Id(id): Id,
    Key(key): Key,
) -> Result<impl IntoResponse, Problem> {
    let mut session = app.enter(&token, TokenScope::Submit).await?;
    // The old one first: what is refused after that is the key.
    deployments::state(&mut session, id).await?;
    let retried = deployments::retry(&mut session, id, key.unwrap_or_else(new_id)).await;
    let new = retried.map_err(|error| match error.refusal() {
        Some(refusal) if refusal.sqlstate == "TD002" => reused(),
        _ => error.into(),
    })?;
    session.commit().await?;
    let location = [(header::LOCATION, format!("/api/deployments/{new}"))];
    Ok((StatusCode::CREATED, location, Json(Retried { id: new, retry_of: id })))
}
