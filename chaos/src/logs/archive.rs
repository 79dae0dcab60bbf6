//! The archive that is away while logs end: what is broken of it, and what it holds once it is back.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgConnection;
use tendril_broker::testing::shelf::{self as records, Shelved};
use tokio::time::Instant;
use uuid::Uuid;

use super::done::Done;
use super::door::{Cut, Way};
use super::evidence::{Archived, Evidence, Row};
use super::reading::Reading;
use super::shelf::Shelf;
use super::world::{Desk, LogWorld};
use crate::chance::Chance;

/// Logs made old begin so many days ago, each run's a day earlier.
const OLD: u32 = 40;
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// All logs are archived by then, once the archive is back.
const PATIENCE: Duration = Duration::from_secs(60);
const GOODBYE: Duration = Duration::from_secs(5);

/// What is broken of the archive; of a seed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// The way is so for all.
    Way(Way),
    /// What is sent is cut in the middle, or its reply is.
    Cuts,
}

impl Fault {
    /// The fault of a seed.
    pub fn of(seed: u64) -> Self {
        let mut chance = Chance::new(seed, "archive");
        match chance.index(5) {
            0 => Self::Way(Way::Shut),
            1 => Self::Way(Way::Silent),
            2 => Self::Way(Way::Sick),
            _ => Self::Cuts,
        }
    }
}

/// Takes the archive away while children print.
///
/// # Errors
/// A replica does not do as it is told.
pub async fn take_away(world: &LogWorld, seed: u64, chance: &mut Chance, done: &mut Done) -> anyhow::Result<()> {
    let shelf = world.shelf.as_ref().context("no bucket was made")?;
    tokio::time::sleep(Duration::from_millis(chance.between(0, 1500))).await;
    match Fault::of(seed) {
        Fault::Way(way) => {
            shelf.bucket.door.set(way);
            done.acts.push(format!("the way to the archive: {way:?}"));
        }
        Fault::Cuts => {
            // A call is tried three times.
            let count = chance.between(1, 9);
            let cut = |_| match chance.index(4) {
                0 => Cut::AtReply,
                1 => Cut::After(chance.between(0, 2000)),
                2 => Cut::After(chance.between(0, 60_000)),
                _ => Cut::After(chance.between(0, 9_000_000)),
            };
            let cuts: Vec<Cut> = (0..count).map(cut).collect();
            done.acts.push(format!("what is sent to the archive is cut: {cuts:?}"));
            shelf.bucket.door.cut(cuts);
        }
    }
    Ok(())
}

