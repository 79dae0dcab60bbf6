//! `/api/deployments`: submit, list, show.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use serde::Deserialize;
use serde_json::Value;
use tendril_broker::portal::deployments::{self, Filter};
use tendril_broker::portal::submission::{self, Submission};
use tendril_broker::portal::token_pool::{Session, TokenScope};
use utoipa::IntoParams;
use uuid::Uuid;

use crate::app::Shared;
use crate::asked;
use crate::body::{Asked, Bearer, Body, Id, Key};
use crate::clock::new_id;
use crate::problem::{Kind, Problem};
use crate::replies::{Deployment, DeploymentPage, Status, Submit, Submitted};
use crate::routes::errors::{AnyErrors, ChangeErrors, NotFound};

/// Which deployments.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Page {
    /// Only those of one cluster.
    #[serde(default)]
    cluster_id: Option<Uuid>,
    /// Only those that are so far.
    #[serde(default)]
    status: Option<Status>,
    /// At most so many.
    #[serde(default = "fifty")]
    #[param(minimum = 1, maximum = 500, default = 50)]
    limit: u16,
    /// `next` of the page before.
    #[serde(default)]
    cursor: Option<String>,
}

fn fifty() -> u16 {
    50
}

/// The deployments that the token sees, the newest first.
#[utoipa::path(get, path = "/api/deployments", operation_id = "listDeployments", tag = "deployments", params(Page), security(("token" = ["read"])),
    responses((status = 200, description = "A page of deployments", body = DeploymentPage), AnyErrors))]
pub async fn list(
    State(app): State<Shared>,
    Bearer(token): Bearer,
    Asked(page): Asked<Page>,
) -> Result<Json<DeploymentPage>, Problem> {
    if !(1..=500).contains(&page.limit) {
        return Err(Problem::bad_request("limit", "must be between 1 and 500"));
    }
    let after = match page.cursor.as_deref() {
        None | Some("") => None,
        Some(cursor) => {
            Some(asked::place(cursor).ok_or_else(|| Problem::bad_request("cursor", "is none of this API's"))?)
        }
    };
    let mut session = app.enter(&token, TokenScope::Read).await?;
    let status = page.status.map(|status| status.name().to_owned());
    let limit = usize::from(page.limit);
    // One more than asked for tells whether there are more.
    let filter = Filter { cluster: page.cluster_id, status, limit: i64::from(page.limit) + 1, after };
    let mut items = deployments::list(&mut session, &filter).await?;
    session.commit().await?;
    let more = items.len() > limit;
    items.truncate(limit);
    let next = items.last().filter(|_| more).map(|last| asked::cursor(last.created_at, last.id));
    Ok(Json(DeploymentPage { items, next }))
}

/// Submits a deployment. With `Idempotency-Key`, a UUID that becomes its id, the same request may be sent any number of
/// times and queues once.
#[utoipa::path(post, path = "/api/deployments", operation_id = "submitDeployment", tag = "deployments", request_body = Submit, security(("token" = ["submit"])),
    params(("Idempotency-Key" = Option<Uuid>, Header, description = "Becomes the deployment's id; UUIDv7 is best")),
    responses(
        (status = 201, description = "It was queued", body = Submitted, headers(("location" = String, description = "Where it is"))),
        (status = 200, description = "It had been queued before by the same request", body = Submitted),
        AnyErrors, ChangeErrors))]
pub async fn submit(
    State(app): State<Shared>,
    Bearer(token): Bearer,
    Key(key): Key,
    Body(wanted): Body<Submit>,
) -> Result<impl IntoResponse, Problem> {
    let submission = Submission {
        id: key.unwrap_or_else(new_id),
        cluster: wanted.cluster_id,
        snapshot: Value::Object(wanted.config_snapshot),
    };
    let mut session = app.enter(&token, TokenScope::Submit).await?;
    // What was sent before is answered as it was then, also when the cluster takes nothing more by now.
    let before = match key {
        Some(_) => submission::is_submitted(&mut session, &submission).await?,
        None => None,
    };
    let (status, queued) = match before {
        Some(same) => (stored(&mut session, &submission, same).await?, false),
        None => {
            let submitted = submission::submit(&mut session, &submission).await.map_err(taken)?;
            let same = submitted.queued || submission::is_submitted(&mut session, &submission).await? == Some(true);
            if !same {
                return Err(reused());
            }
            (submitted.status, submitted.queued)
        }
    };
    session.commit().await?;
    let reply = Submitted { id: submission.id, cluster_id: submission.cluster, status, queued };
    let code = if queued { StatusCode::CREATED } else { StatusCode::OK };
    let location = [(header::LOCATION, format!("/api/deployments/{}", submission.id))];
    Ok((code, location, Json(reply)))
}

async fn stored(session: &mut Session, submission: &Submission, same: bool) -> Result<String, Problem> {
    match same {
        true => Ok(deployments::state(session, submission.id).await?.status),
        false => Err(reused()),
    }
}

/// Somebody else's id looks like one that was used for something else: there is nothing more to learn from it.
fn taken(error: tendril_broker::Error) -> Problem {
    let is_taken = |text: &str| text.starts_with("deployment ") && text.ends_with("somebody else's");
    match error.refusal() {
        Some(refusal) if refusal.sqlstate == "TD002" && is_taken(&refusal.message) => reused(),
        _ => {
            let problem = Problem::from(error);
            match problem.kind() {
                // Of the things that a submit names, the cluster is what may not be there.
                Kind::NotFound => problem.at("cluster_id", "there is no such cluster that the token may submit to"),
                _ => problem,
            }
        }
    }
}

/// The key is something else's id.
pub fn reused() -> Problem {
    Problem::new(Kind::IdempotencyKeyReused, "the Idempotency-Key was used for something else")
        .at("Idempotency-Key", "was used for something else")
        .hint("make a new UUID for each thing you want done")
}

/// A deployment with its jobs.
#[utoipa::path(get, path = "/api/deployments/{id}", operation_id = "showDeployment", tag = "deployments", security(("token" = ["read"])),
    params(("id" = Uuid, Path, description = "The deployment")),
    responses((status = 200, description = "The deployment", body = Deployment), AnyErrors, NotFound))]
pub async fn show(State(app): State<Shared>, Bearer(token): Bearer, Id(id): Id) -> Result<Json<Value>, Problem> {
    let mut session = app.enter(&token, TokenScope::Read).await?;
    let state = deployments::state(&mut session, id).await?;
    session.commit().await?;
    Ok(Json(state.whole))
}
