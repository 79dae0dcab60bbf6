//! Any steps against a broker that keeps to its word.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use proptest::prelude::*;

use super::*;

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
            let inner = spool.inner();
            prop_assert_eq!(inner.backlogs.counted(), inner.backlogs.recounted(), "what all logs come to");
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
