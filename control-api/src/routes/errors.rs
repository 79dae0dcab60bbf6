//! What may be answered beside success, for the document.

use utoipa::IntoResponses;

use crate::replies::ProblemReply;

/// What any route with a token may answer.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "its variants are read by the macro, and never made")]
pub enum AnyErrors {
    /// The request cannot be read.
    #[response(status = 400, content_type = "application/problem+json")]
    BadRequest(ProblemReply),
    /// The token is missing, unknown, expired or revoked.
    #[response(status = 401, content_type = "application/problem+json")]
    Unauthorized(ProblemReply),
    /// The token lacks the scope.
    #[response(status = 403, content_type = "application/problem+json")]
    Forbidden(ProblemReply),
    /// Too many requests.
    #[response(status = 429, content_type = "application/problem+json")]
    RateLimited(ProblemReply),
    /// A defect.
    #[response(status = 500, content_type = "application/problem+json")]
    Internal(ProblemReply),
    /// The database, or the archive of logs, does not answer.
    #[response(status = 503, content_type = "application/problem+json")]
    Unavailable(ProblemReply),
    /// It took too long.
    #[response(status = 504, content_type = "application/problem+json")]
    Timeout(ProblemReply),
}

/// What a route that names something may answer beside that.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "its variant is read by the macro, and never made")]
pub enum NotFound {
    /// Not there, or not the token's to see.
    #[response(status = 404, content_type = "application/problem+json")]
    NotFound(ProblemReply),
}

/// What a route that changes something may answer beside that.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "its variants are read by the macro, and never made")]
pub enum ChangeErrors {
    /// Not there, or not the token's to see.
    #[response(status = 404, content_type = "application/problem+json")]
    NotFound(ProblemReply),
    /// Its state does not allow this.
    #[response(status = 409, content_type = "application/problem+json")]
    Conflict(ProblemReply),
    /// Too large, or too many.
    #[response(status = 413, content_type = "application/problem+json")]
    TooLarge(ProblemReply),
    /// The body is not JSON.
    #[response(status = 415, content_type = "application/problem+json")]
    UnsupportedMediaType(ProblemReply),
    /// A value is wrong, or the key was used for something else.
    #[response(status = 422, content_type = "application/problem+json")]
    Invalid(ProblemReply),
}
