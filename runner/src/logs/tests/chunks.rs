use super::super::{
    Chunk, ChunkKind, Chunker, Framer, Gap, GapKind, MAX_CHUNK_BYTES, MAX_RECORD_BYTES, Record, SYSTEM_BYTES, Stream,
};
use super::at_ms;
use proptest::prelude::*;
use time::Duration;

const PLENTY: usize = 1 << 30;

fn records_of(pieces: &[&str]) -> Vec<String> {
    let mut framer = Framer::default();
    let mut records = Vec::new();
    let mut sink = |record: Record<'_>| records.push(record.text.to_owned());
    for piece in pieces {
        framer.push(Stream::Stdout, piece, at_ms(0), &mut sink);
    }
    framer.finish(Stream::Stdout, at_ms(0), &mut sink);
    records
}

fn line(stream: Stream, text: &str) -> Record<'_> {
    Record { stream, text, at: at_ms(0) }
}

#[test]
fn a_record_is_a_line_with_its_line_feed_or_the_rest() {
    assert_eq!(records_of(&["a\n\nb", "c\nrest"]), ["a\n", "\n", "bc\n", "rest"]);
    assert_eq!(records_of(&["", ""]), [""; 0]);
}

#[test]
fn a_long_line_is_cut_at_characters_and_never_within_a_colour() {
    let exactly = "x".repeat(MAX_RECORD_BYTES - 1) + "\n";
    assert_eq!(records_of(&[&exactly]), std::slice::from_ref(&exactly));
    let accented = "é".repeat(MAX_RECORD_BYTES);
    let odd = format!("x{accented}");
    let lengths: Vec<usize> = records_of(&[&odd]).iter().map(String::len).collect();
    assert_eq!(lengths, [MAX_RECORD_BYTES - 1, MAX_RECORD_BYTES, 2]);
    let coloured = format!("{}\x1b[31mred\n", "x".repeat(MAX_RECORD_BYTES - 3));
    let records = records_of(&[&coloured]);
    assert_eq!(records[0].len(), MAX_RECORD_BYTES - 3, "the cut would have come after three bytes of the colour");
    assert_eq!(records[1], "\x1b[31mred\n");
}

#[test]
fn a_prompt_waits_for_no_clock_that_was_set_back() {
    let (mut framer, mut records) = (Framer::default(), Vec::new());
    let mut sink = |record: Record<'_>| records.push((record.text.to_owned(), record.at));
    framer.push(Stream::Stdout, "Password: ", at_ms(3_600_000), &mut sink);
    framer.idle(at_ms(1), Duration::milliseconds(500), &mut sink);
    assert_eq!(records, [("Password: ".to_owned(), at_ms(1))]);
}

#[test]
fn idle_text_comes_out_unterminated_and_its_line_goes_on_after_it() {
    let mut framer = Framer::default();
    let mut records = Vec::new();
    let mut sink = |record: Record<'_>| records.push((record.stream, record.text.to_owned(), record.at));
    framer.push(Stream::Stdout, "Password: ", at_ms(0), &mut sink);
    framer.push(Stream::Stderr, "half\x1b[3", at_ms(400), &mut sink);
    framer.idle(at_ms(499), Duration::milliseconds(500), &mut sink);
    framer.idle(at_ms(500), Duration::milliseconds(500), &mut sink);
    framer.idle(at_ms(900), Duration::milliseconds(500), &mut sink);
    framer.push(Stream::Stderr, "1mred\n", at_ms(950), &mut sink);
    framer.push(Stream::Stdout, "\n", at_ms(960), &mut sink);
    let expected = [
        (Stream::Stdout, "Password: ".to_owned(), at_ms(500)),
        (Stream::Stderr, "half".to_owned(), at_ms(900)),
        (Stream::Stderr, "\x1b[31mred\n".to_owned(), at_ms(950)),
        (Stream::Stdout, "\n".to_owned(), at_ms(960)),
    ];
    assert_eq!(records, expected);
}

