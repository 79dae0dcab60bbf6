//! A few logs that stay as they are, and what it costs to read them while all around them grows.

use crate::clock::Moment;
use crate::log_fill::Filler;
use crate::log_text::LogText;
use crate::stage::Stage;
use crate::statistics::percentile;
use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tendril_broker::baseline::log_tables::LogReading;
use uuid::Uuid;

const ATTEMPTS: u32 = 100;
const ROW_LINES: usize = 20;
/// Ten rows for each of the attempts.
const LINES: u64 = 20_000;
/// What a session, a plan and a cache need to warm up.
const FIRST: usize = 10;
const CALLS: usize = 100;

/// Logs of ten deployments, and a portal's session that reads them.
pub struct Probe {
    reading: LogReading,
    deployments: Vec<Uuid>,
    end: Value,
}

/// Milliseconds of a call, the middle one of many.
#[derive(Clone, Copy, Debug)]
pub struct ReadCost {
    /// `tendril.tail` of a hundred logs of which none has something new.
    pub poll_ms: f64,
    /// A page of `tendril.tail` of the same logs from their beginning: a mebibyte.
    pub page_ms: f64,
    /// `tendril.logs_after` of one deployment from its beginning.
    pub after_ms: f64,
}

impl Probe {
    /// Stores them.
    ///
    /// # Errors
    /// The database failed.
    pub async fn store(stage: &Stage, text: &LogText) -> anyhow::Result<Self> {
        let mut filler = Filler::open(stage, "probe", ATTEMPTS).await?;
        filler.store(text, LINES, ROW_LINES).await?;
        let (reading, deployments) = (LogReading::open(stage.portal_url()).await?, filler.deployments());
        let mut end = json!({});
        loop {
            let page = reading.tail(&deployments, &end).await?;
            end = page.reached;
            if page.chunks == 0 {
                return Ok(Self { reading, deployments, end });
            }
        }
    }

    /// Reads them.
    ///
    /// # Errors
    /// The database failed.
    pub async fn read(&self) -> anyhow::Result<ReadCost> {
        let (mut poll, mut page, mut after) = (Vec::new(), Vec::new(), Vec::new());
        let first = *self.deployments.first().context("no logs")?;
        for call in 0..FIRST + CALLS {
            let begun = Moment::now();
            let nothing = self.reading.tail(&self.deployments, &self.end).await?;
            let polled = Moment::now();
            let some = self.reading.tail(&self.deployments, &json!({})).await?;
            let paged = Moment::now();
            let log = self.reading.logs_after(first, &json!({})).await?;
            let done = Moment::now();
            ensure!(
                nothing.chunks == 0 && some.chunks > 100 && log.chunks >= 100,
                "other logs were read than were stored"
            );
            if call >= FIRST {
                poll.push(polled.ms_since(begun));
                page.push(paged.ms_since(polled));
                after.push(done.ms_since(paged));
            }
        }
        let middle = |figures: &[f64]| percentile(figures, 50.0).context("no calls");
        Ok(ReadCost { poll_ms: middle(&poll)?, page_ms: middle(&page)?, after_ms: middle(&after)? })
    }
}
