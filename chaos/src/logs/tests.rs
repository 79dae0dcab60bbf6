//! Hand-made evidence: a sound one, and for each promise one that breaks it.

use uuid::Uuid;

use super::check::check;
use super::corrupt::Destroyed;
use super::evidence::{Allowed, Archived, Attempt, Capped, Evidence, Row, SlowLine};
use super::op::LogOp;
use super::script::Script;

fn row(seq: i64, seq_to: i64, stream: &str, text: &str) -> Row {
    Row { seq, seq_to, stream: stream.into(), text: text.into(), gap_kind: None, gap_bytes: None }
}

fn gap(seq: i64, stream: &str, kind: &str, bytes: Option<u64>) -> Row {
    Row {
        gap_kind: Some(kind.into()),
        gap_bytes: bytes,
        ..row(seq, seq, stream, "[tendril: output is missing here]\n")
    }
}

/// Six lines of output, two of errors, all stored.
fn sound() -> Evidence {
    let stdout = "one\ntwo\nthree\nfour\nfive\nsix\n";
    let rows = vec![
        row(0, 1, "stdout", "one\ntwo\n"),
        row(2, 2, "stderr", "oh\n"),
        row(3, 4, "stdout", "three\nfour\n"),
        row(5, 5, "system", "started\n"),
        row(6, 7, "stdout", "five\nsix\n"),
        row(8, 8, "stderr", "no"),
    ];
    let attempt = Attempt {
        id: Uuid::from_u128(1),
        script: Script { seed: 1, number: 0, bytes: 1, ms: 1, noise: false },
        stdout: stdout.into(),
        stderr: "oh\nno".into(),
        ended: true,
        outlives: false,
        owed: None,
        destroyed: None,
        log_end: Some(8),
        log_state: "complete".into(),
        seen_before: rows[..2].to_vec(),
        archived: None,
        rows,
    };
    Evidence {
        op: LogOp::None,
        seed: 1,
        acts: vec![],
        allowed: Allowed::default(),
        attempts: vec![attempt],
        without_attempt: 0,
        slow: None,
    }
}

fn found(change: impl FnOnce(&mut Evidence)) -> Vec<String> {
    let mut evidence = sound();
    change(&mut evidence);
    check(&evidence).violations
}

fn attempt(evidence: &mut Evidence) -> &mut Attempt {
    &mut evidence.attempts[0]
}

fn is_found(what: &str, change: impl FnOnce(&mut Evidence)) {
    let found = found(change);
    assert!(found.iter().any(|violation| violation.contains(what)), "{what}: {found:?}");
}

#[test]
fn a_sound_log_holds() {
    assert_eq!(found(|_| {}), Vec::<String>::new());
    let verdict = check(&sound());
    assert_eq!((verdict.lines, verdict.gaps.len()), (8, 0));
}

#[test]
fn lost_doubled_invented_and_changed_rows_are_found() {
    is_found("missing", |e| drop(attempt(e).rows.remove(1)));
    is_found("stored twice", |e| {
        let again = attempt(e).rows[0].clone();
        attempt(e).rows.insert(1, again);
    });
    is_found("beyond the log's end", |e| attempt(e).rows.push(row(9, 9, "stdout", "seven\n")));
    is_found("was not printed", |e| attempt(e).rows[2].text = "three\nFour\n".into());
    is_found("lacks the end", |e| attempt(e).stdout.push_str("seven\n"));
    is_found("had been read", |e| attempt(e).seen_before[1].text = "ah\n".into());
    is_found("rows end at", |e| attempt(e).log_end = Some(9));
    is_found("never came to its end", |e| attempt(e).log_end = None);
    is_found("holds a secret", |e| attempt(e).rows[0].text = format!("{}\n", super::script::SECRET));
    is_found("no attempt", |e| e.without_attempt = 1);
    let slow = |fresh, stored, late, sessions| SlowLine { fresh, stored, late, sessions };
    is_found("2 batches took longer", |e| e.slow = Some(slow(false, 3, 2, 0)));
    is_found("2 batches took longer", |e| e.slow = Some(slow(false, 3, 1, 1)));
    is_found("1 batches took longer", |e| e.slow = Some(slow(true, 9, 1, 0)));
    is_found("1 batches took longer", |e| e.slow = Some(slow(true, 9, 0, 1)));
    is_found("3 batches were stored", |e| e.slow = Some(slow(true, 3, 0, 0)));
    for sound in [slow(false, 0, 1, 0), slow(false, 0, 0, 1), slow(true, 4, 0, 0)] {
        assert_eq!(found(|e| e.slow = Some(sound)), Vec::<String>::new());
    }
}

