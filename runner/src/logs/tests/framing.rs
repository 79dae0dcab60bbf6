//! One test for each thing that programs print and that has broken some log or other.

use time::Duration;

use super::super::{Capture, ChunkKind, Dialect, MAX_RECORD_BYTES, Stream};
use super::at_ms;

const PLENTY: usize = 1 << 30;

/// What is stored of standard output that is read in these pieces.
fn stored(reads: &[&[u8]]) -> String {
    let mut capture = Capture::new(PLENTY);
    for read in reads {
        capture.push(Stream::Stdout, read, at_ms(0));
    }
    capture.finish(at_ms(1));
    capture.drain(PLENTY).into_iter().map(|chunk| chunk.text).collect()
}

#[test]
fn a_character_that_is_split_over_reads_arrives_whole() {
    assert_eq!(stored(&[b"a\xf0", b"\x9f", b"\x98", b"\x80b\n"]), "a😀b\n");
    assert_eq!(stored(&[b"a\xf0\x9f", b"b\n"]), "a\u{fffd}b\n", "and broken when the rest never comes");
}

#[test]
fn nul_bytes_progress_bars_and_colours_are_stored() {
    assert_eq!(stored(&[b"a\0b\n"]), "a␀b\n");
    assert_eq!(stored(&[b" 10%\r", b" 20%\r\n", b"\x1b[2Kdone\r"]), " 10%\n 20%\ndone\n");
    assert_eq!(stored(&[b"\x1b[3", b"1mred\x1b[0m\n"]), "\x1b[31mred\x1b[0m\n");
}

#[test]
fn a_last_line_without_its_end_is_stored_and_no_output_is_an_empty_log() {
    assert_eq!(stored(&[b"one\ntwo"]), "one\ntwo");
    let mut capture = Capture::new(PLENTY);
    capture.begin_child(Dialect::Text, at_ms(0));
    capture.push(Stream::Stdout, b"", at_ms(0));
    assert_eq!(capture.finish(at_ms(1)), -1);
    assert!(capture.drain(PLENTY).is_empty());
}

#[test]
fn what_a_descendant_prints_after_the_commands_end_is_stored_before_what_the_next_command_prints() {
    let mut capture = Capture::new(PLENTY);
    capture.begin_child(Dialect::Text, at_ms(0));
    capture.push(Stream::Stdout, b"the command\n", at_ms(1));
    capture.end(Stream::Stderr, at_ms(2));
    capture.push(Stream::Stdout, b"its daemon", at_ms(3));
    capture.begin_child(Dialect::Text, at_ms(4));
    capture.push(Stream::Stdout, b"the next\n", at_ms(5));
    capture.finish(at_ms(6));
    let text: String = capture.drain(PLENTY).into_iter().map(|chunk| chunk.text).collect();
    assert_eq!(text, "the command\nits daemonthe next\n");
}

#[test]
fn a_line_of_a_hundred_megabytes_takes_little_memory_and_is_capped() {
    const TOTAL: usize = 100_000_000;
    let mut capture = Capture::new(8 << 20).capped(1 << 20, 64 << 10);
    let block = [b'x'; 100_000];
    let mut stored = 0;
    let mut missing = 0;
    let mut take = |capture: &mut Capture| {
        for chunk in capture.drain(PLENTY).iter().filter(|chunk| chunk.stream == Stream::Stdout) {
            match chunk.kind {
                ChunkKind::Text => stored += chunk.text.len(),
                ChunkKind::Gap(gap) => missing += usize::try_from(gap.bytes.unwrap()).unwrap(),
            }
        }
    };
    for _ in 0..TOTAL / block.len() {
        capture.push(Stream::Stdout, &block, at_ms(0));
        capture.idle(at_ms(1), Duration::SECOND);
        take(&mut capture);
        assert!(capture.memory_bytes() < 1 << 20, "{} bytes are held", capture.memory_bytes());
    }
    capture.push(Stream::Stdout, b"end", at_ms(1));
    capture.finish(at_ms(2));
    take(&mut capture);
    assert_eq!(stored + missing, TOTAL + 3, "exact to the byte");
    assert!(stored > (1 << 20) && stored < (1 << 20) + (64 << 10) + MAX_RECORD_BYTES);
}
