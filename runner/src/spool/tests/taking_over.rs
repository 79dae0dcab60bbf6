//! What an earlier process has left, and what the broker knows of it.

use super::*;

#[test]
fn the_next_process_sends_what_this_one_left_as_the_same_writer() {
    let folder = TempDir::new().unwrap();
    let writer = filled(&folder, ROOMY, &["a", "b"]).writer();
    let (spool, recovered) = Spool::open_dir(&folder.path().join("spool"), ROOMY, id(2), NOW).unwrap();
    assert_eq!((spool.writer(), recovered.logs, recovered.cut_off, recovered.broken_bytes), (writer, 1, 1, 0));
    assert!(spool.resume(&known(1, 0), NOW).is_empty());
    let rows = spool.take(usize::MAX);
    assert_eq!(rows[0].chunk.as_ref(), &chunk(1, "b"));
    assert_eq!(rows[0].whose, whose(1));
    let gap = &rows[1].chunk;
    assert_eq!((rows.len(), gap.seq, gap.gap_kind(), gap.gap_bytes()), (2, 2, Some("lost"), None));
}

#[test]
fn a_log_that_has_ended_gets_no_gap_and_one_that_is_stored_is_forgotten() {
    let folder = TempDir::new().unwrap();
    let spool = filled(&folder, ROOMY, &["a"]);
    spool.open(whose(2));
    put(&spool, 2, 0, &["x"]);
    spool.put(vec![], &[(id(1), 0), (id(2), 0)]).unwrap();
    spool.acknowledge(&stored(2, 0));
    // Whatever is written next says that the second one is done.
    spool.put(vec![], &[]).unwrap();
    drop(spool);
    let (spool, recovered) = open(&folder, ROOMY);
    assert_eq!((recovered.logs, recovered.cut_off), (1, 0));
    spool.resume(&known(1, -1), NOW);
    assert_eq!(sent(&spool), [(0, "a".into())]);
}

#[test]
fn a_log_without_a_line_that_was_cut_off_says_so() {
    let folder = TempDir::new().unwrap();
    let (spool, _) = open(&folder, ROOMY);
    spool.open(whose(1));
    spool.put(vec![], &[]).unwrap();
    drop(spool);
    let (spool, recovered) = open(&folder, ROOMY);
    assert_eq!(recovered.cut_off, 1);
    spool.resume(&known(1, -1), NOW);
    assert_eq!(spool.take(usize::MAX)[0].chunk.gap_kind(), Some("lost"));
    // And only once, although the next process finds the same again.
    drop(spool);
    let (spool, recovered) = open(&folder, ROOMY);
    assert_eq!(recovered.cut_off, 0);
    spool.resume(&known(1, -1), NOW);
    assert_eq!(sent(&spool).len(), 1);
}

#[test]
fn a_log_whose_end_was_reported_loses_the_gap_of_one_that_was_cut_off_and_nothing_else() {
    let folder = TempDir::new().unwrap();
    drop(filled(&folder, ROOMY, &["a", "b"]));
    // Twice: the gap of the first time stands in the spool already.
    for _ in 0..2 {
        let (spool, _) = open(&folder, ROOMY);
        spool.resume(&known(1, 0), NOW);
        assert_eq!(kinds(&spool), [(1, 1, None), (2, 2, Some("lost"))]);
        // The report of the earlier process arrived in the meantime.
        spool.resume(&ended(1, 0, 1), NOW);
        assert_eq!(kinds(&spool), [(1, 1, None)]);
        assert!(spool.is_recovered(id(1)));
    }
    let (spool, _) = open(&folder, ROOMY);
    spool.resume(&ended(1, 1, 1), NOW);
    assert_eq!((spool.level().logs, spool.level().memory_bytes), (0, 0), "all of it is stored");
}

