//! One closed log to one object: pages of rows in, frames and parts out. Nothing of it is held in memory whole, and no
//! transaction is open while bytes travel.

use std::time::Duration;

use sqlx::PgPool;
use uuid::Uuid;

use crate::archive::ArchiveError;
use crate::archive::format::{FRAME_BYTES, Packer};
use crate::archive::ledger::{self, ClosedLog, Record};
use crate::archive::location::KeyOf;
use crate::archive::reading::Archive;
use crate::archive::store::{self, Multipart, Store};
use crate::refusal::Error;

/// How long a claimed log is ours without another word; renewed before each call to the service.
pub(crate) const LEASE: Duration = Duration::from_secs(600);
const _: () = assert!(store::CALL.as_secs() * 2 < LEASE.as_secs(), "a call that began ends before the lease does");

/// Bounds of memory, per log that is being archived.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Lines of one frame, in bytes.
    pub frame: usize,
    /// Rows read at once, in bytes.
    pub page: i64,
    /// A part of the object, in bytes; S3 wants 5 MiB at least. What fits into one part is sent as one piece.
    pub part: usize,
}

impl Default for Sizes {
    fn default() -> Self {
        Self { frame: FRAME_BYTES, page: 4 << 20, part: 8 << 20 }
    }
}

/// What became of a claimed log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Archived {
    /// It is in the archive, verified and recorded.
    Stored(Box<Record>),
    /// There was nothing to archive.
    Empty,
    /// Somebody else has it now, or its rows changed: nothing was recorded.
    Superseded,
}

/// Why a log was not archived.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// From the database.
    #[error(transparent)]
    Database(#[from] Error),
    /// From the archive.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The object could not be made.
    #[error("cannot compress the log: {0}")]
    Compress(#[from] std::io::Error),
}

struct Upload<'a> {
    pool: &'a PgPool,
    store: &'a Store,
    log: &'a ClosedLog,
    claim: Uuid,
    key: String,
    part_bytes: usize,
    ready: Vec<u8>,
    multipart: Option<Multipart>,
}

/// Archives a claimed log: reads, compresses, sends, verifies, records.
///
/// # Errors
/// The log stays on the list; whoever claims it next begins anew and writes the same object.
pub async fn archive(
    pool: &PgPool,
    archive: &Archive,
    log: &ClosedLog,
    claim: Uuid,
    sizes: Sizes,
) -> Result<Archived, UploadError> {
    let store = archive.store();
    let of =
        KeyOf { cluster: log.cluster_id, day: log.claim_day, deployment: log.deployment_id, attempt: log.attempt_id };
    let (key, part_bytes) = (store.location.key(of), sizes.part);
    let mut upload = Upload { pool, store, log, claim, key, part_bytes, ready: Vec::new(), multipart: None };
    let sent = upload.send(sizes).await;
    if let (Err(_) | Ok(Archived::Superseded), Some(multipart)) = (&sent, &upload.multipart) {
        // Whoever comes next would do it too; until then the parts cost money.
        let _ = store.abort(&upload.key, &multipart.id).await;
    }
    sent
}

impl Upload<'_> {
    async fn send(&mut self, sizes: Sizes) -> Result<Archived, UploadError> {
        if let Some(left) = &self.log.upload_id {
            match self.store.abort(&self.key, left).await {
                Err(error) if error.is_outage() => return Err(error.into()),
                // Gone already, or not ours to abort: that must not keep the log out of the archive.
                _ => {}
            }
        }
        let mut packer = Packer::new(sizes.frame)?;
        let mut after = -1;
        loop {
            let rows = ledger::rows(self.pool, self.log.attempt_id, after, sizes.page).await?;
            let Some(last) = rows.last() else {
                break;
            };
            after = last.seq_to;
            for row in &rows {
                packer.push(row, &mut self.ready)?;
            }
            while self.ready.len() > self.part_bytes {
                if !self.send_part(self.part_bytes).await? {
                    return Ok(Archived::Superseded);
                }
            }
        }
        if packer.is_empty() {
            return self.record(None).await;
        }
        let record = packer.finish(self.log, self.store.url(&self.key), &mut self.ready)?;
        if !self.send_rest().await? {
            return Ok(Archived::Superseded);
        }
        let size = self.store.size(&self.store.location.bucket, &self.key).await?;
        if size != record.object_bytes {
            let wrong = format!("the service holds {size} bytes of it, {} were sent", record.object_bytes);
            return Err(ArchiveError::Damaged(record.url, wrong).into());
        }
        self.record(Some(record)).await
    }

    /// Before anything is sent: whether the log is still ours.
    async fn renew(&self) -> Result<bool, Error> {
        let upload = self.multipart.as_ref().map(|multipart| multipart.id.as_str());
        ledger::renew(self.pool, self.log.attempt_id, self.claim, LEASE, upload).await
    }

    async fn send_part(&mut self, bytes: usize) -> Result<bool, UploadError> {
        if self.multipart.is_none() {
            self.multipart = Some(self.store.begin(&self.key).await?);
        }
        if !self.renew().await? {
            return Ok(false);
        }
        let rest = self.ready.split_off(bytes.min(self.ready.len()));
        let part = std::mem::replace(&mut self.ready, rest);
        if let Some(multipart) = &mut self.multipart {
            self.store.part(&self.key, multipart, part).await?;
        }
        Ok(true)
    }

    async fn send_rest(&mut self) -> Result<bool, UploadError> {
        while self.ready.len() > self.part_bytes || (self.multipart.is_some() && !self.ready.is_empty()) {
            if !self.send_part(self.part_bytes).await? {
                return Ok(false);
            }
        }
        if !self.renew().await? {
            return Ok(false);
        }
        match &self.multipart {
            Some(multipart) => self.store.complete(&self.key, multipart).await?,
            None => self.store.put(&self.key, std::mem::take(&mut self.ready)).await?,
        }
        Ok(true)
    }

    async fn record(&self, record: Option<Record>) -> Result<Archived, UploadError> {
        let stored = ledger::stored(self.pool, self.log.attempt_id, self.claim, record.as_ref()).await?;
        Ok(match (stored, record) {
            (false, _) => Archived::Superseded,
            (true, None) => Archived::Empty,
            (true, Some(record)) => Archived::Stored(Box::new(record)),
        })
    }
}