/// "three, four" were lost; `bytes` is what the gap says.
fn overflowed(e: &mut Evidence, bytes: Option<u64>) {
    e.allowed.overflow = Some(1);
    let attempt = attempt(e);
    attempt.rows[2] = gap(3, "stdout", "overflow", bytes);
    for row in &mut attempt.rows[3..] {
        (row.seq, row.seq_to) = (row.seq - 1, row.seq_to - 1);
    }
    attempt.log_end = Some(7);
}

#[test]
fn a_gap_says_how_much_is_missing_where_and_why() {
    assert_eq!(found(|e| overflowed(e, Some(11))), Vec::<String>::new());
    is_found("behind a gap of 10 bytes", |e| overflowed(e, Some(10)));
    // The same of nobody knows which stream.
    is_found("gaps tell of 10 bytes, and 11 are missing", |e| {
        overflowed(e, Some(10));
        attempt(e).rows[2].stream = "system".into();
    });
    is_found("a gap (overflow)", |e| overflowed(e, None));
    is_found("a gap (overflow)", |e| {
        overflowed(e, Some(11));
        e.allowed.overflow = None;
    });
    // What follows the gap is not what was printed after it.
    is_found("was not printed", |e| {
        overflowed(e, Some(11));
        attempt(e).rows[4].text = "one\ntwo\n".into();
    });
    // A log that has reached its bound holds the beginning and the end.
    let capped = |e: &mut Evidence, cap_bytes: u64, tail_bytes: u64| {
        overflowed(e, Some(11));
        e.allowed.capped = Some(Capped { cap_bytes, tail_bytes });
        attempt(e).rows[2].gap_kind = Some("capped".into());
    };
    // "one, two, oh" are 11 bytes, "five, six, no" are 11 too.
    assert_eq!(found(|e| capped(e, 11, 11)), Vec::<String>::new());
    is_found("11 bytes of the beginning", |e| capped(e, 11 + (16 << 10), 11));
    is_found("11 bytes of the beginning", |e| capped(e, 10, 11));
    is_found("and 11 of the end", |e| capped(e, 11, 10));
    is_found("and 11 of the end", |e| capped(e, 11, 11 + 2 * 64 + (32 << 10)));
    is_found("no gap says so", |e| {
        e.op = LogOp::SpoolFull;
        e.allowed.overflow = Some(1);
    });
    // Output was dropped although there was room for more than is stored.
    is_found("there was room for 40", |e| {
        overflowed(e, Some(11));
        e.allowed.overflow = Some(40);
    });
}

#[test]
fn what_is_destroyed_in_the_spool_is_a_gap_of_exactly_that() {
    let broken = |e: &mut Evidence| {
        attempt(e).rows[2] = Row { seq_to: 4, ..gap(3, "system", "lost", None) };
        attempt(e).destroyed = Some(Destroyed { chunks: vec![(3, 4)], ..Destroyed::default() });
    };
    assert_eq!(found(broken), Vec::<String>::new());
    is_found("a gap (lost)", |e| {
        broken(e);
        attempt(e).destroyed = Some(Destroyed { chunks: vec![(3, 3)], ..Destroyed::default() });
    });
}

#[test]
fn a_log_that_was_cut_off_says_so_and_holds_what_was_in_the_spool() {
    let cut = |e: &mut Evidence| {
        e.allowed.cut_off = true;
        let attempt = attempt(e);
        attempt.rows.truncate(3);
        attempt.rows.push(gap(5, "system", "lost", None));
        (attempt.log_end, attempt.ended) = (None, false);
        attempt.owed = Some((19, 3));
    };
    assert_eq!(found(cut), Vec::<String>::new());
    is_found("a gap (lost)", |e| {
        cut(e);
        e.allowed.cut_off = false;
    });
    is_found("no gap says so", |e| {
        cut(e);
        attempt(e).rows.pop();
    });
    let owed = |e: &mut Evidence, destroyed: u64| {
        cut(e);
        attempt(e).owed = Some((100_000, 3));
        attempt(e).destroyed = Some(Destroyed { bytes: destroyed, ..Destroyed::default() });
    };
    is_found("in the spool for certain", |e| owed(e, 0));
    // Of what was damaged all is owed but the records that were hit.
    is_found("in the spool for certain", |e| owed(e, 50_000));
    assert_eq!(found(|e| owed(e, 90_000)), Vec::<String>::new());
    is_found("was not printed", |e| {
        cut(e);
        attempt(e).rows[0].text = "one\nTwo\n".into();
    });
}