#[test]
fn a_log_whose_report_was_written_before_its_end_was_gets_no_gap_for_what_it_never_had() {
    let folder = TempDir::new().unwrap();
    drop(filled(&folder, ROOMY, &["a", "b"]));
    for _ in 0..2 {
        // Tried: the report says that it ends there; the broker has not heard of it yet.
        let (spool, recovered) = open(&folder, ROOMY);
        assert_eq!(recovered.logs, 1);
        spool.end_at(id(1), 1);
        spool.resume(&known(1, 0), NOW);
        assert_eq!(kinds(&spool), [(1, 1, None)]);
    }
    // What was only in the memory of the lost process is missing, up to the reported end and no further.
    let (spool, _) = open(&folder, ROOMY);
    spool.end_at(id(1), 4);
    spool.resume(&known(1, 1), NOW);
    let missing: Vec<_> = kinds(&spool).into_iter().map(|(from, to, kind)| (from, to, kind.is_some())).collect();
    assert_eq!(missing.first().map(|gap| gap.0), Some(2));
    assert_eq!(missing.last().map(|gap| gap.1), Some(4));
    assert!(missing.iter().all(|gap| gap.2), "{missing:?}");
    spool.acknowledge(&stored(1, 4));
    assert_eq!((spool.level().logs, spool.level().memory_bytes), (0, 0));
}

#[test]
fn a_log_whose_end_was_reported_and_destroyed_gets_a_gap_of_exactly_its_numbers() {
    let folder = TempDir::new().unwrap();
    drop(filled(&folder, ROOMY, &["a", "b"]));
    let (spool, _) = open(&folder, ROOMY);
    spool.resume(&ended(1, 0, 6), NOW);
    assert_eq!(kinds(&spool), [(1, 1, None), (2, 6, Some("lost"))]);
    // The broker may have more of it than the spool.
    let (spool, _) = open(&folder, ROOMY);
    spool.resume(&ended(1, 4, 6), NOW);
    assert_eq!(kinds(&spool), [(5, 6, Some("lost"))]);
    spool.acknowledge(&stored(1, 6));
    assert_eq!((spool.level().logs, spool.level().memory_bytes, spool.level().waiting_bytes), (0, 0, 0));
}

#[test]
fn a_log_of_which_nothing_is_left_is_told_as_lost_up_to_its_end() {
    let folder = TempDir::new().unwrap();
    let (spool, _) = open(&folder, ROOMY);
    // Tried as well: one that is whole, one that printed nothing, one whose end nobody knows.
    spool.resume(&[ended(1, 2, 9), ended(2, 5, 5), ended(3, -1, -1), known(4, 3)].concat(), NOW);
    let rows = spool.take(usize::MAX);
    assert_eq!(rows.iter().map(|row| row.whose.clone()).collect::<Vec<_>>(), [whose(1)]);
    assert_eq!(kinds(&spool), [(3, 9, Some("lost"))]);
    // Asked twice it is told once, and the next process knows of it, too.
    spool.resume(&ended(1, 2, 9), NOW);
    assert_eq!(kinds(&spool), [(3, 9, Some("lost"))]);
    spool.acknowledge(&stored(1, 9));
    assert_eq!((spool.level().logs, spool.level().memory_bytes, spool.level().waiting_bytes), (0, 0, 0));
}

#[test]
fn the_end_of_a_log_that_this_process_runs_is_its_own_to_tell() {
    let folder = TempDir::new().unwrap();
    // Its report was committed, and the collector has not brought the last lines yet.
    let spool = filled(&folder, ROOMY, &["a"]);
    spool.resume(&ended(1, -1, 1), NOW);
    assert_eq!(sent(&spool), [(0, "a".into())]);
    put(&spool, 1, 1, &["b"]);
    assert_eq!(sent(&spool), [(0, "a".into()), (1, "b".into())]);
}

