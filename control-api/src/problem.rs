//! Errors as RFC 9457 has them: one stable type each, and the path of the key that is wrong.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tendril_broker::portal::token_pool::Holder;
use tendril_broker::{Error, Problem as Wrong, Refusal};
use tracing::error;

use crate::replies::{ProblemReply, WrongKey};

/// What is wrong, as programs tell it apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The request cannot be read: syntax, a path, a query, a header.
    BadRequest,
    /// It can be read, and a value in it is wrong.
    Invalid,
    /// No token, or one that does not hold.
    Unauthorized,
    /// The token may not do this.
    Forbidden,
    /// Not there, or not the token's to see.
    NotFound,
    /// No such method here.
    MethodNotAllowed,
    /// Its state does not allow this.
    Conflict,
    /// The key was used for something else.
    IdempotencyKeyReused,
    /// The body, or something in it, is too large or too many.
    TooLarge,
    /// The body is not `application/json`.
    UnsupportedMediaType,
    /// Too many requests or streams.
    RateLimited,
    /// It took too long.
    Timeout,
    /// The database, or the archive, cannot be reached.
    Unavailable,
    /// A defect.
    Internal,
}

impl Kind {
    fn parts(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::BadRequest => (StatusCode::BAD_REQUEST, "bad-request", "The request cannot be read"),
            Self::Invalid => (StatusCode::UNPROCESSABLE_ENTITY, "invalid", "A value is wrong"),
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "unauthorized", "A token that holds is needed"),
            Self::Forbidden => (StatusCode::FORBIDDEN, "forbidden", "The token may not do this"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not-found", "Not there, or not yours to see"),
            Self::MethodNotAllowed => {
                (StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "There is no such method here")
            }
            Self::Conflict => (StatusCode::CONFLICT, "conflict", "Its state does not allow this"),
            Self::IdempotencyKeyReused => {
                (StatusCode::UNPROCESSABLE_ENTITY, "idempotency-key-reused", "The key was used for something else")
            }
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too-large", "Too large, or too many"),
            Self::UnsupportedMediaType => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", "The body must be JSON")
            }
            Self::RateLimited => (StatusCode::TOO_MANY_REQUESTS, "rate-limited", "Too many requests"),
            Self::Timeout => (StatusCode::GATEWAY_TIMEOUT, "timeout", "It took too long"),
            Self::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Try again"),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal", "Something went wrong here"),
        }
    }
}

/// An answer that says no.
#[derive(Debug)]
pub struct Problem {
    kind: Kind,
    detail: String,
    hint: Option<String>,
    sqlstate: Option<String>,
    wrong: Vec<WrongKey>,
    retry_after_s: Option<u64>,
}

impl Problem {
    /// One with words for people.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        let (detail, hint, sqlstate) = (detail.into(), None, None);
        Self { kind, detail, hint, sqlstate, wrong: Vec::new(), retry_after_s: None }
    }

    /// The same with a remedy.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same with the path of what is wrong.
    #[must_use]
    pub fn at(mut self, path: impl Into<String>, message: impl Into<String>) -> Self {
        self.wrong.push(WrongKey { path: path.into(), message: message.into() });
        self
    }

    /// The same with a moment to try again.
    #[must_use]
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    /// What is wrong.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// A request that cannot be read at a place.
    pub fn bad_request(path: &str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self::new(Kind::BadRequest, format!("{path}: {message}")).at(path, message)
    }

    /// No token, or none that holds.
    pub fn unauthorized() -> Self {
        Self::new(Kind::Unauthorized, "the token is missing, unknown, expired or revoked")
            .hint("send `Authorization: Bearer TOKEN`; an operator makes one by `tendril-broker token create`")
    }

    /// A token without the scope that is needed.
    pub fn forbidden(holder: &Holder, scope: &str) -> Self {
        Self::new(
            Kind::Forbidden,
            format!("token {} lacks the scope {scope}; it has {}", holder.name, holder.scopes.join(", ")),
        )
        .hint("an operator makes another one by `tendril-broker token create`")
    }

    fn refused(refusal: &Refusal) -> Self {
        let kind = match refusal.sqlstate.as_str() {
            "TD001" => Kind::Invalid,
            "TD002" => Kind::NotFound,
            "TD003" | "TD014" | "TD015" => Kind::Conflict,
            "TD011" => Kind::TooLarge,
            "55P03" | "40001" | "40P01" => Kind::Unavailable,
            "57014" => Kind::Timeout,
            // Text that Postgres cannot hold, numbers beyond its range.
            state if state.starts_with("22") => Kind::Invalid,
            _ => Kind::Internal,
        };
        if kind == Kind::Internal {
            error!(sqlstate = refusal.sqlstate, message = refusal.message, "the database refused what it should not");
            return Self {
                sqlstate: Some(refusal.sqlstate.clone()),
                ..Self::new(kind, "the database refused this; the log has more")
            };
        }
        let wrong = refusal.problems().into_iter().map(|Wrong { path, message }| WrongKey { path, message }).collect();
        Self {
            hint: refusal.hint.clone(),
            sqlstate: Some(refusal.sqlstate.clone()),
            wrong,
            ..Self::new(kind, refusal.message.clone())
        }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        match &error {
            Error::Refused(refusal) => Self::refused(refusal),
            Error::Archive(archive) if archive.is_outage() => {
                Self::new(Kind::Unavailable, "the archive of logs cannot be reached").retry_after(5)
            }
            // Where the database is and why it does not answer is for the operator, not for whoever asks.
            _ if error.is_outage() => {
                tracing::warn!(%error, "the database does not answer");
                let problem = Self::new(Kind::Unavailable, "the database does not answer");
                problem
                    .hint("what you asked for may have happened: look, or send it again with the same Idempotency-Key")
                    .retry_after(2)
            }
            _ => {
                error!(%error, "not answered");
                Self::new(Kind::Internal, "the log has more")
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, slug, title) = self.kind.parts();
        let reply = ProblemReply {
            kind: format!("urn:tendril:problem:{slug}"),
            title: title.to_owned(),
            status: status.as_u16(),
            detail: self.detail,
            hint: self.hint,
            sqlstate: self.sqlstate,
            problems: self.wrong,
        };
        let mut response = (status, Json(reply)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
