use std::collections::BTreeSet;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use proptest::prelude::*;
use regex::{Captures, Regex};
use serde_json::{Value, json};

use super::super::secret_forms::{Effort, Forms, refusal};
use super::super::{
    MAX_KEY_BYTES, REDACTED, Redactor, Secret, Secrets, redacted, stored_text, value_without_secrets, without_secrets,
};
use super::reference::Reference;

/// Values that hold everything that some encoder writes in another way.
const VALUES: [&str; 5] = [
    "hunter2-correct",
    "p@ss \"w\\rd\" <&> ${x} ü/+=%",
    "first line of it\n  {\"second\": \"line\"}\r\nx\nlast line here",
    "AAAABBBBAAAABBBB",
    "BBBBAAAA",
];

fn secrets(values: &[&str]) -> Arc<Secrets> {
    let values: Vec<Secret> = values.iter().map(|value| Secret::new("input", *value)).collect();
    let (secrets, told) = Secrets::new(&values).unwrap();
    assert_eq!(told, []);
    Arc::new(secrets)
}

/// What encoders leave as it is beside letters and digits, by their documents.
const RFC_3986: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
const PYTHON_QUOTE: &AsciiSet = &RFC_3986.remove(b'/');
const BROWSER_FORM: &AsciiSet = &NON_ALPHANUMERIC.remove(b'*').remove(b'-').remove(b'.').remove(b'_');
const JAVASCRIPT_COMPONENT: &AsciiSet = &RFC_3986.remove(b'!').remove(b'*').remove(b'\'').remove(b'(').remove(b')');
const BROWSER_PASSWORD: &AsciiSet =
    &JAVASCRIPT_COMPONENT.remove(b'$').remove(b'%').remove(b'&').remove(b'+').remove(b',');
const GO_PASSWORD: &AsciiSet = &RFC_3986.remove(b'$').remove(b'&').remove(b'+').remove(b',').remove(b';').remove(b'=');

