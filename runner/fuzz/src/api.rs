//! What callers of the HTTP API send.

use std::hint::black_box;
use tendril_api::asked;
use uuid::Uuid;

/// What is taken means what is written back, and keeps to its bounds.
pub fn api(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Some((at, id)) = asked::place(&text) {
        assert_eq!(asked::place(&asked::cursor(at, id)), Some((at, id)));
        assert!((1970..=9999).contains(&at.year()));
    }
    if let Some(position) = asked::position(&text) {
        assert!(position.values().all(|seq| *seq >= -1));
        let again = serde_json::to_string(&position).expect("numbers by id");
        assert_eq!(asked::position(&again), Some(position));
    }
    if let Some(key) = asked::key(&text) {
        assert!(key != Uuid::nil() && key != Uuid::max());
        assert_eq!(asked::key(&key.to_string()), Some(key));
    }
    if let Some(token) = asked::bearer(&text) {
        assert!(text.ends_with(token.reveal().trim()) || text.trim_end().ends_with(token.reveal()));
        assert_eq!(token.reveal().len(), "tapi1_".len() + 64);
        assert!(!format!("{token:?}").contains(&token.reveal()[6..]));
    }
    let _ = black_box(asked::wants_events(&text));
}
