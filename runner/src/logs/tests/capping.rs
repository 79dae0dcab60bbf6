use proptest::prelude::*;
use time::Duration;

use super::super::{
    Capture, Chunk, ChunkKind, Counters, Dialect, Gap, GapKind, Stream, TAIL_OVERHEAD_BYTES, stored_text,
};
use super::at_ms;

const PLENTY: usize = 1 << 30;

fn all(capture: &mut Capture) -> Vec<Chunk> {
    capture.finish(at_ms(1_000_000));
    capture.drain(PLENTY)
}

fn text_of(chunks: &[Chunk], stream: Stream) -> String {
    let of_it = chunks.iter().filter(|chunk| chunk.stream == stream && chunk.kind == ChunkKind::Text);
    of_it.map(|chunk| chunk.text.as_str()).collect()
}

fn gaps(chunks: &[Chunk]) -> Vec<(Stream, Gap)> {
    let gap = |chunk: &Chunk| match chunk.kind {
        ChunkKind::Gap(gap) => Some((chunk.stream, gap)),
        ChunkKind::Text => None,
    };
    chunks.iter().filter_map(gap).collect()
}

/// The rule written down a second time: the lines that fit the cap, the bytes left out, the lines that fit the tail.
fn rule(lines: &[String], cap: usize, tail: usize) -> (String, usize, String) {
    let mut first = 0;
    let mut bytes = 0;
    while first < lines.len() && bytes + lines[first].len() <= cap {
        bytes += lines[first].len();
        first += 1;
    }
    let (mut last, mut cost) = (lines.len(), 0);
    while last > first && cost + lines[last - 1].len() + TAIL_OVERHEAD_BYTES <= tail {
        cost += lines[last - 1].len() + TAIL_OVERHEAD_BYTES;
        last -= 1;
    }
    (lines[..first].concat(), lines[first..last].concat().len(), lines[last..].concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn beginning_and_end_are_stored_and_what_is_missing_is_counted_to_the_byte(
        lines in prop::collection::vec("[a-z ]{0,60}\n", 0..80),
        cap in 0..2000_usize,
        tail in 0..1500_usize,
        reads in prop::collection::vec(1..200_usize, 1..40),
    ) {
        let printed = lines.concat();
        let mut capture = Capture::new(PLENTY).capped(cap as u64, tail);
        let (mut rest, mut reads) = (printed.as_bytes(), reads.iter().cycle());
        let mut chunks = Vec::new();
        while !rest.is_empty() {
            let (read, later) = rest.split_at(rest.len().min(*reads.next().unwrap()));
            capture.push(Stream::Stdout, read, at_ms(1));
            chunks.extend(capture.drain(100));
            rest = later;
        }
        chunks.extend(all(&mut capture));
        let (first, missing, last) = rule(&lines, cap, tail);
        prop_assert_eq!(text_of(&chunks, Stream::Stdout), first + &last);
        let expected: Vec<_> = (missing > 0)
            .then_some((Stream::Stdout, Gap { kind: GapKind::Capped, bytes: Some(missing as u64) }))
            .into_iter()
            .collect();
        prop_assert_eq!(gaps(&chunks), expected);
        prop_assert_eq!(capture.counters().capped_bytes, missing as u64);
        let notices = text_of(&chunks, Stream::System).matches("The job goes on").count();
        prop_assert_eq!(notices, usize::from(printed.len() > cap));
        let mut next = 0;
        for chunk in &chunks {
            prop_assert_eq!(chunk.seq, next, "numbers are given after the cap, so they have no holes");
            next = chunk.seq_to + 1;
        }
    }
}

#[test]
fn output_far_beyond_the_cap_is_told_in_a_notice_and_tendrils_own_lines_get_through() {
    const CAP: u64 = 1 << 20;
    let mut capture = Capture::new(PLENTY).capped(CAP, 64 * 1024);
    let block: String = (0..4096).map(|n| format!("{n:015}\n")).collect();
    let blocks = 1024;
    let mut chunks = Vec::new();
    for n in 0..blocks {
        capture.push(Stream::Stdout, block.as_bytes(), at_ms(n));
        if n % 256 == 0 {
            capture.system("still here", at_ms(n));
        }
        chunks.extend(capture.drain(PLENTY));
        assert!(capture.memory_bytes() < 1 << 20, "{} bytes are held", capture.memory_bytes());
    }
    capture.push(Stream::Stderr, b"the last word\n", at_ms(blocks));
    chunks.extend(all(&mut capture));
    let printed = blocks as u64 * block.len() as u64;
    let stored = text_of(&chunks, Stream::Stdout).len() as u64;
    let [(Stream::Stdout, Gap { kind: GapKind::Capped, bytes: Some(missing) })] = gaps(&chunks)[..] else {
        panic!("one gap, of stdout")
    };
    assert_eq!(stored + missing, printed, "exact to the byte");
    assert!(stored > CAP && stored < CAP + 64 * 1024);
    assert_eq!(text_of(&chunks, Stream::System).matches("still here\n").count(), 4);
    assert_eq!(chunks.last().map(|chunk| chunk.text.as_str()), Some("the last word\n"));
    let Counters { refused_bytes, capped_bytes, .. } = capture.counters();
    assert_eq!((refused_bytes, capped_bytes), (0, missing));
}

#[test]
fn the_end_of_a_capped_log_finds_room_also_when_little_may_wait() {
    let lines: Vec<String> = (0..10_000).map(|n| format!("line {n:05}\n")).collect();
    // The beginning waits when the end comes; in the second case some of it was refused.
    for cap in [1000, 100_000] {
        let mut capture = Capture::new(4096).capped(cap, 8000);
        for line in &lines {
            capture.push(Stream::Stdout, line.as_bytes(), at_ms(0));
        }
        let chunks = all(&mut capture);
        let stored = text_of(&chunks, Stream::Stdout);
        let end = lines[lines.len() - 8000 / (TAIL_OVERHEAD_BYTES + 11)..].concat();
        assert!(stored.ends_with(&end), "{}", &stored[stored.len().saturating_sub(100)..]);
        let missing: u64 = gaps(&chunks).iter().filter_map(|(_, gap)| gap.bytes).sum();
        assert_eq!(stored.len() as u64 + missing, 110_000, "exact to the byte");
    }
}

#[test]
fn both_streams_share_the_cap_and_keep_their_order_at_the_end() {
    let mut capture = Capture::new(PLENTY).capped(10, 4 * (TAIL_OVERHEAD_BYTES + 6));
    for n in 0..10 {
        capture.push(Stream::Stdout, format!("out {n}\n").as_bytes(), at_ms(n));
        capture.push(Stream::Stderr, format!("err {n}\n").as_bytes(), at_ms(n));
    }
    let chunks = all(&mut capture);
    let shown: Vec<_> = chunks.iter().filter(|chunk| chunk.stream != Stream::System).map(|c| c.text.as_str()).collect();
    assert_eq!(shown[0], "out 0\n");
    assert_eq!(shown[3..], ["out 8\n", "err 8\n", "out 9\n", "err 9\n"]);
    let missing: Vec<_> = gaps(&chunks).into_iter().map(|(stream, gap)| (stream, gap.bytes)).collect();
    assert_eq!(missing, [(Stream::Stdout, Some(7 * 6)), (Stream::Stderr, Some(8 * 6))]);
    assert!(shown[1].contains("42 bytes") && shown[2].contains("48 bytes"), "{shown:?}");
}

#[test]
fn idle_moments_prompts_and_a_next_command_change_nothing_of_the_cap() {
    let mut capture = Capture::new(PLENTY).capped(8, 1024);
    capture.begin_child(Dialect::Text, at_ms(0));
    capture.push(Stream::Stdout, b"12345", at_ms(1));
    capture.idle(at_ms(5), Duration::milliseconds(1));
    capture.push(Stream::Stdout, b"678\n", at_ms(6));
    capture.begin_child(Dialect::Text, at_ms(7));
    capture.push(Stream::Stdout, b"more\n", at_ms(8));
    let chunks = all(&mut capture);
    assert_eq!(text_of(&chunks, Stream::Stdout), stored_text(b"12345678\nmore\n"));
    assert!(gaps(&chunks).is_empty(), "all of it fits: the beginning, and the end");
}
