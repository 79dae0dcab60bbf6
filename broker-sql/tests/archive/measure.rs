//! What archiving costs, beside reading the same rows plainly. Not a check: `--ignored --nocapture` prints the figures.

use std::time::Duration;

use tendril_broker::archive::{Archived, Sizes};
use tendril_broker::portal::logs::LogReader;
use tokio::time::Instant;

use crate::fleet::{Fleet, row, run};
use crate::service::Service;
use crate::shelf::{age, announce, archive_all, at_work, close, read_all, removal_is_due};

/// What terraform prints while it works, with ids and times that differ.
fn line(number: usize) -> String {
    let id = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    match number % 4 {
        0 => format!("module.network.aws_subnet.private[{}]: Creating...\n", number % 97),
        1 => format!(
            "module.network.aws_subnet.private[{}]: Still creating... [{}m{:02}s elapsed]\n",
            number % 97,
            number % 59,
            number % 60
        ),
        2 => format!(
            "module.network.aws_subnet.private[{}]: Creation complete after {}s [id=subnet-{id:016x}]\n",
            number % 97,
            number % 300
        ),
        _ => {
            format!("aws_route53_record.record[\"{id:08x}.internal.example\"]: Refreshing state... [id=Z{id:014X}_A]\n")
        }
    }
}

fn told(what: &str, bytes: usize, took: Duration) {
    let mb = bytes as f64 / 1e6;
    println!("{what:<46} {:>7.2} s {:>8.1} MB/s", took.as_secs_f64(), mb / took.as_secs_f64());
}

#[tokio::test]
#[ignore = "a measurement of 100 MB"]
async fn archiving_100_mb_beside_reading_them_plainly() {
    let mut fleet = Fleet::new().await;
    let service = Service::start().await;
    announce(&mut fleet).await;
    let (mut runner, mut claimed) = at_work(&mut fleet).await;
    let (mut seq, mut bytes, mut rows) = (0_usize, 0, Vec::new());
    while bytes < 100_000_000 {
        let lines: String = (seq..seq + 40).map(line).collect();
        bytes += lines.len();
        rows.push(row(&claimed, i64::try_from(seq).unwrap(), i64::try_from(seq + 39).unwrap(), &lines));
        seq += 40;
        if rows.len() == 1000 {
            runner.copy(&std::mem::take(&mut rows)).await.unwrap();
        }
    }
    runner.copy(&rows).await.unwrap();
    close(&fleet, &mut runner, &claimed, seq).await;
    run(&mut fleet.operator, "analyze tendril.log_inbox").await;
    println!("{} lines, {:.1} MB of text, rows of 40 lines", seq, bytes as f64 / 1e6);
    for round in 1..=3 {
        let started = Instant::now();
        read_all(&mut fleet, LogReader::new(claimed.deployment_id)).await;
        told(&format!("round {round}: read from the database"), bytes, started.elapsed());
        run(&mut fleet.operator, "update tendril_core.log_archives set state = 'waiting', due_at = '-infinity'").await;
        let started = Instant::now();
        let done = archive_all(&fleet, &service.archive_without_prefix().await, Sizes::default()).await;
        told(&format!("round {round}: archived"), bytes, started.elapsed());
        let [Archived::Stored(record)] = done.as_slice() else {
            panic!("{done:?}");
        };
        let (frames, object) = (record.frames.len(), record.object_bytes as f64 / 1e6);
        println!("  {object:.2} MB in {frames} frames: ratio {:.1}", bytes as f64 / 1e6 / object);
    }
    age(&mut fleet, &mut claimed, 40).await;
    removal_is_due(&mut fleet).await;
    tendril_broker::archive::days::remove_due(&mut fleet.operator).await.unwrap();
    for round in 1..=3 {
        let started = Instant::now();
        let reader = LogReader::new(claimed.deployment_id).with_archive(Some(service.archive_without_prefix().await));
        read_all(&mut fleet, reader).await;
        told(&format!("round {round}: read from the archive"), bytes, started.elapsed());
    }
}
