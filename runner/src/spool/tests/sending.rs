//! What is sent, in which order, and until when.

use super::*;

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
        assert_eq!(texts(spool.exchange(&BTreeMap::new(), 1 << 20, &stored(1, 1), &BTreeSet::new())), ["c", "d", "x"]);
        // The first one is stored, the second one on its way.
        let sent = BTreeMap::from([(id(1), 2), (id(2), 0)]);
        assert_eq!(texts(spool.exchange(&stored(1, 1), 1 << 20, &sent, &BTreeSet::new())), ["d"]);
        // That one was refused: everything behind what is stored comes again.
        assert_eq!(texts(spool.take(1 << 20)).len(), 3);
    }
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
        for row in spool.take(4 * (5000 + ROW_BYTES)) {
            *served.entry(row.whose.lease.attempt_id).or_insert(0) += 1;
            spool.acknowledge(&BTreeMap::from([(row.whose.lease.attempt_id, row.chunk.seq_to)]));
        }
        assert!(served.values().all(|count| *count == 1), "{served:?}");
    }
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
fn a_batch_is_no_longer_than_its_budget_but_for_a_row_that_is() {
    let line_bytes = |batch: &[Outgoing]| batch.iter().map(Outgoing::line_bytes).sum::<usize>();
    for limits in [ROOMY, DISK_ONLY] {
        let folder = TempDir::new().unwrap();
        let (spool, _) = open(&folder, limits);
        for log in 1..=7 {
            spool.open(whose(log));
            let texts: Vec<String> = (0..9).map(|row| "x".repeat(1 + (row * 1117 * log as usize) % 6000)).collect();
            put(&spool, log, 0, &texts.iter().map(String::as_str).collect::<Vec<_>>());
        }
        // Tried: budgets below a row, of about one, and of many. Whoever found no room has its turn next: all is sent.
        let mut sizes = BTreeMap::new();
        for budget in [1, 5000, 6192, 20_000].into_iter().cycle() {
            let batch = spool.take(budget);
            if batch.is_empty() {
                break;
            }
            assert!(batch.len() == 1 || line_bytes(&batch) <= budget, "{} rows of {}", batch.len(), line_bytes(&batch));
            for row in &batch {
                *sizes.entry(row.whose.lease.attempt_id).or_insert(0) += 1;
                spool.acknowledge(&BTreeMap::from([(row.whose.lease.attempt_id, row.chunk.seq_to)]));
            }
            let rows: Vec<i32> = sizes.values().copied().collect();
            assert!(sizes.len() < 7 || rows.iter().max().unwrap() - rows.iter().min().unwrap() <= 7, "{rows:?}");
        }
        assert!(sizes.values().all(|rows| *rows == 9) && sizes.len() == 7, "{sizes:?}");
    }
}

/// Batches as a shipper sends them: while one is on its way the next one is made ready, and not sent when it is small.
fn ship(spool: &Spool, budget: usize, batches: usize) -> BTreeMap<Uuid, i64> {
    let (mut batch, mut stored, mut all) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
    for _ in 0..batches {
        if batch.is_empty() {
            batch = spool.exchange(&std::mem::take(&mut stored), budget, &BTreeMap::new(), &BTreeSet::new());
        }
        let sent = batch.iter().map(|row| (row.whose.lease.attempt_id, row.chunk.seq_to)).collect();
        let next = spool.exchange(&stored, budget, &sent, &BTreeSet::new());
        all.extend(&sent);
        stored = sent;
        let is_small = next.iter().map(Outgoing::line_bytes).sum::<usize>() < budget / 2;
        batch = if is_small { Vec::new() } else { next.clone() };
        if is_small {
            spool.give_back(&next);
        }
    }
    all
}

#[test]
fn a_quiet_log_has_its_turn_beside_a_loud_one_whose_rows_fill_batches() {
    for (loud, quiet) in [(1, 2), (2, 1)] {
        let folder = TempDir::new().unwrap();
        let (spool, _) = open(&folder, ROOMY);
        let row = "x".repeat(5000);
        spool.open(whose(loud));
        spool.open(whose(quiet));
        put(&spool, loud, 0, &[row.as_str(); 50]);
        put(&spool, quiet, 0, &["a line"]);
        let sent = ship(&spool, 5000 + ROW_BYTES, 4);
        assert_eq!(sent.get(&id(quiet)), Some(&0), "four batches, and none has anything of it");
        assert!(sent[&id(loud)] >= 1);
    }
}

#[test]
fn who_has_nothing_to_send_has_no_share_of_a_batch() {
    let folder = TempDir::new().unwrap();
    let (spool, _) = open(&folder, ROOMY);
    let row = "x".repeat(1000);
    for log in 1..=100 {
        spool.open(whose(log));
        put(&spool, log, 0, &[row.as_str(); 50]);
    }
    // All but one are put aside, or on their way.
    let passed = (2..=100).map(|log| (id(log), i64::MAX)).collect();
    assert_eq!(spool.exchange(&BTreeMap::new(), 50 * (1000 + ROW_BYTES), &passed, &BTreeSet::new()).len(), 50);
}

#[test]
fn logs_of_a_day_that_is_put_aside_give_nothing_and_the_others_all() {
    let folder = TempDir::new().unwrap();
    let spool = filled(&folder, ROOMY, &["aside"]);
    let early = Whose { claim_day: Date::MIN, ..whose(2).as_ref().clone() };
    spool.open(Arc::new(early));
    put(&spool, 2, 0, &["sent"]);
    let aside = BTreeSet::from([whose(1).claim_day]);
    let batch = spool.exchange(&BTreeMap::new(), 1 << 20, &BTreeMap::new(), &aside);
    assert_eq!(batch.iter().map(|row| row.chunk.text.as_str()).collect::<Vec<_>>(), ["sent"]);
    assert_eq!(spool.take(1 << 20).len(), 2);
}
