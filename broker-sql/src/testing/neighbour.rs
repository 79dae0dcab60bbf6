//! A tenant at work: submits, claims, starts, heartbeats, logs and finishes real jobs by the typed client, one after the
//! other, while others do to the server what they like. It must lose none, and it says how long each took to start.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use sqlx::postgres::PgConnection;
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::TestDatabase;
use crate::clock::new_id;
use crate::connect::{Address, Connector};
use crate::operator::grants::Scope;
use crate::portal::submission::{Submission, submit};
use crate::runner::{
    Broker, BrokerError, Claimed, Heart, LogRow, LogWriter, Outcome, Registration, Report, Witness, Written,
};
use crate::session;

/// Lines that each job prints.
const LINES: i64 = 3;
/// Between two tries of what an outage has swallowed.
const TRY_AGAIN: Duration = Duration::from_millis(10);
const BEAT_EVERY: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(10);
/// Nobody is away for longer; what is, fails by its words.
const LONGEST_OUTAGE: Duration = Duration::from_secs(60);

/// How long things took, in milliseconds, one figure for each job.
#[derive(Clone, Debug, Default)]
pub struct Paces {
    /// From the submit until its claim was answered, both included.
    pub claimed: Vec<f64>,
    /// From the claim's answer until the start's.
    pub started: Vec<f64>,
    /// Calls that had to be made again.
    pub tries_again: u64,
}

/// What became of a neighbour's work.
#[derive(Clone, Debug)]
pub struct Worked {
    /// Jobs that it brought to their end.
    pub jobs: i64,
    /// How long they took.
    pub paces: Paces,
    /// What was lost, in words; empty when nothing was.
    pub losses: Vec<String>,
}

/// A tenant at work, until it is asked to stop.
pub struct Neighbour {
    cluster: Uuid,
    operator: session::Address,
    stop: CancellationToken,
    done: watch::Receiver<i64>,
    work: JoinHandle<Paces>,
    beats: JoinHandle<()>,
}

impl Neighbour {
    /// Begins to work in a cluster of its own, of this name.
    ///
    /// # Panics
    /// When the database cannot be used.
    pub async fn at_work(database: &TestDatabase, name: &str) -> Self {
        Self::at_work_through(database, name, str::to_owned).await
    }

    /// The same, with its runner's way to the database led elsewhere: through a pooler.
    ///
    /// # Panics
    /// When the database cannot be used.
    pub async fn at_work_through(database: &TestDatabase, name: &str, way: impl Fn(&str) -> String) -> Self {
        let issued = database.cluster(name).await;
        let token = issued.token.reveal().parse().expect("a token of this broker");
        let url = way(&database.runner_url(issued.token.reveal()));
        let (_, at) = url.rsplit_once('@').expect("a URL with a role");
        let address = Address::parse(&format!("postgres://{at}")).expect("the test server's address");
        let connector = address.connector(&token).expect("a connector");
        let (stop, held) = (CancellationToken::new(), Arc::new(Mutex::new(Vec::new())));
        let broker = Broker::new(connector.clone(), new_id(), 2).expect("a pool");
        let (sender, done) = watch::channel(0);
        let portal = database.portal(Scope::Cluster(issued.id)).await.url.parse().expect("an address");
        let writer = new_id();
        let registration = Registration {
            name: name.to_owned(),
            version: "0".into(),
            place: None,
            labels: vec!["kind=exec".into()],
            slots: 4,
            log_writer: writer,
        };
        let mut desk = Desk {
            cluster: issued.id,
            broker,
            connector,
            portal: (portal, None),
            writer,
            log: None,
            held,
            paces: Paces::default(),
        };
        desk.register(&registration).await;
        let beats = tokio::spawn(beat(desk.connector.clone(), desk.broker.runner(), desk.held.clone()));
        let work = tokio::spawn(work(desk, sender, stop.clone()));
        Self { cluster: issued.id, operator: database.address(), stop, done, work, beats }
    }