/// The value percent-encoded, by another implementation than the one that is tested.
fn percent_encoded(value: &str) -> Vec<String> {
    let escape = Regex::new("%[0-9A-F]{2}").unwrap();
    let lower = |text: &str| escape.replace_all(text, |found: &Captures<'_>| found[0].to_lowercase()).into_owned();
    let encoded = |set| utf8_percent_encode(value, set).to_string();
    let sets = [RFC_3986, PYTHON_QUOTE, BROWSER_FORM, JAVASCRIPT_COMPONENT, GO_PASSWORD];
    let both = sets.map(encoded).into_iter().flat_map(|text| [lower(&text), text]);
    // This one leaves `%` as it is, and nobody writes it with `+` or small letters.
    both.flat_map(|text| [text.replace("%20", "+"), text]).chain([encoded(BROWSER_PASSWORD)]).collect()
}

/// The value as others write it into texts: percent-encoded, in JSON, and in base64 at any of three offsets.
fn encoded(value: &str) -> Vec<String> {
    let json = |text: &str| {
        let quoted = serde_json::to_string(text).unwrap();
        quoted[1..quoted.len() - 1].to_owned()
    };
    let base64 = (0..3).flat_map(|before| {
        let bytes = [&[0, 0][..before], value.as_bytes()].concat();
        // Characters all of whose bits are the value's.
        let whole = (before * 8).div_ceil(6)..bytes.len() * 8 / 6;
        [&STANDARD, &URL_SAFE].map(|engine| engine.encode(&bytes)[whole.clone()].to_owned())
    });
    let plain = [value.to_owned(), json(value), json(&json(value))];
    percent_encoded(value).into_iter().chain(base64).chain(plain).collect()
}

fn reference(values: &[&str]) -> Reference {
    let forms =
        values.iter().flat_map(|value| Forms::of(value, Effort::Full).iter().map(str::to_owned).collect::<Vec<_>>());
    Reference::new(forms.collect())
}

/// What could be part of a secret, whole secrets, and what is between them.
fn texts() -> impl Strategy<Value = String> {
    let forms: BTreeSet<String> = VALUES
        .iter()
        .flat_map(|value| {
            Forms::of(value, Effort::Full).iter().map(str::to_owned).chain(encoded(value)).collect::<Vec<_>>()
        })
        .collect();
    let forms: Vec<String> = forms.into_iter().collect();
    let part = (prop::sample::select(forms.clone()), any::<prop::sample::Index>(), any::<prop::sample::Index>())
        .prop_map(|(form, from, to)| {
            let (from, to) = (from.index(form.len() + 1), to.index(form.len() + 1));
            form[form.floor_char_boundary(from.min(to))..form.floor_char_boundary(from.max(to))].to_owned()
        });
    let piece = prop_oneof![
        3 => prop::sample::select(forms),
        3 => part,
        3 => prop::sample::select(PIECES).prop_map(str::to_owned),
        2 => "[A-Za-z0-9_.-]{0,40}",
        1 => "[ -~\n]{0,20}",
        1 => "\\PC{0,4}",
    ];
    prop::collection::vec(piece, 0..14).prop_map(|pieces| stored_text(pieces.concat().as_bytes()))
}

const PIECES: &[&str] = &[
    "\n",
    "\n\n\n",
    " ",
    "AKIA",
    "AKIAIOSFODNN7EXAMPLE",
    "ghp_0123456789012345678901234567890123ghp",
    "_",
    "github_pat_",
    "eyJ",
    "eyJhbGciOiJIUzI1NiJ9.",
    "eyJzdWIiOiIxMjM0NTY3ODkwIn0",
    ".",
    ".dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
    "xoxb-1234567890",
    "-----BEGIN RSA PRIVATE KEY-----",
    "-----BEGIN PRIVATE KEY-----",
    "-----END PRIVATE KEY-----",
    "-----END RSA PRIVATE KEY-----\n",
    "MIIEowIBAAKCAQEAxyz0123456789abcdefghijklmnopqrstuvwxyz+/\n",
    "trt1.01a1fcd33b147d38b916592f23f46464.7.",
    "3c250084798c5d9773ba73b455a90fc601d9ee83709ab84c",
];

/// The text in pieces that end at these places, taken modulo its length.
fn pieces<'a>(text: &'a str, places: &[usize]) -> Vec<&'a str> {
    let mut places: Vec<usize> = places.iter().map(|at| text.floor_char_boundary(at % (text.len() + 1))).collect();
    places.sort_unstable();
    places.push(text.len());
    let mut from = 0;
    places.into_iter().map(|to| &text[std::mem::replace(&mut from, to)..to]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn however_it_is_split_the_text_is_that_of_the_rules_written_down_a_second_time(
        text in texts(),
        places in prop::collection::vec(any::<usize>(), 0..12),
    ) {
        thread_local! {
            static KNOWN: (Arc<Secrets>, Reference, Vec<String>) =
                (secrets(&VALUES), reference(&VALUES), VALUES.iter().flat_map(|value| encoded(value)).collect());
        }
        KNOWN.with(|(secrets, reference, encoded)| {
            let expected = reference.redacted(&text);
            prop_assert_eq!(&redacted(&text, secrets), &expected);
            // Forms that both the rules and what was written after them could have wrong.
            prop_assert_eq!(encoded.iter().find(|form| expected.contains(form.as_str())), None);
            let (mut redactor, mut out) = (Redactor::new(secrets.clone()), String::new());
            for piece in pieces(&text, &places) {
                redactor.push(piece, &mut |piece| out.push_str(piece));
            }
            redactor.finish(&mut |piece| out.push_str(piece));
            prop_assert_eq!(&out, &expected);
            Ok(())
        })?;
    }

    #[test]
    fn encodings_of_a_secret_within_other_bytes_show_nothing_of_it(
        value in "[ -~éß\n]{8,90}",
        before in prop::collection::vec(any::<u8>(), 0..9),
        after in prop::collection::vec(any::<u8>(), 0..9),
    ) {
        let value = value.trim();
        prop_assume!(refusal(value).is_none());
        let secrets = secrets(&[value]);
        let whole = [before.as_slice(), value.as_bytes(), &after].concat();
        for engine in [&STANDARD, &STANDARD_NO_PAD, &URL_SAFE, &URL_SAFE_NO_PAD] {
            let text = engine.encode(&whole);
            // Characters all of whose bits are the value's.
            let (from, to) = ((before.len() * 8).div_ceil(6), (before.len() + value.len()) * 8 / 6);
            let shown = redacted(&text, &secrets);
            let (first, last) = (&text[..from], &text[to..]);
            prop_assert!(shown.starts_with(first) && shown.contains(REDACTED), "{text} became {shown}");
            prop_assert!(shown.len() <= first.len() + REDACTED.len() + last.len(), "{text} became {shown}");
        }
        let html = serde_json::to_string(value).unwrap().replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026");
        let twice = serde_json::to_string(&html).unwrap();
        for text in [serde_json::to_string(value).unwrap(), html, twice] {
            let shown = redacted(&format!("a {text} b"), &secrets);
            prop_assert!(shown.len() <= 8 + 2 * 3 + REDACTED.len(), "{text} became {shown}");
        }
        for text in percent_encoded(value) {
            prop_assert_eq!(redacted(&text, &secrets), REDACTED);
        }
    }
}

