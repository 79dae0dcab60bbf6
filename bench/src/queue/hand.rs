//! A runner's calls without its processes: registers, keeps its lease, claims for all free slots at once, starts and
//! finishes, by the typed client that the real runner has.

use crate::clock::new_id;
use crate::stage::Access;
use anyhow::Context;
use serde_json::json;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tendril_broker::connect::{Address, Connector};
use tendril_broker::runner::{Broker, Claimed, Heart, Outcome, Registered, Registration, Report, Witness};
use tokio::task::{JoinHandle, JoinSet};
use uuid::Uuid;

const PATIENCE: Duration = Duration::from_secs(10);
/// Before who waits for more looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// How long hands work, and what they have done meanwhile.
#[derive(Debug, Default)]
pub struct Shift {
    /// Whether to wait for more when nothing is left.
    waits: bool,
    over: AtomicBool,
    done: AtomicU64,
}

impl Shift {
    /// Lasts until nothing is left.
    pub fn until_nothing_is_left() -> Self {
        Self::default()
    }

    /// Lasts until it is ended.
    pub fn until_ended() -> Self {
        Self { waits: true, ..Self::default() }
    }

    /// Nothing more is claimed.
    pub fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Jobs that have been brought to their end.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Whether it was ended.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn note(&self) -> u64 {
        self.done.fetch_add(1, Ordering::Relaxed);
        1
    }
}

/// A runner's calls, and the heartbeat that goes with them.
pub struct Hand {
    broker: Broker,
    /// Who starts and finishes: those of one go together.
    desks: Vec<Broker>,
    connector: Connector,
    registered: Registered,
    next_no: i64,
    beats: JoinHandle<()>,
}

impl Hand {
    /// Registers as a runner of the cluster with so many sessions for its calls.
    ///
    /// # Errors
    /// The broker refused.
    pub async fn hire(access: &Access, sessions: usize, slots: usize) -> anyhow::Result<Self> {
        let connector = Address::parse(&access.url)?.connector(&access.token.parse()?)?;
        let broker = Broker::new(connector.clone(), new_id(), sessions)?;
        let registration = Registration {
            name: "hand".into(),
            version: "0".into(),
            place: None,
            labels: vec!["kind=exec".into()],
            slots: u32::try_from(slots)?,
            log_writer: new_id(),
        };
        let registered = broker.register(&registration).await?;
        let witness = Witness { incarnation: 0, fence: 0, runners: Vec::new(), open: Vec::new(), ended: Vec::new() };
        broker.witness(&witness).await?;
        let every = Duration::from_millis(registered.heartbeat_ms);
        let beats = tokio::spawn(beat(Heart::new(connector.clone()), broker.runner(), every));
        Ok(Self { desks: vec![broker.clone()], broker, connector, registered, next_no: 1, beats })
    }

    /// Has so many sessions of their own for starts and ends: with no more slots than that, nothing goes together.
    ///
    /// # Errors
    /// A pool cannot be built.
    pub fn part(&mut self, sessions: usize) -> anyhow::Result<()> {
        let desk = || Broker::new(self.connector.clone(), self.broker.runner(), 1);
        self.desks = (0..sessions).map(|_| desk()).collect::<Result<_, _>>()?;
        Ok(())
    }

    /// Claims up to so many jobs.
    ///
    /// # Errors
    /// The broker refused.
    pub async fn claim(&mut self, slots: usize) -> anyhow::Result<Vec<Claimed>> {
        let claimed = self.broker.claim(self.next_no, i32::try_from(slots)?).await?;
        self.next_no += 1;
        Ok(claimed)
    }

    /// Works until nothing is left that can run, or until it is asked to stop: claims for all free slots, as a runner does,
    /// and starts and finishes each job while others are claimed. Returns how many it were.
    ///
    /// # Errors
    /// The broker refused something.
    pub async fn work(&mut self, slots: usize, shift: &Shift) -> anyhow::Result<u64> {
        let (mut running, mut done) = (JoinSet::new(), 0);
        let mut desks = self.desks.clone().into_iter().cycle();
        loop {
            while let Some(ended) = running.try_join_next() {
                ended.context("a job's task ended")??;
                done += shift.note();
            }
            let free = if shift.is_over() { 0 } else { slots - running.len() };
            let claimed = if free > 0 { self.claim(free).await? } else { Vec::new() };
            let none = claimed.is_empty();
            for (job, desk) in claimed.into_iter().zip(&mut desks) {
                running.spawn(perform(desk, job));
            }
            match running.is_empty() {
                true if shift.is_over() || !shift.waits => return Ok(done),
                true => tokio::time::sleep(LOOK_AGAIN).await,
                false if none => {
                    running.join_next().await.context("no task runs")?.context("a job's task ended")??;
                    done += shift.note();
                }
                false => {}
            }
        }
    }