#[test]
fn records_of_one_stream_share_a_chunk_until_the_other_speaks() {
    let mut chunker = Chunker::new(PLENTY);
    for (stream, text) in
        [(Stream::Stdout, "1\n"), (Stream::Stdout, "2\n"), (Stream::Stderr, "3\n"), (Stream::Stdout, "4\n")]
    {
        chunker.record(line(stream, text));
    }
    let chunks = chunker.drain(PLENTY);
    let seen: Vec<_> =
        chunks.iter().map(|chunk| (chunk.seq, chunk.seq_to, chunk.stream, chunk.text.as_str())).collect();
    let expected = [(0, 1, Stream::Stdout, "1\n2\n"), (2, 2, Stream::Stderr, "3\n"), (3, 3, Stream::Stdout, "4\n")];
    assert_eq!(seen, expected);
    assert_eq!(chunker.last_seq(), 3);
    assert_eq!(chunker.waiting_bytes(), 0);
}

#[test]
fn a_chunk_that_was_handed_out_never_grows() {
    let mut chunker = Chunker::new(PLENTY);
    chunker.record(line(Stream::Stdout, "1\n"));
    let first = chunker.drain(PLENTY);
    chunker.record(line(Stream::Stdout, "2\n"));
    let second = chunker.drain(PLENTY);
    assert_eq!((first[0].seq_to, second[0].seq), (0, 1));
}

#[test]
fn a_chunk_is_ripe_when_it_is_half_full_or_when_another_one_has_begun() {
    let mut chunker = Chunker::new(PLENTY);
    let text = "x".repeat(MAX_CHUNK_BYTES / 4);
    chunker.record(line(Stream::Stdout, &text));
    assert!(!chunker.is_ripe() && chunker.drain_ripe(PLENTY).is_empty());
    chunker.record(line(Stream::Stdout, &text));
    assert!(chunker.is_ripe());
    assert_eq!(chunker.drain_ripe(PLENTY).len(), 1);
    // Tried: a short one that another stream has ended, and the beginning of that stream's own.
    chunker.record(line(Stream::Stdout, "1\n"));
    chunker.record(line(Stream::Stderr, "2\n"));
    assert!(chunker.is_ripe());
    let ended: Vec<String> = chunker.drain_ripe(PLENTY).into_iter().map(|chunk| chunk.text).collect();
    assert_eq!((ended, chunker.is_ripe()), (vec!["1\n".to_owned()], false));
    assert_eq!(chunker.drain(PLENTY).len(), 1, "it is handed out with all there is");
}

#[test]
fn drain_keeps_to_its_bound_but_always_makes_progress() {
    let mut chunker = Chunker::new(PLENTY);
    let text = "x".repeat(MAX_RECORD_BYTES);
    for _ in 0..3 * MAX_CHUNK_BYTES / MAX_RECORD_BYTES {
        chunker.record(line(Stream::Stdout, &text));
    }
    assert_eq!(chunker.drain(1).len(), 1, "one chunk even when it is larger than the bound");
    assert_eq!(chunker.drain(2 * MAX_CHUNK_BYTES).len(), 2);
    assert_eq!(chunker.drain(PLENTY), []);
}

#[test]
fn a_full_waiting_room_refuses_counts_and_leaves_one_gap_for_each_stream() {
    let mut chunker = Chunker::new(1000);
    let text = "x".repeat(400);
    chunker.record(line(Stream::Stdout, &text));
    for stream in [Stream::Stdout, Stream::Stderr, Stream::Stdout] {
        chunker.record(line(stream, &text.repeat(2)));
    }
    assert!(chunker.waiting_bytes() <= 1000);
    assert_eq!((chunker.counters().refused_records, chunker.counters().refused_bytes), (3, 2400));
    chunker.record(line(Stream::Stdout, "small, but nothing may overtake what was refused\n"));
    let before: Vec<Chunk> = chunker.drain(PLENTY);
    chunker.record(line(Stream::Stdout, "after\n"));
    let after = chunker.drain(PLENTY);
    assert_eq!(before.len(), 1);
    let overflow = |bytes| ChunkKind::Gap(Gap { kind: GapKind::Overflow, bytes: Some(bytes) });
    let seen: Vec<_> = after.iter().map(|chunk| (chunk.seq, chunk.stream, chunk.kind)).collect();
    let expected =
        [(1, Stream::Stdout, overflow(1649)), (2, Stream::Stderr, overflow(800)), (3, Stream::Stdout, ChunkKind::Text)];
    assert_eq!(seen, expected);
    assert_eq!(
        after[0].text,
        "[tendril: 1649 bytes of output are missing here: it came faster than it could be stored]\n"
    );
    assert_eq!(chunker.counters().gaps, 2);
}

