//! The rules of redaction, written a second time and in the simplest way: whole texts, one pattern after the other.

use std::collections::BTreeSet;

use regex::Regex;

use super::super::{KEY_MISSES, MAX_JWT_HEADER_BYTES, MAX_KEY_BYTES, MIN_VALUE_BYTES, REDACTED};

const TOKENS: [&str; 29] = [
    "AKIA[A-Z0-9]{16,}",
    "ASIA[A-Z0-9]{16,}",
    "ghp_[A-Za-z0-9]{30,}",
    "gho_[A-Za-z0-9]{30,}",
    "ghu_[A-Za-z0-9]{30,}",
    "ghs_[A-Za-z0-9]{30,}",
    "ghr_[A-Za-z0-9]{30,}",
    "github_pat_[A-Za-z0-9_]{22,}",
    "glpat-[A-Za-z0-9_.-]{20,}",
    "gldt-[A-Za-z0-9_.-]{20,}",
    "glrt-[A-Za-z0-9_.-]{20,}",
    "glcbt-[A-Za-z0-9_.-]{20,}",
    "xoxb-[A-Za-z0-9_-]{10,}",
    "xoxp-[A-Za-z0-9_-]{10,}",
    "xoxa-[A-Za-z0-9_-]{10,}",
    "xoxr-[A-Za-z0-9_-]{10,}",
    "xoxs-[A-Za-z0-9_-]{10,}",
    "xoxe-[A-Za-z0-9_-]{10,}",
    "sk_live_[A-Za-z0-9]{16,}",
    "rk_live_[A-Za-z0-9]{16,}",
    "npm_[A-Za-z0-9]{30,}",
    "dop_v1_[A-Za-z0-9]{32,}",
    "pypi-AgEI[A-Za-z0-9_-]{40,}",
    r"hvs\.[A-Za-z0-9_-]{20,}",
    r"hvb\.[A-Za-z0-9_-]{20,}",
    r"\.atlasv1\.[A-Za-z0-9_-]{40,}",
    "AIza[A-Za-z0-9_-]{30,}",
    r"trt1\.[A-Za-z0-9_.-]{32,}",
    r"tak1\.[A-Za-z0-9+/=]{40,}",
];
const KEYS: [&str; 7] = [
    "PRIVATE KEY",
    "RSA PRIVATE KEY",
    "EC PRIVATE KEY",
    "DSA PRIVATE KEY",
    "ENCRYPTED PRIVATE KEY",
    "OPENSSH PRIVATE KEY",
    "PGP PRIVATE KEY BLOCK",
];

pub(super) struct Reference {
    forms: BTreeSet<String>,
    tokens: Vec<Regex>,
    jwt: Regex,
}

impl Reference {
    /// Of values in these forms.
    pub(super) fn new(forms: BTreeSet<String>) -> Self {
        let anchored = |pattern: &str| Regex::new(&format!(r"\A(?:{pattern})")).unwrap();
        let most = MAX_JWT_HEADER_BYTES - 3;
        let part = "eyJ[A-Za-z0-9_-]";
        let jwt = format!(r"{part}{{10,{most}}}\.{part}{{10,}}[A-Za-z0-9_.-]*");
        Self { forms, tokens: TOKENS.map(anchored).into(), jwt: anchored(&jwt) }
    }

    pub(super) fn redacted(&self, text: &str) -> String {
        let mut secret = vec![false; text.len()];
        for at in (0..text.len()).filter(|at| text.is_char_boundary(*at)) {
            let rest = &text[at..];
            let forms = self.forms.iter().filter(|form| rest.starts_with(form.as_str())).map(String::len);
            let tokens = self.tokens.iter().filter_map(|token| token.find(rest)).map(|found| found.len());
            let jwt = self.jwt.find(rest).filter(|_| !is_within_a_row_with_jwt(&text[..at])).map(|found| found.len());
            for len in forms.chain(tokens).chain(jwt) {
                secret[at..at + len].fill(true);
            }
        }
        for (from, to) in keys(text) {
            secret[from..to].fill(true);
        }
        for at in (0..(text.len() + 1).saturating_sub(MIN_VALUE_BYTES)).filter(|at| text.is_char_boundary(*at)) {
            if self.may_begin_with(&text[at..]) {
                secret[at..].fill(true);
                break;
            }
        }
        marked(text, &secret)
    }

    fn may_begin_with(&self, end: &str) -> bool {
        let prefixes = TOKENS.map(|token| {
            let bare = token.replace('\\', "");
            bare[..bare.find('[').unwrap()].to_owned()
        });
        let lines = KEYS.iter().flat_map(|name| [format!("-----BEGIN {name}-----"), format!("-----END {name}-----")]);
        let mut patterns = self.forms.iter().cloned().chain(prefixes).chain(lines);
        patterns.any(|pattern| pattern.starts_with(end))
    }
}

fn is_within_a_row_with_jwt(before: &str) -> bool {
    let row = before.rsplit(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '-')).next().unwrap();
    row.contains("eyJ")
}

/// Where private keys begin and end.
fn keys(text: &str) -> Vec<(usize, usize)> {
    let mut found: Vec<(usize, usize)> = Vec::new();
    for at in (0..text.len()).filter(|at| text.is_char_boundary(*at)) {
        let Some(begin) = KEYS.iter().map(|name| format!("-----BEGIN {name}-----")).find(|b| text[at..].starts_with(b))
        else {
            continue;
        };
        let body = at + begin.len();
        if found.last().is_some_and(|(_, end)| body <= *end) {
            continue;
        }
        let mut ends = vec![text.len()];
        for end in KEYS.iter().map(|name| format!("-----END {name}-----")) {
            // Its dashes may be those of the beginning.
            let after = text[body - 5..].match_indices(&end).map(|(from, _)| body - 5 + from + end.len());
            ends.extend(after.filter(|end| *end > body).min());
        }
        ends.extend((body + MAX_KEY_BYTES..text.len() + 1).find(|to| text.as_bytes()[to - 1].is_ascii()));
        ends.extend(end_by_misses(text, body));
        found.push((at, ends.into_iter().min().unwrap()));
    }
    found
}

fn end_by_misses(text: &str, body: usize) -> Option<usize> {
    let mut misses = 0;
    let mut at = body + text[body..].find('\n')? + 1;
    loop {
        let end = at + text[at..].find('\n')?;
        let row = text[at..end].split(|c: char| !(c.is_ascii_alphanumeric() || "+/=".contains(c)));
        misses = if row.into_iter().any(|row| row.len() >= 16) { 0 } else { misses + 1 };
        if misses == KEY_MISSES {
            return Some(end);
        }
        at = end + 1;
    }
}

fn marked(text: &str, secret: &[bool]) -> String {
    let mut out = String::new();
    let mut before = false;
    for (at, c) in text.char_indices() {
        match secret[at] {
            true if before => {}
            true => out.push_str(REDACTED),
            false => out.push(c),
        }
        before = secret[at];
    }
    out
}