#[test]
fn known_encodings_are_found() {
    let secrets = secrets(&["s3cr3t <tok&n>/ü"]);
    for text in [
        "s3cr3t <tok&n>/ü",
        "s3cr3t%20%3Ctok%26n%3E%2F%C3%BC",
        "s3cr3t+%3ctok%26n%3e%2f%c3%bc",
        r"s3cr3t \u003ctok\u0026n\u003e/ü",
        r"s3cr3t \\u003ctok\\u0026n\\u003e/ü",
        r"s3cr3t <tok&n>/\u00fc",
        "czNjcjN0IDx0b2smbj4vw7w=",
        "czNjcjN0IDx0b2smbj4vw7w",
    ] {
        assert_eq!(redacted(&format!("x={text} y\n"), &secrets), format!("x={REDACTED} y\n"), "{text}");
    }
    // Basic authentication.
    let basic = STANDARD.encode("user:s3cr3t <tok&n>/ü");
    let shown = redacted(&basic, &secrets);
    assert!(shown.starts_with("dXNlcjpz") || shown.starts_with("dXNlcj"), "{shown}");
    assert!(shown.contains(REDACTED) && shown.len() <= 8 + REDACTED.len(), "{shown}");
}

#[test]
fn a_key_of_many_lines_is_found_indented_prefixed_escaped_and_wrapped() {
    let key = "line one of the value\nline two of the value\nx\n";
    let secrets = secrets(&[key]);
    let heredoc = "  + v = <<-EOT\n        line one of the value\n        line two of the value\n        x\n    EOT\n";
    assert_eq!(
        redacted(heredoc, &secrets),
        "  + v = <<-EOT\n        [redacted]\n        [redacted]\n        x\n    EOT\n"
    );
    let prefixed =
        "null_resource.a (local-exec): line one of the value\nnull_resource.a (local-exec): line two of the value\n";
    assert_eq!(
        redacted(prefixed, &secrets),
        "null_resource.a (local-exec): [redacted]\nnull_resource.a (local-exec): [redacted]\n"
    );
    assert_eq!(redacted(&format!("<{key}>"), &secrets), "<[redacted]\n>");
    assert_eq!(redacted(r"k = line one of the value\nline two of the value\nx\n;", &secrets), r"k = [redacted]\n;");
    assert_eq!(redacted(&stored_text(key.replace('\n', "\r\n").as_bytes()), &secrets), "[redacted]\n");
    let long: String = (0..40).map(|n| format!("{n:02} some bytes of a certificate authority\n")).collect();
    let wrapped: String = STANDARD
        .encode(&long)
        .as_bytes()
        .chunks(76)
        .map(|line| format!("{}\n", str::from_utf8(line).unwrap()))
        .collect();
    let shown = redacted(&wrapped, &self::secrets(&[long.as_str()]));
    assert!(shown.lines().all(|line| line == REDACTED), "{shown}");
}

