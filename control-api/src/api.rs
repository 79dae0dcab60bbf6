//! The OpenAPI document, made of what the routes say of themselves.

use utoipa::openapi::OpenApi as Document;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};

use crate::replies;
use crate::routes;

/// Says what is not of one route.
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
    fn modify(&self, document: &mut Document) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("`tendril-broker token create` makes one"))
            .build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(scheme));
    }
}

/// The whole document.
pub fn document() -> Document {
    routes::routes().into_openapi()
}