#[test]
fn a_log_that_was_cut_off_says_so_behind_what_is_stored_also_where_the_spool_lost_its_end() {
    let folder = TempDir::new().unwrap();
    drop(filled(&folder, ROOMY, &["a", "b"]));
    let (spool, recovered) = open(&folder, ROOMY);
    assert_eq!(recovered.cut_off, 1);
    // The broker has three more than the spool.
    spool.resume(&known(1, 4), NOW);
    assert_eq!(kinds(&spool), [(5, 5, Some("lost"))]);
    // The reply to that was lost, and it is stored: once is enough.
    spool.resume(&known(1, 5), NOW);
    assert_eq!((kinds(&spool), spool.level().logs, spool.level().memory_bytes), (vec![], 0, 0));
}

#[test]
fn a_log_goes_on_behind_what_the_broker_has_of_it_also_where_the_spool_was_lost_or_lost_its_end() {
    // What the spool has: nothing, less than the broker, or just so much that its gap has the number of a row.
    for texts in [&[][..], &["a"], &["a", "b"], &["a", "b", "c", "d"]] {
        let folder = TempDir::new().unwrap();
        if !texts.is_empty() {
            drop(filled(&folder, ROOMY, texts));
        }
        let (spool, _) = open(&folder, ROOMY);
        spool.reopen(id(1));
        spool.resume(&known(1, 4), NOW);
        assert_eq!(spool.go_on(whose(1)), (5, true), "{texts:?}");
        put(&spool, 1, 5, &["the rest"]);
        // A second takeover says no more of what was sent before.
        spool.resume(&known(1, 4), NOW);
        assert_eq!(sent(&spool), [(5, "the rest".into())], "{texts:?}");
    }
}

#[test]
fn a_reopened_log_that_had_ended_gets_the_end_that_the_broker_knows() {
    // Beside it: the broker does not know it any more, and the log ends where the spool has it end.
    for (standing, expected) in
        [(&ended(1, 0, 3)[..], vec![(1, 1, None), (2, 2, Some("lost")), (3, 3, Some("lost"))]), (&[], vec![])]
    {
        let folder = TempDir::new().unwrap();
        drop(filled(&folder, ROOMY, &["a", "b"]));
        let (spool, _) = open(&folder, ROOMY);
        spool.reopen(id(1));
        spool.resume(standing, NOW);
        spool.leave(id(1), NOW);
        // Those of which the broker knows nothing are given up by the next takeover.
        spool.resume(standing, NOW);
        assert_eq!(kinds(&spool), expected);
        spool.acknowledge(&stored(1, 3));
        assert_eq!(spool.level().logs, 0);
    }
}

#[test]
fn a_log_whose_command_lives_on_goes_on_behind_its_gap_also_for_the_process_after() {
    let folder = TempDir::new().unwrap();
    drop(filled(&folder, ROOMY, &["a"]));
    let mut expected = vec![(0, 0, None)];
    for restart in 1..=3 {
        let (spool, recovered) = open(&folder, ROOMY);
        assert_eq!((recovered.logs, recovered.cut_off), (1, 1), "restart {restart}");
        spool.reopen(id(1));
        // The broker has heard of the end of nothing, and of this log only what was sent.
        assert!(spool.resume(&known(1, -1), NOW).is_empty());
        let (next, is_lost) = spool.go_on(whose(1));
        assert!(!is_lost, "its gap says so");
        expected.extend([(next - 1, next - 1, Some("lost")), (next, next, None)]);
        assert_eq!(next, 2 * restart);
        put(&spool, 1, next, &["more"]);
        assert_eq!(kinds(&spool), expected);
    }
    let (spool, _) = open(&folder, ROOMY);
    spool.reopen(id(1));
    let (next, _) = spool.go_on(whose(1));
    spool.put(vec![(id(1), vec![chunk(next, "the end")])], &[(id(1), next)]).unwrap();
    spool.acknowledge(&stored(1, next));
    assert_eq!((spool.level().logs, spool.level().memory_bytes, spool.level().waiting_bytes), (0, 0, 0));
}

