//! Following a deployment until its end: status changes and logs, in the order in which they became known; only the end
//! of a job waits for its last line. Who follows the log alone learns of the end from the log.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::postgres::PgConnection;
use tokio::time::Instant;
use uuid::Uuid;

use crate::archive::{Archive, ArchiveError};
use crate::portal::deployments::{self, JobState, State};
use crate::portal::logs::{LogChunk, LogReader};
use crate::refusal::Error;

/// Looking costs two indexed reads; this often a person sees lines as they come.
const POLL: Duration = Duration::from_millis(200);

/// Who follows the log alone asks for the status when nothing has come for so long: an attempt that was lost has no end.
const QUIET: Duration = Duration::from_secs(2);

/// Rows of the database wait no longer for what is archived.
const ARCHIVE_PATIENCE: Duration = Duration::from_millis(500);
/// First and longest pause before an archive that is away is asked again.
const ARCHIVE_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// After the end of a deployment its last rows may still be on their way. An attempt that was lost may never send them.
const TAIL: Duration = Duration::from_secs(5);

/// What a watcher learns.
#[derive(Clone, Debug)]
pub enum Event {
    /// The deployment's status or what it waits for changed.
    Status(Box<State>),
    /// A job's state or what it waits for changed.
    Job(JobState),
    /// Something was printed.
    Log(LogChunk),
    /// The archive is away: what lies there waits, and it is asked again after the pause. Everything else goes on.
    Away(ArchiveError, Duration),
    /// It is over.
    End(Ending),
}

impl Event {
    fn is_an_end(&self) -> bool {
        match self {
            Self::Status(state) => state.is_final(),
            Self::Job(job) => job.is_final(),
            Self::Log(_) | Self::Away(..) | Self::End(_) => false,
        }
    }
}

/// How a deployment ended.
#[derive(Clone, Debug)]
pub struct Ending {
    /// The last state.
    pub state: Box<State>,
    /// Whether all log rows were read.
    pub logs_complete: bool,
}

/// Follows one deployment.
#[derive(Debug)]
pub struct Watch {
    deployment: Uuid,
    reader: LogReader,
    shown: Option<(String, Option<String>)>,
    jobs: BTreeMap<String, (String, Option<String>)>,
    behind_since: Option<Instant>,
    ended_at: Option<Instant>,
    logs_only: bool,
    /// When a chunk came last, or the status was asked for.
    heard_at: Instant,
    archive_pause: Duration,
}

impl Watch {
    /// From the beginning of its logs.
    pub fn new(deployment: Uuid) -> Self {
        let reader = LogReader::new(deployment);
        Self {
            deployment,
            reader,
            shown: None,
            jobs: BTreeMap::new(),
            behind_since: None,
            ended_at: None,
            logs_only: false,
            heard_at: Instant::now(),
            archive_pause: ARCHIVE_PAUSE.0,
        }
    }

    /// The log and its end, and nothing of status and jobs: one query a look.
    #[must_use]
    pub fn logs_only(mut self) -> Self {
        self.logs_only = true;
        self
    }

    /// The same with an archive to fall back to for what the database no longer has.
    #[must_use]
    pub fn with_archive(mut self, archive: Option<Archive>) -> Self {
        self.reader = self.reader.with_archive(archive);
        self
    }

    /// Archived objects that could not be read so far.
    pub fn troubles(&self) -> &[ArchiveError] {
        self.reader.troubles()
    }

    /// Waits for the next events. After a broken connection it may be called with another one: nothing is told twice.
    /// Cancelling the wait loses nothing but the wait.
    ///
    /// # Errors
    /// TD002 when there is no such deployment that the caller may see.
    pub async fn next(&mut self, connection: &mut PgConnection) -> Result<Vec<Event>, Error> {
        loop {
            // The state first: what it says about the logs' ends is then older than the rows that are read.
            let state = match self.wants_state() {
                true => Some(deployments::state(connection, self.deployment).await?),
                false => None,
            };
            let (mut logs, more) = self.read(connection).await?;
            let mut events = Vec::new();
            if let Some(state) = state.as_ref().filter(|_| !self.logs_only) {
                events = if self.is_behind(state, more) { Vec::new() } else { self.changes(state) };
            }
            match events.iter().any(Event::is_an_end) {
                true => logs.append(&mut events),
                false => logs.splice(0..0, events).for_each(drop),
            }
            let mut events = logs;
            if !more {
                events.extend(self.ending(connection, state).await?);
            }
            if !events.is_empty() || more {
                return Ok(events);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn wants_state(&mut self) -> bool {
        let wants = !self.logs_only || self.heard_at.elapsed() >= QUIET;
        if wants {
            self.heard_at = Instant::now();
        }
        wants
    }

    /// What is new of the log, and whether there may be more at once.
    async fn read(&mut self, connection: &mut PgConnection) -> Result<(Vec<Event>, bool), Error> {
        match self.reader.next_within(connection, ARCHIVE_PATIENCE).await {
            Ok((chunks, more)) => {
                if !chunks.is_empty() {
                    self.heard_at = Instant::now();
                }
                if !self.reader.waits_for_archive() {
                    self.archive_pause = ARCHIVE_PAUSE.0;
                }
                Ok((chunks.into_iter().map(Event::Log).collect(), more))
            }
            Err(Error::Archive(error)) if error.is_outage() => {
                let pause = self.archive_pause;
                self.archive_pause = (pause * 2).min(ARCHIVE_PAUSE.1);
                self.reader.rest(pause);
                Ok((vec![Event::Away(error, pause)], false))
            }
            Err(error) => Err(error),
        }
    }

    /// Whether rows of a finished attempt are still on their way: a job's end is told after its last line.
    fn is_behind(&mut self, state: &State, more: bool) -> bool {
        let behind = more || state.logs.iter().any(|log| log.log_end.is_some() && !self.reader.is_done_with(log));
        if !behind {
            self.behind_since = None;
        }
        behind && self.behind_since.get_or_insert_with(Instant::now).elapsed() < TAIL
    }

    fn changes(&mut self, state: &State) -> Vec<Event> {
        let mut events = Vec::new();
        let now = (state.status.clone(), state.waiting_for.clone());
        if self.shown.as_ref() != Some(&now) {
            self.shown = Some(now);
            events.push(Event::Status(Box::new(state.clone())));
        }
        for job in &state.jobs {
            let now = (job.state.clone(), job.waiting_for.clone());
            if self.jobs.get(&job.name) != Some(&now) {
                self.jobs.insert(job.name.clone(), now);
                events.push(Event::Job(job.clone()));
            }
        }
        events
    }

    /// The end: when the log is at its own, or when the rest of it has had its time to come.
    async fn ending(&mut self, connection: &mut PgConnection, state: Option<State>) -> Result<Option<Event>, Error> {
        let over = self.reader.is_over();
        let state = match state {
            None if over => deployments::state(connection, self.deployment).await?,
            None => return Ok(None),
            Some(state) => state,
        };
        if !state.is_final() || self.reader.waits_for_archive() {
            return Ok(None);
        }
        let ended_at = *self.ended_at.get_or_insert_with(Instant::now);
        let end = || Event::End(Ending { state: Box::new(state), logs_complete: over });
        Ok((over || ended_at.elapsed() >= TAIL).then(end))
    }
}
