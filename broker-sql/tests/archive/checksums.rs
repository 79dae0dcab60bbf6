//! What is sent carries its checksum, what was damaged on the way is not taken for archived, and a service that is sick for
//! a moment costs no run.

use std::time::Duration;

use axum::http::HeaderMap;
use tendril_broker::archive::{self, Archive, ArchiveError, Archived, Sizes, UploadError};
use tendril_broker::portal::logs::{LogChunk, LogReader};

use crate::fleet::{Claimed, Fleet, id, row, run};
use crate::service::{Door, Service};
use crate::shelf::{
    SMALL, age, announce, archive_all, at_work, close, closed_log, noise, pool, read_all, removal_is_due, state_of,
    told,
};

/// Parts as small as S3 lets them be.
const PARTS: Sizes = Sizes { frame: 512 << 10, page: 4 << 20, part: 5 << 20 };

/// A closed log that compresses to more than two parts of those.
async fn long_log(fleet: &mut Fleet) -> Claimed {
    let (mut runner, claimed) = at_work(fleet).await;
    for batch in 0..8 {
        let rows = (batch * 100..batch * 100 + 100).map(|seq| row(&claimed, seq, seq, &noise(seq)));
        runner.copy(&rows.collect::<Vec<_>>()).await.unwrap();
    }
    close(fleet, &mut runner, &claimed, 800).await;
    claimed
}

/// What readers get of a log once the database has it no more.
async fn read_from(store: Archive, fleet: &mut Fleet, claimed: &mut Claimed) -> Vec<LogChunk> {
    announce(fleet).await;
    age(fleet, claimed, 40).await;
    removal_is_due(fleet).await;
    assert_eq!(archive::days::remove_due(&mut fleet.operator).await.unwrap().len(), 1);
    read_all(fleet, LogReader::new(claimed.deployment_id).with_archive(Some(store))).await.0
}

/// The checksum's name, in a header or announced as a trailer.
fn checksum(head: &HeaderMap) -> Option<String> {
    let text = |name: &str| head.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let trailer = text("x-amz-trailer").filter(|name| name.starts_with("x-amz-checksum-"));
    let header = head.keys().map(|name| name.as_str().to_owned());
    trailer.or_else(|| header.into_iter().find(|name| name.starts_with("x-amz-checksum-") && !name.ends_with("-type")))
}

#[tokio::test]
async fn each_object_and_each_part_is_sent_with_its_checksum() {
    let mut fleet = Fleet::new().await;
    let service = Service::start().await;
    // Tried: an object in one piece, and one in parts.
    closed_log(&mut fleet, 40).await;
    let store = service.archive_without_prefix().await;
    assert!(matches!(archive_all(&fleet, &store, PARTS).await.as_slice(), [Archived::Stored(_)]));
    long_log(&mut fleet).await;
    assert!(matches!(archive_all(&fleet, &store, PARTS).await.as_slice(), [Archived::Stored(_)]));
    let sent = service.heads("PUT");
    let parts = sent.iter().filter(|(request, _)| request.contains("partNumber=")).count();
    assert_eq!((sent.len() - parts, parts), (1, 3));
    for (request, head) in sent {
        assert!(checksum(&head).is_some(), "{request}: {head:?}");
    }
}

#[tokio::test]
async fn an_object_that_was_damaged_on_the_way_is_not_taken_for_archived() {
    let mut fleet = Fleet::new().await;
    let service = Service::start().await;
    let mut claimed = closed_log(&mut fleet, 40).await;
    let (before, _) = read_all(&mut fleet, LogReader::new(claimed.deployment_id)).await;
    let store = service.archive().await;
    // Tried: one byte of the body that is another one than the checksum was made of.
    service.set(Door::Damages("PUT"));
    let (pool, claim) = (pool(&fleet).await, id());
    let log = archive::claim(&pool, claim, Duration::from_secs(60), 1).await.unwrap().remove(0);
    let error = archive::archive(&pool, &store, &log, claim, SMALL).await.unwrap_err();
    let refused = matches!(&error, UploadError::Archive(ArchiveError::Refused(..) | ArchiveError::Unavailable(..)));
    assert!(refused, "{error}");
    assert_eq!(state_of(&mut fleet, claimed.attempt_id).await, "waiting");
    service.set(Door::Open);
    run(&mut fleet.operator, "update tendril_core.log_archives set due_at = '-infinity'").await;
    assert!(matches!(archive_all(&fleet, &store, SMALL).await.as_slice(), [Archived::Stored(_)]));
    let after = read_from(store, &mut fleet, &mut claimed).await;
    assert_eq!(told(&after), told(&before));
}

#[tokio::test]
async fn a_service_that_is_sick_once_costs_one_more_request_and_no_run() {
    // Tried: 503 to the first request of an object in one piece, and of a part.
    for (door, of_parts) in [("PUT", false), ("partNumber=2", true)] {
        let mut fleet = Fleet::new().await;
        let service = Service::start().await;
        let mut claimed = if of_parts { long_log(&mut fleet).await } else { closed_log(&mut fleet, 40).await };
        let (before, _) = read_all(&mut fleet, LogReader::new(claimed.deployment_id)).await;
        let store = service.archive_without_prefix().await;
        service.set(Door::SickOnce(door));
        let done = archive_all(&fleet, &store, PARTS).await;
        assert!(matches!(done.as_slice(), [Archived::Stored(_)]), "one run, and it is stored: {done:?}");
        assert_eq!(service.requests(door).len(), 2, "the one that failed, and the one that was taken");
        let after = read_from(store, &mut fleet, &mut claimed).await;
        assert_eq!(told(&after), told(&before));
    }
}
