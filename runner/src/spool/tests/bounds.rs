//! How much waits, for how long, and what it takes.

use super::*;

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
fn a_long_outage_of_rows_of_one_line_takes_the_memory_it_may_and_then_the_spool_is_full() {
    const LOGS: u128 = 40;
    let limits = Limits { memory_bytes: 256 << 10, ..ROOMY };
    let folder = TempDir::new().unwrap();
    let (spool, _) = open(&folder, limits);
    for log in 1..=LOGS {
        spool.open(whose(log));
    }
    let text = |log: u128, seq: i64| format!("{log} {seq} {}\n", "x".repeat(190));
    let mut rows = 0;
    while admitted(&spool, 1) > 0 {
        spool.put((1..=LOGS).map(|log| (id(log), vec![chunk(rows, &text(log, rows))])).collect(), &[]).unwrap();
        rows += 1;
        assert!(spool.level().memory_bytes <= limits.memory_bytes, "after {rows} rows");
    }
    // docs/LOGS.md says how many bytes a row takes, among the bounds.
    assert!(rows * LOGS as i64 > limits.memory_bytes as i64 / 10, "{rows} rows of each log filled the memory");
    let before = spool.level().memory_bytes;
    drop(spool);
    // The next process knows as much, and sends all of it in order, from the disk.
    let (spool, _) = open(&folder, limits);
    assert!(spool.level().memory_bytes <= limits.memory_bytes.max(before));
    let standings: Vec<Standing> = (1..=LOGS).flat_map(|log| known(log, -1)).collect();
    spool.resume(&standings, NOW);
    let mut positions: BTreeMap<Uuid, i64> = (1..=LOGS).map(|log| (id(log), -1)).collect();
    while !spool.is_empty() {
        for row in spool.take(100_000) {
            let (log, chunk) = (row.whose.lease.attempt_id, row.chunk);
            assert_eq!(chunk.seq, positions[&log] + 1);
            assert!(chunk.gap_kind().is_some() || chunk.text == text(log.as_u128(), chunk.seq));
            positions.insert(log, chunk.seq_to);
        }
        spool.acknowledge(&positions);
    }
    assert!(positions.values().all(|last| *last == rows), "each with its gap at the end: {positions:?}");
    assert_eq!((spool.level().memory_bytes, spool.level().waiting_bytes, segments(&folder).len()), (0, 0, 1));
}

#[test]
fn what_waits_for_too_long_goes_also_when_nothing_new_is_printed() {
    for limits in [ROOMY, DISK_ONLY] {
        let folder = TempDir::new().unwrap();
        let spool = filled(&folder, limits, &["a", "b"]);
        spool.expire(NOW + Duration::from_secs(3600));
        assert_eq!(kinds(&spool), [(0, 0, None), (1, 1, None)]);
        spool.expire(NOW + Duration::from_secs(3601));
        assert_eq!(kinds(&spool), [(0, 1, Some("expired"))]);
        assert_eq!(spool.level().expired_bytes, 2);
        // The log goes on, for this process and for the next one.
        put(&spool, 1, 2, &["c"]);
        assert_eq!(kinds(&spool), [(0, 1, Some("expired")), (2, 2, None)]);
        drop(spool);
        let (spool, _) = open(&folder, limits);
        spool.resume(&known(1, 1), NOW);
        assert_eq!(kinds(&spool), [(2, 2, None), (3, 3, Some("lost"))]);
    }
}

#[test]
fn what_trickles_in_keeps_nothing_old_alive() {
    let folder = TempDir::new().unwrap();
    let (spool, _) = open(&folder, DISK_ONLY);
    spool.open(whose(1));
    for minute in 0..600 {
        let now = NOW + Duration::from_secs(60 * minute);
        let line = Chunk { ts: now, ..chunk(minute as i64, "a line\n") };
        spool.put(vec![(id(1), vec![line])], &[]).unwrap();
        spool.expire(now);
        let newest_gone = kinds(&spool).iter().filter(|row| row.2.is_some()).map(|row| row.1).max().unwrap_or(-1);
        // One that may wait for an hour, and shares its segment with those of an eighth of that.
        assert!(minute as i64 - newest_gone <= 60 + 9, "at minute {minute} only those up to {newest_gone} are gone");
    }
}

#[test]
fn since_when_the_oldest_text_waits_is_known_exactly_also_after_a_restart() {
    let folder = TempDir::new().unwrap();
    let at = |seconds: u64| NOW + Duration::from_secs(seconds);
    let line = |seq: i64, seconds: u64| Chunk { ts: at(seconds), ..chunk(seq, "a line\n") };
    let (spool, _) = open(&folder, ROOMY);
    spool.open(whose(1));
    spool.open(whose(2));
    spool.put(vec![(id(1), vec![line(0, 100), line(1, 300)]), (id(2), vec![line(0, 200)])], &[]).unwrap();
    drop(spool);
    for restart in 0..2 {
        let (spool, _) = Spool::open_dir(&folder.path().join("spool"), ROOMY, id(1), at(1000)).unwrap();
        assert_eq!(spool.oldest(), Some(at(100)), "restart {restart}");
        spool.acknowledge(&stored(1, 0));
        assert_eq!(spool.oldest(), Some(at(200)));
        spool.acknowledge(&stored(2, 0));
        // Those that are cut off have their gaps, of a later time.
        assert_eq!(spool.oldest(), Some(at(300)));
    }
}
