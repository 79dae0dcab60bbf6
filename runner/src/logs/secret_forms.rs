//! In which forms a secret may be printed: as it is, in base64, percent-encoded, within JSON or HCL, line by line.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use secrecy::zeroize::Zeroize;

use super::sanitise::stored_text;

/// Shortest value that is looked for, in bytes: a shorter one would be found in half the words of a log.
pub const MIN_VALUE_BYTES: usize = 6;
/// Shortest line of a longer value that is looked for on its own, in bytes.
pub const MIN_LINE_BYTES: usize = 8;
/// A value of digits only needs as many: ports, years and counts are no secrets.
const MIN_DIGITS: usize = 8;
/// A longer value is looked for in pieces of this length, in bytes; so nothing longer is ever held back for it.
const PIECE_BYTES: usize = 512;
/// How far the pieces reach into each other: then no end of a piece shows between two of them.
const OVERLAP_BYTES: usize = 64;
/// Line lengths of encoders that wrap: `base64` and PEM.
const WRAPS: [usize; 2] = [76, 64];
/// What percent-encoders leave as it is, beside letters and digits.
const UNESCAPED: [&str; 13] = [
    // RFC 3986, and queries in Go; Python's quote.
    "-_.~",
    "-_.~/",
    // JavaScript: encodeURIComponent, encodeURI.
    "-_.~!*'()",
    "-_.~!*'();,/?:@&=+$#",
    // URLs in Go: a part of a path, a path, a user's name and password; the last one as browsers do it.
    "-_.~$&+:=@",
    "-_.~$&+,/:;=@",
    "-_.~$&+,;=",
    "-_.~!$%&'()*+,",
    // Other parts of a URL, as browsers do them: path, query, fragment.
    "-_.~!$%&'()*+,/:;=@[]|",
    "-_.~!$%&()*+,/:;=?@[\\]^`{|}",
    "-_.~!#$%&'()*+,/:;=?@[\\]^{|}",
    // Forms of browsers and Java; PHP.
    "-_.*",
    "-_.",
];
/// Values that stand in every other log. Redacting them would hide the log, and show what the value is.
const COMMON: [&str; 24] = [
    "account",
    "admin1",
    "default",
    "disabled",
    "enabled",
    "example",
    "latest",
    "localhost",
    "master",
    "number",
    "object",
    "password",
    "private",
    "production",
    "public",
    "secret",
    "sensitive",
    "service",
    "staging",
    "string",
    "system",
    "terraform",
    "unknown",
    "username",
];

/// How many of the forms are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effort {
    /// All of them.
    Full,
    /// As it is and within JSON, for values that are large.
    Plain,
}

/// Why a value cannot be looked for in text; `None` when it can.
pub(super) fn refusal(value: &str) -> Option<&'static str> {
    let value = value.trim();
    let mut chars = value.chars();
    let first = chars.next();
    if value.len() < MIN_VALUE_BYTES {
        Some("is too short to be redacted")
    } else if value.len() < MIN_DIGITS && value.bytes().all(|byte| byte.is_ascii_digit() || b"+-.".contains(&byte)) {
        Some("is a short number and not redacted")
    } else if COMMON.contains(&value.to_lowercase().as_str()) {
        Some("is a common word and not redacted")
    } else if chars.all(|c| Some(c) == first) {
        Some("is one character again and again and not redacted")
    } else {
        None
    }
}

/// All texts, as they stand after sanitising, that show the value. Zeroed when dropped.
pub(super) struct Forms(BTreeSet<String>);

