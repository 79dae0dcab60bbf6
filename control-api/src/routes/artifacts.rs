//! `/api/deployments/{id}/artifacts`.

use axum::Json;
use axum::extract::State;
use tendril_broker::portal::token_pool::TokenScope;
use tendril_broker::portal::{artifacts, deployments};

use crate::app::Shared;
use crate::body::{Bearer, Id};
use crate::problem::Problem;
use crate::replies::ArtifactList;
use crate::routes::errors::{AnyErrors, NotFound};

/// Why there is no route for the content.
const SEALED: &str =
    "sealed by the runner with a key that only the cluster's runners hold: neither the broker nor this API can read it";

/// What attempts have left behind: plans, costs, rescued states. Their content is sealed with a key that only the cluster's
/// runners hold, so that it cannot be had here.
#[utoipa::path(get, path = "/api/deployments/{id}/artifacts", operation_id = "listArtifacts", tag = "logs", security(("token" = ["read"])),
    params(("id" = Uuid, Path, description = "The deployment")),
    responses((status = 200, description = "Artifacts, without content", body = ArtifactList), AnyErrors, NotFound))]
pub async fn list(State(app): State<Shared>, Bearer(token): Bearer, Id(id): Id) -> Result<Json<ArtifactList>, Problem> {
    let mut session = app.enter(&token, TokenScope::Read).await?;
    // Of a deployment that is not there the list would be empty, too.
    deployments::state(&mut session, id).await?;
    let items = artifacts::list(&mut session, id).await?;
    session.commit().await?;
    Ok(Json(ArtifactList { items, content: SEALED.to_owned() }))
}