#[test]
fn a_value_of_any_length_is_covered_whole_and_little_is_held_back_for_it() {
    let mut seed = 7_u32;
    let mut next = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        char::from(b'!' + u8::try_from((seed >> 16) % 90).unwrap())
    };
    let value: String = (0..20_000).map(|_| next()).collect();
    let secrets = secrets(&[value.as_str()]);
    let mut redactor = Redactor::new(secrets.clone());
    let mut out = String::new();
    for piece in pieces(&format!("<{value}>"), &(0..20_000).step_by(37).collect::<Vec<_>>()) {
        redactor.push(piece, &mut |piece| out.push_str(piece));
        assert!(redactor.memory_bytes() < 32 * 1024);
    }
    redactor.finish(&mut |piece| out.push_str(piece));
    assert_eq!(out, "<[redacted]>");
    let encoded = STANDARD.encode(&value);
    assert_eq!(redacted(&encoded, &secrets), REDACTED);
}

#[test]
fn half_a_secret_waits_for_the_other_half_and_counts_as_one_at_the_end() {
    let secrets = secrets(&["hunter2-correct"]);
    let mut redactor = Redactor::new(secrets.clone());
    let mut out = String::new();
    redactor.push("password: hunter2-corr", &mut |piece| out.push_str(piece));
    assert_eq!(out, "password: ");
    redactor.push("upt\n", &mut |piece| out.push_str(piece));
    assert_eq!(out, "password: hunter2-corrupt\n", "it was none");
    redactor.push("again hunter2-corre", &mut |piece| out.push_str(piece));
    redactor.finish(&mut |piece| out.push_str(piece));
    assert!(out.ends_with("again [redacted]"), "{out}");
    assert_eq!(redacted("hunte", &secrets), "hunte", "too little to be known");
}

#[test]
fn secrets_that_overlap_leave_nothing_of_either() {
    let secrets = secrets(&["abcdefgh", "efghijkl", "ijklabcd"]);
    assert_eq!(redacted("-abcdefghijkl-", &secrets), "-[redacted]-");
    assert_eq!(redacted("-abcdefghijklabcdefgh-", &secrets), "-[redacted]-");
    assert_eq!(redacted("-abcdefgh-efghijkl-", &secrets), "-[redacted]-[redacted]-");
}

#[test]
fn tokens_are_known_by_their_form() {
    let none = Secrets::of_known_forms();
    let tail = "0123456789abcdefABCDEF0123456789abcdefABCDEF";
    for token in [
        "AKIAIOSFODNN7EXAMPLE".to_owned(),
        format!("ghp_{tail}"),
        format!("github_pat_11AAAAAAA0_{tail}"),
        format!("glpat-{tail}"),
        "xoxb-17653672481-19874698323-pdFZKVeTuE8sk7oOcHrzqqgy".to_owned(),
        format!("sk_live_{tail}"),
        format!("npm_{tail}"),
        format!("dop_v1_{tail}"),
        format!("hvs.{tail}"),
        "AIzaSyD-0123456789abcdefghijklmnopqrstu".to_owned(),
        format!("trt1.01a1fcd33b147d38b916592f23f46464.7.{tail}"),
        format!("tak1.{tail}"),
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U".to_owned(),
    ] {
        assert_eq!(redacted(&format!("a={token} b\n"), &none), "a=[redacted] b\n", "{token}");
    }
    for plain in
        ["AKIA", "AKIA-IOSFODNN7EXAMPLE", "npm_config_cache", "eyJhbGciOiJIUzI1NiJ9", "xoxb-", "hvs.", "trt1.x"]
    {
        let text = format!("a={plain} b\n");
        assert_eq!(redacted(&text, &none), text);
    }
}