impl Forms {
    /// The forms of a value that is not refused.
    pub(super) fn of(value: &str, effort: Effort) -> Self {
        let value = value.trim();
        let mut forms = Self(BTreeSet::new());
        for piece in pieces(value) {
            forms.of_piece(piece);
            if effort == Effort::Full {
                forms.percent(piece);
                forms.base64(piece.as_bytes());
            }
        }
        if effort == Effort::Full {
            forms.base64_of_whole(value.as_bytes());
            forms.base64_of_whole(format!("{value}\n").as_bytes());
        }
        if value.contains(['\n', '\r']) {
            for line in value.split(['\n', '\r']).map(str::trim).filter(|line| is_telling(line)) {
                for piece in pieces(line) {
                    forms.of_piece(piece);
                    forms.percent(piece);
                }
            }
        }
        forms
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// As it is stored; and as it is, for reports, whose texts are not sanitised.
    fn add(&mut self, mut form: String) {
        let mut stored = stored_text(form.as_bytes());
        for text in [stored.trim(), form.trim()].into_iter().filter(|text| text.len() >= MIN_VALUE_BYTES) {
            self.0.insert(text.to_owned());
        }
        form.zeroize();
        stored.zeroize();
    }

    /// As it is, and within quotes of JSON, JSON in JSON, and HCL.
    fn of_piece(&mut self, piece: &str) {
        self.add(piece.to_owned());
        let hcl = quoted(piece, Quotes::Plain).replace("${", "$${").replace("%{", "%%{");
        for inner in Quotes::ALL {
            let once = quoted(piece, inner);
            for outer in Quotes::ALL {
                self.add(quoted(&once, outer));
                self.add(quoted(&hcl, outer));
            }
            self.add(once);
        }
        self.add(hcl);
    }

    fn percent(&mut self, piece: &str) {
        for kept in UNESCAPED {
            for digits in [b"0123456789ABCDEF", b"0123456789abcdef"] {
                let encoded = percent_encoded(piece, kept, digits);
                self.add(encoded.replace("%20", "+"));
                self.add(encoded);
            }
        }
    }

    /// Base64 of the value somewhere within other bytes, which may begin at any of three offsets.
    fn base64(&mut self, bytes: &[u8]) {
        for before in 0..3 {
            let mut padded = vec![0; before];
            padded.extend_from_slice(bytes);
            for engine in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
                let text = engine.encode(&padded);
                let (first, last) = ((before * 8).div_ceil(6), padded.len() * 8 / 6);
                // Characters that hold bits of the value alone; then the end of the whole, with padding or without.
                self.add(text[first..last].to_owned());
                if last < text.len() {
                    self.add(text[first..].to_owned());
                    self.add(format!("{}{}", &text[first..], "=".repeat(text.len().next_multiple_of(4) - text.len())));
                }
            }
            padded.zeroize();
        }
    }

    /// Base64 of the value alone, in one line and as an encoder writes it that wraps.
    fn base64_of_whole(&mut self, bytes: &[u8]) {
        let (whole, complete) = (STANDARD.encode(bytes), bytes.len() * 8 / 6);
        if whole.len() <= PIECE_BYTES {
            self.add(whole.clone());
        }
        for width in WRAPS.into_iter().filter(|width| whole.len() > *width) {
            for text in [&whole, &whole[..complete]] {
                for line in text.as_bytes().chunks(width).filter(|line| line.len() >= MIN_LINE_BYTES) {
                    self.add(String::from_utf8_lossy(line).into_owned());
                }
            }
        }
    }
}

impl Drop for Forms {
    fn drop(&mut self) {
        while let Some(mut form) = self.0.pop_first() {
            form.zeroize();
        }
    }
}

/// Whether a line says something of the value that it is part of. Lines such as `-----BEGIN CERTIFICATE-----` do not.
fn is_telling(line: &str) -> bool {
    line.len() >= MIN_LINE_BYTES && !line.starts_with("-----") && refusal(line).is_none()
}

/// The value in pieces of at most [`PIECE_BYTES`] that overlap.
fn pieces(value: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut from = 0;
    while value.len() - from > PIECE_BYTES {
        let to = value.floor_char_boundary(from + PIECE_BYTES);
        pieces.push(&value[from..to]);
        from = value.floor_char_boundary(to - OVERLAP_BYTES);
    }
    // The last one is as long as the others.
    pieces.push(&value[value.floor_char_boundary(value.len().saturating_sub(PIECE_BYTES))..]);
    pieces
}

/// How a writer of JSON escapes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Quotes {
    /// What must be.
    Plain,
    /// As Go does: what HTML could misread, too.
    Html,
    /// All that is not ASCII, as Python does.
    Ascii,
}

impl Quotes {
    const ALL: [Self; 3] = [Self::Plain, Self::Html, Self::Ascii];
}

fn quoted(text: &str, quotes: Quotes) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' if quotes == Quotes::Html => escape(c, &mut out),
            '\0'..='\u{1f}' => escape(c, &mut out),
            '\u{7f}'.. if quotes == Quotes::Ascii => escape(c, &mut out),
            _ => out.push(c),
        }
    }
    out
}

fn escape(c: char, out: &mut String) {
    for unit in c.encode_utf16(&mut [0; 2]) {
        out.push_str(&format!("\\u{unit:04x}"));
    }
}

fn percent_encoded(text: &str, kept: &str, digits: &[u8; 16]) -> String {
    let mut out = String::with_capacity(text.len());
    for &byte in text.as_bytes() {
        let c = char::from(byte);
        if c.is_ascii_alphanumeric() || kept.contains(c) {
            out.push(c);
        } else {
            let digit = |nibble: u8| char::from(digits[usize::from(nibble)]);
            out.extend(['%', digit(byte >> 4), digit(byte & 15)]);
        }
    }
    out
}
