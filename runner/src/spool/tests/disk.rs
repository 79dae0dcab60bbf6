//! A disk that is damaged, full, or that others write to.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::*;

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

#[test]
fn a_record_with_numbers_that_no_log_has_is_noise() {
    for (seq, seq_to) in [(-1, 0), (5, 4), (1, i64::MAX), (i64::MAX, i64::MAX)] {
        let folder = TempDir::new().unwrap();
        drop(filled(&folder, ROOMY, &["a"]));
        let mut bytes = Vec::new();
        record::put_chunk(&mut bytes, &whose(1), &Chunk { seq, seq_to, ..chunk(0, "x") });
        record::put_open(&mut bytes, &whose(1), i64::MIN);
        record::put_end(&mut bytes, id(1), i64::MAX);
        let path = segments(&folder).pop().unwrap();
        let end = std::fs::metadata(&path).unwrap().len();
        OpenOptions::new().write(true).open(&path).unwrap().write_all_at(&bytes, end).unwrap();
        let (spool, _) = open(&folder, ROOMY);
        spool.resume(&known(1, -1), NOW);
        assert_eq!(kinds(&spool), [(0, 0, None), (1, 1, Some("lost"))], "{seq} to {seq_to}");
    }
}

#[test]
fn a_log_that_is_done_is_so_for_the_next_process_too_when_the_segment_that_said_so_is_gone() {
    let folder = TempDir::new().unwrap();
    let limits = Limits { max_age: Duration::from_secs(8000), ..ROOMY };
    let spool = filled(&folder, limits, &["stored"]);
    spool.open(whose(2));
    put(&spool, 2, 0, &["it waits, and so does the first segment"]);
    // Each of these makes a new segment: what is in the old one is not young any more.
    let later = NOW + time::Duration::seconds(1001);
    spool.expire(later);
    spool.open(whose(3));
    put(&spool, 3, 0, &["in the second segment"]);
    spool.acknowledge(&stored(1, 0));
    spool.put(vec![], &[(id(1), 0)]).unwrap();
    spool.acknowledge(&stored(3, 0));
    spool.expire(later);
    spool.put(vec![], &[(id(3), 0)]).unwrap();
    assert_eq!(segments(&folder).len(), 2, "the first and the third");
    drop(spool);
    for _ in 0..2 {
        let (spool, recovered) = open(&folder, limits);
        assert_eq!((recovered.logs, spool.waiting()), (1, vec![id(2)]));
    }
}

#[test]
fn a_log_that_is_done_while_the_disk_takes_nothing_is_so_for_the_next_process_too() {
    let folder = TempDir::new().unwrap();
    let spool = filled(&folder, ROOMY, &["stored"]);
    spool.put(vec![], &[(id(1), 0)]).unwrap();
    spool.open(whose(2));
    put(&spool, 2, 0, &["it waits, and so does the segment"]);
    drop(spool);
    let (spool, _) = open(&folder, ROOMY);
    // As where the disk took no segment when this process began: none is written to, and none of ours names a log.
    spool.inner().active = None;
    spool.inner().backlogs.change_all(|log| log.named_in = None);
    spool.acknowledge(&stored(1, 0));
    spool.put(vec![], &[]).unwrap();
    drop(spool);
    assert_eq!(open(&folder, ROOMY).0.waiting(), [id(2)]);
}

#[test]
fn that_a_log_is_done_is_said_no_more_when_nothing_of_it_is_left() {
    let folder = TempDir::new().unwrap();
    let limits = Limits { max_age: Duration::from_secs(8000), ..ROOMY };
    let spool = filled(&folder, limits, &["it waits, and so does the first segment"]);
    for log in 2..=50 {
        spool.open(whose(log));
        put(&spool, log, 0, &["x"]);
        spool.acknowledge(&stored(log, 0));
        spool.put(vec![], &[(id(log), 0)]).unwrap();
        spool.expire(NOW + time::Duration::seconds(1001));
    }
    spool.put(vec![], &[]).unwrap();
    let said = spool.inner().segments.values().map(|segment| segment.done.len()).sum::<usize>();
    assert!(said <= 2, "{said} of 49");
}
