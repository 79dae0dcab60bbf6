use proptest::prelude::*;

use super::super::{MAX_CONTROL_BYTES, MAX_STRING_BYTES, Sanitiser, stored_text};
use super::{hostile_bytes, split_at};

#[track_caller]
fn becomes(printed: impl AsRef<[u8]>, stored: &str) {
    assert_eq!(stored_text(printed.as_ref()), stored, "printed: {:?}", String::from_utf8_lossy(printed.as_ref()));
}

#[test]
fn plain_text_and_colours_stay_as_they_are() {
    for text in ["", "a\tb\n", "żółć 😀 “quoted”\n", "\x1b[31mred\x1b[0m", "\x1b[m", "\x1b[1;38;2;1;2;3m", "\x1b[4:3m"]
    {
        becomes(text, text);
    }
}

#[test]
fn carriage_returns_become_line_feeds_so_that_a_progress_bar_is_lines() {
    becomes("a\r\nb", "a\nb");
    becomes("10%\r20%\r\n", "10%\n20%\n");
    becomes("\r\r\n\n\r", "\n\n\n\n");
    becomes("\r\x1b[K50%", "\n50%");
}

#[test]
fn controls_become_visible() {
    becomes("a\0b\x07\x08\x7f", "a␀b␇␈␡");
    becomes("\x18\x1a", "␘␚");
}

#[test]
fn c1_bidi_and_line_separators_are_replaced_and_never_begin_a_sequence() {
    becomes("\u{9b}31m\u{85}", "\u{fffd}31m\u{fffd}");
    becomes(b"\x9b31m", "\u{fffd}31m");
    becomes("a\u{202e}b\u{2066}c\u{200f}d\u{61c}e\u{2028}f", "a\u{fffd}b\u{fffd}c\u{fffd}d\u{fffd}e\u{fffd}f");
}

#[test]
fn complete_sequences_other_than_colours_are_removed() {
    for sequence in [
        "\x1b[2J",
        "\x1b[?25l",
        "\x1b[1 q",
        "\x1b[>4;1m",
        "\x1b[10;20H",
        "\x1b]0;title\x07",
        "\x1b]0;title\x1b\\",
        "\x1b]8;;https://example.com/“x”\x1b\\",
        "\x1bPq#0;2\x1b\\",
        "\x1bXsos\x1b\\",
        "\x1b^pm\x1b\\",
        "\x1b_apc\x1b\\",
        "\x1b(B",
        "\x1b#8",
        "\x1b7",
        "\x1bc",
        "\x1bM",
        "\x1b\\",
    ] {
        becomes(format!("a{sequence}b"), "ab");
    }
}

#[test]
fn what_is_no_complete_sequence_is_shown() {
    becomes("\x1b]0;lost\nnext line", "␛]0;lost\nnext line");
    becomes("\x1b[31", "␛[31");
    becomes("\x1b[3\x000m", "␛[3␀0m");
    becomes("\x1b[1 2m", "␛[1 2m");
    becomes("\x1b\x1b[1m", "␛\x1b[1m");
    becomes("\x1bé", "␛é");
    becomes("\x1b]0;a\x1b[1mb", "␛]0;a\x1b[1mb");
    becomes("\x1b]0;a\x1b", "␛]0;a␛");
    becomes("\x1bPdcs\x07b\x1b\\", "␛Pdcs␇b");
    becomes("\x1b]0;\u{9c}x\x07", "␛]0;\u{fffd}x␇");
    becomes(b"\x1b]0;\xff\x07", "␛]0;\u{fffd}␇");
    becomes(b"\x1b[3\xe2\x80", "␛[3\u{fffd}");
}

#[test]
fn a_sequence_beyond_its_bound_is_shown_whole() {
    let longest = format!("\x1b[{}m", "1".repeat(MAX_CONTROL_BYTES - 3));
    becomes(&longest, &longest);
    let digits = "1".repeat(MAX_CONTROL_BYTES - 2);
    becomes(format!("\x1b[{digits}m"), &format!("␛[{digits}m"));
    becomes(format!("\x1b]{}\x07", "x".repeat(MAX_STRING_BYTES - 3)), "");
    becomes(format!("\x1b]{}\x1b\\", "x".repeat(MAX_STRING_BYTES - 4)), "");
    let payload = "x".repeat(MAX_STRING_BYTES - 2);
    becomes(format!("\x1b]{payload}\x07"), &format!("␛]{payload}␇"));
    becomes(format!("\x1b]{payload}"), &format!("␛]{payload}"));
}

#[test]
fn broken_utf8_is_replaced_as_the_standard_library_does() {
    let broken: &[&[u8]] = &[
        b"\xff",
        b"\xc2",
        b"\xe2\x80",
        b"\xe2\x80x",
        b"\xf0\x9f\x98",
        b"\xf0\x9f\x98\xf0\x9f\x98\x80",
        b"\xed\xa0\x80",
        b"\xc0\x80",
        b"\xf4\x90\x80\x80",
        b"\xe2\xe2\x80\x9c",
        b"\xc2\n",
    ];
    for bytes in broken {
        becomes(bytes, &String::from_utf8_lossy(bytes));
    }
}

