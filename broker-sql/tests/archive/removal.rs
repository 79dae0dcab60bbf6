//! A day leaves the database when nobody needs it there, and nobody waits for that.

use std::time::Duration;

use sqlx::Connection;
use tendril_broker::archive::days::{RemovedDay, remove_due};
use tendril_broker::portal::logs::LogReader;
use tokio::time::timeout;

use crate::fleet::{COPY, Fleet, one, row, run};
use crate::service::Service;
use crate::shelf::{
    SMALL, age, announce, archive_all, at_work, close, closed_log, print, read_all, removal_is_due, told,
};

const PATIENCE: Duration = Duration::from_secs(60);

async fn remove(fleet: &mut Fleet) -> Vec<RemovedDay> {
    removal_is_due(fleet).await;
    remove_due(&mut fleet.operator).await.unwrap()
}

/// Waits until a session of the operator's waits for another transaction's end.
async fn until_somebody_waits(fleet: &mut Fleet) {
    let waits = "select count(*) from pg_locks where locktype = 'virtualxid' and not granted";
    let asked = async { while one::<i64>(&mut fleet.operator, waits).await == 0 {} };
    assert!(timeout(PATIENCE, asked).await.is_ok(), "the removal does not wait for the others");
}

#[tokio::test]
async fn a_day_with_an_open_window_or_a_log_that_is_not_archived_stays() {
    let mut fleet = Fleet::new().await;
    let service = Service::start().await;
    announce(&mut fleet).await;
    let (mut runner, mut open) = at_work(&mut fleet).await;
    print(&mut runner, &open, 10).await;
    let mut closed = closed_log(&mut fleet, 10).await;
    age(&mut fleet, &mut open, 40).await;
    age(&mut fleet, &mut closed, 40).await;
    archive_all(&fleet, &service.archive().await, SMALL).await;
    assert_eq!(remove(&mut fleet).await, [], "one window is open");
    close(&fleet, &mut runner, &open, 10).await;
    assert_eq!(remove(&mut fleet).await, [], "one log is not archived");
    archive_all(&fleet, &service.archive().await, SMALL).await;
    let removed = remove(&mut fleet).await;
    assert_eq!(removed, [RemovedDay { day: open.claim_day, unarchived: 0 }]);
    // Another replica that looks at once finds nothing to do, and so does the next minute's.
    assert_eq!(remove_due(&mut fleet.operator).await.unwrap(), []);
    assert_eq!(remove(&mut fleet).await, []);
}

#[tokio::test]
async fn a_day_that_is_too_young_stays_and_the_setting_says_what_that_is() {
    let mut fleet = Fleet::new().await;
    let mut claimed = closed_log(&mut fleet, 4).await;
    age(&mut fleet, &mut claimed, 12).await;
    assert_eq!(remove(&mut fleet).await, []);
    run(&mut fleet.operator, "update tendril_core.settings set logs_kept = '10 days'").await;
    // Without an archive a day goes by age alone, and its reader is told so.
    assert_eq!(remove(&mut fleet).await, [RemovedDay { day: claimed.claim_day, unarchived: 1 }]);
    let (chunks, reader) = read_all(&mut fleet, LogReader::new(claimed.deployment_id)).await;
    let [gap] = chunks.as_slice() else {
        panic!("{chunks:?}");
    };
    assert_eq!((gap.gap_kind.as_deref(), gap.seq, gap.seq_to), (Some("removed"), 0, 3));
    assert!(gap.log_chunk.contains("no archive has it"), "{}", gap.log_chunk);
    assert_eq!(reader.troubles(), []);
    // Days of today and to come are as they were.
    let days: i64 =
        one(&mut fleet.operator, "select count(*) from pg_inherits where inhparent = 'tendril.log_inbox'::regclass")
            .await;
    assert_eq!(days, 9);
}

