//! The object's format, for tests and fuzzing: without a bucket and without a database.

use std::io;

use time::{Date, OffsetDateTime};
use uuid::Uuid;

use super::format::{self, Packer};
pub use super::ledger::ArchivedRow;
use super::ledger::{ClosedLog, Frame, Record};

/// An object of these rows, with a frame at least every `frame_bytes`, and what the database would keep of it.
///
/// # Errors
/// Those of the compressor.
pub fn pack(rows: &[ArchivedRow], frame_bytes: usize) -> io::Result<(Vec<u8>, Record)> {
    let (mut packer, mut object) = (Packer::new(frame_bytes)?, Vec::new());
    for row in rows {
        packer.push(row, &mut object)?;
    }
    let log = ClosedLog {
        attempt_id: Uuid::nil(),
        fence: 1,
        deployment_id: Uuid::nil(),
        cluster_id: Uuid::nil(),
        claim_day: Date::from_julian_day(OffsetDateTime::UNIX_EPOCH.to_julian_day()).unwrap_or(Date::MIN),
        job: "a".into(),
        attempt: 1,
        log_state: "complete".into(),
        log_end: None,
        tries: 1,
        upload_id: None,
    };
    let record = packer.finish(&log, "s3://logs/a".into(), &mut object)?;
    Ok((object, record))
}

/// The rows of one frame.
///
/// # Errors
/// What is wrong with it.
pub fn unpack(bytes: &[u8], frame: &Frame) -> Result<Vec<ArchivedRow>, String> {
    format::unpack(bytes, frame)
}

/// The frames that an object's end tells of.
///
/// # Errors
/// What is wrong with it.
pub fn index(object: &[u8]) -> Result<Vec<Frame>, String> {
    let wanted = format::index_bytes(object)?;
    let from = object.len().checked_sub(usize::try_from(wanted).unwrap_or(usize::MAX));
    let footer = from.and_then(|from| object.get(from..)).unwrap_or_default();
    format::read_index(footer).map(|index| index.frames)
}
