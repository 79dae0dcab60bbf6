//! What comes back is what went in.

use tendril_broker::archive::{Archived, Sizes};
use tendril_broker::portal::logs::LogReader;

use crate::fleet::{Fleet, one};
use crate::service::Service;
use crate::shelf::{SMALL, age, announce, archive_all, closed_log, read_all, removal_is_due, told};

#[tokio::test]
async fn an_archived_log_reads_as_before_byte_for_byte() {
    let mut fleet = Fleet::new().await;
    let service = Service::start().await;
    let archive = service.archive().await;
    let mut claimed = closed_log(&mut fleet, 501).await;
    let (before, _) = read_all(&mut fleet, LogReader::new(claimed.deployment_id)).await;
    assert_eq!(before.len(), 251);
    announce(&mut fleet).await;
    let done = archive_all(&fleet, &archive, Sizes { part: 1 << 20, ..SMALL }).await;
    let [Archived::Stored(record)] = done.as_slice() else {
        panic!("{done:?}");
    };
    assert!(record.frames.len() > 10, "{} frames", record.frames.len());
    assert_eq!((record.first_seq, record.last_seq, record.log_rows), (0, 500, 251));
    let file = std::fs::read(service.file(&record.url)).unwrap();
    assert_eq!(file.len() as u64, record.object_bytes);
    // As long as the day is there, it is read from the database.
    let deployment = claimed.deployment_id;
    let reader = || LogReader::new(deployment).with_archive(Some(archive.clone()));
    let (between, _) = read_all(&mut fleet, reader()).await;
    assert_eq!(told(&between), told(&before));
    assert_eq!(service.requests("GET").len(), 0);

    let name = age(&mut fleet, &mut claimed, 40).await;
    removal_is_due(&mut fleet).await;
    let removed = tendril_broker::archive::days::remove_due(&mut fleet.operator).await.unwrap();
    assert_eq!(removed.len(), 1);
    assert!(!one::<bool>(&mut fleet.operator, &format!("select to_regclass('{name}') is not null")).await);
    let (after, reader) = read_all(&mut fleet, reader()).await;
    assert_eq!(told(&after), told(&before));
    assert_eq!(reader.troubles(), []);
    // A request per frame, and nothing is read twice.
    assert_eq!(service.requests("GET").len(), record.frames.len());
}