#[tokio::test]
async fn removal_waits_for_open_transactions_and_nobody_waits_for_it() {
    let mut fleet = Fleet::new().await;
    let service = Service::start().await;
    announce(&mut fleet).await;
    let mut old = closed_log(&mut fleet, 60).await;
    let (before, _) = read_all(&mut fleet, LogReader::new(old.deployment_id)).await;
    let name = age(&mut fleet, &mut old, 40).await;
    archive_all(&fleet, &service.archive().await, SMALL).await;
    let (mut writer, young) = at_work(&mut fleet).await;
    let (mut other, third) = at_work(&mut fleet).await;

    // Somebody is in the middle of a COPY into today; somebody else has just read the day that goes.
    let mut copying = writer.session.begin().await.unwrap();
    sqlx::query("select set_config('tendril.writer', $1, true)")
        .bind(format!("{}:{}", writer.writer, writer.epoch))
        .execute(&mut *copying)
        .await
        .unwrap();
    let mut copy = copying.copy_in_raw(COPY).await.unwrap();
    copy.send(row(&young, 0, 0, "slow\n").as_bytes()).await.unwrap();
    let mut reading = fleet.database.operator().await;
    let read_old = format!("select count(*) from tendril.logs_after('{}')", old.deployment_id);
    run(&mut reading, "begin").await;
    assert_eq!(one::<i64>(&mut reading, &read_old).await, 30);

    removal_is_due(&mut fleet).await;
    let mut remover = fleet.database.operator().await;
    let removing = tokio::spawn(async move { remove_due(&mut remover).await });
    until_somebody_waits(&mut fleet).await;
    // Nobody waits: neither who writes, nor who reads another day or this one, nor who makes partitions.
    run(&mut other.session, "set lock_timeout = '200ms'").await;
    other.append(&third, 0, 0, "quick\n").await.unwrap();
    run(&mut fleet.portal, "set lock_timeout = '200ms'").await;
    let reader = LogReader::new(third.deployment_id);
    assert_eq!(read_all(&mut fleet, reader).await.0.len(), 1);
    let reader = LogReader::new(old.deployment_id).with_archive(Some(service.archive().await));
    assert_eq!(told(&read_all(&mut fleet, reader).await.0), told(&before));
    run(&mut fleet.operator, "select tendril_core.ensure_partitions()").await;
    // Who had begun before may even read on.
    one::<i64>(&mut reading, &read_old).await;
    assert!(!removing.is_finished());

    copy.finish().await.unwrap();
    copying.commit().await.unwrap();
    run(&mut reading, "commit").await;
    let removed = timeout(PATIENCE, removing).await.unwrap().unwrap().unwrap();
    assert_eq!(removed, [RemovedDay { day: old.claim_day, unarchived: 0 }]);
    assert!(!one::<bool>(&mut fleet.operator, &format!("select to_regclass('{name}') is not null")).await);
}

#[tokio::test]
async fn a_removal_that_was_cut_off_is_finished_by_the_next() {
    let mut fleet = Fleet::new().await;
    let service = Service::start().await;
    announce(&mut fleet).await;
    let mut old = closed_log(&mut fleet, 60).await;
    let (before, _) = read_all(&mut fleet, LogReader::new(old.deployment_id)).await;
    let name = age(&mut fleet, &mut old, 40).await;
    archive_all(&fleet, &service.archive().await, SMALL).await;
    let mut reading = fleet.database.operator().await;
    run(&mut reading, "begin; select count(*) from tendril.log_inbox").await;
    removal_is_due(&mut fleet).await;
    let mut remover = fleet.database.operator().await;
    let pid: i32 = one(&mut remover, "select pg_backend_pid()").await;
    let removing = tokio::spawn(async move { remove_due(&mut remover).await });
    until_somebody_waits(&mut fleet).await;
    run(&mut fleet.operator, &format!("select pg_terminate_backend({pid}, 5000)")).await;
    assert!(removing.await.unwrap().is_err());
    let pending = "select count(*) from pg_inherits where inhdetachpending";
    assert_eq!(one::<i64>(&mut fleet.operator, pending).await, 1);
    // Half removed, it is read from the archive already.
    let reader = LogReader::new(old.deployment_id).with_archive(Some(service.archive().await));
    assert_eq!(told(&read_all(&mut fleet, reader).await.0), told(&before));
    // While the reader stays, the next one gives up soon; when it is gone, the removal is finished.
    removal_is_due(&mut fleet).await;
    let refused = remove_due(&mut fleet.operator).await.unwrap_err();
    assert_eq!(refused.refusal().map(|refusal| refusal.sqlstate.as_str()), Some("55P03"));
    run(&mut reading, "commit").await;
    assert_eq!(remove(&mut fleet).await.len(), 1);
    assert!(!one::<bool>(&mut fleet.operator, &format!("select to_regclass('{name}') is not null")).await);
}
