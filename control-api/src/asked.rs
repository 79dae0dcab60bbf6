//! What callers write by hand, or send back to us: each read by a function without any effect.

use tendril_broker::portal::api_token::ApiToken;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::watch::Position;

/// A position has so many attempts at most.
const MAX_ATTEMPTS: usize = 4000;
/// Larger numbers are not the same in all languages' JSON.
const MAX_RECORD: i64 = 9_007_199_254_740_992;
/// The last microsecond that Postgres and RFC 3339 know alike.
const MAX_MICROS: i64 = 253_402_300_799_999_999;

/// The token of an `Authorization` header.
#[must_use]
pub fn bearer(header: &str) -> Option<ApiToken> {
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().parse().ok()).flatten()
}

/// The id of an `Idempotency-Key` header. The draft of the header has it as a quoted string, and nearly nobody sends it so.
#[must_use]
pub fn key(header: &str) -> Option<Uuid> {
    let key = Uuid::try_parse(header.trim().trim_matches('"')).ok()?;
    (!key.is_nil() && !key.is_max()).then_some(key)
}

/// A place in the list of deployments as text: the moment in microseconds, which is what Postgres keeps, and the id.
#[must_use]
pub fn cursor(at: OffsetDateTime, id: Uuid) -> String {
    format!("{}.{}", at.unix_timestamp_nanos() / 1000, id.simple())
}

/// Reads what [`cursor`] wrote.
#[must_use]
pub fn place(cursor: &str) -> Option<(OffsetDateTime, Uuid)> {
    let (micros, id) = cursor.split_once('.')?;
    let micros: i64 = micros.parse().ok().filter(|micros| (0..=MAX_MICROS).contains(micros))?;
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000).ok()?;
    Some((at, Uuid::try_parse(id).ok()?))
}

/// A position in logs: a JSON object of attempts and the last record read of each.
#[must_use]
pub fn position(text: &str) -> Option<Position> {
    let position: Position = serde_json::from_str(text).ok()?;
    let fits = position.len() <= MAX_ATTEMPTS && position.values().all(|seq| (-1..=MAX_RECORD).contains(seq));
    fits.then_some(position)
}

/// Whether an `Accept` header asks for a stream of events.
#[must_use]
pub fn wants_events(header: &str) -> bool {
    let kind = |accepted: &str| accepted.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    header.split(',').any(|accepted| kind(accepted) == "text/event-stream")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_back_and_nothing_else_is_one() {
        let at = OffsetDateTime::from_unix_timestamp_nanos(1_767_225_600_123_456_000).unwrap();
        let id = Uuid::from_u128(7);
        assert_eq!(place(&cursor(at, id)), Some((at, id)));
        // Tried: nothing, half of one, words, a moment beyond the calendar.
        for text in [
            "",
            "1",
            "1.",
            ".7",
            "x.y",
            "9223372036854775807.00000000000000000000000000000007",
            "-1.00000000000000000000000000000007",
        ] {
            assert_eq!(place(text), None, "{text}");
        }
    }

    #[test]
    fn a_position_is_an_object_of_attempts_and_numbers() {
        let attempt = "0190eeee-0000-7000-8000-000000000001";
        assert_eq!(position("{}"), Some(Position::new()));
        assert_eq!(position(&format!(r#"{{"{attempt}":41}}"#)).unwrap().len(), 1);
        // Tried: no JSON, a list, a key that is no attempt, numbers that are none or too large.
        for text in
            ["", "41", "[]", r#"{"a":1}"#, &format!(r#"{{"{attempt}":-2}}"#), &format!(r#"{{"{attempt}":1e99}}"#)]
        {
            assert_eq!(position(text), None, "{text}");
        }
    }

    #[test]
    fn a_stream_is_asked_for_by_what_the_client_accepts() {
        assert!(wants_events("application/json, text/Event-Stream;q=0.9"));
        assert!(!wants_events("application/json") && !wants_events("*/*"));
    }

    #[test]
    fn a_key_is_a_uuid_that_somebody_has_made() {
        let id = "0190cccc-0000-7000-8000-000000000001";
        assert!(key(id).is_some() && key(&format!(" \"{id}\" ")).is_some());
        for text in ["", "x", "00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"] {
            assert_eq!(key(text), None, "{text}");
        }
    }
}