#[test]
fn a_private_key_is_covered_over_its_lines_and_one_without_end_hides_little() {
    let none = Secrets::of_known_forms();
    let body = "MIIEowIBAAKCAQEAxyz0123456789abcdefghijklmnopqrstuvwxyz+/AAAABBB\n".repeat(20);
    let key = format!("-----BEGIN RSA PRIVATE KEY-----\n{body}c2hvcnQ=\n-----END RSA PRIVATE KEY-----");
    assert_eq!(redacted(&format!("k:\n{key}\nnext\n"), &none), "k:\n[redacted]\nnext\n");
    let prefixed: String = key.lines().map(|line| format!("null_resource.a (local-exec): {line}\n")).collect();
    assert_eq!(redacted(&prefixed, &none), "null_resource.a (local-exec): [redacted]\n");
    let escaped = format!("\"{}\" next\n", key.replace('\n', "\\n"));
    assert_eq!(redacted(&escaped, &none), "\"[redacted]\" next\n");
    let quoted = "expected \"-----BEGIN PRIVATE KEY-----\" here\n1\n2\n3\n4\n5\n6\n";
    assert_eq!(redacted(quoted, &none), "expected \"[redacted]\n5\n6\n");
    let endless = format!("-----BEGIN PRIVATE KEY-----\n{}", body.repeat(40));
    let shown = redacted(&endless, &none);
    assert!(endless.len() - shown.len() <= MAX_KEY_BYTES + 64 && shown.starts_with(REDACTED), "{}", shown.len());
    // A bound in the middle of a character.
    let wide = format!("-----BEGIN PRIVATE KEY-----{}x", "é".repeat(MAX_KEY_BYTES));
    assert_eq!(redacted(&wide, &none), REDACTED);
}

#[test]
fn what_cannot_be_redacted_is_named_and_its_value_is_not() {
    let values =
        [("inputs.pin", "1234"), ("inputs.port", "5432.1"), ("inputs.mode", "Password"), ("inputs.dash", "--------")];
    let values = values.map(|(name, value)| Secret::new(name, value));
    let (secrets, told) = Secrets::new(&values).unwrap();
    let told: Vec<String> = told.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "inputs.pin is too short to be redacted",
            "inputs.port is a short number and not redacted",
            "inputs.mode is a common word and not redacted",
            "inputs.dash is one character again and again and not redacted",
        ]
    );
    assert_eq!(redacted("1234 Password", &Arc::new(secrets)), "1234 Password");
}

#[test]
fn nothing_shows_a_secret_in_debug() {
    let secret = Secret::new("inputs.a", "hunter2-correct");
    let (secrets, _) = Secrets::new(std::slice::from_ref(&secret)).unwrap();
    let secrets = Arc::new(secrets);
    let mut redactor = Redactor::new(secrets.clone());
    redactor.push("hunter2", &mut |_| {});
    assert!(!format!("{secret:?} {secrets:?} {redactor:?}").contains("hunter"));
}

#[test]
fn reports_are_redacted_and_what_was_cut_within_a_secret_too() {
    let secrets = secrets(&["hunter2-correct"]);
    let report = json!({
        "error": "no: hunter2-cor… (and 1 more)",
        "hunter2-correct": ["a hunter2-correct b", 7, null],
        "engine": "hunter2",
    });
    let expected = json!({
        "error": "no: [redacted]… (and 1 more)",
        "[redacted]": ["a [redacted] b", 7, null],
        "engine": "hunter2",
    });
    assert_eq!(value_without_secrets(report, &secrets), expected);
    assert_eq!(value_without_secrets(Value::Bool(true), &secrets), Value::Bool(true));
    assert_eq!(without_secrets("plain…", &secrets), "plain…");
}

#[test]
fn a_number_that_is_a_secret_does_not_show_in_a_report() {
    let secrets = secrets(&["4711081512"]);
    let report = json!({"pin": 4_711_081_512_u64, "bytes": 47_110_815_120_u64});
    let expected = json!({"pin": "[redacted]", "bytes": 47_110_815_120_u64});
    assert_eq!(value_without_secrets(report, &secrets), expected);
}

#[test]
fn a_text_made_to_keep_the_search_busy_takes_no_longer_than_its_length() {
    let value = "a".repeat(4000) + "b";
    let secrets = secrets(&[value.as_str(), "aaaaab", "ababababab"]);
    let text = "a".repeat(1 << 20) + &"ab".repeat(1 << 18) + &"eyJ".repeat(1 << 16) + &"AKIA".repeat(1 << 16);
    // Quadratic work would be 10^9 steps of each kind.
    assert!(redacted(&text, &secrets).len() < text.len());
}
