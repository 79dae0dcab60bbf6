//! Whose log it is: what every row of it says.

use tendril_broker::runner::{Claimed, Lease, LogRow};
use time::Date;
use uuid::Uuid;

use crate::logs::Chunk;

/// The attempt that a log belongs to, as its rows name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whose {
    /// The deployment.
    pub deployment_id: Uuid,
    /// The attempt's address.
    pub lease: Lease,
    /// The UTC day of its claim.
    pub claim_day: Date,
    /// The job's name.
    pub job: String,
    /// The attempt's ordinal within its job.
    pub ordinal: i16,
}

impl Whose {
    /// Of a claimed attempt.
    pub fn of(claimed: &Claimed) -> Self {
        Self {
            deployment_id: claimed.deployment_id,
            lease: claimed.lease,
            claim_day: claimed.claim_day,
            job: claimed.job.clone(),
            ordinal: claimed.ordinal,
        }
    }

    /// A chunk of this log as the broker wants it.
    pub fn row<'a>(&'a self, chunk: &'a Chunk) -> LogRow<'a> {
        LogRow {
            deployment_id: self.deployment_id,
            lease: self.lease,
            claim_day: self.claim_day,
            job: &self.job,
            attempt: self.ordinal,
            seq: chunk.seq,
            seq_to: chunk.seq_to,
            stream: chunk.stream.as_str(),
            text: &chunk.text,
            ts: chunk.ts,
            gap_kind: chunk.gap_kind(),
            gap_bytes: chunk.gap_bytes(),
        }
    }
}
