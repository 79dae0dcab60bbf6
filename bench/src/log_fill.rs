//! Rows made beforehand, stored by a runner's role through the same check as a runner's: by many attempts, batch by batch.

use crate::clock::new_id;
use crate::log_text::{LINE_BYTES, LogText};
use crate::stage::{Access, Stage};
use anyhow::ensure;
use std::collections::BTreeSet;
use std::time::Duration;
use tendril_broker::baseline::logs;
use tendril_broker::connect::Address;
use tendril_broker::runner::{Broker, Claimed, LogRow, LogWriter, Registration, Written};
use time::OffsetDateTime;
use uuid::Uuid;

/// The most that one claim may ask for.
const CLAIM: usize = 1000;
/// Bytes of text in a batch, as a runner sends.
const BATCH_BYTES: usize = 1 << 20;
/// Rows that an attempt has in a row before it is another one's turn.
const TURN_ROWS: usize = 16;
const PATIENCE: Duration = Duration::from_secs(60);

/// Attempts of a cluster of their own, and the session that may store their logs.
pub struct Filler {
    writer: LogWriter,
    claimed: Vec<Claimed>,
    next: Vec<i64>,
    turns: usize,
}

impl Filler {
    /// With so many attempts.
    ///
    /// # Errors
    /// The broker refused.
    pub async fn open(stage: &Stage, name: &str, attempts: u32) -> anyhow::Result<Self> {
        let access = stage.add_cluster(name).await;
        logs::wait_for_logs(&stage.operator_url(), access.cluster, attempts).await?;
        let (writer, claimed) = claim(&access, attempts).await?;
        Ok(Self { writer, next: vec![0; claimed.len()], claimed, turns: 0 })
    }

    /// The deployments whose logs these are.
    pub fn deployments(&self) -> Vec<Uuid> {
        let each: BTreeSet<Uuid> = self.claimed.iter().map(|claimed| claimed.deployment_id).collect();
        each.into_iter().collect()
    }

    /// Stores at least so many more lines, in rows of `row_lines`; returns how many it were.
    ///
    /// # Errors
    /// The broker refused.
    pub async fn store(&mut self, text: &LogText, lines: u64, row_lines: usize) -> anyhow::Result<u64> {
        let batch_rows = (BATCH_BYTES / (row_lines * LINE_BYTES)).max(1);
        let mut stored = 0;
        while stored < lines {
            let mut places = Vec::with_capacity(batch_rows);
            while places.len() < batch_rows {
                let stream = self.turns % self.claimed.len();
                self.turns += 1;
                for _ in 0..TURN_ROWS.min(batch_rows - places.len()) {
                    places.push((stream, self.next[stream]));
                    self.next[stream] += row_lines as i64;
                }
            }
            let rows: Vec<LogRow<'_>> = places
                .iter()
                .map(|(stream, seq)| {
                    let number = stream * 104_729 + usize::try_from(*seq).unwrap_or_default();
                    log_row(&self.claimed[*stream], (*seq, *seq + row_lines as i64), text.window(number, row_lines))
                })
                .collect();
            let written = self.writer.write(&rows, PATIENCE).await?;
            ensure!(written == Written::Stored, "rows made beforehand were refused: {written:?}");
            stored += (batch_rows * row_lines) as u64;
        }
        Ok(stored)
    }
}

/// Claims so many waiting jobs, and takes a log writer over.
///
/// # Errors
/// There are fewer.
pub async fn claim(access: &Access, attempts: u32) -> anyhow::Result<(LogWriter, Vec<Claimed>)> {
    let connector = Address::parse(&access.url)?.connector(&access.token.parse()?)?;
    let (broker, writer) = (Broker::new(connector.clone(), new_id(), 1)?, new_id());
    let registration = Registration {
        name: "bare".into(),
        version: "0".into(),
        place: None,
        labels: vec!["kind=exec".into()],
        slots: attempts.min(CLAIM as u32),
        log_writer: writer,
    };
    broker.register(&registration).await?;
    let mut claimed = Vec::new();
    for number in 1.. {
        let missing = attempts as usize - claimed.len();
        if missing == 0 {
            break;
        }
        let more = broker.claim(number, i32::try_from(missing.min(CLAIM))?).await?;
        ensure!(!more.is_empty(), "{} of {attempts} jobs were claimed", claimed.len());
        claimed.extend(more);
    }
    Ok((LogWriter::take_over(&connector, writer).await?, claimed))
}

/// A row of lines with the records `from` to the one before `to`.
pub fn log_row<'a>(claimed: &'a Claimed, (from, to): (i64, i64), text: &'a str) -> LogRow<'a> {
    LogRow {
        deployment_id: claimed.deployment_id,
        lease: claimed.lease,
        claim_day: claimed.claim_day,
        job: &claimed.job,
        attempt: claimed.ordinal,
        seq: from,
        seq_to: to - 1,
        stream: "stdout",
        text,
        ts: OffsetDateTime::UNIX_EPOCH,
        gap_kind: None,
        gap_bytes: None,
    }
}
