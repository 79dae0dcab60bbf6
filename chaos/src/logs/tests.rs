//! Hand-made evidence: a sound one, and for each promise one that breaks it.

use uuid::Uuid;

use super::check::check;
use super::corrupt::Destroyed;
use super::evidence::{Allowed, Archived, Attempt, Evidence, Row};
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
}

/// "three, four" were lost; `bytes` is what the gap says.
fn overflowed(e: &mut Evidence, bytes: Option<u64>) {
    e.allowed.overflow = true;
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
    is_found("gaps tell of 10 bytes, and 11 are missing", |e| overflowed(e, Some(10)));
    is_found("a gap (overflow)", |e| overflowed(e, None));
    is_found("a gap (overflow)", |e| {
        overflowed(e, Some(11));
        e.allowed.overflow = false;
    });
    // What follows the gap is not what was printed after it.
    is_found("was not printed", |e| {
        overflowed(e, Some(11));
        attempt(e).rows[4].text = "one\ntwo\n".into();
    });
    // A log that has reached its bound holds the beginning and the end.
    let capped = |e: &mut Evidence| {
        overflowed(e, Some(11));
        e.allowed.capped = true;
        attempt(e).rows[2].gap_kind = Some("capped".into());
    };
    assert_eq!(found(capped), Vec::<String>::new());
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
    is_found("in the spool for certain", |e| {
        cut(e);
        attempt(e).owed = Some((100_000, 3));
    });
    is_found("was not printed", |e| {
        cut(e);
        attempt(e).rows[0].text = "one\nTwo\n".into();
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