/// The runner was killed behind "three, four", and the next process of its place went on; "five" was lost with it.
fn adopted(e: &mut Evidence) {
    e.allowed.cut_off = true;
    let attempt = attempt(e);
    attempt.outlives = true;
    attempt.rows.truncate(3);
    attempt.rows.extend([
        gap(5, "system", "lost", None),
        row(6, 6, "system", "tendril: the runner was lost; the next process of its place goes on\n"),
        row(7, 7, "stdout", "six\n"),
        row(8, 8, "stderr", "no"),
    ]);
}

#[test]
fn an_adopted_log_comes_to_its_end_behind_one_gap() {
    assert_eq!(found(adopted), Vec::<String>::new());
    is_found("never came to its end", |e| {
        adopted(e);
        attempt(e).log_end = None;
    });
    // Cut off before anybody could say that it goes on: the next process never came to it.
    is_found("never came to its end", |e| {
        adopted(e);
        attempt(e).rows.truncate(4);
        attempt(e).log_end = None;
    });
    is_found("rows end at 7, and the log at 8", |e| {
        adopted(e);
        attempt(e).rows.pop();
    });
    is_found("was not printed", |e| {
        adopted(e);
        attempt(e).stderr.push_str(", never");
    });
    // One record is cut off, not several; and no gap stands elsewhere.
    is_found("a gap (lost)", |e| {
        adopted(e);
        attempt(e).rows[3].seq_to = 6;
        for row in &mut attempt(e).rows[4..] {
            (row.seq, row.seq_to) = (row.seq + 1, row.seq_to + 1);
        }
        attempt(e).log_end = Some(9);
    });
    is_found("a gap (lost)", |e| {
        adopted(e);
        attempt(e).rows.swap(3, 4);
        (attempt(e).rows[3].seq, attempt(e).rows[3].seq_to) = (5, 5);
        (attempt(e).rows[4].seq, attempt(e).rows[4].seq_to) = (6, 6);
    });
}

#[test]
fn a_reported_end_is_reached_and_nothing_before_it_is_lost() {
    // The report says that the log ends with 5: all of it was in the spool by then.
    is_found("a gap (lost) of 5 to 5", |e| {
        e.allowed.cut_off = true;
        let attempt = attempt(e);
        attempt.rows.truncate(3);
        attempt.rows.push(gap(5, "system", "lost", None));
        attempt.log_end = Some(5);
    });
    // Where the spool had no room the report did not wait for ever; one gap stands up to the end it told, and behind it nothing.
    let ahead = |e: &mut Evidence, end: i64| {
        (e.allowed.cut_off, e.allowed.unspooled) = (true, true);
        let attempt = attempt(e);
        attempt.rows.truncate(3);
        attempt.rows.push(Row { seq_to: 8, ..gap(5, "system", "lost", None) });
        (attempt.log_end, attempt.ended) = (Some(end), false);
    };
    assert_eq!(found(|e| ahead(e, 8)), Vec::<String>::new());
    is_found("a gap (lost) of 5 to 8", |e| ahead(e, 9));
    is_found("a gap (lost) of 5 to 8", |e| {
        ahead(e, 9);
        attempt(e).rows.push(row(9, 9, "stdout", "seven\n"));
    });
    // What was destroyed of it is told by gaps up to its end: tried are the record of the end, and all of it.
    for destroyed in
        [Destroyed { end: true, ..Destroyed::default() }, Destroyed { all: true, end: true, ..Destroyed::default() }]
    {
        is_found("rows end at 5, and the log at 8", |e| {
            e.allowed.cut_off = true;
            let attempt = attempt(e);
            attempt.rows.truncate(3);
            attempt.rows.push(gap(5, "system", "lost", None));
            attempt.destroyed = Some(Destroyed { chunks: vec![(5, 8)], ..destroyed });
        });
    }
    // A child that was killed, and a report that says that its log is whole.
    is_found("lacks the end", |e| {
        e.allowed.cut_off = true;
        attempt(e).stdout.push_str("seven\n");
        attempt(e).ended = false;
    });
    is_found("lacks the end", |e| {
        e.allowed.cut_off = true;
        let attempt = attempt(e);
        (attempt.rows, attempt.seen_before) = (vec![], vec![]);
        (attempt.log_end, attempt.ended) = (Some(-1), false);
    });
}