    /// Waits until so many more of its jobs have come to their end.
    ///
    /// # Panics
    /// When it has stopped working.
    pub async fn goes_on(&mut self, jobs: i64) {
        let goal = *self.done.borrow() + jobs;
        self.done.wait_for(|done| *done >= goal).await.expect("the neighbour works");
    }

    /// Lets it end what it is at; returns how that went, by what the database has.
    ///
    /// # Panics
    /// When the broker had refused it something.
    pub async fn stop(self) -> Worked {
        self.stop.cancel();
        let paces = self.work.await.expect("the neighbour was refused nothing");
        self.beats.abort();
        let jobs = *self.done.borrow();
        let mut operator = self.operator.connect("neighbour").await.expect("the database is there");
        Worked { jobs, paces, losses: losses(&mut operator, self.cluster, jobs).await }
    }

    /// The same for a test: nothing may be lost.
    ///
    /// # Panics
    /// When something was.
    pub async fn unharmed(self) -> Worked {
        let worked = self.stop().await;
        assert!(worked.losses.is_empty(), "{:?}", worked.losses);
        assert!(worked.jobs > 0, "it did nothing");
        worked
    }
}

/// What the tables say of a cluster whose jobs all went through at their first attempt, with all their lines.
async fn losses(operator: &mut PgConnection, cluster: Uuid, jobs: i64) -> Vec<String> {
    let sql = "-- a neighbour's work
        select count(*) filter (where d.status = 'SUCCESS'), count(*),
               (select coalesce(max(j.attempts), 0)::bigint from tendril_core.jobs j where j.cluster_id = $1),
               (select count(*) from tendril.deployment_logs l where l.cluster_id = $1)
          from tendril.deployments d where d.cluster_id = $1";
    let found = sqlx::query_as::<_, (i64, i64, i64, i64)>(sql).bind(cluster).fetch_one(operator).await;
    let found = found.expect("the operator may look");
    let wanted = (jobs, jobs, 1, jobs * LINES);
    let names = ["deployments that succeeded", "deployments", "attempts of a job", "log rows"];
    let pairs = [(found.0, wanted.0), (found.1, wanted.1), (found.2, wanted.2), (found.3, wanted.3)];
    let differ = names.iter().zip(pairs).filter(|(_, (found, wanted))| found != wanted);
    differ.map(|(name, (found, wanted))| format!("{name}: {found} instead of {wanted}")).collect()
}

/// Keeps the lease. What is not answered is asked again at the next beat.
async fn beat(connector: Connector, runner: Uuid, held: Arc<Mutex<Vec<Uuid>>>) {
    let mut heart = Heart::new(connector);
    loop {
        let holding = held.lock().expect("nobody panics with it").clone();
        // Nothing is ever settled by it: a claim whose reply was lost is asked again instead.
        drop(heart.beat(runner, 0, &holding, PATIENCE).await);
        tokio::time::sleep(BEAT_EVERY).await;
    }
}