    /// Asks for a ring, and keeps nothing open but the heartbeat.
    ///
    /// # Errors
    /// The broker refused.
    pub async fn rest(&self) -> anyhow::Result<()> {
        self.broker.wait().await?;
        self.broker.close();
        Ok(())
    }

    /// Says goodbye.
    ///
    /// # Errors
    /// The broker refused.
    pub async fn dismiss(self) -> anyhow::Result<()> {
        self.beats.abort();
        let broker = Broker::new(self.connector.clone(), self.broker.runner(), 1)?;
        Ok(broker.leave().await?)
    }

    /// The typed calls.
    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// How further sessions are opened.
    pub fn connector(&self) -> &Connector {
        &self.connector
    }

    /// What the broker has answered to its registration.
    pub fn registered(&self) -> &Registered {
        &self.registered
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        self.beats.abort();
    }
}

/// Keeps the lease; gives nothing back, since what was claimed is always performed.
async fn beat(mut heart: Heart, runner: Uuid, every: Duration) {
    loop {
        // One that is missed comes again, long before the lease has run out.
        drop(heart.beat(runner, 0, &[], PATIENCE).await);
        tokio::time::sleep(every).await;
    }
}

/// A job from its start to its end.
///
/// # Errors
/// The broker refused one of them.
pub async fn perform(broker: Broker, job: Claimed) -> anyhow::Result<()> {
    if job.mutating {
        broker.start(&job.lease).await?;
    }
    broker.finish(&job.lease, &success()).await?;
    Ok(())
}

/// What a command's end without any output is reported as.
pub fn success() -> Report {
    let commands = json!([{"program": "true", "exit": 0}]);
    Report {
        outcome: Outcome::Success,
        log_end: -1,
        child_dead: true,
        error: None,
        permanent: false,
        result: json!({}),
        commands,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tendril_broker::baseline::queue::{Queued, Shape};
    use tendril_broker::testing::TestDatabase;

    async fn site(shapes: &[(Shape, u64)]) -> (TestDatabase, Access, Queued, Hand) {
        let database = TestDatabase::create().await;
        let access = Access::to(&database, "site").await;
        let queued = Queued::open(&database.url()).await.unwrap();
        for (shape, deployments) in shapes {
            queued.fill(access.cluster, *shape, *deployments).await.unwrap();
        }
        let hand = Hand::hire(&access, 4, 8).await.unwrap();
        (database, access, queued, hand)
    }

    #[tokio::test]
    async fn a_hand_brings_every_job_to_its_end_once_also_those_that_need_others() {
        let shapes = [(Shape::Single, 10), (Shape::Reading, 10), (Shape::Diamond, 4)];
        let (_database, access, queued, mut hand) = site(&shapes).await;
        let shift = Shift::until_nothing_is_left();
        assert_eq!(hand.work(8, &shift).await.unwrap(), 40);
        assert_eq!((shift.done(), queued.ended(access.cluster).await.unwrap()), (40, (40, 40)));
    }

    #[tokio::test]
    async fn a_hand_with_sessions_for_each_job_does_the_same() {
        let (_database, access, queued, mut hand) = site(&[(Shape::Single, 20), (Shape::Diamond, 2)]).await;
        hand.part(3).unwrap();
        assert_eq!(hand.work(3, &Shift::until_nothing_is_left()).await.unwrap(), 30);
        assert_eq!(queued.ended(access.cluster).await.unwrap(), (30, 30));
    }

    #[tokio::test]
    async fn of_jobs_that_are_to_be_blocked_one_alone_can_be_claimed() {
        let shapes = [(Shape::OneByOne, 2), (Shape::Elsewhere, 2), (Shape::Unapproved, 2), (Shape::Ten, 1)];
        let (_database, _access, _queued, mut hand) = site(&shapes).await;
        assert_eq!(hand.claim(100).await.unwrap().len(), 11);
    }
}
