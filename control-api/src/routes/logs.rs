//! `/api/deployments/{id}/logs`: a part by position, or a stream of events.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::sse::{KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tendril_broker::portal::logs::LogReader;
use tendril_broker::portal::token_pool::TokenScope;
use utoipa::IntoParams;

use crate::app::Shared;
use crate::asked;
use crate::body::{Asked, Bearer, Id};
use crate::problem::{Kind, Problem};
use crate::replies::LogPage;
use crate::routes::errors::{AnyErrors, NotFound};
use crate::watch::{Follower, Position};

/// A part waits so long for what is archived.
const ARCHIVE_PATIENCE: Duration = Duration::from_secs(10);

/// From where on.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct From {
    /// `position` of the page before, or the `id` of an event: a JSON object of attempt and last record read.
    #[serde(default)]
    after: Option<String>,
}

/// Logs from a position on: a page as JSON, or with `Accept: text/event-stream` all of it as it comes, until the end of the
/// deployment and of its logs.
///
/// Events: `log` (data: a LogChunk; id: the position behind it), `end` (data: a LogOver; nothing more comes), `refused` (the
/// token does not hold any more), `cut_off` (the client took too little; it goes on from its last id). A stream on which
/// nothing happens sends comments.
#[utoipa::path(get, path = "/api/deployments/{id}/logs", operation_id = "readLogs", tag = "logs", security(("token" = ["logs"])),
    params(("id" = Uuid, Path, description = "The deployment"), From,
        ("Last-Event-ID" = Option<String>, Header, description = "The id of the last event: a stream goes on behind it")),
    responses(
        (status = 200, description = "A page, or a stream of events", content((LogPage = "application/json"), (String = "text/event-stream"))),
        (status = 422, description = "The position names what is none of the deployment's attempts", body = crate::replies::ProblemReply, content_type = "application/problem+json"),
        AnyErrors, NotFound))]
pub async fn read(
    State(app): State<Shared>,
    Bearer(token): Bearer,
    Id(id): Id,
    Asked(from): Asked<From>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let last = headers.get("last-event-id").map(HeaderValue::to_str);
    let last = match last {
        Some(Ok("")) | None => None,
        Some(Ok(text)) => Some(position("Last-Event-ID", text)?),
        Some(Err(_)) => return Err(Problem::bad_request("Last-Event-ID", "is no position")),
    };
    let after =
        from.after.as_deref().filter(|text| !text.is_empty()).map(|text| position("after", text)).transpose()?;
    let mut accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    if accepted.any(asked::wants_events) {
        // A client that comes back says where it was; what its address says is where it once began.
        let position = last.or(after).unwrap_or_default();
        let follower = Follower::begin(app.clone(), token, id, position).await?;
        return Ok(follow(&app, follower));
    }
    // Who waits for the archive has a session meanwhile: half of them stay for others.
    let Ok(_turn) = app.readers.acquire().await else { return Err(Problem::new(Kind::Unavailable, "it is ending")) };
    let mut session = app.enter(&token, TokenScope::Logs).await?;
    let mut reader = LogReader::new(id).with_archive(app.archive.clone()).at(after.or(last).unwrap_or_default());
    let (chunks, more) = reader.next_within(&mut session, ARCHIVE_PATIENCE).await?;
    session.commit().await?;
    if chunks.is_empty() && reader.waits_for_archive() {
        return Err(Problem::new(Kind::Unavailable, "the archive of logs is slow").retry_after(2));
    }
    let (position, over) = (reader.position().clone(), reader.is_over());
    Ok(Json(LogPage { chunks, position, more: more || reader.waits_for_archive(), over }).into_response())
}

fn follow(app: &Shared, follower: Follower) -> Response {
    let heartbeat = Duration::from_secs(app.config.logs.heartbeat_s);
    let stream = Sse::new(follower.events()).keep_alive(KeepAlive::new().interval(heartbeat).text("alive"));
    // Proxies that collect answers before they pass them on would hold lines back.
    let headers = [(header::CACHE_CONTROL, "no-store"), (header::HeaderName::from_static("x-accel-buffering"), "no")];
    (headers, stream).into_response()
}

fn position(at: &str, text: &str) -> Result<Position, Problem> {
    asked::position(text).ok_or_else(|| {
        Problem::bad_request(at, "is no position: a JSON object of attempt and record number")
            .hint("leave it out to begin, then give `position` of a page or the id of an event")
    })
}
