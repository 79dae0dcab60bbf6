//! What cannot be read is said by name, with a gap in its place, and the reader goes on.

use tendril_broker::archive::{ArchiveError, Archived, Record};
use tendril_broker::portal::logs::{LogChunk, LogReader};

use crate::fleet::{Claimed, Fleet, run};
use crate::program::command;
use crate::service::Service;
use crate::shelf::{SMALL, age, announce, archive_all, closed_log, read_all, removal_is_due, told};

/// An archived log whose day has left the database, how it read before, and what the database knows of it.
async fn archived(fleet: &mut Fleet, service: &Service) -> (Claimed, Vec<LogChunk>, Record) {
    announce(fleet).await;
    let mut claimed = closed_log(fleet, 200).await;
    let (before, _) = read_all(fleet, LogReader::new(claimed.deployment_id)).await;
    let done = archive_all(fleet, &service.archive().await, SMALL).await;
    let Some(Archived::Stored(record)) = done.into_iter().next() else {
        panic!("it was not archived");
    };
    age(fleet, &mut claimed, 40).await;
    removal_is_due(fleet).await;
    assert_eq!(tendril_broker::archive::days::remove_due(&mut fleet.operator).await.unwrap().len(), 1);
    (claimed, before, *record)
}

async fn reader(claimed: &Claimed, service: &Service) -> LogReader {
    LogReader::new(claimed.deployment_id).with_archive(Some(service.archive().await))
}

#[tokio::test]
async fn any_position_reads_on_from_there_across_frames() {
    let mut fleet = Fleet::new().await;
    let service = Service::start().await;
    let (claimed, before, record) = archived(&mut fleet, &service).await;
    assert!(record.frames.len() > 5);
    for read in [1, before.len() / 3, before.len() / 2, before.len() - 1, before.len()] {
        let position = [(claimed.attempt_id, before[read - 1].seq_to)].into_iter().collect();
        let reader = reader(&claimed, &service).await.at(position);
        let (rest, reader) = read_all(&mut fleet, reader).await;
        assert_eq!(told(&rest), told(&before[read..]), "behind chunk {read}");
        assert_eq!(reader.position()[&claimed.attempt_id], 199);
    }
    // Only the frames that are needed were asked for.
    let (last, all) = (record.frames.last().unwrap(), service.requests("GET").len());
    let position = [(claimed.attempt_id, last.first - 1)].into_iter().collect();
    read_all(&mut fleet, reader(&claimed, &service).await.at(position)).await;
    assert_eq!(service.requests("GET").len(), all + 1);
}

#[tokio::test]
async fn a_truncated_object_is_an_error_and_a_gap_and_what_is_there_is_read() {
    let mut fleet = Fleet::new().await;
    let service = Service::start().await;
    let (claimed, before, record) = archived(&mut fleet, &service).await;
    let file = service.file(&record.url);
    let whole = std::fs::read(&file).unwrap();
    let cut = usize::try_from(record.frames[2].offset + 10).unwrap();
    std::fs::write(&file, &whole[..cut]).unwrap();
    let (chunks, reader) = read_all(&mut fleet, reader(&claimed, &service).await).await;
    let whole_chunks = before.iter().filter(|chunk| chunk.seq_to <= record.frames[1].last).count();
    assert_eq!(told(&chunks[..whole_chunks]), told(&before[..whole_chunks]));
    // Gaps to the end, without a hole between them.
    let mut next = record.frames[2].first;
    for gap in &chunks[whole_chunks..] {
        assert_eq!((gap.gap_kind.as_deref(), gap.seq), (Some("unreadable"), next), "{gap:?}");
        assert!(gap.log_chunk.contains(&record.url), "{}", gap.log_chunk);
        next = gap.seq_to + 1;
    }
    assert_eq!(next, 200);
    assert!(
        matches!(&reader.troubles()[0], ArchiveError::Damaged(url, _) if *url == record.url),
        "{:?}",
        reader.troubles()
    );
}

#[tokio::test]
async fn a_flipped_bit_costs_its_frame_and_a_missing_object_its_log() {
    let mut fleet = Fleet::new().await;
    let service = Service::start().await;
    let (claimed, before, record) = archived(&mut fleet, &service).await;
    let file = service.file(&record.url);
    let mut bytes = std::fs::read(&file).unwrap();
    let hit = record.frames[1];
    bytes[usize::try_from(hit.offset + hit.bytes / 2).unwrap()] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    let (chunks, again) = read_all(&mut fleet, reader(&claimed, &service).await).await;
    let gaps: Vec<_> = chunks.iter().filter(|chunk| chunk.gap_kind.is_some()).collect();
    assert_eq!(gaps.len(), 1);
    assert_eq!((gaps[0].seq, gaps[0].seq_to), (hit.first, hit.last));
    assert_eq!(again.troubles().len(), 1);
    let good =
        before.iter().filter(|chunk| chunk.seq > hit.last || chunk.seq_to < hit.first).cloned().collect::<Vec<_>>();
    let read = chunks.into_iter().filter(|chunk| chunk.gap_kind.is_none()).collect::<Vec<_>>();
    assert_eq!(told(&read), told(&good));

    std::fs::remove_file(&file).unwrap();
    let (chunks, again) = read_all(&mut fleet, reader(&claimed, &service).await).await;
    assert_eq!((chunks.len(), chunks[0].seq, chunks[0].seq_to), (1, 0, 199));
    assert_eq!(again.troubles(), [ArchiveError::Missing(record.url.clone())]);
    // The program says so, too, and does not call it a success.
    let mut logs = command(&fleet.database.url(), &["logs", &claimed.deployment_id.to_string()]);
    let told = logs.envs(service.environment()).output().await.unwrap();
    assert_eq!(told.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&told.stderr).contains(&record.url));
    assert!(String::from_utf8_lossy(&told.stdout).contains("is not in the archive"));
}

#[tokio::test]
async fn a_reader_without_an_archive_is_told_where_the_log_is() {
    let mut fleet = Fleet::new().await;
    let service = Service::start().await;
    let (claimed, before, record) = archived(&mut fleet, &service).await;
    let (chunks, reader) = read_all(&mut fleet, LogReader::new(claimed.deployment_id)).await;
    assert_eq!((chunks.len(), chunks[0].gap_kind.as_deref()), (1, Some("archived")));
    assert!(chunks[0].log_chunk.contains(&record.url));
    assert_eq!(reader.troubles(), []);
    // The program with an archive prints all of it; so does one that follows.
    for more in [&["--json"][..], &["--json", "--follow"]] {
        let id = claimed.deployment_id.to_string();
        let mut logs = command(&fleet.database.url(), &[&["logs", id.as_str()], more].concat());
        let printed = logs.envs(service.environment()).output().await.unwrap();
        assert_eq!(printed.status.code(), Some(0), "{}", String::from_utf8_lossy(&printed.stderr));
        assert_eq!(String::from_utf8(printed.stdout).unwrap().lines().count(), before.len());
    }
}

#[tokio::test]
async fn an_object_that_was_written_anew_is_read_by_its_own_index() {
    let mut fleet = Fleet::new().await;
    let service = Service::start().await;
    let (claimed, before, _) = archived(&mut fleet, &service).await;
    // Tried: an index of the database that fits no frame of the object.
    run(&mut fleet.operator, "update tendril_core.log_archives set frames = '[[0, 700, 0, 99], [700, 900, 100, 199]]'")
        .await;
    let (after, reader) = read_all(&mut fleet, reader(&claimed, &service).await).await;
    assert_eq!(told(&after), told(&before));
    assert_eq!(reader.troubles(), []);
}