async fn work(mut desk: Desk, done: watch::Sender<i64>, stop: CancellationToken) -> Paces {
    let mut claim_no = 0;
    while !stop.is_cancelled() {
        let begun = Instant::now();
        desk.submit().await;
        let claimed = loop {
            claim_no += 1;
            let broker = desk.broker.clone();
            let mut claimed = desk.answered("claim", || broker.claim(claim_no, 1)).await;
            if let Some(job) = claimed.pop() {
                break job;
            }
        };
        desk.paces.claimed.push(ms(begun));
        desk.perform(&claimed).await;
        done.send_modify(|done| *done += 1);
    }
    desk.paces
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

/// All that its work needs.
struct Desk {
    cluster: Uuid,
    broker: Broker,
    connector: Connector,
    portal: (session::Address, Option<PgConnection>),
    writer: Uuid,
    log: Option<LogWriter>,
    held: Arc<Mutex<Vec<Uuid>>>,
    paces: Paces,
}

impl Desk {
    /// Asks until there is an answer.
    async fn answered<T, F>(&mut self, call: &str, ask: impl Fn() -> F) -> T
    where
        F: Future<Output = Result<T, BrokerError>>,
    {
        let begun = Instant::now();
        loop {
            match ask().await {
                Ok(answer) => return answer,
                Err(error) if error.is_passing() && begun.elapsed() < LONGEST_OUTAGE => {}
                Err(error) => panic!("{call}: {error}"),
            }
            self.paces.tries_again += 1;
            tokio::time::sleep(TRY_AGAIN).await;
        }
    }

    async fn register(&mut self, registration: &Registration) {
        let broker = self.broker.clone();
        self.answered("register", || broker.register(registration)).await;
        let witness = Witness { incarnation: 0, fence: 0, runners: Vec::new(), open: Vec::new(), ended: Vec::new() };
        self.answered("witness", || broker.witness(&witness)).await;
    }

    async fn submit(&mut self) {
        let snapshot = json!({"jobs": [{"name": "job", "kind": "exec", "argv": ["true"]}]});
        let submission = Submission { id: new_id(), cluster: self.cluster, snapshot };
        let begun = Instant::now();
        loop {
            let (address, session) = &mut self.portal;
            if session.is_none() {
                *session = address.connect("neighbour").await.ok();
            }
            let submitted = match session {
                Some(session) => submit(session, &submission).await.map(drop).map_err(|error| error.to_string()),
                None => Err("no session".to_owned()),
            };
            let Err(error) = submitted else { return };
            assert!(begun.elapsed() < LONGEST_OUTAGE, "submit: {error}");
            // Whatever it was: the id makes sending it again harmless.
            self.portal.1 = None;
            self.paces.tries_again += 1;
            tokio::time::sleep(TRY_AGAIN).await;
        }
    }

    async fn perform(&mut self, job: &Claimed) {
        self.held.lock().expect("nobody panics with it").push(job.lease.attempt_id);
        let (broker, begun) = (self.broker.clone(), Instant::now());
        self.answered("start", || broker.start(&job.lease)).await;
        self.paces.started.push(ms(begun));
        self.print(job).await;
        let report = Report {
            outcome: Outcome::Success,
            log_end: LINES - 1,
            child_dead: true,
            error: None,
            permanent: false,
            result: json!({}),
            commands: json!([]),
        };
        self.answered("finish", || broker.finish(&job.lease, &report)).await;
        self.held.lock().expect("nobody panics with it").retain(|held| *held != job.lease.attempt_id);
    }

    /// Stores the job's lines once, whatever becomes of sessions and replies.
    async fn print(&mut self, job: &Claimed) {
        let begun = Instant::now();
        loop {
            match self.try_to_print(job).await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) if error.is_passing() && begun.elapsed() < LONGEST_OUTAGE => {}
                Err(error) => panic!("log: {error}"),
            }
            // Unclear: the next session asks how far it got.
            self.log = None;
            self.paces.tries_again += 1;
            tokio::time::sleep(TRY_AGAIN).await;
        }
    }

    async fn try_to_print(&mut self, job: &Claimed) -> Result<bool, BrokerError> {
        let mut first = 0;
        let mut log = match self.log.take() {
            Some(log) => log,
            None => {
                let log = LogWriter::take_over(&self.connector, self.writer).await?;
                let positions = log.positions().await?;
                let ours = positions.iter().find(|position| position.lease == job.lease);
                first = ours.map_or(0, |position| position.stored + 1);
                log
            }
        };
        let rows: Vec<LogRow<'_>> = (first..LINES).map(|seq| line(job, seq)).collect();
        let written = if rows.is_empty() { Written::Stored } else { log.write(&rows, PATIENCE).await? };
        self.log = Some(log);
        Ok(written == Written::Stored)
    }
}

fn line(job: &Claimed, seq: i64) -> LogRow<'_> {
    LogRow {
        deployment_id: job.deployment_id,
        lease: job.lease,
        claim_day: job.claim_day,
        job: &job.job,
        attempt: job.ordinal,
        seq,
        seq_to: seq,
        stream: "stdout",
        text: "a line\n",
        ts: OffsetDateTime::UNIX_EPOCH,
        gap_kind: None,
        gap_bytes: None,
    }
}
