//! Following a deployment until its end: status changes and logs, in the order in which they became known; only the end
//! of a job waits for its last line.

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
    /// It is over.
    End(Ending),
}

impl Event {
    fn is_an_end(&self) -> bool {
        match self {
            Self::Status(state) => state.is_final(),
            Self::Job(job) => job.is_final(),
            Self::Log(_) | Self::End(_) => false,
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
}

impl Watch {
    /// From the beginning of its logs.
    pub fn new(deployment: Uuid) -> Self {
        let reader = LogReader::new(deployment);
        Self { deployment, reader, shown: None, jobs: BTreeMap::new(), behind_since: None, ended_at: None }
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
            let state = deployments::state(connection, self.deployment).await?;
            let (chunks, more) = self.reader.next(connection).await?;
            let changes = if self.is_behind(&state, more) { Vec::new() } else { self.changes(&state) };
            let (mut events, logs): (Vec<_>, Vec<_>) = (Vec::new(), chunks.into_iter().map(Event::Log).collect());
            match changes.iter().any(Event::is_an_end) {
                true => events.extend(logs.into_iter().chain(changes)),
                false => events.extend(changes.into_iter().chain(logs)),
            }
            if !more && state.is_final() {
                events.extend(self.ending(state));
            }
            if !events.is_empty() || more {
                return Ok(events);
            }
            tokio::time::sleep(POLL).await;
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

    fn ending(&mut self, state: State) -> Option<Event> {
        let logs_complete = state.logs.iter().all(|log| self.reader.is_done_with(log));
        let ended_at = *self.ended_at.get_or_insert_with(Instant::now);
        (logs_complete || ended_at.elapsed() >= TAIL)
            .then(|| Event::End(Ending { state: Box::new(state), logs_complete }))
    }
}
