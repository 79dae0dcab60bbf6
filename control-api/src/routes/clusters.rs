//! `/api/clusters`.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use tendril_broker::portal::clusters;
use tendril_broker::portal::token_pool::TokenScope;
use utoipa::IntoParams;
use uuid::Uuid;

use crate::app::Shared;
use crate::body::{Asked, Bearer};
use crate::problem::Problem;
use crate::replies::ClusterPage;
use crate::routes::errors::AnyErrors;

/// Which clusters.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Page {
    /// At most so many.
    #[serde(default = "fifty")]
    #[param(minimum = 1, maximum = 500, default = 50)]
    limit: u16,
    /// `next` of the page before.
    #[serde(default)]
    cursor: Option<Uuid>,
}

fn fifty() -> u16 {
    50
}

/// The clusters that the token sees, the oldest first.
#[utoipa::path(get, path = "/api/clusters", operation_id = "listClusters", tag = "clusters", params(Page), security(("token" = ["read"])),
    responses((status = 200, description = "A page of clusters", body = ClusterPage), AnyErrors))]
pub async fn list(
    State(app): State<Shared>,
    Bearer(token): Bearer,
    Asked(page): Asked<Page>,
) -> Result<Json<ClusterPage>, Problem> {
    if !(1..=500).contains(&page.limit) {
        return Err(Problem::bad_request("limit", "must be between 1 and 500"));
    }
    let mut session = app.enter(&token, TokenScope::Read).await?;
    let limit = usize::from(page.limit);
    // One more than asked for tells whether there are more.
    let mut items = clusters::list(&mut session, page.cursor, i64::from(page.limit) + 1).await?;
    session.commit().await?;
    let more = items.len() > limit;
    items.truncate(limit);
    let next = items.last().filter(|_| more).map(|last| last.id.to_string());
    Ok(Json(ClusterPage { items, next }))
}
