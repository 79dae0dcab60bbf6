//! The claim loop: for all free slots at once, one open claim at a time, each with its number.

use crate::clock::BootTime;
use crate::job;
use crate::runner::Runner;
use backon::{BackoffBuilder, ExponentialBuilder};
use std::sync::Arc;
use std::time::Duration;
use tendril_broker::runner::{BrokerError, Claimed};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// When to look again after having asked for a ring: a submit that was under way meanwhile did not see the request, and one
/// soon after the last ring does not ring.
const LOOK_AGAIN: [Duration; 3] = [Duration::ZERO, Duration::from_millis(50), Duration::from_millis(300)];

/// How long a ring is not asked for after a claim that brought something, nor looked for more: what was claimed begins first,
/// and takes about so long for it. A core that does both does each later.
const BEGINS_FIRST: Duration = Duration::from_millis(5);

/// Claims and starts jobs until `soft`; jobs run as tasks of `jobs`.
pub async fn run(runner: Arc<Runner>, jobs: TaskTracker, soft: CancellationToken) {
    let mut claims = Claims { runner, jobs, next_no: 1, outage: None };
    while !soft.is_cancelled() {
        tokio::select! {
            () = claims.turn() => {}
            () = soft.cancelled() => {
                // The claim in flight may have been answered: its attempts are in nobody's hands here, and the next
                // heartbeats, which do not name them, give them back.
                claims.runner.signals.settle(claims.next_no);
                return;
            }
        }
    }
}

struct Claims {
    runner: Arc<Runner>,
    jobs: TaskTracker,
    next_no: i64,
    outage: Option<Box<dyn Iterator<Item = Duration> + Send>>,
}

impl Claims {
    /// Waits for a free slot, claims, and after an empty claim waits for a sign of work.
    async fn turn(&mut self) {
        while self.runner.free_slots() == 0 {
            self.runner.holdings.released().await;
        }
        if waited_for_the_right_to_claim(&self.runner).await {
            return;
        }
        let (slots, listening) = (self.runner.free_slots(), self.runner.signals.listening());
        let claimed = self.claim().await;
        // Fewer than asked for: there is hardly more now, and the next look comes after the request for a ring.
        if claimed >= slots || claimed > 0 && !listening {
            return;
        }
        if claimed > 0 {
            tokio::time::sleep(BEGINS_FIRST).await;
        }
        if listening && self.filled_after_asking_for_a_ring().await {
            return;
        }
        self.runner.signals.work.notified().await;
    }

    /// Asks for a ring and looks a few times more; true when a claim has filled all slots.
    async fn filled_after_asking_for_a_ring(&mut self) -> bool {
        'ask: while self.runner.broker.wait().await.is_ok() {
            let asked = Instant::now();
            for after in LOOK_AGAIN {
                let mut due = false;
                while !due {
                    // A ring, or a job of our own that ended, is a sign to look at once, and takes none of the looks away.
                    tokio::select! {
                        () = tokio::time::sleep_until(asked + after) => due = true,
                        () = self.runner.signals.work.notified() => {}
                    }
                    let slots = self.runner.free_slots();
                    match self.claim().await {
                        0 => {}
                        // It may have come with the ring: the next one is to be asked for anew.
                        claimed if claimed < slots => {
                            tokio::time::sleep(BEGINS_FIRST).await;
                            continue 'ask;
                        }
                        _ => return true,
                    }
                }
            }
            break;
        }
        false
    }

    /// One claim; returns how many jobs it brought. An unclear reply is asked again under the same number.
    async fn claim(&mut self) -> usize {
        loop {
            let slots = self.runner.free_slots();
            let sent = BootTime::now();
            match self.runner.broker.claim(self.next_no, i32::try_from(slots).unwrap_or(i32::MAX)).await {
                Ok(claimed) => {
                    self.runner.metrics.answered("claim", sent.elapsed());
                    self.outage = None;
                    let count = claimed.len();
                    claimed.into_iter().for_each(|job| self.take(job));
                    self.runner.signals.settle(self.next_no);
                    self.next_no += 1;
                    return count;
                }
                Err(error) => self.wait_after(error).await,
            }
        }
    }

    fn take(&self, job: Claimed) {
        let Some(held) = self.runner.holdings.hold(&job) else { return };
        self.runner.metrics.claimed(&job.kind);
        self.runner.memory.claimed(&job.lease);
        self.jobs.spawn(job::run(self.runner.clone(), job, held));
    }

    async fn wait_after(&mut self, error: BrokerError) {
        self.runner.metrics.broker_error("claim");
        match error {
            BrokerError::LeaseExpired(_) | BrokerError::NotActive(_) => self.runner.signals.renewed.notified().await,
            // The heartbeat has told of it, and asks rarely whether it is accepted again.
            _ if self.runner.signals.revoked() => self.runner.signals.renewed.notified().await,
            error => {
                let wait =
                    self.outage.get_or_insert_with(|| Box::new(backoff())).next().unwrap_or(Duration::from_secs(10));
                tracing::warn!(%error, wait_ms = wait.as_millis(), "cannot claim");
                tokio::time::sleep(wait).await;
            }
        }
    }
}

/// What is claimed without a lease could only be handed back, and a new runner has none before its first heartbeat is
/// answered. True when there was something to wait for.
async fn waited_for_the_right_to_claim(runner: &Runner) -> bool {
    // Taken before the looks at what it tells of, so that no answered heartbeat is missed between them and the wait.
    let renewed = runner.signals.renewed.notified();
    let wait = runner.holdings.lease_left().is_zero() || runner.signals.draining() || runner.signals.revoked();
    if wait {
        renewed.await;
    }
    wait
}

fn backoff() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(Duration::from_secs(10))
        .with_jitter()
        .without_max_times()
        .build()
}
