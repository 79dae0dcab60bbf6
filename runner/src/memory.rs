//! What this place remembers of what the broker had acknowledged.

use crate::clock::wall;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tendril_broker::runner::{Compared, Lease, Report, Witness, WitnessedEnd, WitnessedOpen};
use uuid::Uuid;

/// How long an acknowledged end is remembered: a standby lags behind by seconds, and after a restore of older data operators
/// have the last word.
const REMEMBERED: Duration = Duration::from_secs(6 * 3600);
/// At most so many, the newest.
const MOST_ENDS: usize = 500;
/// Processes of the place.
const MOST_RUNNERS: usize = 100;
/// Attempts that the broker has forgotten: all ends, and all that a large runner holds, several times over. One that is dropped
/// while it is held would be shown again, and taken for a new loss.
const MOST_LOST: usize = 4000;
const BOOK: &str = "witness.json";
const ENDS: &str = "ended";

/// What a place remembers, on its disk.
pub struct Memory {
    dir: PathBuf,
    book: Mutex<Book>,
}

#[derive(Default, Deserialize, Serialize)]
struct Book {
    incarnation: i64,
    fence: i64,
    runners: Vec<Uuid>,
    /// Attempts that the broker has forgotten and was told of.
    lost: Vec<Uuid>,
    #[serde(skip)]
    ended: BTreeMap<Uuid, WitnessedEnd>,
}

/// A job, as people know it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct JobName {
    /// Its deployment.
    pub deployment_id: Uuid,
    /// Its name there.
    pub job: String,
}

/// A file of an acknowledged end.
#[derive(Deserialize, Serialize)]
struct Told {
    end: WitnessedEnd,
    report: Report,
}

impl Memory {
    /// What earlier processes of the place remembered of this cluster, and this one from now on.
    ///
    /// # Errors
    /// The folder cannot be made, listed, read or written to.
    pub fn open(state_dir: &Path, cluster: Uuid, runner: Uuid) -> io::Result<Self> {
        let dir = state_dir.join(ENDS).join(cluster.simple().to_string());
        std::fs::create_dir_all(&dir)?;
        let path = dir.join(BOOK);
        let mut book: Book = match std::fs::read(&path) {
            // Cut short by a power cut: the ends beside it still count.
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::error!(%error, book = %path.display(), "what this place remembers of earlier processes cannot be read");
                Book::default()
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Book::default(),
            Err(error) => return Err(error),
        };
        book.runners.push(runner);
        for entry in std::fs::read_dir(&dir)?.flatten().filter(|entry| entry.file_name() != BOOK) {
            match std::fs::read(entry.path()).map(|bytes| serde_json::from_slice::<Told>(&bytes)) {
                Ok(Ok(Told { end, .. })) => {
                    book.fence = book.fence.max(end.lease.fence);
                    book.ended.insert(end.lease.attempt_id, end);
                }
                // Half of one, of a process that was killed as it wrote: its end is known to the broker alone.
                _ => drop(std::fs::remove_file(entry.path())),
            }
        }
        let memory = Self { dir, book: Mutex::new(book) };
        memory.write(&memory.book())?;
        Ok(memory)
    }

    /// The broker has handed out this attempt.
    pub fn claimed(&self, lease: &Lease) {
        let mut book = self.book();
        book.fence = book.fence.max(lease.fence);
    }

    /// The broker has acknowledged the end of an attempt that may have changed the world. Waits for the disk.
    pub fn ended(&self, lease: Lease, job: Option<&JobName>, report: &Report) {
        let end = WitnessedEnd {
            lease,
            deployment_id: job.map(|job| job.deployment_id),
            job: job.map(|job| job.job.clone()),
            outcome: report.outcome,
            ended_at: wall(),
        };
        let told = Told { end: end.clone(), report: report.clone() };
        let bytes = serde_json::to_vec(&told).map_err(io::Error::other);
        if let Err(error) = bytes.and_then(|bytes| std::fs::write(self.file(lease.attempt_id), bytes)) {
            tracing::warn!(%error, dir = %self.dir.display(), "what the broker has acknowledged could not be put on disk");
        }
        let mut book = self.book();
        book.ended.insert(lease.attempt_id, end);
        self.forget_old(&mut book);
    }

    /// With what is held and may have changed the world.
    pub fn witness(&self, open: Vec<WitnessedOpen>) -> Witness {
        let mut book = self.book();
        self.forget_old(&mut book);
        let open = open.into_iter().filter(|open| !book.lost.contains(&open.lease.attempt_id)).collect();
        let ended = book.ended.values().cloned().collect();
        Witness { incarnation: book.incarnation, fence: book.fence, runners: book.runners.clone(), open, ended }
    }

