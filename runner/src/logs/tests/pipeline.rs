use std::sync::Arc;

use proptest::prelude::*;
use time::Duration;

use super::super::{
    Capture, Chunk, ChunkKind, Dialect, MAX_CHUNK_BYTES, MAX_EVENT_BYTES, MAX_RECORD_BYTES, Secret, Secrets, Stream,
    redacted, stored_event_text, stored_text,
};
use super::{at_ms, hostile_bytes};

const PLENTY: usize = 1 << 30;

/// Memory that a capture may hold beside its waiting room, in bytes.
const MAX_HELD_BYTES: usize = 4 << 20;

fn text_of(chunks: &[Chunk], stream: Stream) -> String {
    chunks.iter().filter(|chunk| chunk.stream == stream).map(|chunk| chunk.text.as_str()).collect()
}

fn check_numbers(chunks: &[Chunk], last_seq: i64) {
    let mut next = 0;
    for chunk in chunks {
        assert_eq!(chunk.seq, next, "numbers have no holes");
        assert!(chunk.seq_to >= chunk.seq);
        assert!(!chunk.text.is_empty() && chunk.text.len() <= MAX_CHUNK_BYTES);
        next = chunk.seq_to + 1;
    }
    assert_eq!(next, last_seq + 1);
    assert!(chunks.is_sorted_by_key(|chunk| chunk.ts), "time follows the numbers");
}

#[derive(Debug, Clone)]
enum Step {
    Read(Stream, usize),
    Idle,
    Drain(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..64_usize).prop_map(|len| Step::Read(Stream::Stdout, len)),
        4 => (0..64_usize).prop_map(|len| Step::Read(Stream::Stderr, len)),
        1 => Just(Step::Idle),
        1 => (0..200_usize).prop_map(Step::Drain),
    ];
    prop::collection::vec(step, 0..80)
}

/// Runs `steps` and then the rest of both streams; returns the chunks and the last number.
fn run(dialect: Dialect, stdout: &[u8], stderr: &[u8], steps: &[Step]) -> (Vec<Chunk>, i64) {
    run_with(&Secrets::of_known_forms(), dialect, [stdout, stderr], steps)
}

fn run_with(
    secrets: &Arc<Secrets>,
    dialect: Dialect,
    [stdout, stderr]: [&[u8]; 2],
    steps: &[Step],
) -> (Vec<Chunk>, i64) {
    let mut capture = Capture::new(PLENTY);
    capture.redact(secrets.clone(), at_ms(0));
    capture.begin_child(dialect, at_ms(0));
    let mut chunks = Vec::new();
    let (mut out, mut err, mut now) = (stdout, stderr, 0);
    for step in steps {
        now += 1;
        match step {
            Step::Idle => capture.idle(at_ms(now), Duration::milliseconds(1)),
            Step::Drain(max_bytes) => chunks.extend(capture.drain(*max_bytes)),
            Step::Read(stream, len) => {
                let source = if *stream == Stream::Stdout { &mut out } else { &mut err };
                let (read, rest) = source.split_at(source.len().min(*len));
                *source = rest;
                capture.push(*stream, read, at_ms(now));
            }
        }
    }
    capture.push(Stream::Stdout, out, at_ms(now));
    capture.push(Stream::Stderr, err, at_ms(now));
    let last_seq = capture.finish(at_ms(now));
    chunks.extend(capture.drain(PLENTY));
    (chunks, last_seq)
}

