//! What requests bring: token, id, query, key and body, each refused by the path of what is wrong.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, OptionalFromRequest, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use serde::de::DeserializeOwned;
use tendril_broker::portal::api_token::ApiToken;
use uuid::Uuid;

use crate::app::Shared;
use crate::asked;
use crate::problem::{Kind, Problem};

/// The token of `Authorization: Bearer`.
pub struct Bearer(pub ApiToken);

/// `{id}` of a path.
pub struct Id(pub Uuid);

/// The query string.
pub struct Asked<T>(pub T);

/// A JSON body.
pub struct Body<T>(pub T);

/// `Idempotency-Key`.
pub struct Key(pub Option<Uuid>);

impl FromRequestParts<Shared> for Bearer {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Shared) -> Result<Self, Problem> {
        let header = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = header.and_then(asked::bearer).ok_or_else(Problem::unauthorized)?;
        // Bodies are read behind this: who has no token that holds has no place in memory for one.
        app.recognise(&token).await?;
        Ok(Self(token))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let id = Path::<Uuid>::from_request_parts(parts, state).await;
        id.map(|Path(id)| Self(id)).map_err(|_| Problem::bad_request("id", "is no UUID"))
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Query::<T>::try_from_uri(&parts.uri).map(|Query(asked)| Self(asked)).map_err(|rejection| {
            let said = rejection.body_text();
            let said = said.strip_prefix("Failed to deserialize query string: ").unwrap_or(&said);
            match said.split_once(": ") {
                Some((path, message)) => Problem::bad_request(path, message),
                None => Problem::bad_request("query", said),
            }
        })
    }
}

impl<S: Sync> FromRequestParts<S> for Key {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let Some(given) = parts.headers.get("idempotency-key") else { return Ok(Self(None)) };
        match asked::key(given.to_str().unwrap_or_default()) {
            Some(key) => Ok(Self(Some(key))),
            None => Err(Problem::bad_request("Idempotency-Key", "is no UUID")
                .hint("make one for each thing you want done (UUIDv7 is best), and send it again with each try")),
        }
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            let problem = Problem::new(Kind::UnsupportedMediaType, "the body's type is not application/json");
            return Err(problem.hint("send `Content-Type: application/json`"));
        }
        parsed(&bytes(request, state).await?)
    }
}

impl<T: DeserializeOwned, S: Send + Sync> OptionalFromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Option<Self>, Problem> {
        let said = is_json(request.headers());
        let bytes = bytes(request, state).await?;
        match (bytes.is_empty(), said) {
            (true, _) => Ok(None),
            // `null` is as good as nothing.
            (false, true) => parsed::<Option<T>>(&bytes).map(|Body(body)| body.map(Self)),
            (false, false) => Err(Problem::new(Kind::UnsupportedMediaType, "the body's type is not application/json")),
        }
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

async fn bytes<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, Problem> {
    Bytes::from_request(request, state).await.map_err(|rejection: BytesRejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Problem::new(Kind::TooLarge, "the body has more bytes than limits.body_bytes"),
        _ => Problem::new(Kind::BadRequest, "the body was cut off"),
    })
}

fn parsed<T: DeserializeOwned>(bytes: &[u8]) -> Result<Body<T>, Problem> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json);
    let value = value.and_then(|value| match json.end() {
        Ok(()) => Ok(value),
        Err(error) => Err(serde_path_to_error::Error::new(serde_path_to_error::Track::new().path(), error)),
    });
    value.map(Body).map_err(|error| {
        let path = match error.path().to_string() {
            path if path == "." => "body".to_owned(),
            path => path,
        };
        let message = error.inner().to_string();
        match error.inner().is_data() {
            true => Problem::new(Kind::Invalid, format!("{path}: {message}")).at(path, message),
            false => Problem::bad_request(&path, message),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replies::Submit;

    fn refused(text: &str) -> (Kind, String) {
        let Err(problem) = parsed::<Submit>(text.as_bytes()) else { panic!("{text} was taken") };
        (problem.kind(), format!("{problem:?}"))
    }

    #[test]
    fn what_is_wrong_in_a_body_is_named_by_its_path() {
        let id = "0190cccc-0000-7000-8000-000000000001";
        // Tried: no JSON, a wrong type, a key that is not known, one that is missing, more behind the value.
        assert_eq!(refused("{").0, Kind::BadRequest);
        for (text, word) in [
            (r#"{"cluster_id": 7, "config_snapshot": {}}"#.to_owned(), "path: \"cluster_id\""),
            (format!(r#"{{"cluster_id": "{id}", "config_snapshot": []}}"#), "path: \"config_snapshot\""),
            (format!(r#"{{"cluster_id": "{id}", "config": {{}}}}"#), "config"),
            (format!(r#"{{"cluster_id": "{id}"}}"#), "config_snapshot"),
        ] {
            let (kind, said) = refused(&text);
            assert_eq!(kind, Kind::Invalid, "{text}");
            assert!(said.contains(word), "{said}");
        }
        assert_eq!(refused(&format!(r#"{{"cluster_id": "{id}", "config_snapshot": {{}}}} x"#)).0, Kind::BadRequest);
    }
}
