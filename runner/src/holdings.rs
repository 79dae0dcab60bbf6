//! What this process holds: its attempts, the lease that covers them, and the requests to stop them.

use crate::clock::BootTime;
use crate::supervise::StopReason;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tendril_broker::runner::{Claimed, Lease, WitnessedOpen};
use tokio::sync::{Notify, watch};
use uuid::Uuid;

/// All attempts of this process.
#[derive(Default)]
pub struct Holdings {
    held: Mutex<BTreeMap<Uuid, Entry>>,
    /// How often it was told what is open.
    tellings: AtomicU64,
    lease_until: Mutex<Option<BootTime>>,
    released: Notify,
}

struct Entry {
    lease: Lease,
    mutating: bool,
    start: Start,
    /// The next process of the place can go on with what it does now.
    handed_over: bool,
    kill_grace: Duration,
    stop: watch::Sender<Option<StopReason>>,
}

/// How far the start has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Start {
    /// Not asked for.
    Ahead,
    /// Asked for, and so maybe committed. Nothing is run.
    Asked,
    /// Answered: commands may run.
    Acknowledged,
}

/// One attempt, as its job holds it; dropping it lets go.
pub struct Held {
    attempt: Uuid,
    all: Arc<Holdings>,
    stop: watch::Receiver<Option<StopReason>>,
}

impl Holdings {
    /// Holds a claimed attempt; none when it is held already (a claim that was answered twice).
    pub fn hold(self: &Arc<Self>, job: &Claimed) -> Option<Held> {
        let attempt = job.lease.attempt_id;
        let (stop, stopped) = watch::channel(None);
        let mut held = self.held();
        if held.contains_key(&attempt) {
            return None;
        }
        // For kinds that only read, the claim is the start.
        let (mutating, kill_grace) = (job.mutating, job.kill_grace);
        let lease = job.lease;
        let start = if mutating { Start::Ahead } else { Start::Acknowledged };
        held.insert(attempt, Entry { lease, mutating, start, handed_over: false, kill_grace, stop });
        Some(Held { attempt, all: self.clone(), stop: stopped })
    }

    /// Ids of all that is held.
    pub fn ids(&self) -> Vec<Uuid> {
        self.held().keys().copied().collect()
    }

    /// Those that may have begun to change the world, to be told to the broker.
    pub fn witnessed(&self) -> Vec<WitnessedOpen> {
        let held = self.held();
        self.tellings.fetch_add(1, Ordering::Relaxed);
        let open = |entry: &Entry| WitnessedOpen { lease: entry.lease, started: entry.start == Start::Acknowledged };
        held.values().filter(|entry| entry.is_changing()).map(open).collect()
    }

    /// How many are held.
    pub fn count(&self) -> usize {
        self.held().len()
    }

    /// How long the last of them may take to end once it is interrupted.
    pub fn longest_grace(&self) -> Duration {
        self.held().values().map(|entry| entry.kill_grace).max().unwrap_or_default()
    }

    /// Asks an attempt to stop; the first reason stays.
    pub fn stop(&self, attempt: Uuid, reason: StopReason) {
        if let Some(entry) = self.held().get(&attempt) {
            entry.ask(reason);
        }
    }

    /// Asks everything to stop.
    pub fn stop_all(&self, reason: StopReason) {
        self.held().values().for_each(|entry| entry.ask(reason));
    }

    /// The job went on without this attempt. What only reads is stopped; what changes the world finishes, and reports.
    pub fn superseded(&self, attempt: Uuid) {
        if let Some(entry) = self.held().get(&attempt)
            && !entry.is_changing()
        {
            entry.ask(StopReason::LeaseLost);
        }
    }

    /// A shutdown begins: what has not started to change anything is handed back.
    pub fn stop_unstarted(&self, reason: StopReason) {
        self.held().values().filter(|entry| entry.start == Start::Ahead).for_each(|entry| entry.ask(reason));
    }