/// Event lines, whole and broken, among other text.
fn event_bytes() -> impl Strategy<Value = Vec<u8>> {
    let event = |text: &str| {
        let message = serde_json::to_string(text).expect("a string is JSON");
        format!(r#"{{"@level":"info","@message":{message},"@module":"terraform.ui","type":"log"}}"#).into_bytes()
    };
    let part = prop_oneof![
        "[\\x00-~é]{0,30}".prop_map(move |text| event(&text)),
        hostile_bytes(),
        Just(b"{".to_vec()),
        Just(b"\n".to_vec()),
        Just(b"\n".to_vec()),
    ];
    prop::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
}

/// Secrets whole and in parts, within JSON and in base64, among what hostile children print.
fn leaky_bytes() -> impl Strategy<Value = Vec<u8>> {
    const PARTS: &[&[u8]] = &[
        b"hunter2",
        b"-correct",
        b"hunter2-correct",
        b"aHVudGVyMi1jb3JyZWN0",
        b"-cor\x1b]0;x\x07rect",
        b"say \\\"hi\\\"",
        b"AKIAIOSFODNN7EXAMPLE",
    ];
    let event = |secret: &str| {
        let message = serde_json::to_string(secret).expect("a string is JSON");
        format!(r#"{{"@level":"info","@message":{message},"@module":"terraform.ui","type":"log"}}"#).into_bytes()
    };
    let part = prop_oneof![
        4 => prop::sample::select(PARTS).prop_map(<[u8]>::to_vec),
        1 => hostile_bytes(),
        1 => Just(event("hunter2-correct, he said: say \"hi\"")),
        1 => Just(b"\n".to_vec()),
    ];
    prop::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn secrets_are_taken_out_alike_however_the_streams_are_read_take_turns_and_fall_idle(
        stdout in leaky_bytes(),
        stderr in leaky_bytes(),
        steps in steps(),
        dialect in prop_oneof![Just(Dialect::Text), Just(Dialect::Events)],
    ) {
        let values = ["hunter2-correct", "say \"hi\""].map(|value| Secret::new("value", value));
        let secrets = Arc::new(Secrets::new(&values).unwrap().0);
        let (chunks, last_seq) = run_with(&secrets, dialect, [&stdout, &stderr], &steps);
        check_numbers(&chunks, last_seq);
        let shown = if dialect == Dialect::Text { stored_text(&stdout) } else { stored_event_text(&stdout) };
        prop_assert_eq!(text_of(&chunks, Stream::Stdout), redacted(&shown, &secrets));
        prop_assert_eq!(text_of(&chunks, Stream::Stderr), redacted(&stored_text(&stderr), &secrets));
        for text in [Stream::Stdout, Stream::Stderr].map(|stream| text_of(&chunks, stream)) {
            prop_assert!(!text.contains("hunter2-correct") && !text.contains("aHVudGVyMi1jb3JyZWN0"), "{text}");
        }
    }

    #[test]
    fn however_it_is_read_and_drained_what_is_stored_is_the_documented_text(
        stdout in hostile_bytes(),
        stderr in hostile_bytes(),
        steps in steps(),
    ) {
        let (chunks, last_seq) = run(Dialect::Text, &stdout, &stderr, &steps);
        check_numbers(&chunks, last_seq);
        prop_assert_eq!(text_of(&chunks, Stream::Stdout), stored_text(&stdout));
        prop_assert_eq!(text_of(&chunks, Stream::Stderr), stored_text(&stderr));
    }

    #[test]
    fn events_are_rendered_the_same_however_they_are_read(
        stdout in event_bytes(),
        stderr in hostile_bytes(),
        steps in steps(),
    ) {
        let (chunks, last_seq) = run(Dialect::Events, &stdout, &stderr, &steps);
        check_numbers(&chunks, last_seq);
        prop_assert_eq!(text_of(&chunks, Stream::Stdout), stored_event_text(&stdout));
        prop_assert_eq!(text_of(&chunks, Stream::Stderr), stored_text(&stderr));
    }
}

#[test]
fn the_streams_keep_the_order_in_which_their_lines_arrived() {
    let mut capture = Capture::new(PLENTY);
    capture.push(Stream::Stdout, b"one\ntw", at_ms(1));
    capture.push(Stream::Stderr, b"oops\n", at_ms(2));
    capture.system("plan artifact kept", at_ms(3));
    capture.push(Stream::Stdout, b"o\n", at_ms(4));
    let seen: Vec<_> =
        capture.drain(PLENTY).into_iter().map(|chunk| (chunk.stream.as_str(), chunk.text, chunk.ts)).collect();
    let expected = [
        ("stdout", "one\n".to_owned(), at_ms(1)),
        ("stderr", "oops\n".to_owned(), at_ms(2)),
        ("system", "plan artifact kept\n".to_owned(), at_ms(3)),
        ("stdout", "two\n".to_owned(), at_ms(4)),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn a_child_cannot_leave_an_open_sequence_or_dialect_to_the_next_one() {
    let mut capture = Capture::new(PLENTY);
    capture.begin_child(Dialect::Events, at_ms(1));
    capture.push(Stream::Stdout, b"{\"@message\":\"half an event", at_ms(2));
    capture.push(Stream::Stderr, b"\x1b]0;half a title", at_ms(2));
    capture.begin_child(Dialect::Text, at_ms(3));
    capture.push(Stream::Stdout, b"{}\n", at_ms(4));
    capture.push(Stream::Stderr, b"visible\x07\n", at_ms(4));
    assert_eq!(capture.finish(at_ms(5)), 3);
    let chunks = capture.drain(PLENTY);
    assert_eq!(text_of(&chunks, Stream::Stdout), "{\"@message\":\"half an event{}\n");
    assert_eq!(text_of(&chunks, Stream::Stderr), "␛]0;half a titlevisible␇\n");
}

#[test]
fn output_that_nobody_drains_stays_within_the_waiting_room_and_the_loss_is_told() {
    const LIMIT: usize = 1 << 20;
    let mut capture = Capture::new(LIMIT);
    let block = "0123456789abcdef\n".repeat(4096);
    for _ in 0..64 {
        capture.push(Stream::Stdout, block.as_bytes(), at_ms(0));
        assert!(capture.waiting_bytes() <= LIMIT);
    }
    let last_seq = capture.finish(at_ms(1));
    let chunks = capture.drain(PLENTY);
    check_numbers(&chunks, last_seq);
    let kept: usize = chunks.iter().filter(|chunk| chunk.kind == ChunkKind::Text).map(|chunk| chunk.text.len()).sum();
    let counters = capture.counters();
    assert_eq!(counters.bytes, kept as u64);
    assert_eq!(counters.bytes + counters.refused_bytes, 64 * block.len() as u64);
    assert_eq!(counters.gaps, 1);
}

#[test]
fn one_endless_line_takes_little_memory_and_loses_nothing() {
    const TOTAL: usize = 8 << 20;
    for dialect in [Dialect::Text, Dialect::Events] {
        let mut capture = Capture::new(4 << 20);
        capture.begin_child(dialect, at_ms(0));
        capture.push(Stream::Stdout, b"{", at_ms(0));
        let block = vec![b'x'; 60_000];
        let (mut sent, mut stored, mut records) = (1, 0, 0);
        while sent < TOTAL {
            capture.push(Stream::Stdout, &block, at_ms(0));
            sent += block.len();
            assert!(capture.memory_bytes() <= MAX_HELD_BYTES, "{} bytes are held", capture.memory_bytes());
            for chunk in capture.drain(PLENTY) {
                stored += chunk.text.len();
                records += chunk.seq_to - chunk.seq + 1;
            }
        }
        capture.finish(at_ms(0));
        stored += capture.drain(PLENTY).iter().map(|chunk| chunk.text.len()).sum::<usize>();
        assert_eq!(stored, sent);
        assert!(records as usize >= sent / MAX_RECORD_BYTES - 1);
        assert_eq!(capture.counters().refused_bytes, 0);
    }
}

#[test]
fn binary_with_nul_bytes_and_a_torture_of_escapes_end_normally_and_bounded() {
    let mut seed = 1_u32;
    let binary: Vec<u8> = std::iter::repeat_with(|| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 24) as u8
    })
    .take(1 << 20)
    .collect();
    let torture = b"\x1b]0;\x1b[\x1bP\x1b[1;\x1b[999999999999m\x1b[\x1b\\\r\0\x9b\xe2\x80".repeat(1 << 14);
    let nuls = vec![0; 1 << 20];
    for printed in [binary, torture, nuls] {
        let mut capture = Capture::new(PLENTY);
        let mut stored = String::new();
        for read in printed.chunks(8192) {
            capture.push(Stream::Stdout, read, at_ms(0));
            assert!(capture.memory_bytes() <= MAX_HELD_BYTES, "{} bytes are held", capture.memory_bytes());
            stored += &text_of(&capture.drain(PLENTY), Stream::Stdout);
        }
        capture.finish(at_ms(0));
        stored += &text_of(&capture.drain(PLENTY), Stream::Stdout);
        assert_eq!(stored, stored_text(&printed));
        assert!(!stored.contains('\0'));
    }
}

#[test]
fn a_line_is_read_as_an_event_up_to_its_bound_and_shown_as_it_is_beyond() {
    let line = |padding: usize| {
        let padding = "x".repeat(padding);
        format!(r#"{{"@message":"short","@module":"tofu.ui","type":"log","padding":"{padding}"}}"#)
    };
    let longest = line(MAX_EVENT_BYTES - line(0).len());
    assert_eq!(longest.len(), MAX_EVENT_BYTES);
    let (chunks, _) = run(Dialect::Events, format!("{longest}\n").as_bytes(), b"", &[]);
    assert_eq!(text_of(&chunks, Stream::Stdout), "short\n");
    let longer = line(MAX_EVENT_BYTES + 1 - line(0).len()) + "\n";
    for steps in [vec![], vec![Step::Read(Stream::Stdout, 63); 40]] {
        let (chunks, _) = run(Dialect::Events, longer.as_bytes(), b"", &steps);
        assert!(text_of(&chunks, Stream::Stdout) == longer);
    }
}
