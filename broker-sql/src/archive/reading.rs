//! Archived rows behind a position: one frame per call, by a ranged request.

use crate::archive::format::{self, Wrong};
use crate::archive::ledger::{ArchivedRow, Frame, StoredLog};
use crate::archive::location::parse_object;
use crate::archive::store::Store;
use crate::archive::{ArchiveError, ArchiveOptions};
use crate::portal::logs::LogChunk;

/// Bytes at an object's end in which a small index lies whole.
const TAIL: u64 = 64 << 10;

/// An archive of logs: any S3-compatible bucket. Cloning it is cheap.
#[derive(Clone, Debug)]
pub struct Archive {
    store: Store,
}

impl Archive {
    /// Opens the archive; whether the bucket is there and lets us in shows with the first object.
    ///
    /// # Errors
    /// None here; [`ArchiveError::Refused`] where the S3 client was not built in.
    pub async fn open(options: &ArchiveOptions) -> Result<Self, ArchiveError> {
        Ok(Self { store: Store::open(options, None).await })
    }

    /// The same with a key of a test's own.
    #[cfg(feature = "testing")]
    pub async fn open_as(options: &ArchiveOptions, key: &str, secret: &str) -> Self {
        let keys = aws_sdk_s3::config::Credentials::new(key, secret, None, None, "test");
        Self { store: Store::open(options, Some(keys)).await }
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// Does once what archiving and reading do: puts a small object and reads it, begins one of several parts and lets it go.
    /// The object stays, and is the same each time.
    ///
    /// # Errors
    /// [`ArchiveError`] names the bucket's answer and what to do about it.
    pub async fn try_out(&self) -> Result<(), ArchiveError> {
        let key = self.store.location.key_of_trial();
        let text = b"`tendril-broker doctor` puts this here to see that it can. It may be deleted.\n";
        self.store.put(&key, text.to_vec()).await?;
        let read = self.store.range(&self.store.location.bucket, &key, 0, text.len() as u64).await?;
        if read != text {
            return Err(ArchiveError::Damaged(self.store.url(&key), "it is not what was just put there".into()));
        }
        let upload = self.store.begin(&key).await?;
        self.store.abort(&key, &upload.id).await
    }

    /// The rows of the first frame that reaches behind `after`, those up to `after` left out. Empty behind the end.
    ///
    /// The index that the database keeps tells where to look. An object that was written anew by another version of this
    /// program has an index of its own, which is asked when the frame is not what it should be.
    ///
    /// # Errors
    /// [`ArchiveError`] names the object.
    pub(crate) async fn rows(&self, log: &StoredLog, after: i64) -> Result<Vec<LogChunk>, ArchiveError> {
        let url = log.url.clone().unwrap_or_default();
        let (bucket, key) = parse_object(&url).ok_or_else(|| ArchiveError::Missing(url.clone()))?;
        let rows = match self.frame(bucket, key, &log.frames, after).await {
            Err(Trouble::Wrong(wrong)) => match self.index(bucket, key, log).await {
                Ok(frames) if frames != log.frames => self.frame(bucket, key, &frames, after).await,
                _ => Err(Trouble::Wrong(wrong)),
            },
            read => read,
        };
        let rows = rows.map_err(|trouble| match trouble {
            Trouble::Wrong(wrong) => ArchiveError::Damaged(url, wrong),
            Trouble::Archive(error) => error,
        })?;
        Ok(rows.into_iter().filter(|row| row.seq > after).map(|row| chunk(log, row)).collect())
    }

    async fn frame(&self, bucket: &str, key: &str, frames: &[Frame], after: i64) -> Result<Vec<ArchivedRow>, Trouble> {
        let Some(frame) = frames.get(frames.partition_point(|frame| frame.last <= after)) else {
            return Ok(Vec::new());
        };
        if !format::is_plausible(frame) {
            return Err(Trouble::Wrong(format!("a frame of {} bytes is larger than any", frame.bytes)));
        }
        let bytes = self.store.range(bucket, key, frame.offset, frame.bytes).await?;
        format::unpack(&bytes, frame).map_err(Trouble::Wrong)
    }

    async fn index(&self, bucket: &str, key: &str, log: &StoredLog) -> Result<Vec<Frame>, Trouble> {
        let size = self.store.size(bucket, key).await?;
        let tail = |bytes: u64| self.store.range(bucket, key, size.saturating_sub(bytes), bytes.min(size));
        let mut end = tail(TAIL).await?;
        let wanted = format::index_bytes(&end).map_err(Trouble::Wrong)?;
        if wanted > end.len() as u64 {
            end = tail(wanted).await?;
        }
        let from = end.len().checked_sub(usize::try_from(wanted).unwrap_or(usize::MAX));
        let footer = from.and_then(|from| end.get(from..)).unwrap_or_default();
        let index = format::read_index(footer).map_err(Trouble::Wrong)?;
        if index.attempt_id != log.attempt_id {
            return Err(Trouble::Wrong("its index is another log's".into()));
        }
        Ok(index.frames)
    }
}

enum Trouble {
    Wrong(Wrong),
    Archive(ArchiveError),
}

impl From<ArchiveError> for Trouble {
    fn from(error: ArchiveError) -> Self {
        match error {
            // What a frame that lies beyond the end looks like.
            ArchiveError::Damaged(_, wrong) => Self::Wrong(wrong),
            other => Self::Archive(other),
        }
    }
}

fn chunk(log: &StoredLog, row: ArchivedRow) -> LogChunk {
    LogChunk {
        attempt_id: log.attempt_id,
        job: log.job.clone(),
        attempt: log.attempt,
        seq: row.seq,
        seq_to: row.seq_to,
        stream: row.stream,
        log_chunk: row.log_chunk,
        ts: row.ts,
        gap_kind: row.gap_kind,
        gap_bytes: row.gap_bytes,
    }
}
