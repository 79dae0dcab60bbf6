use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tempfile::TempDir;
use tendril_broker::runner::Lease;
use time::Date;

use super::*;
use crate::logs::{ChunkKind, Stream};

const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;
const ROOMY: Limits = Limits { disk_bytes: 1 << 30, memory_bytes: 1 << 20, max_age: Duration::from_secs(3600) };
/// Nothing stays in memory: all that is sent has been read from disk.
const DISK_ONLY: Limits = Limits { memory_bytes: 0, ..ROOMY };

fn id(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

fn whose(n: u128) -> Arc<Whose> {
    let lease = Lease { attempt_id: id(n), fence: 7 };
    let claim_day = Date::from_ordinal_date(2026, 100).unwrap();
    Arc::new(Whose { deployment_id: id(1000 + n), lease, claim_day, job: format!("job-{n}"), ordinal: 2 })
}

fn chunk(seq: i64, text: &str) -> Chunk {
    Chunk { seq, seq_to: seq, stream: Stream::Stdout, text: text.into(), ts: NOW, kind: ChunkKind::Text }
}

fn open(folder: &TempDir, limits: Limits) -> (Spool, Recovered) {
    Spool::open_dir(&folder.path().join("spool"), limits, id(1), NOW).unwrap()
}

/// A spool with a log of these texts, each a chunk.
fn filled(folder: &TempDir, limits: Limits, texts: &[&str]) -> Spool {
    let (spool, _) = open(folder, limits);
    spool.open(whose(1));
    put(&spool, 1, 0, texts);
    spool
}

fn put(spool: &Spool, log: u128, from: i64, texts: &[&str]) {
    let chunks = (from..).zip(texts).map(|(seq, text)| chunk(seq, text)).collect();
    spool.put(vec![(id(log), chunks)], &[]).unwrap();
}

fn stored(log: u128, seq: i64) -> BTreeMap<Uuid, i64> {
    BTreeMap::from([(id(log), seq)])
}

/// What the broker says of an open log that was stored so far.
fn known(log: u128, seq: i64) -> [Standing; 1] {
    [Standing { whose: whose(log).as_ref().clone(), stored: seq, end: None }]
}

/// The same, of a log whose end was reported.
fn ended(log: u128, seq: i64, end: i64) -> [Standing; 1] {
    known(log, seq).map(|standing| Standing { end: Some(end), ..standing })
}

/// Numbers and kinds of the rows that would be sent now.
fn kinds(spool: &Spool) -> Vec<(i64, i64, Option<&'static str>)> {
    spool.take(usize::MAX).iter().map(|row| (row.chunk.seq, row.chunk.seq_to, row.chunk.gap_kind())).collect()
}

/// Numbers and texts of what would be sent now.
fn sent(spool: &Spool) -> Vec<(i64, String)> {
    spool.take(usize::MAX).iter().map(|out| (out.chunk.seq, out.chunk.text.clone())).collect()
}

fn admitted(spool: &Spool, log: u128) -> u64 {
    let [Admission::Bytes(bytes)] = spool.admits(&[id(log)])[..] else { panic!("it is closed") };
    bytes
}

fn segments(folder: &TempDir) -> Vec<PathBuf> {
    segment::list(&folder.path().join("spool")).unwrap().into_iter().map(|(_, path)| path).collect()
}

#[test]
fn chunks_are_sent_in_order_until_they_are_acknowledged() {
    for limits in [ROOMY, DISK_ONLY] {
        let folder = TempDir::new().unwrap();
        let spool = filled(&folder, limits, &["a", "b", "c"]);
        assert_eq!(sent(&spool), [(0, "a".into()), (1, "b".into()), (2, "c".into())]);
        spool.acknowledge(&stored(1, 1));
        assert_eq!(sent(&spool), [(2, "c".into())]);
        assert_eq!(spool.take_of(id(1), 1)[0].whose, whose(1));
        spool.put(vec![], &[(id(1), 2)]).unwrap();
        spool.acknowledge(&stored(1, 2));
        assert!(spool.is_empty() && spool.level().logs == 0);
    }
}

#[test]
fn while_one_batch_is_on_its_way_the_next_one_is_taken_behind_it() {
    for limits in [ROOMY, DISK_ONLY] {
        let folder = TempDir::new().unwrap();
        let spool = filled(&folder, limits, &["a", "b", "c", "d"]);
        spool.open(whose(2));
        put(&spool, 2, 0, &["x"]);
        let texts = |batch: Vec<Outgoing>| batch.iter().map(|row| row.chunk.text.clone()).collect::<Vec<_>>();
        assert_eq!(texts(spool.exchange(&BTreeMap::new(), 1 << 20, &stored(1, 1))), ["c", "d", "x"]);
        // The first one is stored, the second one on its way.
        let sent = BTreeMap::from([(id(1), 2), (id(2), 0)]);
        assert_eq!(texts(spool.exchange(&stored(1, 1), 1 << 20, &sent)), ["d"]);
        // That one was refused: everything behind what is stored comes again.
        assert_eq!(texts(spool.take(1 << 20)).len(), 3);
    }
}

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
fn half_a_record_at_the_end_is_passed_over() {
    let folder = TempDir::new().unwrap();
    drop(filled(&folder, ROOMY, &["a", "b"]));
    let path = segments(&folder).pop().unwrap();
    let len = std::fs::metadata(&path).unwrap().len();
    OpenOptions::new().write(true).open(&path).unwrap().set_len(len - 1).unwrap();
    let (spool, recovered) = open(&folder, ROOMY);
    assert_eq!(recovered.broken_bytes, 0);
    spool.resume(&known(1, -1), NOW);
    let rows = spool.take(usize::MAX);
    assert_eq!(rows[0].chunk.text, "a");
    assert_eq!((rows.len(), rows[1].chunk.seq, rows[1].chunk.gap_kind()), (2, 1, Some("lost")));
}

#[test]
fn a_broken_record_becomes_a_gap_of_its_numbers_and_the_rest_is_sent() {
    let folder = TempDir::new().unwrap();
    drop(filled(&folder, ROOMY, &["first", "SECOND", "third"]));
    let path = segments(&folder).pop().unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(6).position(|window| window == b"SECOND").unwrap();
    OpenOptions::new().write(true).open(&path).unwrap().write_all_at(b"x", at as u64).unwrap();
    let (spool, recovered) = open(&folder, ROOMY);
    assert!(recovered.broken_bytes > 6 && spool.level().unreadable > 0);
    spool.resume(&known(1, -1), NOW);
    assert_eq!(kinds(&spool), [(0, 0, None), (1, 1, Some("lost")), (2, 2, None), (3, 3, Some("lost"))]);
}

/// Spoils the first place of a segment that holds this.
fn spoil(path: &Path, what: &[u8]) {
    let bytes = std::fs::read(path).unwrap();
    let at = bytes.windows(what.len()).position(|window| window == what).unwrap();
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(b"x", at as u64).unwrap();
}

#[test]
fn a_broken_last_record_of_a_log_that_has_ended_is_a_gap_up_to_its_end() {
    let folder = TempDir::new().unwrap();
    let spool = filled(&folder, ROOMY, &["first", "SECOND", "THIRD"]);
    spool.put(vec![], &[(id(1), 2)]).unwrap();
    drop(spool);
    let path = segments(&folder).pop().unwrap();
    spoil(&path, b"SECOND");
    spoil(&path, b"THIRD");
    let again = || {
        let (spool, recovered) = open(&folder, ROOMY);
        assert_eq!((recovered.logs, recovered.cut_off), (1, 0));
        spool
    };
    let spool = again();
    spool.resume(&known(1, -1), NOW);
    assert_eq!(kinds(&spool), [(0, 0, None), (1, 2, Some("lost"))]);
    // What was readable is stored already: the gap is all that is left.
    let spool = again();
    spool.resume(&known(1, 0), NOW);
    assert_eq!(kinds(&spool), [(1, 2, Some("lost"))]);
    spool.acknowledge(&stored(1, 2));
    assert_eq!(spool.level().logs, 0);
    // All of it is stored: nothing is missing.
    let spool = again();
    spool.resume(&known(1, 2), NOW);
    assert_eq!((kinds(&spool), spool.level().logs), (vec![], 0));
}

#[test]
fn a_broken_opening_of_a_log_takes_nothing_with_it() {
    let folder = TempDir::new().unwrap();
    drop(filled(&folder, ROOMY, &["first", "second"]));
    // The attempt's id stands in the opening first.
    spoil(&segments(&folder).pop().unwrap(), id(1).as_bytes());
    let (spool, recovered) = open(&folder, ROOMY);
    assert_eq!((recovered.logs, recovered.cut_off), (1, 1));
    spool.resume(&known(1, -1), NOW);
    let rows = spool.take(usize::MAX);
    let texts: Vec<_> =
        rows.iter().map(|row| (row.chunk.seq, row.chunk.text.as_str(), row.whose.job.as_str())).collect();
    assert_eq!(texts[..2], [(0, "first", "job-1"), (1, "second", "job-1")]);
    assert_eq!(rows.iter().map(|row| row.chunk.gap_kind()).collect::<Vec<_>>(), [None, None, Some("lost")]);
}

#[test]
fn a_record_that_cannot_be_read_while_we_run_becomes_a_gap_of_its_size() {
    let folder = TempDir::new().unwrap();
    let spool = filled(&folder, DISK_ONLY, &["first", "SECOND", "third"]);
    let path = segments(&folder).pop().unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(6).position(|window| window == b"SECOND").unwrap();
    OpenOptions::new().write(true).open(&path).unwrap().write_all_at(b"x", at as u64).unwrap();
    let rows = spool.take(usize::MAX);
    assert_eq!((rows[1].chunk.seq, rows[1].chunk.gap_kind(), rows[1].chunk.gap_bytes()), (1, Some("lost"), Some(6)));
    assert_eq!((rows[0].chunk.text.as_str(), rows[2].chunk.text.as_str()), ("first", "third"));
}

#[test]
fn segments_go_when_nothing_in_them_is_wanted() {
    let folder = TempDir::new().unwrap();
    let (spool, _) = open(&folder, DISK_ONLY);
    for log in [1, 2] {
        spool.open(whose(log));
    }
    let text = "x".repeat(60_000);
    let many: Vec<&str> = std::iter::repeat_n(text.as_str(), 600).collect();
    put(&spool, 1, 0, &many);
    assert!(segments(&folder).len() > 2);
    spool.acknowledge(&stored(1, 599));
    assert_eq!(segments(&folder).len(), 1);
    // The quiet log is still known to whoever comes next, also when all that named it first is gone.
    drop(spool);
    let (spool, recovered) = open(&folder, DISK_ONLY);
    assert_eq!(recovered.cut_off, 2);
    spool.resume(&[known(1, 599), known(2, -1)].concat(), NOW);
    let rows: BTreeMap<Uuid, i64> =
        spool.take(usize::MAX).iter().map(|row| (row.whose.lease.attempt_id, row.chunk.seq)).collect();
    assert_eq!(rows, BTreeMap::from([(id(1), 600), (id(2), 0)]));
}

#[test]
fn a_loud_log_leaves_room_for_quiet_ones() {
    let folder = TempDir::new().unwrap();
    let (spool, _) = open(&folder, Limits { disk_bytes: 10_000_000, ..ROOMY });
    for log in 1..=3 {
        spool.open(whose(log));
    }
    let text = "x".repeat(50_000);
    let mut seq = 0;
    while admitted(&spool, 1) >= 50_000 {
        put(&spool, 1, seq, &[&text]);
        seq += 1;
    }
    assert!(spool.level().waiting_bytes > 4_500_000, "it has about half of all");
    assert!(admitted(&spool, 1) < 50_000 && admitted(&spool, 2) > 4_500_000);
    assert_eq!(spool.admits(&[id(9)]), [Admission::Unwanted], "nobody knows it");
}

#[test]
fn each_of_many_logs_with_much_to_send_has_its_turn_before_any_has_a_second_one() {
    let folder = TempDir::new().unwrap();
    let (spool, _) = open(&folder, ROOMY);
    let text = "x".repeat(5000);
    for log in 1..=100 {
        spool.open(whose(log));
        put(&spool, log, 0, &[&text, &text, &text]);
    }
    let mut served = BTreeMap::new();
    while served.len() < 100 {
        for row in spool.take(20_000) {
            *served.entry(row.whose.lease.attempt_id).or_insert(0) += 1;
            spool.acknowledge(&BTreeMap::from([(row.whose.lease.attempt_id, row.chunk.seq_to)]));
        }
        assert!(served.values().all(|count| *count == 1), "{served:?}");
    }
}

#[test]
fn a_disk_that_takes_nothing_loses_nothing_while_there_is_memory() {
    let folder = TempDir::new().unwrap();
    let spool = filled(&folder, ROOMY, &["a"]);
    let (dir, away) = (folder.path().join("spool"), folder.path().join("away"));
    spool.acknowledge(&stored(1, 0));
    // The next segment cannot be made.
    std::fs::rename(&dir, &away).unwrap();
    spool.inner().active = None;
    let chunks = vec![chunk(1, "b"), chunk(2, "c")];
    assert!(spool.put(vec![(id(1), chunks)], &[]).is_err() && spool.is_failing());
    assert_eq!(sent(&spool), [(1, "b".into()), (2, "c".into())]);
    assert!(admitted(&spool, 1) <= ROOMY.memory_bytes as u64);
    spool.acknowledge(&stored(1, 1));
    std::fs::rename(&away, &dir).unwrap();
    spool.put(vec![], &[]).unwrap();
    assert!(!spool.is_failing());
    drop(spool);
    let (spool, _) = open(&folder, ROOMY);
    spool.resume(&known(1, 1), NOW);
    assert_eq!(sent(&spool)[0], (2, "c".into()));
}

#[test]
fn a_disk_that_takes_nothing_does_not_keep_the_next_process_from_sending_what_it_holds() {
    let folder = TempDir::new().unwrap();
    drop(filled(&folder, ROOMY, &["a", "b"]));
    // A folder with so long a name that a segment with a short one can be read there, and the next one cannot be made.
    let mut long = folder.path().to_owned();
    while long.as_os_str().len() < 4085 {
        let room = 4085 - long.as_os_str().len() - 1;
        long.push("x".repeat(if room > 200 { 100 } else { room.min(200) }));
    }
    std::fs::create_dir_all(&long).unwrap();
    std::fs::copy(folder.path().join("spool/writer"), long.join("writer")).unwrap();
    std::fs::copy(&segments(&folder)[0], long.join("1.seg")).unwrap();
    let (spool, recovered) = Spool::open_dir(&long, ROOMY, id(2), NOW).unwrap();
    assert_eq!((spool.writer(), recovered.cut_off, spool.is_failing()), (id(1), 1, true));
    spool.resume(&known(1, -1), NOW);
    assert_eq!(spool.take(usize::MAX).len(), 3, "both lines, and the gap that is nowhere on the disk");
    spool.acknowledge(&stored(1, 2));
    assert_eq!(spool.level().logs, 0);
}

#[test]
fn what_waits_for_too_long_becomes_a_gap() {
    let folder = TempDir::new().unwrap();
    let spool = filled(&folder, DISK_ONLY, &["old", "older"]);
    spool.inner().active = None;
    let new = Chunk { ts: NOW + Duration::from_secs(7200), ..chunk(2, "new") };
    spool.put(vec![(id(1), vec![new])], &[]).unwrap();
    assert_eq!(spool.expire(NOW + Duration::from_secs(60)), 0);
    assert!(spool.expire(NOW + Duration::from_secs(7200)) > 0);
    assert_eq!(spool.level().expired_bytes, 8, "it is counted");
    let rows = spool.take(usize::MAX);
    let gap = &rows[0].chunk;
    assert_eq!((gap.seq, gap.seq_to, gap.gap_kind(), gap.gap_bytes()), (0, 1, Some("expired"), Some(8)));
    assert_eq!((rows.len(), rows[1].chunk.text.as_str()), (2, "new"));
}

#[test]
fn what_waits_on_disk_takes_48_bytes_of_memory_a_row() {
    // docs/LOGS.md says so, among the bounds.
    assert_eq!(size_of::<Entry>(), 48);
}

#[test]
fn what_is_too_old_and_partly_stored_is_missing_from_there_on_only() {
    let folder = TempDir::new().unwrap();
    drop(filled(&folder, ROOMY, &["stored", "old", "older"]));
    // The process was away for long; what it had sent and never heard of again is stored up to the first chunk.
    let (spool, _) =
        Spool::open_dir(&folder.path().join("spool"), ROOMY, id(1), NOW + Duration::from_secs(7200)).unwrap();
    spool.resume(&known(1, 0), NOW);
    let kinds: Vec<_> = spool
        .take(usize::MAX)
        .iter()
        .map(|row| (row.chunk.seq, row.chunk.seq_to, row.chunk.gap_kind(), row.chunk.gap_bytes()))
        .collect();
    assert_eq!(kinds, [(1, 2, Some("expired"), None), (3, 3, Some("lost"), None)]);
    spool.acknowledge(&stored(1, 3));
    assert_eq!((spool.level().waiting_bytes, spool.level().logs), (0, 0));
}

#[test]
fn a_log_that_is_over_its_quota_is_closed_by_one_gap() {
    let folder = TempDir::new().unwrap();
    for ended in [false, true] {
        let spool = filled(&folder, ROOMY, &["a", "b", "c"]);
        if ended {
            spool.put(vec![], &[(id(1), 2)]).unwrap();
        }
        assert_eq!(spool.over_quota(id(1), 0, NOW), 2, "what waited behind the first chunk");
        if !ended {
            assert_eq!(spool.admits(&[id(1)]), [Admission::OverQuota(1)]);
            spool.end_over_quota(id(1), 1, None, NOW);
        }
        let rows = spool.take(usize::MAX);
        let gap = &rows[0].chunk;
        let to = if ended { 2 } else { 1 };
        assert_eq!((rows.len(), gap.seq, gap.seq_to, gap.gap_kind()), (1, 1, to, Some("quota")));
        spool.acknowledge(&stored(1, to));
        assert_eq!(spool.level().logs, 0);
        spool.put(vec![], &[]).unwrap();
    }
    // The collector had asked what is admitted before the broker said so: only the gap follows, also when the log has ended.
    for ended in [false, true] {
        let spool = filled(&folder, ROOMY, &["a"]);
        assert!(admitted(&spool, 1) > 0);
        spool.over_quota(id(1), 0, NOW);
        put(&spool, 1, 1, &["b", "c"]);
        if ended {
            spool.put(vec![], &[(id(1), 2)]).unwrap();
        } else {
            spool.end_over_quota(id(1), 2, None, NOW);
        }
        let rows = spool.take(usize::MAX);
        let gap = &rows[0].chunk;
        assert_eq!((rows.len(), gap.seq, gap.seq_to, gap.gap_kind()), (1, 1, 2, Some("quota")));
        spool.acknowledge(&stored(1, 2));
        assert_eq!((spool.level().logs, spool.level().memory_bytes), (0, 0));
        spool.put(vec![], &[]).unwrap();
    }
    // When not even the gap is taken, nothing is sent for ever.
    let spool = filled(&folder, ROOMY, &["a"]);
    for _ in 0..2 {
        spool.over_quota(id(1), -1, NOW);
        spool.end_over_quota(id(1), 0, None, NOW);
    }
    assert!(spool.is_empty());
}

#[test]
fn what_others_put_into_the_folder_keeps_nobody_from_starting() {
    let folder = TempDir::new().unwrap();
    drop(filled(&folder, ROOMY, &["a"]));
    let dir = folder.path().join("spool");
    // Tried: a file larger than memory, the last number, a folder, a link, a pipe that nobody writes to, words in hex.
    std::fs::File::create(dir.join("0000000a.seg")).unwrap().set_len(1 << 40).unwrap();
    std::fs::write(dir.join("ffffffff.seg"), "x").unwrap();
    std::fs::create_dir(dir.join("0000000b.seg")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", dir.join("0000000c.seg")).unwrap();
    nix::unistd::mkfifo(&dir.join("0000000d.seg"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::fs::write(dir.join("words.seg"), "x").unwrap();
    let (spool, recovered) = open(&folder, ROOMY);
    assert_eq!((recovered.logs, recovered.unreadable), (1, 4));
    spool.resume(&known(1, -1), NOW);
    assert_eq!(sent(&spool)[0], (0, "a".into()));
    put(&spool, 1, 2, &["more"]);
    drop(spool);
    // An id that is none is replaced: what the spool holds is nobody's then.
    std::fs::write(dir.join("writer"), b"\xff\xfe").unwrap();
    let (spool, _) = Spool::open_dir(&dir, ROOMY, id(77), NOW).unwrap();
    assert_eq!(spool.writer(), id(77));
}

#[test]
fn files_are_for_this_user_only() {
    use std::os::unix::fs::PermissionsExt;
    let folder = TempDir::new().unwrap();
    let _spool = filled(&folder, ROOMY, &["a"]);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder.path().join("spool")), 0o700);
    assert_eq!(mode(&segments(&folder)[0]), 0o600);
}

/// What happens to a spool.
#[derive(Clone, Debug)]
enum Step {
    Put {
        log: usize,
        chunks: Vec<u8>,
    },
    End {
        log: usize,
    },
    /// A batch is taken and stored; perhaps the answer is lost.
    Ship {
        budget: usize,
        answered: bool,
    },
    /// The process is killed, and the next one takes over.
    Restart {
        torn: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3usize, proptest::collection::vec(1u8..200, 1..6)).prop_map(|(log, chunks)| Step::Put { log, chunks }),
        1 => (0..3usize).prop_map(|log| Step::End { log }),
        3 => (1..600usize, any::<bool>()).prop_map(|(budget, answered)| Step::Ship { budget, answered }),
        1 => (0..3u64).prop_map(|torn| Step::Restart { torn }),
    ]
}

/// The broker, as far as a spool sees it: rows by log, refused unless they go on where the stored ones end.
#[derive(Default)]
struct Model {
    rows: BTreeMap<Uuid, Vec<Chunk>>,
}

impl Model {
    fn positions(&self) -> BTreeMap<Uuid, i64> {
        (1..=3)
            .map(|n| (id(n), self.rows.get(&id(n)).and_then(|rows| rows.last()).map_or(-1, |row| row.seq_to)))
            .collect()
    }

    fn standings(&self) -> Vec<Standing> {
        self.positions().iter().flat_map(|(log, seq)| known(log.as_u128(), *seq)).collect()
    }

    fn store(&mut self, batch: &[Outgoing]) {
        for row in batch {
            let rows = self.rows.entry(row.whose.lease.attempt_id).or_default();
            let next = rows.last().map_or(0, |last| last.seq_to + 1);
            assert_eq!(row.chunk.seq, next, "rows have neither holes nor repeats");
            rows.push(row.chunk.as_ref().clone());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn everything_is_stored_once_and_in_order_whatever_happens(
        steps in proptest::collection::vec(step(), 1..40),
        memory_bytes in prop_oneof![Just(0usize), Just(1000), Just(1 << 20)],
    ) {
        let folder = TempDir::new().unwrap();
        let limits = Limits { memory_bytes, ..ROOMY };
        let (mut spool, _) = open(&folder, limits);
        let mut model = Model::default();
        let mut printed: BTreeMap<Uuid, Vec<Chunk>> = BTreeMap::new();
        let mut over = BTreeSet::new();
        for n in 1..=3 {
            spool.open(whose(n));
        }
        for step in steps {
            match step {
                Step::Put { log, chunks } => {
                    let log = id(log as u128 + 1);
                    if over.contains(&log) {
                        continue;
                    }
                    let all = printed.entry(log).or_default();
                    let new: Vec<Chunk> = chunks.iter().enumerate().map(|(n, size)| {
                        chunk((all.len() + n) as i64, &"y".repeat(usize::from(*size)))
                    }).collect();
                    all.extend(new.clone());
                    spool.put(vec![(log, new)], &[]).unwrap();
                }
                Step::End { log } => {
                    let log = id(log as u128 + 1);
                    if over.insert(log) {
                        let last = printed.get(&log).map_or(0, Vec::len) as i64 - 1;
                        spool.put(vec![], &[(log, last)]).unwrap();
                    }
                }
                Step::Ship { budget, answered } => {
                    let batch = spool.take(budget);
                    model.store(&batch);
                    // Without an answer the writer is taken over, and the positions are asked for.
                    if answered { spool.acknowledge(&model.positions()) } else { drop(spool.resume(&model.standings(), NOW)) }
                }
                Step::Restart { torn } => {
                    drop(spool);
                    // A last record may be torn, when it is younger than what is stored it was never acknowledged.
                    if let Some(path) = segments(&folder).pop().filter(|_| torn > 0) {
                        let file = OpenOptions::new().append(true).open(path).unwrap();
                        let len = file.metadata().unwrap().len();
                        file.write_all_at(&[0xff; 2][..torn as usize], len).unwrap();
                    }
                    let recovered;
                    (spool, recovered) = open(&folder, limits);
                    prop_assert_eq!(recovered.broken_bytes, 0);
                    // Whatever was open is cut off: it gets its gap.
                    over.extend((1..=3).map(id));
                    spool.resume(&model.standings(), NOW);
                }
            }
        }
        while !spool.is_empty() {
            let batch = spool.take(300);
            model.store(&batch);
            spool.acknowledge(&model.positions());
        }
        for (log, all) in printed {
            let rows = model.rows.remove(&log).unwrap_or_default();
            let text: Vec<Chunk> = rows.iter().filter(|row| row.gap_kind().is_none()).cloned().collect();
            prop_assert_eq!(&text, &all, "all that was printed is stored, and nothing else");
            let gaps = rows.len() - text.len();
            prop_assert!(gaps <= 1 && (gaps == 0 || rows.last().unwrap().gap_kind() == Some("lost")));
        }
    }
}
