//! What a portal reads of a run, from its first row until nothing comes any more.

use std::collections::BTreeMap;
use std::time::Duration;

use tendril_broker::Error;
use tendril_broker::archive::Archive;
use tendril_broker::portal::deployments::{self, LogState};
use tendril_broker::portal::logs::LogReader;
use tokio::time::Instant;
use uuid::Uuid;

use super::evidence::Row;
use super::op::LogOp;
use super::script::number_of_job;
use super::witness;
use super::world::Desk;

const LOOK_EVERY: Duration = Duration::from_millis(100);
/// All logs are at their end by then; a batch on a line that is gone alone may take 23 s to be given up.
const REST_PATIENCE: Duration = Duration::from_secs(90);
/// When nothing has come for so long, nothing more will of a log whose runner was killed.
const QUIET: Duration = Duration::from_secs(6);

/// Rows by attempt.
pub type Logs = BTreeMap<Uuid, Vec<Row>>;

/// What a portal reads of a deployment.
pub struct Reading {
    id: Uuid,
    reader: LogReader,
    /// Rows so far.
    pub rows: Logs,
    /// Where each attempt's log ends.
    pub logs: Vec<LogState>,
    /// Which child each is, where a row says so.
    pub numbers: BTreeMap<Uuid, u64>,
    finished: usize,
}

impl Reading {
    /// From the beginning.
    pub fn new(id: Uuid) -> Self {
        let reader = LogReader::new(id);
        Self { id, reader, rows: Logs::new(), logs: Vec::new(), numbers: BTreeMap::new(), finished: 0 }
    }

    /// The same with an archive to fall back to.
    pub fn with_archive(mut self, archive: Archive) -> Self {
        self.reader = self.reader.with_archive(Some(archive));
        self
    }

    /// Reads what is new; whether there was anything.
    ///
    /// # Errors
    /// What asking again does not mend.
    pub async fn read(&mut self, desk: &Desk) -> anyhow::Result<bool> {
        loop {
            match self.try_read(desk).await {
                Ok(any) => return Ok(any),
                Err(error) if error.downcast_ref::<Error>().is_some_and(Error::is_outage) => {
                    tokio::time::sleep(LOOK_EVERY).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn try_read(&mut self, desk: &Desk) -> anyhow::Result<bool> {
        let mut portal = desk.portal().await?;
        let state = deployments::state(&mut portal, self.id).await?;
        self.finished = state.jobs.iter().filter(|job| job.is_final()).count();
        self.logs = state.logs;
        let mut any = false;
        loop {
            let (chunks, more) = self.reader.next(&mut portal).await?;
            any |= !chunks.is_empty();
            for chunk in chunks {
                if let Some(number) = number_of_job(&chunk.job) {
                    self.numbers.insert(chunk.attempt_id, number);
                }
                self.rows.entry(chunk.attempt_id).or_default().push(Row {
                    seq: chunk.seq,
                    seq_to: chunk.seq_to,
                    stream: chunk.stream,
                    text: chunk.log_chunk,
                    gap_kind: chunk.gap_kind,
                    gap_bytes: chunk.gap_bytes.and_then(|bytes| u64::try_from(bytes).ok()),
                });
            }
            if !more {
                return Ok(any);
            }
        }
    }

    /// Reads until all logs are at their end, or until nothing comes any more of those that were cut off.
    ///
    /// # Errors
    /// As for [`Reading::read`].
    pub async fn until_rest(&mut self, desk: &Desk, jobs: usize, (op, cut_off): (LogOp, bool)) -> anyhow::Result<()> {
        let begun = Instant::now();
        let mut newest = begun;
        while begun.elapsed() < REST_PATIENCE {
            if self.read(desk).await? {
                newest = Instant::now();
            }
            let quiet = cut_off && newest.elapsed() > QUIET;
            let rests = self.logs.iter().all(|log| self.rests(desk, log, (op, quiet)));
            if self.logs.len() >= jobs && rests && (cut_off || self.finished >= jobs) {
                return Ok(());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    fn rests(&self, desk: &Desk, log: &LogState, (op, quiet): (LogOp, bool)) -> bool {
        let outlives = || witness::number_of(&desk.witness, log.attempt_id).is_some_and(|number| op.outlives(number));
        let last = self.rows.get(&log.attempt_id).and_then(|rows| rows.last());
        // What lives on behind such a gap is waited for.
        self.reader.is_done_with(log) || (quiet || last.is_some_and(Row::is_open_gap)) && !outlives()
    }
}
