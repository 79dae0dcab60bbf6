//! Tests that concern more than one stage.

mod capping;
mod chunks;
mod events;
mod framing;
mod pipeline;
mod redacting;
mod reference;
mod sanitising;

use proptest::prelude::*;
use time::{Duration, OffsetDateTime};

/// The time `ms` milliseconds after the epoch.
fn at_ms(ms: i64) -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + Duration::milliseconds(ms)
}

/// Bytes as hostile children print them: escapes whole and broken, controls, broken UTF-8, lines of all lengths.
fn hostile_bytes() -> impl Strategy<Value = Vec<u8>> {
    let token = prop_oneof![
        4 => prop::sample::select(TOKENS).prop_map(<[u8]>::to_vec),
        2 => "[ -~]{0,40}".prop_map(String::into_bytes),
        2 => prop::collection::vec(any::<u8>(), 0..6),
        1 => "\\PC{0,8}".prop_map(String::into_bytes),
        1 => (any::<u8>(), 0..200_usize).prop_map(|(byte, times)| vec![byte; times]),
    ];
    prop::collection::vec(token, 0..60).prop_map(|tokens| tokens.concat())
}

const TOKENS: &[&[u8]] = &[
    b"\x1b",
    b"\x1b[",
    b"\x1b[3",
    b"1m",
    b"\x1b[31m",
    b"\x1b[m",
    b"\x1b[38:2::1:2:3m",
    b"\x1b[?25l",
    b"\x1b[>4;1m",
    b"\x1b[2K",
    b"\x1b[1 q",
    b"\x1b[1 1m",
    b"\x1b]0;title\x07",
    b"\x1b]8;;http://x\x1b\\",
    b"\x1b]",
    b"\x1bPq#0\x1b\\",
    b"\x1bX",
    b"\x1b^",
    b"\x1b_",
    b"\x1b\\",
    b"\x07",
    b"\x1b(B",
    b"\x1b( ",
    b"\x1b7",
    b"\x1bc",
    b"\r",
    b"\n",
    b"\r\n",
    b"\t",
    b"\0",
    b"\x7f",
    b"\x18",
    b"\xc2\x9b31m",
    b"\x9b",
    b"\xc2",
    b"\xe2\x80",
    b"\xe2\x80\xae",
    b"\xe2\x80\x9c",
    b"\xf0\x9f\x98\x80",
    b"\xf0\x9f",
    b"\xed\xa0\x80",
    b"\xff",
    "\u{2028}".as_bytes(),
    "é".as_bytes(),
    b"plain text",
];

/// Cuts `bytes` at the given places, taken modulo its length.
fn split_at<'a>(bytes: &'a [u8], places: &[usize]) -> Vec<&'a [u8]> {
    let mut places: Vec<usize> = places.iter().map(|place| place % (bytes.len() + 1)).collect();
    places.sort_unstable();
    let mut from = 0;
    let mut pieces = Vec::new();
    for place in places {
        pieces.push(&bytes[from..place]);
        from = place;
    }
    pieces.push(&bytes[from..]);
    pieces
}