#[test]
fn what_tendril_itself_has_to_say_finds_room_when_all_else_is_refused() {
    let mut chunker = Chunker::new(1000);
    for _ in 0..3 {
        chunker.record(line(Stream::Stdout, &"x".repeat(600)));
    }
    chunker.record(line(Stream::System, "the state lies there\n"));
    assert_eq!(chunker.counters().refused_records, 2);
    let text: Vec<String> = chunker.drain(PLENTY).into_iter().map(|chunk| chunk.text).collect();
    assert_eq!(text.last().unwrap(), "the state lies there\n");
    for _ in 0..10_000 {
        chunker.record(line(Stream::System, &"x".repeat(600)));
    }
    assert!(chunker.waiting_bytes() <= 1000 + SYSTEM_BYTES, "and is bounded all the same");
}

#[test]
fn records_are_taken_again_only_when_half_of_the_waiting_room_is_free() {
    let mut chunker = Chunker::new(1000);
    for stream in [Stream::Stdout, Stream::Stderr, Stream::Stdout, Stream::Stderr, Stream::Stdout] {
        chunker.record(line(stream, &"x".repeat(100)));
    }
    assert_eq!((chunker.counters().records, chunker.counters().refused_records), (4, 1));
    chunker.drain(0);
    assert!(chunker.waiting_bytes() > 500);
    chunker.record(line(Stream::Stdout, "it would fit, but less than half is free\n"));
    assert_eq!((chunker.counters().records, chunker.counters().refused_records), (4, 2));
    chunker.drain(0);
    assert!(chunker.waiting_bytes() <= 500 + 300, "half was free, and the gap took some of it");
    chunker.record(line(Stream::Stdout, "taken\n"));
    assert_eq!((chunker.counters().records, chunker.counters().refused_records), (5, 2));
}

#[test]
fn the_last_number_counts_a_gap_that_is_still_owed_at_the_end() {
    let mut chunker = Chunker::new(10);
    chunker.record(line(Stream::Stdout, "does not fit\n"));
    assert_eq!(chunker.last_seq(), -1);
    chunker.finish();
    assert_eq!(chunker.last_seq(), 0);
    assert_eq!(chunker.drain(0).len(), 1);
}

#[test]
fn a_gap_of_unknown_size_says_so() {
    let mut chunker = Chunker::new(PLENTY);
    chunker.gap(Stream::Stderr, Gap { kind: GapKind::Lost, bytes: None }, at_ms(5));
    let chunks = chunker.drain(PLENTY);
    assert_eq!(chunks[0].text, "[tendril: output is missing here: it was lost before it was stored for good]\n");
    assert_eq!((chunks[0].seq, chunks[0].seq_to), (0, 0));
    assert_eq!((chunks[0].gap_kind(), chunks[0].gap_bytes()), (Some("lost"), None));
}

/// Text such as the sanitiser gives, with lines around the bound and colours anywhere.
fn sanitised_text() -> impl Strategy<Value = String> {
    let token = prop_oneof![
        Just("\n".to_owned()),
        Just("\x1b[38;2;10;20;30m".to_owned()),
        Just("\x1b[0m".to_owned()),
        "[a-zé😀 ]{0,20}",
        (MAX_RECORD_BYTES - 20..MAX_RECORD_BYTES + 20).prop_map(|len| "x".repeat(len)),
    ];
    prop::collection::vec(token, 0..12).prop_map(|tokens| tokens.concat())
}

fn is_within_a_colour(text: &str, at: usize) -> bool {
    text[..at].rfind('\x1b').is_some_and(|esc| !text[esc..at].contains('m'))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn records_put_together_are_the_text_however_it_was_split(
        text in sanitised_text(),
        places in prop::collection::vec(any::<usize>(), 0..6),
    ) {
        let whole = records_of(&[&text]);
        prop_assert_eq!(whole.concat(), text.as_str());
        let mut end = 0;
        for record in &whole {
            end += record.len();
            prop_assert!(!record.is_empty() && record.len() <= MAX_RECORD_BYTES);
            prop_assert!(!is_within_a_colour(&text, end));
        }
        let mut places: Vec<usize> = places.iter().map(|place| text.floor_char_boundary(place % (text.len() + 1))).collect();
        places.sort_unstable();
        places.push(text.len());
        let mut from = 0;
        let pieces: Vec<&str> = places.iter().map(|&to| &text[std::mem::replace(&mut from, to)..to]).collect();
        prop_assert_eq!(records_of(&pieces), whole);
    }
}