#[test]
fn where_nothing_is_left_somebody_says_so_unless_nothing_had_come_to_the_spool() {
    let nothing = |e: &mut Evidence, owed: Option<(u64, u64)>| {
        e.allowed.cut_off = true;
        let attempt = attempt(e);
        (attempt.rows, attempt.seen_before) = (vec![], vec![]);
        (attempt.log_end, attempt.ended, attempt.owed) = (None, false, owed);
    };
    assert_eq!(found(|e| nothing(e, None)), Vec::<String>::new());
    is_found("nothing of it is left", |e| nothing(e, Some((8, 3))));
    is_found("nothing of it is left", |e| {
        nothing(e, Some((8, 3)));
        attempt(e).destroyed = Some(Destroyed { chunks: vec![(0, 4)], end: true, all: false, ..Destroyed::default() });
    });
    let destroyed = |e: &mut Evidence| {
        nothing(e, Some((8, 3)));
        attempt(e).destroyed = Some(Destroyed { chunks: vec![(0, 4)], end: true, all: true, ..Destroyed::default() });
    };
    assert_eq!(found(destroyed), Vec::<String>::new());
    is_found("never came to its end", |e| {
        nothing(e, None);
        e.allowed.cut_off = false;
    });
}

#[test]
fn a_gap_tells_of_its_own_stream_and_stands_in_its_place() {
    // "two" of one stream, "oh" of the other.
    let two = |e: &mut Evidence, stdout: u64, stderr: u64| {
        e.allowed.overflow = Some(1);
        let attempt = attempt(e);
        attempt.rows[0] = row(0, 0, "stdout", "one\n");
        attempt.rows.insert(1, gap(1, "stdout", "overflow", Some(stdout)));
        attempt.rows[2] = gap(2, "stderr", "overflow", Some(stderr));
        attempt.seen_before.clear();
    };
    assert_eq!(found(|e| two(e, 4, 3)), Vec::<String>::new());
    // The sum is right, and each is wrong.
    is_found("was not printed", |e| two(e, 3, 4));
    // Behind what follows it: at the end, where nothing is missing.
    is_found("stdout", |e| {
        two(e, 4, 3);
        let last = attempt(e).rows.remove(1);
        attempt(e).rows.push(last);
        let mut next = 0;
        for row in &mut attempt(e).rows {
            let records = row.seq_to - row.seq;
            (row.seq, row.seq_to) = (next, next + records);
            next += records + 1;
        }
    });
}

#[test]
fn a_log_is_in_the_archive_once_and_reads_the_same_there() {
    let archived = |e: &mut Evidence| {
        let rows = attempt(e).rows.clone();
        let state = Some("stored".into());
        attempt(e).archived =
            Some(Archived { state, objects: 1, whole: true, in_database: false, left_early: false, rows });
    };
    let but = |e: &mut Evidence, change: &dyn Fn(&mut Archived)| {
        archived(e);
        change(attempt(e).archived.as_mut().expect("it was just put there"));
    };
    assert_eq!(found(archived), Vec::<String>::new());
    is_found("before it was archived", |e| but(e, &|log| log.left_early = true));
    is_found("was not archived", |e| but(e, &|log| log.state = Some("waiting".into())));
    is_found("2 objects", |e| but(e, &|log| log.objects = 2));
    is_found("whole: false", |e| but(e, &|log| log.whole = false));
    is_found("was not removed", |e| but(e, &|log| log.in_database = true));
    is_found("another", |e| but(e, &|log| log.rows[2].text = "three\nFour\n".into()));
    is_found("5 rows are read instead of 6", |e| but(e, &|log| drop(log.rows.pop())));
}