    /// A shutdown that hands over: ends all but commands that change the world, which the next process of the place goes on
    /// with.
    pub fn stop_what_cannot_be_handed_over(&self, reason: StopReason) {
        self.held().values().filter(|entry| !entry.handed_over).for_each(|entry| entry.ask(reason));
    }

    /// Waits until nothing is held but such commands. Whose command has ended keeps its state, and reports.
    pub async fn only_handed_over_left(&self) {
        loop {
            let released = self.released.notified();
            if self.held().values().all(|entry| entry.handed_over) {
                return;
            }
            released.await;
        }
    }

    /// Cut off for longer than the lease: ends what only reads or has not started. What changes the world goes on.
    pub fn stop_what_others_may_start(&self) {
        self.held().values().filter(|entry| !entry.is_changing()).for_each(|entry| entry.ask(StopReason::LeaseLost));
    }

    /// The lease was renewed by a heartbeat that was sent at `sent`: counted from before it was sent.
    pub fn renew(&self, sent: BootTime, ttl: Duration) {
        *self.lease() = Some(sent.after(ttl));
    }

    /// How long the lease still holds.
    pub fn lease_left(&self) -> Duration {
        self.lease().map(BootTime::left).unwrap_or_default()
    }

    /// Waits until something is let go of.
    pub async fn released(&self) {
        self.released.notified().await;
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<Uuid, Entry>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lease(&self) -> MutexGuard<'_, Option<BootTime>> {
        self.lease_until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// Whether it may have begun to change the world.
    fn is_changing(&self) -> bool {
        self.mutating && self.start != Start::Ahead
    }

    fn ask(&self, reason: StopReason) {
        self.stop.send_if_modified(|asked| {
            let first = asked.is_none();
            asked.get_or_insert(reason);
            first
        });
    }
}

impl Held {
    /// Why the attempt should stop, if it should.
    pub fn stop_reason(&self) -> Option<StopReason> {
        *self.stop.borrow()
    }

    /// Waits for a request to stop.
    pub async fn stopped(&self) -> StopReason {
        let mut stop = self.stop.clone();
        match stop.wait_for(Option::is_some).await.map(|reason| *reason) {
            Ok(Some(reason)) => reason,
            // The sender lives as long as this value does.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// Whether the lease covers a start now.
    pub fn lease_is_live(&self) -> bool {
        !self.all.lease_left().is_zero()
    }

    /// The start is asked for, and so may be committed: from now on neither a soft shutdown nor a lost lease stops the
    /// attempt.
    pub fn ask_for_start(&self) {
        if let Some(entry) = self.all.held().get_mut(&self.attempt)
            && entry.start == Start::Ahead
        {
            entry.start = Start::Asked;
        }
    }

    /// Which telling of what is open was the last, to be asked before the broker is asked for the start.
    pub fn last_telling(&self) -> u64 {
        self.all.tellings.load(Ordering::Relaxed)
    }

    /// The start was answered. False when what is open was told since: then whoever was told believes that nothing has started,
    /// and has to be asked itself.
    pub fn acknowledge_start(&self, telling: u64) -> bool {
        let mut held = self.all.held();
        if self.last_telling() != telling {
            return false;
        }
        if let Some(entry) = held.get_mut(&self.attempt) {
            entry.start = Start::Acknowledged;
        }
        true
    }

    /// An earlier process has begun what it is about.
    pub fn inherit_start(&self) {
        if let Some(entry) = self.all.held().get_mut(&self.attempt) {
            entry.start = Start::Acknowledged;
        }
    }

    /// Whether the next process of the place can go on with what the attempt does now.
    pub fn hand_over(&self, can: bool) {
        if let Some(entry) = self.all.held().get_mut(&self.attempt) {
            entry.handed_over = can;
        }
        self.all.released.notify_one();
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.held().remove(&self.attempt);
        self.all.released.notify_one();
    }
}