/// The documented rule read literally, with the whole text at hand.
fn by_the_book(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes).replace("\r\n", "\n").replace('\r', "\n");
    let mut shown = String::new();
    let mut rest = text.as_str();
    while let Some(c) = rest.chars().next() {
        let sequence = if c == '\x1b' { sequence_len(rest) } else { None };
        let used = sequence.unwrap_or(c.len_utf8());
        match sequence {
            Some(len) if is_sgr(&rest[..len]) => shown.push_str(&rest[..len]),
            Some(_) => {}
            None => shown.push(match c {
                '\n' | '\t' => c,
                '\0'..='\x1f' => char::from_u32(u32::from(c) + 0x2400).expect("a control picture"),
                '\x7f' => '␡',
                _ if is_unwanted(c) => '\u{fffd}',
                _ => c,
            }),
        }
        rest = &rest[used..];
    }
    shown
}

fn is_unwanted(c: char) -> bool {
    matches!(u32::from(c), 0x80..=0x9f | 0x61c | 0x200e | 0x200f | 0x2028..=0x202e | 0x2066..=0x2069 | 0xfffd)
}

fn is_sgr(sequence: &str) -> bool {
    let params = sequence.strip_prefix("\x1b[").and_then(|rest| rest.strip_suffix('m'));
    params.is_some_and(|params| params.chars().all(|c| c.is_ascii_digit() || c == ';' || c == ':'))
}

fn sequence_len(text: &str) -> Option<usize> {
    let after = &text[1..];
    let (len, bound) = match after.chars().next()? {
        '[' => (csi_len(after)?, MAX_CONTROL_BYTES),
        ']' => (string_len(after, true)?, MAX_STRING_BYTES),
        'P' | 'X' | '^' | '_' => (string_len(after, false)?, MAX_STRING_BYTES),
        _ => (charset_len(after)?, MAX_CONTROL_BYTES),
    };
    (len < bound).then_some(1 + len)
}

fn csi_len(after: &str) -> Option<usize> {
    let params = after[1..].trim_start_matches(|c| ('0'..='?').contains(&c));
    let tail = params.trim_start_matches(|c| (' '..='/').contains(&c));
    tail.starts_with(|c| ('@'..='~').contains(&c)).then(|| after.len() - tail.len() + 1)
}

fn charset_len(after: &str) -> Option<usize> {
    let tail = after.trim_start_matches(|c| (' '..='/').contains(&c));
    tail.starts_with(|c| ('0'..='~').contains(&c)).then(|| after.len() - tail.len() + 1)
}

fn string_len(after: &str, bell: bool) -> Option<usize> {
    let tail = after[1..].trim_start_matches(|c: char| !c.is_control() && !is_unwanted(c));
    let end = after.len() - tail.len();
    match tail {
        _ if tail.starts_with("\x1b\\") => Some(end + 2),
        _ if bell && tail.starts_with('\x07') => Some(end + 1),
        _ => None,
    }
}

fn in_pieces(pieces: &[&[u8]]) -> String {
    let mut text = String::new();
    let mut sanitiser = Sanitiser::default();
    for piece in pieces {
        sanitiser.push(piece, &mut text);
    }
    sanitiser.finish(&mut text);
    text
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn any_split_of_any_bytes_gives_the_same_text(
        bytes in hostile_bytes(),
        places in prop::collection::vec(any::<usize>(), 0..12),
    ) {
        let whole = stored_text(&bytes);
        prop_assert_eq!(&in_pieces(&split_at(&bytes, &places)), &whole);
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        prop_assert_eq!(&in_pieces(&single), &whole);
    }

    #[test]
    fn the_text_is_what_the_written_rule_says(bytes in hostile_bytes()) {
        prop_assert_eq!(stored_text(&bytes), by_the_book(&bytes));
    }

    #[test]
    fn stored_text_is_left_alone_when_sanitised_again(bytes in hostile_bytes()) {
        let once = stored_text(&bytes);
        prop_assert_eq!(&stored_text(once.as_bytes()), &once);
    }

    #[test]
    fn stored_text_has_no_control_but_line_feed_tab_and_colours(bytes in hostile_bytes()) {
        let text = stored_text(&bytes);
        let mut rest = text.as_str();
        while let Some(c) = rest.chars().next() {
            let used = if c == '\x1b' {
                let len = sequence_len(rest).filter(|&len| is_sgr(&rest[..len]));
                prop_assert!(len.is_some(), "a bare escape in {:?}", text);
                len.unwrap_or(1)
            } else {
                prop_assert!(!c.is_control() || c == '\n' || c == '\t', "{:?} in {:?}", c, text);
                c.len_utf8()
            };
            rest = &rest[used..];
        }
    }
}
