//! What the OpenAPI document says that is not of one route.

use utoipa::openapi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};

use crate::replies;

/// Title, token, tags.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Tendril",
        description = "Submit deployments, follow them, decide about them, read what they print. docs/API.md has examples."
    ),
    modifiers(&Token),
    components(schemas(replies::ProblemReply, replies::LogChunk, replies::LogOver)),
    tags(
        (name = "clusters", description = "Where deployments run"),
        (name = "deployments", description = "What is to be done, and how far it is"),
        (name = "logs", description = "What jobs print, and what they leave behind"),
        (name = "service", description = "This process")
    )
)]
pub(crate) struct Api;

struct Token;

impl Modify for Token {
    fn modify(&self, document: &mut openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("`tendril-broker token create` makes one"))
            .build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(scheme));
    }
}