/// While the archive is away, and after it is back: nothing leaves the database that is not archived, everything is archived
/// once, and reads as before when it has left the database.
///
/// # Errors
/// What asking again does not mend; never what the programs under test do.
pub async fn bring_back(world: &mut LogWorld, (seed, id): (u64, Uuid), evidence: &mut Evidence) -> anyhow::Result<()> {
    let mut chance = Chance::new(seed, "archive is back");
    let desk = world.desk.clone();
    let shelf = world.shelf.as_mut().context("no bucket was made")?;
    let mut operator = desk.operator().await?;
    shelf.aged += 1;
    let days = OLD + shelf.aged;
    evidence.acts.push(tried(shelf, &mut operator, id).await?);
    tokio::time::sleep(Duration::from_millis(chance.between(0, 3000))).await;

    // An object's name has the log's day in it. What was put there and not noted yet when the day was made another one is ours to
    // forgive: without us the next try would have replaced it.
    let mut former = Vec::new();
    let mut left_early = false;
    let is_away = matches!(Fault::of(seed), Fault::Way(_));
    if is_away {
        // What hangs would hang for long.
        shelf.bucket.door.set(Way::Shut);
        made_old(&mut operator, id, days).await?;
        former = shelf.bucket.objects()?;
        removal(&mut operator).await?;
        left_early = records::shelved(&mut operator, id).await?.iter().any(|log| !log.in_database);
    }
    let killed = replace_a_replica(shelf, &mut chance, &mut evidence.acts).await?;
    let cuts = shelf.bucket.door.cuts_made();
    evidence.acts.push(format!("{cuts} cuts were made since the first run"));
    shelf.bucket.door.set(Way::Open);

    let begun = Instant::now();
    // The leases of the dead one run out once: again and again the living would lose theirs in the middle of a large log.
    let mut run_out = killed;
    while begun.elapsed() < PATIENCE {
        records::hasten(&mut operator, std::mem::take(&mut run_out)).await?;
        if records::shelved(&mut operator, id).await?.iter().all(|log| log.state.as_deref() != Some("waiting")) {
            break;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    if !is_away {
        made_old(&mut operator, id, days).await?;
        former = shelf.bucket.objects()?;
    }
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE && records::shelved(&mut operator, id).await?.iter().any(|log| log.in_database) {
        removal(&mut operator).await?;
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let logs = records::shelved(&mut operator, id).await?;
    note(shelf, &desk, id, (logs, left_early, former), evidence).await
}

/// Waits until the replicas have come to feel it; what became of their tries, in words.
async fn tried(shelf: &Shelf, operator: &mut PgConnection, id: Uuid) -> anyhow::Result<String> {
    let begun = Instant::now();
    loop {
        let logs = records::shelved(operator, id).await?;
        let stored = logs.iter().filter(|log| log.state.as_deref() == Some("stored")).count();
        let tries = logs.iter().filter(|log| log.tries > 0).count();
        let failed = logs.iter().find_map(|log| log.trouble.as_deref());
        // Who hangs has failed nothing yet.
        let felt = tries > 0 && (failed.is_some() || *shelf.bucket.door.watch().borrow() == Way::Silent);
        if felt || stored == logs.len() || begun.elapsed() > PATIENCE {
            let logs = logs.len();
            return Ok(format!(
                "of {logs} logs {tries} were tried, {stored} are archived; {}",
                failed.unwrap_or("none failed")
            ));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Makes the logs old, once nobody is at one of them.
async fn made_old(operator: &mut PgConnection, id: Uuid, days: u32) -> anyhow::Result<()> {
    let begun = Instant::now();
    while !records::make_old(operator, id, days).await? {
        if begun.elapsed() > PATIENCE {
            bail!("a replica is at a log for longer than {} s", PATIENCE.as_secs());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// A lock that somebody else holds only delays it.
async fn removal(operator: &mut PgConnection) -> anyhow::Result<()> {
    match records::remove_old_days(operator).await {
        Err(error) if error.refusal().is_some_and(|refusal| refusal.sqlstate == "55P03") => Ok(()),
        done => Ok(done?),
    }
}

/// Perhaps another process in a replica's place; whether leases of a dead one have to run out.
async fn replace_a_replica(shelf: &Shelf, chance: &mut Chance, acts: &mut Vec<String>) -> anyhow::Result<bool> {
    let signal = match chance.index(4) {
        0 => Signal::SIGTERM,
        1 => Signal::SIGKILL,
        _ => return Ok(false),
    };
    let seat = &shelf.replicas[chance.index(shelf.replicas.len())];
    let mut process = seat.process.lock().await;
    process.signal(signal);
    let ended = process.wait(GOODBYE).await;
    match ended {
        Some(status) if signal == Signal::SIGKILL || status.success() => {}
        end => bail!("serve did not end well after {signal}: {end:?}"),
    }
    *process = seat.again()?;
    acts.push(format!("{signal} to a replica that archives, and another in its place"));
    Ok(signal == Signal::SIGKILL)
}

async fn note(
    shelf: &Shelf,
    desk: &Desk,
    id: Uuid,
    (logs, left_early, former): (Vec<Shelved>, bool, Vec<PathBuf>),
    evidence: &mut Evidence,
) -> anyhow::Result<()> {
    let mut reading = Reading::new(id).with_archive(shelf.bucket.archive().await?);
    reading.read(desk).await?;
    let objects = shelf.bucket.objects()?;
    for attempt in &mut evidence.attempts {
        let log =
            logs.iter().find(|log| log.attempt_id == attempt.id).context("an attempt that was not there before")?;
        let name = attempt.id.to_string();
        let noted = log.url.as_ref().map(|url| shelf.bucket.file(url));
        let named = |file: &&PathBuf| {
            let is_of_it = file.file_name().is_some_and(|file| file.to_string_lossy().starts_with(&name));
            is_of_it && (noted.as_ref() == Some(*file) || !former.contains(*file))
        };
        let whole = noted.as_ref().is_some_and(|file| {
            let size = fs::metadata(file).map(|file| file.len()).ok();
            size.is_some() && size == log.object_bytes.and_then(|bytes| u64::try_from(bytes).ok())
        });
        let rows: Vec<Row> = reading.rows.get(&attempt.id).cloned().unwrap_or_default();
        attempt.archived = Some(Archived {
            state: log.state.clone(),
            objects: objects.iter().filter(named).count(),
            whole,
            in_database: log.in_database,
            left_early,
            rows,
        });
    }
    Ok(())
}