#[test]
fn a_log_that_is_closed_meanwhile_is_given_up() {
    let folder = TempDir::new().unwrap();
    drop(filled(&folder, ROOMY, &["abc"]));
    let (spool, _) = open(&folder, ROOMY);
    let given_up = spool.resume(&[], NOW);
    assert!(given_up.len() == 1 && given_up[0].0 == id(1) && given_up[0].1 >= 3);
    assert!(spool.is_empty());
    // One that this process runs may have been claimed after the positions were read.
    spool.open(whose(2));
    put(&spool, 2, 0, &["x"]);
    assert!(spool.resume(&[], NOW).is_empty());
    assert_eq!(sent(&spool).len(), 1);
}

#[test]
fn a_log_that_goes_on_before_the_broker_was_heard_gives_no_number_twice() {
    // What the spool has: nothing, less than the broker (up to 4), or more.
    for texts in [&[][..], &["a"], &["a", "b", "c", "d", "e", "f", "g"]] {
        let folder = TempDir::new().unwrap();
        if !texts.is_empty() {
            drop(filled(&folder, ROOMY, texts));
        }
        let (spool, _) = open(&folder, ROOMY);
        spool.reopen(id(1));
        let (next, is_lost) = spool.go_on(whose(1));
        assert!(next > 1_000_000_000 && !is_lost, "the gap in between says so");
        put(&spool, 1, next, &["more"]);
        // Tried as well: this process is killed before it is heard, and the next one does not hear anything either.
        drop(spool);
        let (spool, _) = open(&folder, ROOMY);
        spool.reopen(id(1));
        let (last, _) = spool.go_on(whose(1));
        assert!(last > next);
        spool.put(vec![(id(1), vec![chunk(last, "the end")])], &[(id(1), last)]).unwrap();
        spool.resume(&known(1, 4), NOW);
        let rows = spool.take(usize::MAX);
        let mut expected = 5;
        for row in &rows {
            assert_eq!(row.chunk.seq, expected, "{texts:?}");
            expected = row.chunk.seq_to + 1;
        }
        let text: Vec<&str> =
            rows.iter().filter(|row| row.chunk.gap_kind().is_none()).map(|row| &*row.chunk.text).collect();
        let known_before = texts.get(5..).unwrap_or_default();
        assert_eq!(text, [known_before, &["more", "the end"]].concat(), "{texts:?}");
        assert!(rows.iter().any(|row| row.chunk.seq_to == next - 1 && row.chunk.gap_kind() == Some("lost")));
        spool.acknowledge(&stored(1, last));
        assert_eq!((spool.level().logs, spool.level().memory_bytes, spool.level().waiting_bytes), (0, 0, 0));
    }
}

#[test]
fn a_gap_among_chunks_that_the_disk_does_not_take_is_written_with_them() {
    let folder = TempDir::new().unwrap();
    drop(filled(&folder, ROOMY, &["a"]));
    let (spool, _) = open(&folder, ROOMY);
    spool.reopen(id(1));
    let (dir, away) = (folder.path().join("spool"), folder.path().join("away"));
    std::fs::rename(&dir, &away).unwrap();
    spool.inner().active = None;
    assert!(spool.put(vec![(id(1), vec![chunk(2, "b")])], &[]).is_err());
    let (next, _) = spool.go_on(whose(1));
    assert!(spool.put(vec![(id(1), vec![chunk(next, "c")])], &[]).is_err());
    spool.resume(&known(1, -1), NOW);
    let expected = [(0, 0, None), (1, 1, Some("lost")), (2, 2, None), (3, next - 1, Some("lost")), (next, next, None)];
    assert_eq!(kinds(&spool), expected);
    std::fs::rename(&away, &dir).unwrap();
    spool.put(vec![], &[(id(1), next)]).unwrap();
    assert!(spool.has_all_of(id(1)));
    assert_eq!(kinds(&spool), expected);
    drop(spool);
    let (spool, _) = open(&folder, ROOMY);
    spool.resume(&known(1, 1), NOW);
    assert_eq!(kinds(&spool), expected[2..]);
    spool.acknowledge(&stored(1, next));
    assert_eq!((spool.level().logs, spool.level().memory_bytes, spool.level().waiting_bytes), (0, 0, 0));
}