    /// What the broker said to it. Returns reports that it has forgotten.
    pub fn compared(&self, compared: &Compared) -> Vec<(Lease, Report)> {
        let mut book = self.book();
        for lost in &compared.lost {
            let end = book.ended.remove(lost);
            drop(std::fs::remove_file(self.file(*lost)));
            let (deployment, job) = end.map(|end| (end.deployment_id, end.job)).unwrap_or_default();
            tracing::error!(attempt.id = %lost, deployment.id = ?deployment, job, "the database was set back in time and has forgotten this attempt");
            book.lost.push(*lost);
        }
        if compared.incarnation != book.incarnation {
            // Fences of another history tell nothing in this one, but those of ends that it knows.
            let known = book.ended.values().map(|end| end.lease.fence).max();
            (book.incarnation, book.fence) = (compared.incarnation, known.unwrap_or(0));
        }
        if let Err(error) = self.write(&book) {
            tracing::warn!(%error, "what the broker has acknowledged could not be put on disk");
        }
        let mut again = Vec::new();
        for attempt in &compared.resend {
            let told = std::fs::read(self.file(*attempt)).map(|bytes| serde_json::from_slice::<Told>(&bytes));
            match told.ok().and_then(Result::ok) {
                Some(told) => again.push((told.end.lease, told.report)),
                None => {
                    book.ended.remove(attempt);
                    tracing::error!(attempt.id = %attempt, "the database has forgotten this end, and its report is not on disk any more");
                }
            }
        }
        again
    }

    /// The broker does not take this end again: shown again and again it would be taken for a new loss each time.
    pub fn forget(&self, attempt: Uuid) {
        self.book().ended.remove(&attempt);
        drop(std::fs::remove_file(self.file(attempt)));
    }

    fn forget_old(&self, book: &mut Book) {
        let oldest = wall() - REMEMBERED;
        let mut times: Vec<_> = book.ended.values().map(|end| end.ended_at).collect();
        times.sort_unstable();
        let oldest = times.iter().rev().nth(MOST_ENDS - 1).map_or(oldest, |time| oldest.max(*time));
        let old: Vec<Uuid> =
            book.ended.values().filter(|end| end.ended_at < oldest).map(|end| end.lease.attempt_id).collect();
        for attempt in old {
            book.ended.remove(&attempt);
            drop(std::fs::remove_file(self.file(attempt)));
        }
        for (ids, most) in [(&mut book.runners, MOST_RUNNERS), (&mut book.lost, MOST_LOST)] {
            ids.drain(..ids.len().saturating_sub(most));
        }
    }

    fn write(&self, book: &Book) -> io::Result<()> {
        let draft = self.dir.join(format!("{BOOK}.draft"));
        std::fs::write(&draft, serde_json::to_vec(book)?)?;
        std::fs::rename(draft, self.dir.join(BOOK))
    }

