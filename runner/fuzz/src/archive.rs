//! Objects of the archive, to whose bucket others may write.

use crate::feed::Feed;
use tendril_broker::archive::Frame;
use tendril_broker::archive::testing::{ArchivedRow, index, pack, unpack};
use time::OffsetDateTime;

/// What was packed is read back, frame by frame; anything else is refused, or holds exactly the records that its index promises.
pub fn archive(data: &[u8]) {
    drop(index(data));
    let mut feed = Feed(data);
    if feed.byte().is_multiple_of(8) {
        return round_trip(&mut feed);
    }
    let (first, last) = (feed.number(), feed.number());
    let lines = feed.0;
    let packed = zstd::bulk::compress(lines, 1).expect("in memory");
    for bytes in [packed.as_slice(), lines] {
        let frame = Frame { offset: 0, bytes: bytes.len() as u64, first, last };
        let Ok(rows) = unpack(bytes, &frame) else { continue };
        let mut next = first;
        for row in &rows {
            assert!(row.seq == next && row.seq_to >= row.seq);
            next = row.seq_to + 1;
        }
        assert_eq!(next - 1, last);
    }
}

fn round_trip(feed: &mut Feed<'_>) {
    let (mut rows, mut seq) = (Vec::new(), feed.byte().into());
    while !feed.is_empty() && rows.len() < 16 {
        let seq_to = seq + i64::from(feed.byte());
        let is_gap = feed.byte().is_multiple_of(4);
        rows.push(ArchivedRow {
            seq,
            seq_to,
            stream: "stdout".into(),
            log_chunk: feed.text(),
            ts: OffsetDateTime::UNIX_EPOCH + time::Duration::microseconds(feed.byte().into()),
            gap_kind: is_gap.then(|| "lost".into()),
            gap_bytes: is_gap.then_some(7),
        });
        seq = seq_to + 1;
    }
    let (object, record) = pack(&rows, 200).expect("in memory");
    assert_eq!(index(&object).as_ref(), Ok(&record.frames));
    let part = |frame: &Frame| {
        let (from, bytes) =
            (usize::try_from(frame.offset).expect("small"), usize::try_from(frame.bytes).expect("small"));
        unpack(&object[from..from + bytes], frame).expect("a frame of ours")
    };
    assert_eq!(record.frames.iter().flat_map(part).collect::<Vec<_>>(), rows);
}