    fn file(&self, attempt: Uuid) -> PathBuf {
        self.dir.join(format!("{}.json", attempt.simple()))
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const CLUSTER: Uuid = Uuid::from_u128(5);

    fn folder(state: &Path) -> PathBuf {
        state.join(ENDS).join(CLUSTER.simple().to_string())
    }

    fn report() -> Report {
        serde_json::from_value(json!({"outcome": "success", "log_end": 3, "child_dead": true})).expect("a report")
    }

    fn lease(fence: i64) -> Lease {
        Lease { attempt_id: Uuid::from_u128(u128::from(fence.unsigned_abs())), fence }
    }

    fn open(fence: i64) -> WitnessedOpen {
        WitnessedOpen { lease: lease(fence), started: true }
    }

    #[test]
    fn the_next_process_of_a_place_remembers_what_the_one_before_was_told() {
        let dir = tempfile::tempdir().expect("a folder");
        let [first, second] = [1, 2].map(Uuid::from_u128);
        let job = JobName { deployment_id: Uuid::from_u128(9), job: "apply".into() };
        let memory = Memory::open(dir.path(), CLUSTER, first).expect("a memory");
        memory.claimed(&lease(7));
        memory.ended(lease(7), Some(&job), &report());
        // Tried: a file that was only half written, and one that is no file of ours.
        for name in ["00000000000000000000000000000003.json", "note"] {
            std::fs::write(folder(dir.path()).join(name), "{\"end\":").expect("a file");
        }
        let memory = Memory::open(dir.path(), CLUSTER, second).expect("a memory");
        let witness = memory.witness(vec![open(8)]);
        assert_eq!((witness.incarnation, witness.fence, witness.runners.as_slice()), (0, 7, &[first, second][..]));
        let [end] = witness.ended.as_slice() else { panic!("one end: {:?}", witness.ended) };
        assert_eq!(
            (end.lease, end.deployment_id, end.job.as_deref()),
            (lease(7), Some(job.deployment_id), Some("apply"))
        );
        assert_eq!(witness.open, [open(8)]);
    }

    #[test]
    fn what_the_broker_was_told_it_has_forgotten_is_not_told_twice() {
        let dir = tempfile::tempdir().expect("a folder");
        let memory = Memory::open(dir.path(), CLUSTER, Uuid::from_u128(1)).expect("a memory");
        for fence in [7, 8, 9] {
            memory.ended(lease(fence), None, &report());
        }
        let lost = [7, 9].map(|fence| lease(fence).attempt_id).to_vec();
        let compared = Compared { incarnation: 2, doubted: false, resend: vec![lease(8).attempt_id], lost };
        let again = memory.compared(&compared);
        assert_eq!(again.iter().map(|(lease, report)| (*lease, report.log_end)).collect::<Vec<_>>(), [(lease(8), 3)]);
        for memory in [memory, Memory::open(dir.path(), CLUSTER, Uuid::from_u128(2)).expect("a memory")] {
            let witness = memory.witness(vec![open(9), open(10)]);
            assert_eq!((witness.incarnation, witness.fence), (2, 8));
            assert_eq!(witness.ended.iter().map(|end| end.lease).collect::<Vec<_>>(), [lease(8)]);
            assert_eq!(witness.open, [open(10)]);
        }
    }

    #[test]
    fn only_so_many_ends_are_remembered() {
        let dir = tempfile::tempdir().expect("a folder");
        let memory = Memory::open(dir.path(), CLUSTER, Uuid::from_u128(1)).expect("a memory");
        let many = i64::try_from(MOST_ENDS).expect("a number") + 5;
        for fence in 1..=many {
            memory.ended(lease(fence), None, &report());
        }
        let ended = memory.witness(Vec::new()).ended;
        assert_eq!(ended.len(), MOST_ENDS);
        assert!(ended.iter().all(|end| end.lease.fence > 5));
        assert_eq!(std::fs::read_dir(folder(dir.path())).expect("a folder").count(), MOST_ENDS + 1);
    }

    #[test]
    fn what_is_held_and_was_forgotten_is_not_told_twice_beside_many_ends() {
        let dir = tempfile::tempdir().expect("a folder");
        let memory = Memory::open(dir.path(), CLUSTER, Uuid::from_u128(1)).expect("a memory");
        for fence in 1..=120 {
            memory.ended(lease(fence), None, &report());
        }
        let open = vec![open(1001), open(1002)];
        let witness = memory.witness(open.clone());
        // As the broker answers: the open ones first, then the ended ones.
        let lost = witness
            .open
            .iter()
            .map(|open| open.lease)
            .chain(witness.ended.iter().map(|end| end.lease))
            .map(|l| l.attempt_id)
            .collect();
        memory.compared(&Compared { incarnation: 2, doubted: false, resend: Vec::new(), lost });
        assert_eq!(memory.witness(open).open, []);
    }

    #[test]
    fn an_empty_book_after_a_power_cut_does_not_keep_the_runner_down() {
        let dir = tempfile::tempdir().expect("a folder");
        drop(Memory::open(dir.path(), CLUSTER, Uuid::from_u128(1)).expect("a memory"));
        std::fs::write(folder(dir.path()).join(BOOK), "").expect("a file");
        assert!(Memory::open(dir.path(), CLUSTER, Uuid::from_u128(2)).is_ok());
    }

    #[test]
    fn an_end_whose_report_is_gone_is_not_witnessed_for_ever() {
        let dir = tempfile::tempdir().expect("a folder");
        let memory = Memory::open(dir.path(), CLUSTER, Uuid::from_u128(1)).expect("a memory");
        memory.ended(lease(8), None, &report());
        std::fs::remove_file(memory.file(lease(8).attempt_id)).expect("it was written");
        assert!(
            memory
                .compared(&Compared { incarnation: 2, doubted: false, resend: vec![lease(8).attempt_id], lost: vec![] })
                .is_empty()
        );
        assert_eq!(memory.witness(Vec::new()).ended.len(), 0);
    }
}
